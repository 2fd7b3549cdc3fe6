"""Quote and reserve: the most that a call can cost is held before it is made, or the call is refused.

Choosing the bounds and holding the money are one step, tried again with what is left: as asked, then with the output
clamped to what is affordable, then refused, with what the client must know to act.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from .chat import ChatRequest
from .directory import Directory
from .errors import BudgetExhausted, BudgetHeld, Fact, Refusal
from .ledger import Hold, Ledger, Limits, No, Shortage, retry_after_s, shortage
from .money import floor, product, usd_number, usd_text
from .pricing import Quote, clamp, quote, shared, smallest
from .rates import PricedModel
from .settings import Settings
from .store import Refused, Store, StoreError
from .tenants import Tenant, Windows, timestamp

TRIES = 5
"""A try fails when another call took the room first; after this many the tenant is busy, which reads as held."""
HOLD_SECONDS = 960
"""Longer than a Lambda function can live (15 minutes): nobody ends a hold by its age while its call may still run."""
NAMES = {"day": "daily", "month": "monthly"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and for what."""

    tenant: str
    feature: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Admission:
    """A call with its money held. `ledger` is the tenant's month just after."""

    tenant: Tenant
    feature: str
    request_id: str
    windows: Windows
    at: datetime
    hold: Hold
    quote: Quote
    ledger: Ledger
    model_asked: str | None
    streamed: bool


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts that admission needs."""

    store: Store
    directory: Directory
    settings: Settings
    now: Callable[[], datetime]
    new_hold_id: Callable[[], str]


def admit(desk: Desk, caller: Caller, request: ChatRequest, model: PricedModel) -> Admission:
    """Hold the most that the call can cost. Raises BudgetExhausted, BudgetHeld, ModelNotPriced, StoreError."""
    now = desk.now()
    asked = quote(request, model)
    hold_id = desk.new_hold_id()
    room: int | None = None
    for _ in range(TRIES):
        tenant, windows = desk.directory.at(caller.tenant, now)
        offer = _offer(asked, tenant.limits, room, desk.settings)
        hold = _hold(hold_id, offer, windows, now)
        result = _reserved(desk.store, tenant, windows.month, hold)
        if isinstance(result, Ledger):
            return Admission(
                tenant,
                caller.feature,
                caller.request_id,
                windows,
                now,
                hold,
                offer,
                result,
                request.model,
                request.stream,
            )
        if result.why is No.STALE_LIMITS:
            desk.directory.forget(tenant.name)
            continue
        room = result.ledger.room_nanousd(windows.day, tenant.limits)
        needed = _floor_nanousd(asked, desk.settings)
        if needed > max(0, room):
            raise _refusal(tenant, windows, result.ledger, needed, now)
    raise BudgetHeld(
        f"too many calls of tenant {caller.tenant} at the same moment; try again in 1 s",
        facts={"scope": "tenant", "tenant": caller.tenant},
        headers={"Retry-After": "1"},
    )


def _reserved(store: Store, tenant: Tenant, month: str, hold: Hold) -> Ledger | Refused:
    """Reserve; a hold whose write was done but not answered is released, since its call will not be made."""
    try:
        return store.reserve(tenant.name, month, hold, tenant.limits)
    except StoreError:
        with suppress(StoreError):
            store.settle(tenant.name, month, hold, 0)
        raise


def _offer(asked: Quote, limits: Limits, room_nanousd: int | None, settings: Settings) -> Quote:
    """What to hold: as asked, or an unasked output for a share of the budget; after a refusal, what the room allows."""
    floor_tokens = settings.farebox_min_output_tokens
    budget = Decimal(min(limits.day_nanousd, limits.month_nanousd))
    offer = shared(asked, floor(product(budget, settings.farebox_hold_fraction)), floor_tokens=floor_tokens)
    if room_nanousd is None:
        return offer
    return clamp(offer, room_nanousd, floor_tokens=floor_tokens) or smallest(asked, floor_tokens=floor_tokens)


def _hold(hold_id: str, offer: Quote, windows: Windows, now: datetime) -> Hold:
    admitted_at = int(now.timestamp())
    return Hold(hold_id, offer.amount_nanousd, windows.day, admitted_at, admitted_at + HOLD_SECONDS, offer.model)


def _floor_nanousd(asked: Quote, settings: Settings) -> int:
    return smallest(asked, floor_tokens=settings.farebox_min_output_tokens).amount_nanousd


def _refusal(tenant: Tenant, windows: Windows, ledger: Ledger, needed: int, now: datetime) -> Refusal:
    short = shortage(ledger, windows.day, tenant.limits, needed)
    facts: dict[str, Fact] = {
        "scope": "tenant",
        "tenant": tenant.name,
        "window": short.window,
        "limit_usd": usd_number(short.limit_nanousd),
        "spent_usd": usd_number(short.spent_nanousd),
        "held_usd": usd_number(short.held_nanousd),
        "needed_usd": usd_number(needed),
        "resets_at": timestamp(windows.resets_at(short.window)),
    }
    budget = f"the {NAMES[short.window]} budget of tenant {tenant.name}"
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
