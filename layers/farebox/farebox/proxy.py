"""The seven steps of a call, each handing a frozen value to the next:

    authenticate -> parse -> quote and reserve -> call -> settle -> respond

Before the call a refusal raises, and nothing was spent. From the call on every way out settles: answered, declined or
lost (settlement.py). A streamed answer settles in its relay.
"""

import hmac
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from . import spans
from .admission import Admission, Caller, Desk, admit
from .catalogue import Catalogue
from .chat import ChatRequest, body_with, parse
from .errors import Malformed, Unauthenticated
from .ledger import Ledger
from .money import usd_text
from .pricing import bounds, has_own_price_cap
from .relay import BodyRelay, StreamRelay, cut_error
from .rest import JSON, Request, Response, json_response
from .settings import Settings
from .settlement import (
    COST_MISSING,
    NOT_SENT,
    PRICE_CAP,
    BodyReader,
    Outcome,
    Receipt,
    Settlement,
    object_of,
    settlement_of_status,
    text_of,
)
from .store import Store, StoreError
from .telemetry import Telemetry
from .tenants import DEFAULT, checked_name
from .upstream import CUT, TIMEOUT, Answer, Lost, NotSent, Upstream

STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
WARNED_AT_PERCENT = 80
BUG = "bug"
KEY_REFUSED = {"message": "OpenRouter does not accept the key of this gateway: check OPENROUTER_API_KEY"}


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


Settle = Callable[[Settlement], Ended]


def chat(gate: Gate, request: Request, deadline: float) -> Response:
    """POST /api/v1/chat/completions. `deadline` is a moment of the monotonic clock."""
    caller = authenticate(gate.settings, request)
    asked = parse(request.body())
    name = asked.model or gate.settings.primary_model
    if name is None:
        raise Malformed("model is missing, and no PRIMARY_MODEL is set")
    admission = admit(gate.desk, caller, asked, gate.catalogue.model(name))
    try:
        return _called(gate, request, asked, admission, deadline)
    except BaseException:
        # Whatever went wrong, the call may have been made. Where it was settled already the books stay as they are,
        # and the sweep drops the reminder that this leaves.
        _settle(gate, admission, Settlement(Outcome.LOST, Receipt(), BUG))
        raise


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


# Call.


def _called(gate: Gate, request: Request, asked: ChatRequest, admission: Admission, deadline: float) -> Response:
    settle = partial(_settle, gate, admission)
    body = body_with(asked, bounds(asked, admission.quote))
    try:
        answer = gate.upstream.chat(body, request.headers, deadline, stream=asked.stream)
    except NotSent:
        return _failed(admission, settle(Settlement(Outcome.DECLINED, Receipt(), NOT_SENT)))
    except Lost as e:
        return _failed(admission, settle(Settlement(Outcome.LOST, Receipt(), e.cause)))
    # The header has the id also where the body, cut short, has not: it is how the cost of a lost call is found out.
    settle = partial(_settle, gate, admission, generation_id=text_of(answer.headers.get("x-generation-id")))
    if answer.is_success and answer.is_stream:
        headers = {**STREAM_HEADERS, **_headers(admission, admission.ledger, answer)}
        return Response(answer.status, headers, StreamRelay(answer, settle))
    if answer.is_success:
        return _plain(admission, answer, settle)
    response, settlement = _refused_upstream(admission, answer, settle)
    if settlement.cause == PRICE_CAP and not has_own_price_cap(asked, admission.quote):
        gate.catalogue.expire(admission.quote.model)
    return response


# Settle.


