"""Budget states of a tenant's window, by what is spent of it; money that is only held says nothing yet.

    active      from the beginning
    warned      from warn_at on (80 %)
    degraded    from degrade_at on (90 %), where the tenant has downgrade rules: they apply now
    stopped     at 100 %; or, from degrade_at on, when a call was refused because the rest does not pay for it

A change is told of once. Its key is made of window, tenant, version of the limits and state, so whoever sees it, twice
or at once, keeps the same event; the ledger remembers what was told, so that everybody else needs no write. A crash in
between is made good by the next call.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from .ledger import MONTH, Ledger, Limits
from .reminders import kept_until
from .tenants import Tenant, timestamp


class State(Enum):
    """In the order in which a window passes them."""

    ACTIVE = "active"
    WARNED = "warned"
    DEGRADED = "degraded"
    STOPPED = "stopped"


ORDER = tuple(State)


@dataclass(frozen=True, slots=True)
class Change:
    """A window of a tenant has gone from one state to another. `period` is a day or a month, like 2026-11-24."""

    tenant: str
    window: str
    period: str
    old: State
    new: State
    spent_nanousd: int
    limit_nanousd: int
    version: int

    @property
    def key(self) -> str:
        """The same for everybody who sees this change: a window enters a state once under the same limits."""
        return f"{self.period}#{self.tenant}#{_basis(self.version, self.limit_nanousd)}#{self.new.value}"

    @property
    def mark(self) -> str:
        """What the ledger remembers."""
        return f"{self.new.value}@{_basis(self.version, self.limit_nanousd)}"

    def event(self, now: datetime) -> dict[str, object]:
        """As it is kept, for alerts."""
        return {
            "tenant": self.tenant,
            "window": _kind(self.window),
            "period": self.period,
            "from": self.old.value,
            "to": self.new.value,
            "spent_nanousd": self.spent_nanousd,
            "limit_nanousd": self.limit_nanousd,
            "version": self.version,
            "at": timestamp(now),
            "ttl": kept_until(int(now.timestamp())),
        }


def state(tenant: Tenant, spent_nanousd: int, limit_nanousd: int) -> State:
    """By what is spent alone."""
    if spent_nanousd >= limit_nanousd:
        return State.STOPPED
    if tenant.rules.downgrades and spent_nanousd >= limit_nanousd * tenant.rules.degrade_at:
        return State.DEGRADED
    return State.WARNED if spent_nanousd >= limit_nanousd * tenant.rules.warn_at else State.ACTIVE


def shown(tenant: Tenant, ledger: Ledger, day: int) -> State:
    """The fuller window's, for the header."""
    return max((_now(tenant, ledger, window) for window in (MONTH, str(day))), key=ORDER.index)


def is_degraded(tenant: Tenant, ledger: Ledger, day: int) -> bool:
    """Whether downgrade rules apply to what fits, too."""
    return ORDER.index(shown(tenant, ledger, day)) >= ORDER.index(State.DEGRADED)


def changes(tenant: Tenant, month: str, day: int, ledger: Ledger, *, refused: str | None = None) -> Iterator[Change]:
    """What has not been told of yet. `refused`: the window ("day" or "month") that did not pay for a call."""
    if ledger.is_ahead_of(tenant.limits):
        return  # by limits that were changed meanwhile: the next call, which knows the new ones, tells it
    for window in (MONTH, str(day)):
        spent, limit = ledger.spent_in(window), _limit(tenant.limits, window)
        new = _now(tenant, ledger, window)
        if refused == _kind(window) and spent >= limit * tenant.rules.degrade_at:
            new = State.STOPPED
        old, _ = _told(ledger, window)
        if new is not old:
            period = month if window == MONTH else f"{month}-{day:02}"
            yield Change(tenant.name, window, period, old, new, spent, limit, tenant.limits.version)


def _now(tenant: Tenant, ledger: Ledger, window: str) -> State:
    """By what is spent; a window that was stopped early stays so until the tenant's limits change."""
    limit = _limit(tenant.limits, window)
    if _told(ledger, window) == (State.STOPPED, _basis(tenant.limits.version, limit)):
        return State.STOPPED
    return state(tenant, ledger.spent_in(window), limit)


def _told(ledger: Ledger, window: str) -> tuple[State, str]:
    """The state of a window that was told of last, and by which limit."""
    name, _, limit = ledger.states.get(window, State.ACTIVE.value).partition("@")
    return State(name), limit


def _basis(version: int, limit_nanousd: int) -> str:
    """Which limit a state was told by: those of settings have no versions, so the amount counts too."""
    return f"{version}.{limit_nanousd}"


def _kind(window: str) -> str:
    return MONTH if window == MONTH else "day"


def _limit(limits: Limits, window: str) -> int:
    return limits.month_nanousd if window == MONTH else limits.day_nanousd
