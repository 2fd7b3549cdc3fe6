"""Quote and reserve: the most that a call can cost is held before it is made, or the call is refused.

Choosing what to hold (offers.py) and holding it are one step, tried again with what is left when others were faster.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from .candidates import Candidate
from .directory import Directory
from .errors import BudgetExhausted, BudgetHeld, Fact, Refusal, RequestTooExpensive, TooManyInFlight
from .ledger import Hold, Ledger, No, Shortage, reserve, retry_after_s, shortage
from .money import usd_number, usd_text
from .offers import Offer, Shortfall, Thrift, first_offer, offer
from .pricing import Quote
from .settings import Settings
from .store import Refused, Store, StoreError
from .tenants import Tenant, Windows, timestamp
from .watch import Watch

TRIES = 5
"""A try fails when another call took the room first; after this many the tenant is busy, which reads as held."""
WAITS_S = (0.2, 0.3, 0.4, 0.5, 0.6)
"""What calls in flight hold is waited for a little, since most give back most of it. Two seconds: clients hear nothing
meanwhile, and OpenRouter's own SDK gives up after five."""
HOLD_SECONDS = 960
"""Longer than a Lambda function can live (15 minutes): nobody ends a hold by its age while its call may still run."""
NAMES = {"day": "daily", "month": "monthly"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and for what."""

    tenant: str
    feature: str
    request_id: str
    key: str | None = None
    """The id of the tenant's API key; None where an application called with the gateway's."""
    counter: str | None = None
    """Under which id that key's spending is counted."""


@dataclass(frozen=True, slots=True)
class Call:
    """What all attempts of a call have in common."""

    caller: Caller
    tenant: Tenant
    windows: Windows
    at: datetime
    id: str
    model_asked: str | None
    streamed: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """One attempt of a call with its money held. `ledger` is the tenant's month just after. Attempts count from 1."""

    call: Call
    attempt: int
    candidate: Candidate
    hold: Hold
    quote: Quote
    ledger: Ledger
    downgraded_from: str | None = None
    is_held: bool = True
    """Not so in an outage of the ledger, where a little may be let through (outage.py)."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts that admission needs; `sleep` takes seconds."""

    store: Store
    directory: Directory
    watch: Watch
    settings: Settings
    now: Callable[[], datetime]
    new_hold_id: Callable[[], str]
    sleep: Callable[[float], None]

    @property
    def thrift(self) -> Thrift:
        return Thrift(self.settings.farebox_min_output_tokens, self.settings.farebox_hold_fraction)


def admit(
    desk: Desk,
    call: Call,
    asked: Candidate,
    cheaper: Callable[[], Sequence[Candidate]],
    *,
    has_cheaper: bool = False,
    attempt: int = 1,
    ledger: Ledger | None = None,
    may_wait: bool = True,
) -> Admission:
    """Hold the most that an attempt can cost. `ledger` is what is known of what is left, if anything is.

    `cheaper` models are priced only where what was asked for is not simply held. Raises BudgetExhausted, BudgetHeld,
    RequestTooExpensive, TooManyInFlight, StaleTenant, StoreError.
    """
    desk.directory.register(call.tenant.name, call.windows.month)
    others: Sequence[Candidate] | None = None
    waits, tries = iter(WAITS_S if may_wait else ()), 0
    while tries < TRIES:
        if ledger is None:
            found: Offer | Shortfall = first_offer(asked, call.tenant, desk.thrift, has_cheaper=has_cheaper)
        else:
            others = cheaper() if others is None else others
            found = offer(asked, others, call.tenant, call.windows.day, ledger, desk.thrift)
        if isinstance(found, Shortfall):
            refused = refusal(call, found, ledger or Ledger())
            if isinstance(refused, BudgetExhausted) and attempt == 1 and refused.facts["scope"] == "tenant":
                # A window stops at a refusal of the call, not at one of a key or of a model that was to stand in.
                window = str(refused.facts["window"])
                desk.watch.look(call.tenant, call.windows.month, call.windows.day, ledger or Ledger(), refused=window)
            if not isinstance(refused, BudgetHeld) or (wait_s := next(waits, None)) is None:
                raise refused
            desk.sleep(wait_s)
            ledger = desk.store.ledger(call.tenant.name, call.windows.month)
            if ledger.is_ahead_of(call.tenant.limits):
                raise StaleTenant
            continue
        tries += 1
        hold = hold_for(call, found, attempt)
        result = _reserved(desk.store, call, hold, found)
        if isinstance(result, Ledger):
            return Admission(call, attempt, found.candidate, hold, found.quote, result, found.downgraded_from)
        ledger = result.ledger
        if result.why is No.STALE_LIMITS:
            raise StaleTenant
        if result.why is No.TOO_MANY:
            raise refusal(call, No.TOO_MANY, ledger)
    raise BudgetHeld(
        f"too many calls of tenant {call.tenant.name} at the same moment; try again in 1 s",
        facts={"scope": "tenant", "tenant": call.tenant.name},
        headers={"Retry-After": "1"},
    )


def foreseen(
    call: Call, asked: Candidate, cheaper: Sequence[Candidate], ledger: Ledger, thrift: Thrift, *, has_cheaper: bool
) -> Offer | Shortfall | No:
    """What `admit` would come to at once with this ledger, nothing held: the same two steps."""
    found = first_offer(asked, call.tenant, thrift, has_cheaper=has_cheaper)
    result = reserve(ledger, hold_for(call, found, 1), call.tenant.limits, found.ceilings)
    if result is No.NO_ROOM:
        second = offer(asked, cheaper, call.tenant, call.windows.day, ledger, thrift)
        if isinstance(second, Shortfall):
            return second
        found = second
        result = reserve(ledger, hold_for(call, found, 1), call.tenant.limits, found.ceilings)
    return result if isinstance(result, No) else found


class StaleTenant(Exception):
    """The tenant's configuration is newer than what the call was planned with: plan again. Nothing is held."""


def hold_for(call: Call, found: Offer, attempt: int) -> Hold:
    """The first attempt's hold has the call's id, later ones a number behind it."""
    admitted_at = int(call.at.timestamp())
    return Hold(
        call.id if attempt == 1 else f"{call.id}-{attempt}",
        found.quote.amount_nanousd,
        call.windows.day,
        admitted_at,
        admitted_at + HOLD_SECONDS,
        found.candidate.name,
        call.caller.feature,
        key=call.caller.counter,
        learnt_nanousd=found.quote.learnt_nanousd,
    )


def _reserved(store: Store, call: Call, hold: Hold, found: Offer) -> Ledger | Refused:
    """Reserve; a hold whose write was done but not answered is released, since its call will not be made."""
    name, month = call.tenant.name, call.windows.month
    try:
        return store.reserve(name, month, hold, call.tenant.limits, found.ceilings)
    except StoreError:
        with suppress(StoreError):
            store.settle(name, month, hold, 0)
        raise


# Refusals.


def refusal(call: Call, found: Shortfall | No, ledger: Ledger) -> Refusal:
    """Why nothing is held, given what is left."""
    if isinstance(found, No):
        return _too_many(call, ledger)
    if found.is_above_cap:
        return _too_expensive(call.tenant, found.needed_nanousd)
    short = shortage(ledger, call.windows.day, call.tenant.limits, found.needed_nanousd)
    return _short_of_money(call.tenant, call.windows, ledger, short, found.needed_nanousd, call.at)


def _too_expensive(tenant: Tenant, needed: int) -> RequestTooExpensive:
    """Above the tenant's cap for one request, however short the answer."""
    cap = tenant.rules.request_nanousd or 0
    return RequestTooExpensive(
        f"the smallest answer needs {usd_text(needed)} USD, and tenant {tenant.name} allows {usd_text(cap)} USD for "
        "one request",
        facts={
            "scope": "tenant",
            "tenant": tenant.name,
            "limit_usd": usd_number(cap),
            "needed_usd": usd_number(needed),
        },
        headers={"x-should-retry": "false"},
    )


def _too_many(call: Call, ledger: Ledger) -> TooManyInFlight:
    """As many calls are in flight as the tenant may have."""
    wait_s = retry_after_s(ledger, int(call.at.timestamp()))
    return TooManyInFlight(
        f"tenant {call.tenant.name} has {len(ledger.holds)} calls in flight, as many as it may have; "
        f"try again in {wait_s} s",
        facts={"scope": "tenant", "tenant": call.tenant.name, "in_flight": len(ledger.holds)},
        headers={"Retry-After": str(wait_s)},
    )


def _short_of_money(
    tenant: Tenant, windows: Windows, ledger: Ledger, short: Shortage, needed: int, now: datetime
) -> BudgetHeld | BudgetExhausted:
    """Which window does not pay, and what the client can do about it."""
    cap = tenant.limits.key_cap if short.window == "key" else None
    window = "month" if cap is not None else short.window
    facts: dict[str, Fact] = {
        "scope": "tenant" if cap is None else "key",
        "tenant": tenant.name,
        **({} if cap is None else {"key": cap.key or cap.id}),
        "window": window,
        "limit_usd": usd_number(short.limit_nanousd),
        "spent_usd": usd_number(short.spent_nanousd),
        "held_usd": usd_number(short.held_nanousd),
        "needed_usd": usd_number(needed),
        "resets_at": timestamp(windows.resets_at(window)),
    }
    whose = f"tenant {tenant.name}" if cap is None else f"API key {cap.key or cap.id}"
    budget = f"the {NAMES[window]} budget of {whose}"
    if short.is_held:
        wait_s = retry_after_s(ledger, int(now.timestamp()))
        return BudgetHeld(
            f"{budget} is held by calls in flight ({_state(short)}); try again in {wait_s} s",
            facts=facts,
            headers={"Retry-After": str(wait_s)},
        )
    return BudgetExhausted(
        f"{budget} does not pay for this call ({_state(short)}; the smallest answer needs {usd_text(needed)} USD); "
        f"it resets at {facts['resets_at']}",
        facts=facts,
        headers={"x-should-retry": "false"},
    )


def _state(short: Shortage) -> str:
    return (
        f"{usd_text(short.spent_nanousd)} of {usd_text(short.limit_nanousd)} USD spent, "
        f"{usd_text(short.held_nanousd)} USD held"
    )
