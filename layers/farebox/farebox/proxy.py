"""The seven steps of a call, each handing a frozen value to the next:

    parse and authenticate -> quote -> reserve -> call (with fallback) -> settle -> respond

Before the call a refusal raises, and nothing was spent. From the call on every way out settles: answered, declined or
lost (settlement.py). A streamed answer settles in its relay.
"""

import hmac
from collections.abc import Iterator

from .admission import Call, Caller, StaleTenant
from .answers import answered, failed
from .candidates import Candidate, Dropped, behind, candidate, cheaper, fallbacks, instead_of
from .chat import ChatRequest, parse
from .course import BUG, Course, Plan
from .errors import BudgetHeld, Malformed, ModelNotAllowed, ModelNotPriced, Unauthenticated, UnsupportedField
from .gate import Gate
from .rest import Request, Response
from .settings import Settings
from .tenants import DEFAULT, checked_name

PLANS = 3
"""How often a call is planned anew because its tenant was changed meanwhile."""


def chat(gate: Gate, request: Request, deadline: float) -> Response:
    """POST /api/v1/chat/completions. `deadline` is a moment of the monotonic clock."""
    caller = authenticate(gate.settings, request)
    asked = parse(request.body())
    for _ in range(PLANS):
        plan = planned(gate, caller, asked)
        course = Course(gate, plan, request.headers, deadline)
        try:
            track = course.start()
            return failed(course) if track is None else answered(course, track)
        except StaleTenant:
            gate.desk.directory.forget(caller.tenant)
        except BaseException:
            course.abandon(BUG)
            raise
    raise BudgetHeld(
        f"tenant {caller.tenant} is being changed; try again in 1 s",
        facts={"scope": "tenant", "tenant": caller.tenant},
        headers={"Retry-After": "1"},
    )


# Authenticate.


def authenticate(settings: Settings, request: Request) -> Caller:
    """The gateway key may name any tenant. Raises Unauthenticated, InvalidTenant."""
    require_key(request, settings.farebox_gateway_key)
    return Caller(
        tenant=checked_name("X-Tenant-Id", request.headers.get("x-tenant-id", DEFAULT)),
        feature=checked_name("X-Feature", request.headers.get("x-feature", DEFAULT)),
        request_id=request.id,
    )


def require_key(request: Request, *keys: str) -> None:
    """Compare in constant time. Raises Unauthenticated; what was given is not repeated, it may be somebody's secret."""
    given = request.headers.get("authorization", "")
    scheme, _, key = given.partition(" ")
    if not given:
        raise Unauthenticated("the header Authorization is missing; send: Authorization: Bearer <key>")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated("the header Authorization must read: Bearer <key>")
    if not any(hmac.compare_digest(key.strip().encode(errors="surrogatepass"), known.encode()) for known in keys):
        raise Unauthenticated("the key is not one of this gateway's")


# Quote.


def planned(gate: Gate, caller: Caller, request: ChatRequest) -> Plan:
    """Price what was asked for, by the tenant's rules. Raises Malformed, ModelNotAllowed, ModelNotPriced.

    A refusal by rules that were changed meanwhile is not the last word.
    """
    try:
        return _planned(gate, caller, request)
    except (ModelNotAllowed, UnsupportedField):
        tenant, windows = gate.desk.directory.at(caller.tenant, gate.desk.now())
        if not gate.store.ledger(tenant.name, windows.month).is_ahead_of(tenant.limits):
            raise
    gate.desk.directory.forget(caller.tenant)
    return _planned(gate, caller, request)


def _planned(gate: Gate, caller: Caller, request: ChatRequest) -> Plan:
    now = gate.desk.now()
    tenant, windows = gate.desk.directory.at(caller.tenant, now)
    models = request.models or ((gate.settings.primary_model,) if gate.settings.primary_model else ())
    if not models:
        raise Malformed("model is missing, and no PRIMARY_MODEL is set")
    rules, price = tenant.rules, gate.catalogue.model
    asked = candidate(request, models, rules, price)
    call = Call(
        caller=caller,
        tenant=tenant,
        windows=windows,
        at=now,
        id=gate.desk.new_hold_id(),
        model_asked=request.models[0] if request.models else None,
        streamed=request.stream,
    )
    return Plan(
        call=call,
        request=request,
        asked=asked,
        cheaper=lambda: [
            found
            for found in _noted(gate, cheaper(request, asked, rules, price))
            if isinstance(found, Candidate) and gate.breakers.wait_s(found.circuit) == 0
        ],
        has_cheaper=bool(instead_of(asked, rules)),
        chain=_noted(gate, fallbacks(request, asked, rules, price)),
        chain_names=behind(asked, rules),
    )


def _noted(gate: Gate, found: Iterator[Candidate | Dropped]) -> Iterator[Candidate | Dropped]:
    """A rule that names a model without a price is left out; somebody should hear of it."""
    for each in found:
        if isinstance(each, Dropped) and isinstance(each.refusal, ModelNotPriced):
            gate.telemetry.dropped({"model": each.name, "reason": each.refusal.reason})
        yield each
