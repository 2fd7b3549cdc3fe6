"""One tenant's month: reserve and settle as pure functions. store.py does the same in DynamoDB; this is its oracle.

    hold      made by reserve: the amount counts as committed, in the day and the month that admitted it, together
    spend     a hold ends and its true cost stays committed (a cost above the hold is booked too, and reported)
    release   a hold ends at cost zero: declined upstream before anything was generated
    estimate  a hold ends at its whole amount, because the cost is not known in time
    correct   the true cost takes the place of an estimate

A hold ends exactly once. Spent and held are derived, never stored twice: held = sum of the holds,
spent = committed - held. A settlement goes to the windows that admitted the hold, also across midnight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

MONTH = "month"
MAX_IN_FLIGHT = 200
"""Holds stand in one item, and each write pays for all of it: 200 are 30 KB."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Money held for one attempt; times in epoch seconds, `day` is the day of the month in the tenant's time zone.

    `generation_id` is there once upstream has said it, in calls that take a while; `key` is the id under which the
    tenant's API key is counted, where the call was made with one. `learnt_nanousd` is the fee in the amount that was
    learnt (fees.py).
    """

    id: str
    amount_nanousd: int
    day: int
    admitted_at: int
    expires_at: int
    model: str
    feature: str = "default"
    generation_id: str | None = None
    key: str | None = None
    learnt_nanousd: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A cost that was booked because the true one was not known in time."""

    amount_nanousd: int
    day: int
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What may be committed of a window before a hold is made, at most: never more than the limit less the hold.

    Lower ones leave something over: for other calls, or for a cheaper model.
    """

    day_nanousd: int
    month_nanousd: int
    key_nanousd: int | None = None

    @property
    def least_nanousd(self) -> int:
        """Below zero, no ledger is below."""
        return min(most for most in (self.day_nanousd, self.month_nanousd, self.key_nanousd) if most is not None)


@dataclass(frozen=True, slots=True)
class KeyCap:
    """What may be committed in a month by calls with one API key, and with those whose place it has taken.

    `id` is the first one's, under which they are counted; `key` is that of the call.
    """

    id: str
    month_nanousd: int
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may commit in a window, and how many calls it may have in flight.

    `version` grows with every change of the tenant's configuration. `key_cap` is that of the key of a call, if any.
    """

    day_nanousd: int
    month_nanousd: int
    version: int
    in_flight: int = MAX_IN_FLIGHT
    key_cap: KeyCap | None = None

    @property
    def least_nanousd(self) -> int:
        """The smallest of the windows."""
        return self.ceilings(0).least_nanousd

    def ceilings(self, left_nanousd: int) -> Ceilings:
        """With at least so much left of each window before the hold is made."""
        return Ceilings(
            self.day_nanousd - left_nanousd,
            self.month_nanousd - left_nanousd,
            None if self.key_cap is None else self.key_cap.month_nanousd - left_nanousd,
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """One month of one tenant. `committed_by_day` has no entry for a day without calls, `committed_by_key` none for a
    key without.

    `states` has the budget states (states.py) that have been told of, by window: "month", or the day's number.
    `estimates` may still be corrected. `ended` has holds whose reserve was repeated, until when: a copy of it that is
    late must not hold again.
    """

    committed_nanousd: int = 0
    committed_by_day: Mapping[int, int] = field(default_factory=dict)
    holds: Mapping[str, Hold] = field(default_factory=dict)
    version: int | None = None
    states: Mapping[str, str] = field(default_factory=dict)
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    ended: Mapping[str, int] = field(default_factory=dict)
    committed_by_key: Mapping[str, int] = field(default_factory=dict)

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

    def committed_with(self, key: str) -> int:
        return self.committed_by_key.get(key, 0)

    def held_with(self, key: str) -> int:
        return sum(hold.amount_nanousd for hold in self.holds.values() if hold.key == key)

    def spent_with(self, key: str) -> int:
        """By calls with an API key."""
        return self.committed_with(key) - self.held_with(key)

    def spent_in(self, window: str) -> int:
        """Of "month", or of a day by its number."""
        return self.spent_nanousd if window == MONTH else self.spent_on(int(window))

    def is_ahead_of(self, limits: Limits) -> bool:
        """Whether the tenant was changed since these limits were read."""
        return self.version is not None and self.version > limits.version

    def room_nanousd(self, day: int, limits: Limits) -> int:
        """What can be held now: what all windows leave. Negative after a lowered limit or an overrun."""
        left = min(limits.day_nanousd - self.committed_on(day), limits.month_nanousd - self.committed_nanousd)
        cap = limits.key_cap
        return left if cap is None else min(left, cap.month_nanousd - self.committed_with(cap.id))


def lower(a: Ceilings, b: Ceilings | None) -> Ceilings:
    """The lower of two, for each window."""
    if b is None:
        return a
    keys = [ceilings.key_nanousd for ceilings in (a, b) if ceilings.key_nanousd is not None]
    return Ceilings(
        min(a.day_nanousd, b.day_nanousd), min(a.month_nanousd, b.month_nanousd), min(keys) if keys else None
    )


class No(Enum):
    """Why a hold was not made."""

    NO_ROOM = "no_room"
    TOO_MANY = "too_many"
    """As many calls are in flight as may be."""
    STALE_LIMITS = "stale_limits"
    """The limits were changed since the caller read them: read again and try again."""


def reserve(ledger: Ledger, hold: Hold, limits: Limits, ceilings: Ceilings | None = None) -> Ledger | No:
    """Make a hold, if all windows have room for it. Repeating a hold that is there changes nothing.

    Without `ceilings` whatever fits is held.
    """
    if hold.id in ledger.holds:
        return ledger
    if (no := _refused(ledger, hold, hold.amount_nanousd, limits, ceilings)) is not None:
        return no
    if len(ledger.holds) >= limits.in_flight:
        return No.TOO_MANY
    return replace(
        _committed(ledger, hold, hold.amount_nanousd),
        holds={**ledger.holds, hold.id: hold},
        version=limits.version,
    )


def swap(ledger: Ledger, old: Hold, new: Hold, limits: Limits) -> Ledger | No:
    """End one hold and make another in its place, for a call that goes to another model: all or nothing.

    Both are of the same day and key. Repeating it changes nothing.
    """
    if new.id in ledger.holds:
        return ledger
    if old.id not in ledger.holds:
        return No.NO_ROOM
    more = new.amount_nanousd - old.amount_nanousd
    if (no := _refused(ledger, new, more, limits, None)) is not None:
        return no
    others = {id_: hold for id_, hold in ledger.holds.items() if id_ != old.id}
    return replace(_committed(ledger, new, more), holds={**others, new.id: new}, version=limits.version)


def _refused(ledger: Ledger, hold: Hold, more: int, limits: Limits, ceilings: Ceilings | None) -> No | None:
    if ledger.is_ahead_of(limits):
        return No.STALE_LIMITS
    if more <= 0:
        return None  # a hold of nothing (a free model) always fits, also into a window that is spent
    most = lower(limits.ceilings(more), ceilings)
    fits = ledger.committed_on(hold.day) <= most.day_nanousd and ledger.committed_nanousd <= most.month_nanousd
    if hold.key is not None and most.key_nanousd is not None:
        fits = fits and ledger.committed_with(hold.key) <= most.key_nanousd
    return None if fits else No.NO_ROOM


def settle(ledger: Ledger, hold: Hold, cost_nanousd: int, *, is_estimated: bool = False) -> Ledger:
    """End a hold at its cost. A hold that has ended already is left alone: whoever ended it has booked it."""
    if hold.id not in ledger.holds:
        return ledger
    settled = _committed(ledger, hold, cost_nanousd - hold.amount_nanousd)
    estimate = {hold.id: Estimate(cost_nanousd, hold.day, hold.key)} if is_estimated else {}
    others = {id_: other for id_, other in ledger.holds.items() if id_ != hold.id}
    return replace(settled, holds=others, estimates={**ledger.estimates, **estimate})


def note(ledger: Ledger, hold_id: str, generation_id: str) -> Ledger:
    """Remember under which id upstream knows a call that is under way."""
    if hold_id not in ledger.holds:
        return ledger
    return replace(ledger, holds={**ledger.holds, hold_id: replace(ledger.holds[hold_id], generation_id=generation_id)})


def expired(ledger: Ledger, now: int) -> tuple[Hold, ...]:
    """Holds whose functions cannot be alive any more, oldest first."""
    return tuple(sorted((hold for hold in ledger.holds.values() if hold.expires_at <= now), key=lambda hold: hold.id))


def correct(ledger: Ledger, hold_id: str, cost_nanousd: int | None) -> Ledger:
    """Put the true cost in the place of an estimate, once; None leaves the estimate as the last word."""
    if hold_id not in ledger.estimates:
        return ledger
    estimate = ledger.estimates[hold_id]
    change = 0 if cost_nanousd is None else cost_nanousd - estimate.amount_nanousd
    others = {id_: other for id_, other in ledger.estimates.items() if id_ != hold_id}
    return replace(_committed(ledger, estimate, change), estimates=others)


def _committed(ledger: Ledger, of: Hold | Estimate, change_nanousd: int) -> Ledger:
    with_key = {} if of.key is None else {of.key: ledger.committed_with(of.key) + change_nanousd}
    return replace(
        ledger,
        committed_nanousd=ledger.committed_nanousd + change_nanousd,
        committed_by_day={**ledger.committed_by_day, of.day: ledger.committed_on(of.day) + change_nanousd},
        committed_by_key={**ledger.committed_by_key, **with_key},
    )


# What a refusal for money means.


@dataclass(frozen=True, slots=True)
class Shortage:
    """The window that a smallest useful hold does not fit into: "day", "month", or "key", the month of an API key.

    `is_held`: it would fit once calls in flight end.
    """

    window: str
    limit_nanousd: int
    spent_nanousd: int
    held_nanousd: int
    is_held: bool


def shortage(ledger: Ledger, day: int, limits: Limits, needed_nanousd: int) -> Shortage:
    """Which window to name: an exhausted one before a held one, the month before the day, and both before the key's."""
    windows = [
        _window("month", limits.month_nanousd, ledger.spent_nanousd, ledger.held_nanousd, needed_nanousd),
        _window("day", limits.day_nanousd, ledger.spent_on(day), ledger.held_on(day), needed_nanousd),
    ]
    if (cap := limits.key_cap) is not None:
        spent, held = ledger.spent_with(cap.id), ledger.held_with(cap.id)
        windows.append(_window("key", cap.month_nanousd, spent, held, needed_nanousd))
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
