"""Reminders of lost calls: what must be known to find out their cost, and to end their holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .ledger import Hold

KEPT_DAYS = 400
"""Of a span, thirteen months: this month can be compared with the same one a year ago."""


def kept_until(seconds: int) -> int:
    """When the table may drop a record of this moment; both in epoch seconds."""
    return seconds + KEPT_DAYS * 86_400


@dataclass(frozen=True, slots=True)
class Reminder:
    """Where the span of a lost call is, what is held for it, and under which id OpenRouter may know its cost.

    `cost_nanousd` is there when the cost was known, and only the books could not be written.
    """

    span_pk: str
    tenant: str
    feature: str
    month: str
    hold: Hold
    generation_id: str | None
    cost_nanousd: int | None = None

    def item(self) -> dict[str, Any]:
        """For the table."""
        return _known({**asdict(self), "hold": _known(asdict(self.hold))})

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Reminder":
        """From the table."""
        return cls(
            span_pk=item["span_pk"],
            tenant=item["tenant"],
            feature=item["feature"],
            month=item["month"],
            hold=Hold(**item["hold"]),
            generation_id=item.get("generation_id"),
            cost_nanousd=item.get("cost_nanousd"),
        )

    def known_by(self, generation_id: str | None) -> "Reminder":
        """With the id that a span has."""
        return replace(self, generation_id=generation_id)

    def span(self) -> dict[str, Any]:
        """What a span needs, should it never have been written."""
        hold = self.hold
        fields = {
            "tenant": self.tenant,
            "feature": self.feature,
            "key": hold.key,
            "month": self.month,
            "day": hold.day,
            "admitted_at": hold.admitted_at,
            "model": hold.model,
            "hold_nanousd": hold.amount_nanousd,
            "generation_id": self.generation_id,
            "outcome": "lost",
            "ttl": kept_until(hold.admitted_at),
        }
        return _known(fields)


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