def _settle(gate: Gate, admission: Admission, settlement: Settlement, *, generation_id: str | None = None) -> Ended:
    """Write the span, then end the hold. Where the store fails the hold stays until it expires."""
    if settlement.receipt.generation_id is None:
        settlement = replace(settlement, receipt=replace(settlement.receipt, generation_id=generation_id))
    ledger, hold = admission.ledger, admission.hold
    # A hold of nothing (a free model) keeps nothing: it ends, whatever became of the call.
    cost = 0 if hold.amount_nanousd == 0 and settlement.cost_nanousd is None else settlement.cost_nanousd
    latency_ms = int((gate.now() - admission.at).total_seconds() * 1000)
    span = spans.span(admission, settlement, latency_ms=latency_ms)
    try:
        gate.store.put_span(*spans.key(admission), span)
        if cost is None:
            gate.store.remind(hold.id, spans.reminder(admission, settlement).item())
        else:
            ledger = gate.store.settle(admission.tenant.name, admission.windows.month, hold, cost)
    except StoreError:
        gate.telemetry.failure("not settled", span)
        with suppress(StoreError):  # the sweep ends the hold, if at least this can be written
            gate.store.remind(hold.id, spans.reminder(admission, settlement).item())
    if cost is not None and cost > hold.amount_nanousd:
        gate.telemetry.overrun(span)
    gate.telemetry.call(span)
    return Ended(settlement, ledger)


# Respond.


def _plain(admission: Admission, answer: Answer, settle: Settle) -> Response:
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
    error = object_of(reader.body).get("error")
    if isinstance(error, Mapping) and settlement.outcome is not Outcome.ANSWERED:
        headers = _headers(admission, ended.ledger, answer, settlement)
        return upstream_error(_status(error.get("code")), error, headers)
    if settlement.outcome is Outcome.LOST and settlement.cause != COST_MISSING:
        return _failed(admission, ended)
    headers = _headers(admission, ended.ledger, answer, settlement)
    return Response(answer.status, {"Content-Type": JSON, **headers}, (reader.body,))


def _refused_upstream(admission: Admission, answer: Answer, settle: Settle) -> tuple[Response, Settlement]:
    try:
        body = answer.error_body()
    except Lost:
        body = b""
    answer.close()
    ended = settle(settlement_of_status(answer.status, body))
    headers = _headers(admission, ended.ledger, answer, ended.settlement)
    if wait := text_of(answer.headers.get("retry-after")):
        headers["Retry-After"] = wait
    error = object_of(body).get("error")
    if answer.status == 401:
        error = KEY_REFUSED
    elif not isinstance(error, Mapping):
        error = {"message": f"OpenRouter answered with status {answer.status} and no error that can be read"}
    return upstream_error(_status(answer.status), error, headers), ended.settlement


def _failed(admission: Admission, ended: Ended) -> Response:
    """No answer, or half of one."""
    cause = ended.settlement.cause or CUT
    headers = _headers(admission, ended.ledger, settlement=ended.settlement)
    if ended.settlement.outcome is Outcome.DECLINED:
        error = {"message": "OpenRouter cannot be reached; nothing was spent", "metadata": {"reason": cause}}
        return upstream_error(502, error, headers)
    return json_response(504 if cause == TIMEOUT else 502, {"error": cut_error(cause)}, headers)


def _status(status: object) -> int:
    """The status to answer with for an upstream's: its own, except where it would accuse the client of our key."""
    if not isinstance(status, int) or not 400 <= status < 600 or status == 401:
        return 502
    return 504 if status == 524 else status


def upstream_error(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """OpenRouter's error in our shape; its own metadata stays, since clients read it."""
    metadata = error.get("metadata")
    content = {
        "code": status,
        "message": str(error.get("message") or "OpenRouter gave no reason"),
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
    generation = text_of(answer.headers.get("x-generation-id")) if answer is not None else None
    generation = generation or (settlement.receipt.generation_id if settlement is not None else None)
    if generation:
        headers["X-Generation-Id"] = generation
    if settlement is not None and settlement.cost_nanousd is not None:
        headers["X-Farebox-Cost-Usd"] = usd_text(settlement.cost_nanousd)
    if settlement is not None and settlement.outcome is Outcome.LOST:
        headers["x-should-retry"] = "false"  # a repetition may be billed as well
    return headers


def _budget_state(admission: Admission, ledger: Ledger) -> str:
    """What is spent of the fuller window; money that is only held says nothing yet."""
    limits, day = admission.tenant.limits, admission.hold.day
    windows = ((ledger.spent_on(day), limits.day_nanousd), (ledger.spent_nanousd, limits.month_nanousd))
    if any(spent >= limit for spent, limit in windows):
        return "stopped"
    warned = any(spent * 100 >= limit * WARNED_AT_PERCENT for spent, limit in windows)
    return "warned" if warned else "active"
