"""What to hold for a call: which candidate, and how much output, given what is left.

    1  as asked
    2  with the output clamped to what is affordable, never below a floor
    3  the next cheaper model of the tenant's downgrade rules, as asked or clamped; first, once a window is degraded
    4  refused

One call holds at most a part of what is left (25 %), and no more than a fair share where others are in flight, so that
it cannot block them. Both only clamp the output: the smallest useful answer is held wherever it fits at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from .candidates import Candidate
from .ledger import Ceilings, Ledger, lower
from .money import ceil, ceil_quotient, floor, product
from .pricing import Quote, clamp, smallest
from .rules import Rules
from .states import is_degraded
from .tenants import Tenant

LEAST_SHARE = 10
"""With smaller shares more answers are cut short near the cap, and no more calls are admitted (`make agents`)."""

NEVER = Ceilings(-1, -1)
"""No ledger is below: nothing is held, and what to do instead is decided by what is left."""


@dataclass(frozen=True, slots=True)
class Thrift:
    """How holds are kept small: the floor of a clamp, and the part of what is left that one call may hold."""

    floor_tokens: int
    fraction: Decimal


@dataclass(frozen=True, slots=True)
class Offer:
    """A candidate with a quote to hold, and what may be committed before at most."""

    candidate: Candidate
    quote: Quote
    ceilings: Ceilings
    downgraded_from: str | None


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Nothing fits. `needed_nanousd` would hold the smallest useful answer of the cheapest candidate."""

    needed_nanousd: int
    is_above_cap: bool


def first_offer(asked: Candidate, tenant: Tenant, thrift: Thrift, *, has_cheaper: bool) -> Offer:
    """As asked, before anything is known of what is left; the ceilings see to it that it is a part of that.

    Where a cheaper model is at hand they also keep out a window that may be degraded.
    """
    limits, rules = tenant.limits, tenant.rules
    most = within_cap(floor(product(Decimal(limits.least_nanousd), thrift.fraction)), rules)
    least = _smallest(asked, thrift)
    quoted = clamp(asked.quote, most, floor_tokens=thrift.floor_tokens) or least
    if quoted.amount_nanousd > within_cap(quoted.amount_nanousd, rules):
        return Offer(asked, quoted, NEVER, None)
    is_least = quoted.amount_nanousd <= least.amount_nanousd
    left = quoted.amount_nanousd if is_least else ceil_quotient(quoted.amount_nanousd, thrift.fraction)
    ceilings = limits.ceilings(left)
    if has_cheaper:
        active = Ceilings(_below(limits.day_nanousd, rules.degrade_at), _below(limits.month_nanousd, rules.degrade_at))
        ceilings = lower(ceilings, active)
    return Offer(asked, quoted, ceilings, None)


def _below(limit: int, degrade_at: Decimal) -> int:
    """The most that may be committed of a window that is certainly not degraded: that begins at the fraction itself."""
    return ceil(product(Decimal(limit), degrade_at)) - 1


def offer(
    asked: Candidate, cheaper: Sequence[Candidate], tenant: Tenant, day: int, ledger: Ledger, thrift: Thrift
) -> Offer | Shortfall:
    """The best that the ledger leaves room for."""
    room = max(0, ledger.room_nanousd(day, tenant.limits))
    share = _share(room, len(ledger.holds), thrift)
    in_turn = [*cheaper, asked] if is_degraded(tenant, ledger, day) else [asked, *cheaper]
    for candidate in in_turn:
        quoted = _affordable(candidate, room, share, tenant.rules, thrift)
        if quoted is not None:
            downgraded_from = None if candidate is asked else asked.name
            return Offer(candidate, quoted, tenant.limits.ceilings(quoted.amount_nanousd), downgraded_from)
    needed = min(_smallest(candidate, thrift).amount_nanousd for candidate in in_turn)
    return Shortfall(needed, is_above_cap=needed > within_cap(needed, tenant.rules))


def _affordable(candidate: Candidate, room: int, share: int, rules: Rules, thrift: Thrift) -> Quote | None:
    """As much output as the share pays for; the smallest useful answer if at least that fits."""
    quoted = clamp(candidate.quote, within_cap(share, rules), floor_tokens=thrift.floor_tokens)
    if quoted is not None:
        return quoted
    least = _smallest(candidate, thrift)
    return least if least.amount_nanousd <= within_cap(room, rules) else None


def _share(room: int, in_flight: int, thrift: Thrift) -> int:
    """A part of what is left; less, an equal part for each, where many are in flight, but not below a tenth."""
    return min(floor(product(Decimal(room), thrift.fraction)), room // min(in_flight + 1, LEAST_SHARE))


def within_cap(nanousd: int, rules: Rules) -> int:
    """An amount, or the tenant's cap for one request where that is less."""
    return nanousd if rules.request_nanousd is None else min(nanousd, rules.request_nanousd)


def _smallest(candidate: Candidate, thrift: Thrift) -> Quote:
    return smallest(candidate.quote, floor_tokens=thrift.floor_tokens)
