"""The seven steps of a call, each handing a frozen value to the next:

    authenticate -> parse -> quote and reserve -> call -> settle -> respond

Before the call a refusal raises, and nothing was spent. From the call on every way out settles: answered, declined or
lost (settlement.py). A streamed answer settles in its relay.
"""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from . import spans
from .admission import Admission, Caller, Desk, admit
from .catalogue import Catalogue
from .chat import ChatRequest, body_with, parse, provider_of
from .errors import Malformed, Unauthenticated
from .ledger import Ledger
from .money import usd_text
from .pricing import bounds
from .relay import BodyRelay, StreamRelay, cut_error
from .rest import JSON, Request, Response, json_response
from .settings import Settings
from .settlement import NOT_SENT, PRICE_CAP, BodyReader, Outcome, Receipt, Settlement, object_of, settlement_of_status
from .store import Store, StoreError
from .telemetry import Telemetry
from .tenants import DEFAULT, checked_name
from .upstream import TIMEOUT, Answer, Lost, NotSent, Upstream

STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
WARNED_AT_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Gate:
    """The parts of the shell, built once at cold start."""

    settings: Settings
    store: Store
    desk: Desk
    upstream: Upstream
    catalogue: Catalogue
    telemetry: Telemetry
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Ended:
    """A call whose money is decided: what it cost, and the ledger as this call left it."""

    settlement: Settlement
    ledger: Ledger


def chat(gate: Gate, request: Request, deadline: float) -> Response:
    """POST /api/v1/chat/completions. `deadline` is a moment of the monotonic clock."""
    caller = authenticate(gate.settings, request)
    asked = parse(request.body())
    name = asked.model or gate.settings.primary_model
    if name is None:
        raise Malformed("model is missing, and no PRIMARY_MODEL is set")
    admission = admit(gate.desk, caller, asked, gate.catalogue.model(name))
    settle = partial(_settle, gate, admission)
    try:
        answer = gate.upstream.chat(_body(asked, admission), request.headers, deadline)
    except NotSent:
        return _failed(admission, settle(Settlement(Outcome.DECLINED, Receipt(), NOT_SENT)))
    except Lost as e:
        return _failed(admission, settle(Settlement(Outcome.LOST, Receipt(), e.cause)))
    if not answer.is_success:
        return _refused_upstream(admission, answer, settle)
    if answer.is_stream:
        headers = {**STREAM_HEADERS, **_headers(admission, admission.ledger, answer)}
        return Response(answer.status, headers, StreamRelay(answer, settle))
    return _plain(admission, answer, settle)


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
    if not any(hmac.compare_digest(key.strip().encode(), known.encode()) for known in keys):
        raise Unauthenticated("the key is not one of this gateway's")


# Call.


def _body(asked: ChatRequest, admission: Admission) -> bytes:
    return body_with(asked, bounds(asked, admission.quote, provider_of(asked)))


# Settle.


def _settle(gate: Gate, admission: Admission, settlement: Settlement) -> Ended:
    """Write the span, then end the hold. Where the store fails the hold stays until it expires."""
    ledger = admission.ledger
    hold, cost = admission.hold, settlement.cost_nanousd
    latency_ms = int((gate.now() - admission.at).total_seconds() * 1000)
    span = spans.span(admission, settlement, latency_ms=latency_ms)
    try:
        gate.store.put_span(*spans.key(admission), span)
        if cost is not None:
            ledger = gate.store.settle(admission.tenant.name, admission.windows.month, hold, cost) or ledger
    except StoreError:
        gate.telemetry.failure("not settled", span)
    if cost is not None and cost > hold.amount_nanousd:
        gate.telemetry.overrun(span)
    if settlement.cause == PRICE_CAP:
        gate.catalogue.forget(hold.model)  # the price has risen since it was asked
    gate.telemetry.call(span)
    return Ended(settlement, ledger)


# Respond.


