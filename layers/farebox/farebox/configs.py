"""A tenant's configuration as it is kept: what an owner has set. Everything else is the default's, from the settings.

version                grows by one with every change; ledgers refuse holds that were made by older ones
status                 active; disabled or deleted: nothing is admitted
day_, month_nanousd    the budgets
raised                 higher ones, until a moment
time_zone, move        a new zone begins with a month
rules                  JSON (rules.py)
keys                   API keys by id (keys.py)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .keys import ApiKey
from .ledger import Limits
from .money import dumps, loads_exact
from .rules import RulesError, rules_of
from .tenants import Move, Raise, Status, Tenant


class ConfigError(Exception):
    """What stands in the table cannot be read."""


@dataclass(frozen=True, slots=True)
class Config:
    """None and what is not in `rules` is the default's. Times in epoch seconds.

    What is deleted can be brought back until `purge_at`.
    """

    name: str
    version: int
    day_nanousd: int | None = None
    month_nanousd: int | None = None
    time_zone: str | None = None
    move: Move | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    raised: Raise | None = None
    status: Status = Status.ACTIVE
    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    note: str = ""
    created_at: int = 0
    changed_at: int = 0
    purge_at: int | None = None

    def tenant(self, default: Tenant) -> Tenant:
        """Laid over the default; with a fault where its rules contradict the default's, which may have changed."""
        rules, fault = default.rules, None
        try:
            rules = rules_of(self.rules, default.rules)
        except RulesError as e:
            fault = f"the rules of tenant {self.name} cannot be read, so nothing is admitted{e}"
        limits = Limits(
            default.limits.day_nanousd if self.day_nanousd is None else self.day_nanousd,
            default.limits.month_nanousd if self.month_nanousd is None else self.month_nanousd,
            self.version,
            rules.in_flight,
        )
        return replace(
            default,
            limits=limits,
            time_zone=self.time_zone or default.time_zone,
            rules=rules,
            move=self.move,
            raised=self.raised,
            status=self.status,
            keys=self.keys,
            fault=fault,
        )

    def item(self) -> dict[str, Any]:
        """For the table, without its key."""
        fields: dict[str, Any] = {
            "version": self.version,
            "day_nanousd": self.day_nanousd,
            "month_nanousd": self.month_nanousd,
            "time_zone": self.time_zone,
            "move": None if self.move is None else {"zone": self.move.zone, "month": self.move.month},
            "rules": dumps(self.rules) if self.rules else None,
            "raised": None if self.raised is None else _raised_item(self.raised),
            "status": None if self.status is Status.ACTIVE else self.status.value,
            "keys": {id_: key.item() for id_, key in self.keys.items()} or None,
            "note": self.note or None,
            "created_at": self.created_at,
            "changed_at": self.changed_at,
            "purge_at": self.purge_at,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def of(cls, name: str, item: Mapping[str, Any]) -> "Config":
        """From the table. Raises ConfigError."""
        try:
            return cls(
                name,
                int(item["version"]),
                item.get("day_nanousd"),
                item.get("month_nanousd"),
                item.get("time_zone"),
                Move(item["move"]["zone"], item["move"]["month"]) if "move" in item else None,
                loads_exact(item["rules"]) if "rules" in item else {},
                _raised(item["raised"]) if "raised" in item else None,
                Status(item.get("status", Status.ACTIVE.value)),
                {id_: ApiKey.of(id_, key) for id_, key in item.get("keys", {}).items()},
                item.get("note", ""),
                item.get("created_at", 0),
                item.get("changed_at", 0),
                item.get("purge_at"),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            raise ConfigError(f"the configuration of tenant {name} cannot be read: {type(e).__name__} {e}") from e


def _raised_item(raised: Raise) -> dict[str, int]:
    fields = {"day": raised.day_nanousd, "month": raised.month_nanousd, "until": raised.until}
    return {name: value for name, value in fields.items() if value is not None}


def _raised(item: Mapping[str, Any]) -> Raise:
    return Raise(item.get("day"), item.get("month"), int(item["until"]))
