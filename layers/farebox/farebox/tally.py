"""Sums over cost spans, in total and by each dimension: what rollups are made of.

    n  calls (attempts)            c  cost in nano-dollars                 p  prompt tokens
    u  calls of unknown cost       e  how much of the cost is estimated    o  output tokens

An item has room for so many names of a dimension. Those that cost least are summed under another one, so that the total
and the sum of each dimension are exact whatever clients think of as a feature.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DIMENSIONS = ("feature", "provider", "model", "key")
READ = (
    "tenant", "month", "day", *DIMENSIONS, "cost_nanousd", "is_estimated", "prompt_tokens", "completion_tokens",
)  # fmt: skip
"""What is read of a span."""
MAX_NAMES = 200
MAX_NAME_BYTES = 100
"""Upstream's names may be of any length; those of ours are shorter. An item of all the longest has 200 of 400 KB."""
NOBODY = "-"
"""Where a span has no provider or no key."""
OTHER = "~other"
_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")


class Poisoned(Exception):
    """A span that cannot be read: what is wrong with it, without its content."""


@dataclass(slots=True)
class Sums:
    """Of some spans."""

    calls: int = 0
    unknown: int = 0
    cost_nanousd: int = 0
    estimated_nanousd: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, more: "Sums") -> None:
        self.calls += more.calls
        self.unknown += more.unknown
        self.cost_nanousd += more.cost_nanousd
        self.estimated_nanousd += more.estimated_nanousd
        self.prompt_tokens += more.prompt_tokens
        self.completion_tokens += more.completion_tokens

    def item(self) -> dict[str, int]:
        """For the table: names of one letter, and no zeros, since there are hundreds of these in an item."""
        sums = {
            "n": self.calls,
            "u": self.unknown,
            "c": self.cost_nanousd,
            "e": self.estimated_nanousd,
            "p": self.prompt_tokens,
            "o": self.completion_tokens,
        }
        return {name: value for name, value in sums.items() if value}

    @classmethod
    def of(cls, item: Mapping[str, int]) -> "Sums":
        """From the table."""
        return cls(*(item.get(name, 0) for name in "nucepo"))


@dataclass(frozen=True, slots=True)
class Line:
    """What a tally reads of a span: the window that it counts for, names by dimension, and sums of this one."""

    tenant: str
    month: str
    day: int
    names: Sequence[str]
    sums: Sums

    @classmethod
    def of(cls, span: Mapping[str, Any]) -> "Line":
        """Raises Poisoned."""
        month, day = _text(span, "month"), _whole(span, "day")
        if not _MONTH.fullmatch(month):
            raise Poisoned("month is not a month")
        if not 1 <= day <= 31:
            raise Poisoned("day is not a day")
        names = (_text(span, "feature"), _named(span, "provider"), _text(span, "model"), _named(span, "key"))
        return cls(_text(span, "tenant"), month, day, [_short(name) for name in names], _sums(span))


@dataclass(slots=True)
class Tally:
    """Grows span by span, or by other tallies, in whatever order."""

    total: Sums = field(default_factory=Sums)
    by: dict[str, dict[str, Sums]] = field(default_factory=lambda: {dimension: {} for dimension in DIMENSIONS})

    def add(self, line: Line) -> None:
        """One more span."""
        self.total.add(line.sums)
        for dimension, name in zip(DIMENSIONS, line.names, strict=True):
            self._add(dimension, name, line.sums)

    def merge(self, other: "Tally") -> None:
        """All that another one has."""
        self.total.add(other.total)
        for dimension, names in other.by.items():
            for name, sums in names.items():
                self._add(dimension, name, sums)

    def item(self) -> dict[str, Any]:
        """For the table."""
        return {"total": self.total.item(), **{dimension: _bounded(self.by[dimension]) for dimension in DIMENSIONS}}

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Tally":
        """From the table."""
        by = {dimension: {name: Sums.of(sums) for name, sums in item[dimension].items()} for dimension in DIMENSIONS}
        return cls(Sums.of(item["total"]), by)

    def _add(self, dimension: str, name: str, sums: Sums) -> None:
        names = self.by[dimension]
        known = names.get(name)
        if known is None:
            known = names[name] = Sums()
        known.add(sums)


def _sums(span: Mapping[str, Any]) -> Sums:
    is_estimated = span.get("is_estimated", False)
    if not isinstance(is_estimated, bool):
        raise Poisoned("is_estimated is not a truth value")
    is_known = "cost_nanousd" in span
    cost = _whole(span, "cost_nanousd") if is_known else 0
    return Sums(
        calls=1,
        unknown=0 if is_known else 1,
        cost_nanousd=cost,
        estimated_nanousd=cost if is_estimated else 0,
        prompt_tokens=_whole(span, "prompt_tokens", 0),
        completion_tokens=_whole(span, "completion_tokens", 0),
    )


def _bounded(names: Mapping[str, Sums]) -> dict[str, dict[str, int]]:
    """The dearest names; all others as one."""
    ours = [name for name in names if name != OTHER]
    if len(ours) <= MAX_NAMES:
        return {name: sums.item() for name, sums in names.items()}
    ours.sort(key=lambda name: (-names[name].cost_nanousd, name))
    rest = Sums()
    for name in (*ours[MAX_NAMES:], OTHER):
        rest.add(names.get(name, _NOTHING))
    return {**{name: names[name].item() for name in ours[:MAX_NAMES]}, OTHER: rest.item()}


_NOTHING = Sums()


def _named(span: Mapping[str, Any], name: str) -> str:
    return _text(span, name) if name in span else NOBODY


def _text(span: Mapping[str, Any], name: str) -> str:
    value = span.get(name)
    if not isinstance(value, str) or not value:
        raise Poisoned(f"{name} is not a text")
    return value


def _whole(span: Mapping[str, Any], name: str, missing: int | None = None) -> int:
    value = span.get(name, missing)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Poisoned(f"{name} is not a whole number")
    return value


def _short(name: str) -> str:
    return name if len(name) * 4 <= MAX_NAME_BYTES else name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