def _plain(admission: Admission, answer: Answer, settle: Callable[[Settlement], Ended]) -> Response:
    """An answer in one piece, unless it begins with white space, which keeps a connection alive while a model works."""
    reader = BodyReader()
    try:
        first = next(answer.body, b"")
        if first and not first.strip():
            headers = {"Content-Type": JSON, **_headers(admission, admission.ledger, answer)}
            return Response(answer.status, headers, BodyRelay(answer, first, settle))
        reader.feed(first)
        for chunk in answer.body:
            reader.feed(chunk)
        settlement = reader.settlement(cut=None)
    except Lost as e:
        settlement = reader.settlement(cut=e.cause)
    answer.close()
    ended = settle(settlement)
    headers = _headers(admission, ended.ledger, answer, settlement)
    if settlement.outcome is Outcome.LOST and settlement.cause != "cost_missing":
        return _failed(admission, ended)
    if settlement.outcome is Outcome.DECLINED:
        error = object_of(reader.body)["error"]
        return _upstream_error(_status(error.get("code")), error, headers)
    return Response(answer.status, {"Content-Type": JSON, **headers}, (reader.body,))


def _refused_upstream(admission: Admission, answer: Answer, settle: Callable[[Settlement], Ended]) -> Response:
    try:
        body = answer.error_body()
    except Lost:
        body = b""
    answer.close()
    ended = settle(settlement_of_status(answer.status, body))
    headers = _headers(admission, ended.ledger, answer, ended.settlement)
    if wait := answer.headers.get("retry-after"):
        headers["Retry-After"] = wait
    error = object_of(body).get("error")
    if answer.status == 401:
        error = {"message": "OpenRouter does not accept the key of this gateway: check OPENROUTER_API_KEY"}
    return _upstream_error(_status(answer.status), error if isinstance(error, Mapping) else {}, headers)


def _failed(admission: Admission, ended: Ended) -> Response:
    """No answer, or half of one."""
    cause = ended.settlement.cause or ""
    if cause == NOT_SENT:
        error: dict[str, Any] = {"message": "OpenRouter cannot be reached; nothing was spent", "reason": cause}
        return _upstream_error(502, error, _headers(admission, ended.ledger))
    content = {"error": {**cut_error(cause), "code": status_of_cause(cause)}}
    return json_response(status_of_cause(cause), content, _headers(admission, ended.ledger))


def status_of_cause(cause: str) -> int:
    """504 where waiting ended it, else 502."""
    return 504 if cause == TIMEOUT else 502


def _status(status: object) -> int:
    """The status to answer with for an upstream's: its own, except where it would accuse the client of our key."""
    if not isinstance(status, int) or not 400 <= status < 600 or status == 401:
        return 502
    return 504 if status == 524 else status


def _upstream_error(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """OpenRouter's error in our shape; its own metadata stays, since clients read it."""
    metadata = error.get("metadata")
    content = {
        "code": status,
        "message": str(
            error.get("message") or f"OpenRouter answered with status {status} and no error that can be read"
        ),
        "type": "upstream_error",
        "metadata": {"reason": "upstream_error", **(metadata if isinstance(metadata, Mapping) else {})},
    }
    return json_response(status, {"error": content}, headers)


def _headers(
    admission: Admission, ledger: Ledger, answer: Answer | None = None, settlement: Settlement | None = None
) -> dict[str, str]:
    limits, hold = admission.tenant.limits, admission.hold
    headers = {
        "X-Farebox-Model": hold.model,
        "X-Farebox-Budget-State": _budget_state(admission, ledger),
        "X-Farebox-Daily-Remaining-Usd": usd_text(limits.day_nanousd - ledger.committed_on(hold.day)),
        "X-Farebox-Monthly-Remaining-Usd": usd_text(limits.month_nanousd - ledger.committed_nanousd),
    }
    if admission.quote.is_clamped:
        headers["X-Farebox-Max-Tokens"] = str(admission.quote.output_tokens)
    generation = (answer and answer.headers.get("x-generation-id")) or (settlement and settlement.receipt.generation_id)
    if generation:
        headers["X-Generation-Id"] = generation
    if settlement is not None and settlement.cost_nanousd is not None:
        headers["X-Farebox-Cost-Usd"] = usd_text(settlement.cost_nanousd)
    return headers


def _budget_state(admission: Admission, ledger: Ledger) -> str:
    """What is spent of the fuller window; money that is only held says nothing yet."""
    limits, day = admission.tenant.limits, admission.hold.day
    windows = ((ledger.spent_on(day), limits.day_nanousd), (ledger.spent_nanousd, limits.month_nanousd))
    if any(spent >= limit for spent, limit in windows):
        return "stopped"
    warned = any(spent * 100 >= limit * WARNED_AT_PERCENT for spent, limit in windows)
    return "warned" if warned else "active"
