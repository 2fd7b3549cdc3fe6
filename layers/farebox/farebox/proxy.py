"""The seven steps of a call, each handing a frozen value to the next:

    parse and authenticate -> quote -> reserve -> call (with fallback) -> settle -> respond

Before the call a refusal raises, and nothing was spent. From the call on every way out settles: answered, declined or
lost (settlement.py). A streamed answer settles in its relay.
"""

import hmac
from collections.abc import Iterator
from typing import overload

from .admission import Call, Caller, StaleTenant
from .answers import answered, failed
from .candidates import Candidate, Dropped, behind, candidate, cheaper, fallbacks, instead_of
from .chat import ChatRequest, parse
from .course import BUG, Course, Plan
from .errors import (
    BudgetHeld,
    KeyMismatch,
    Malformed,
    ModelNotAllowed,
    ModelNotPriced,
    TenantClosed,
    Unauthenticated,
    UnknownTenant,
    UnsupportedField,
)
from .gate import Gate
from .keys import ApiKey, Presented, presented, shown
from .rest import Request, Response
from .tenants import DEFAULT, Status, checked_name

PLANS = 3
"""How often a call is planned anew because its tenant was changed meanwhile."""


def chat(gate: Gate, request: Request, deadline: float) -> Response:
    """POST /api/v1/chat/completions. `deadline` is a moment of the monotonic clock."""
    caller = authenticate(gate, request)
    asked = parse(request.body())
    for _ in range(PLANS):
        course = None
        try:
            course = Course(gate, planned(gate, caller, asked), request.headers, deadline)
            track = course.start()
            return failed(course) if track is None else answered(course, track)
        except StaleTenant:
            gate.desk.directory.forget(caller.tenant)
            caller = authenticate(gate, request)
        except BaseException:
            if course is not None:
                course.abandon(BUG)
            raise
    raise BudgetHeld(
        f"tenant {caller.tenant} is being changed; try again in 1 s",
        facts={"scope": "tenant", "tenant": caller.tenant},
        headers={"Retry-After": "1"},
    )


# Authenticate.


def authenticate(gate: Gate, request: Request, *, anew: bool = False) -> Caller:
    """The gateway key may name any tenant, a tenant's key only that one.

    What is kept of the tenant is good enough for a call, which the ledger refuses if it is old; everything else reads
    it `anew`. Raises Unauthenticated, InvalidTenant, KeyMismatch.
    """
    given = bearer(request)
    if is_any_of(given, gate.settings.farebox_gateway_key):
        return Caller(
            tenant=checked_name("X-Tenant-Id", request.headers.get("x-tenant-id", DEFAULT)),
            feature=checked_name("X-Feature", request.headers.get("x-feature", DEFAULT)),
            request_id=request.id,
        )
    key = presented(given)
    if key is None:
        raise Unauthenticated("the key is not one of this gateway's")
    found = _api_key(gate, key, anew=anew)
    return Caller(
        tenant=_bound("X-Tenant-Id", request.headers.get("x-tenant-id"), key.tenant),
        feature=_bound("X-Feature", request.headers.get("x-feature"), found.feature) or DEFAULT,
        request_id=request.id,
        key=found.id,
        counter=found.counter,
    )


def _api_key(gate: Gate, key: Presented, *, anew: bool) -> ApiKey:
    """A tenant's key, if it is good. One that is not may be new, or good for longer, so the tenant is read again."""
    directory, now = gate.desk.directory, gate.desk.now()
    for is_last in (anew, True):
        if is_last:
            directory.forget(key.tenant)
        try:
            tenant, _ = directory.at(key.tenant, now)
        except UnknownTenant:
            break
        found = tenant.keys.get(key.id)
        if found is not None and found.has(key.secret):
            if found.is_good(int(now.timestamp())):
                return found
            if is_last:
                raise Unauthenticated(f"the key {shown(key.tenant, key.id)} was revoked or has expired")
    raise Unauthenticated("the key is not one of this gateway's")


@overload
def _bound(header: str, named: str | None, bound: str) -> str: ...
@overload
def _bound(header: str, named: str | None, bound: str | None) -> str | None: ...
def _bound(header: str, named: str | None, bound: str | None) -> str | None:
    """What a key is bound to, or what a header names where it is not."""
    if named is not None:
        checked_name(header, named)
    if None not in (named, bound) and named != bound:
        raise KeyMismatch(f"the key is bound to {bound}; leave out the header {header}, or name that")
    return bound if bound is not None else named


def bearer(request: Request) -> str:
    """The key that a request brings. Raises Unauthenticated; what was given is not repeated, it may be a secret."""
    given = request.headers.get("authorization", "")
    scheme, _, key = given.partition(" ")
    if not given:
        raise Unauthenticated("the header Authorization is missing; send: Authorization: Bearer <key>")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated("the header Authorization must read: Bearer <key>")
    return key.strip()


def require_key(request: Request, *keys: str) -> None:
    """One of these. Raises Unauthenticated."""
    if not is_any_of(bearer(request), *keys):
        raise Unauthenticated("the key is not one of this gateway's")


def is_any_of(given: str, *keys: str) -> bool:
    """In constant time."""
    return any(hmac.compare_digest(given.encode(errors="surrogatepass"), known.encode()) for known in keys)


# Quote.


def planned(gate: Gate, caller: Caller, request: ChatRequest) -> Plan:
    """Price what was asked for, by the tenant's rules. Raises Malformed, ModelNotAllowed, ModelNotPriced,
    TenantClosed.

    A refusal by rules that were changed meanwhile is not the last word.
    """
    try:
        return _planned(gate, caller, request)
    except (ModelNotAllowed, UnsupportedField, TenantClosed):
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
    if tenant.fault is not None:
        raise TenantClosed(tenant.fault, facts={"tenant": tenant.name})
    if tenant.status is not Status.ACTIVE:
        raise TenantClosed(f"tenant {tenant.name} is {tenant.status.value}", facts={"tenant": tenant.name})
    if caller.key is not None:
        key = tenant.keys.get(caller.key)
        if key is None or not key.is_good(int(now.timestamp())):  # the tenant may have been read since
            raise Unauthenticated(f"the key {shown(tenant.name, caller.key)} was revoked or has expired")
        tenant = tenant.with_key(key)
    rules, price = tenant.rules, gate.catalogue.model
    if request.media_parts > 0 and not rules.media:
        raise UnsupportedField(f"tenant {tenant.name} may not send images, sounds, videos or files")
    asked = candidate(request, models, rules, price)
    if tenant.limits.least_nanousd == 0 and asked.quote.amount_nanousd == 0:
        raise TenantClosed(f"a budget of tenant {tenant.name} or of its key is 0, which closes it for free models, too")
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
