"""One tenant's month: reserve and settle as pure functions. store.py does the same in DynamoDB; this is its oracle.

    hold      made by reserve: the amount counts as committed, in the day and the month that admitted it, together
    spend     a hold ends and its true cost stays committed (a cost above the hold is booked too, and reported)
    release   a hold ends at cost zero: declined upstream before anything was generated

A hold ends exactly once. Spent and held are derived, never stored twice: held = sum of the holds,
spent = committed - held. A settlement goes to the windows that admitted the hold, also across midnight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum


@dataclass(frozen=True, slots=True)
class Hold:
    """Money held for one call; times in epoch seconds, `day` is the day of the month in the tenant's time zone."""

    id: str
    amount_nanousd: int
    day: int
    admitted_at: int
    expires_at: int
    model: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may commit in a window; `version` grows with every change of the tenant's configuration."""

    day_nanousd: int
    month_nanousd: int
    version: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """One month of one tenant. `committed_by_day` has no entry for a day without calls."""

    committed_nanousd: int = 0
    committed_by_day: Mapping[int, int] = field(default_factory=dict)
    holds: Mapping[str, Hold] = field(default_factory=dict)
    version: int | None = None

    @property
    def held_nanousd(self) -> int:
        return sum(hold.amount_nanousd for hold in self.holds.values())

    @property
    def spent_nanousd(self) -> int:
        return self.committed_nanousd - self.held_nanousd

    def committed_on(self, day: int) -> int:
        return self.committed_by_day.get(day, 0)

    def held_on(self, day: int) -> int:
        return sum(hold.amount_nanousd for hold in self.holds.values() if hold.day == day)

    def spent_on(self, day: int) -> int:
        return self.committed_on(day) - self.held_on(day)

    def room_nanousd(self, day: int, limits: Limits) -> int:
        """What can be held now: what day and month both leave. Negative after a lowered limit or an overrun."""
        return min(limits.day_nanousd - self.committed_on(day), limits.month_nanousd - self.committed_nanousd)


class No(Enum):
    """Why a hold was not made."""

    NO_ROOM = "no_room"
    STALE_LIMITS = "stale_limits"
    """The limits were changed since the caller read them: read again and try again."""


def reserve(ledger: Ledger, hold: Hold, limits: Limits) -> Ledger | No:
    """Make a hold, if both windows have room for it. Repeating a hold that is there changes nothing."""
    if hold.id in ledger.holds:
        return ledger
    if ledger.version is not None and ledger.version > limits.version:
        return No.STALE_LIMITS
    # A hold of nothing (a free model) always fits, also into a window that is spent.
    if hold.amount_nanousd > max(0, ledger.room_nanousd(hold.day, limits)):
        return No.NO_ROOM
    return replace(
        _committed(ledger, hold.day, hold.amount_nanousd),
        holds={**ledger.holds, hold.id: hold},
        version=limits.version,
    )


def settle(ledger: Ledger, hold: Hold, cost_nanousd: int) -> Ledger:
    """End a hold at its cost. A hold that has ended already is left alone: whoever ended it has booked it."""
    if hold.id not in ledger.holds:
        return ledger
    settled = _committed(ledger, hold.day, cost_nanousd - hold.amount_nanousd)
    return replace(settled, holds={id_: other for id_, other in ledger.holds.items() if id_ != hold.id})


def _committed(ledger: Ledger, day: int, change_nanousd: int) -> Ledger:
    return replace(
        ledger,
        committed_nanousd=ledger.committed_nanousd + change_nanousd,
        committed_by_day={**ledger.committed_by_day, day: ledger.committed_on(day) + change_nanousd},
    )


# What a refusal for money means.


@dataclass(frozen=True, slots=True)
class Shortage:
    """The window that a smallest useful hold does not fit into. `is_held`: it would fit once calls in flight end."""

    window: str
    limit_nanousd: int
    spent_nanousd: int
    held_nanousd: int
    is_held: bool


def shortage(ledger: Ledger, day: int, limits: Limits, needed_nanousd: int) -> Shortage:
    """Which window to name: an exhausted one before a held one, the month before the day."""
    windows = (
        _window("month", limits.month_nanousd, ledger.spent_nanousd, ledger.held_nanousd, needed_nanousd),
        _window("day", limits.day_nanousd, ledger.spent_on(day), ledger.held_on(day), needed_nanousd),
    )
    exhausted = [window for window in windows if not window.is_held]
    if exhausted:
        return exhausted[0]
    return min(windows, key=lambda window: window.limit_nanousd - window.spent_nanousd - window.held_nanousd)


def _window(name: str, limit: int, spent: int, held: int, needed: int) -> Shortage:
    return Shortage(name, limit, spent, held, is_held=spent + needed <= limit)


def retry_after_s(ledger: Ledger, now: int) -> int:
    """Seconds until a hold has probably ended: as long again as the median hold is old, from 1 to 30."""
    ages = sorted(now - hold.admitted_at for hold in ledger.holds.values())
    return min(30, max(1, ages[len(ages) // 2])) if ages else 1
