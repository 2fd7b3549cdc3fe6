"""Which path goes where, and every refusal to its response."""

from collections.abc import Callable, Mapping
from typing import Any

from . import usage
from .answers import KEY_REFUSED, upstream_error
from .chat import parse
from .errors import Malformed, MethodNotAllowed, NotFound, Refusal
from .gate import Gate
from .proxy import authenticate, chat, require_key
from .quotes import quote
from .rest import JSON, Request, Response, json_response, request_of
from .store import StoreError, refusal
from .tenants import checked_name
from .upstream import Lost, NotSent

USAGE = "/api/usage/"
MAX_QUERY_LENGTH = 8192


def answer(gate: Gate, event: Mapping[str, Any], deadline: float) -> Response:
    """The response to an API Gateway event. `deadline`: when the function must have settled, on the monotonic clock."""
    request_id = str((event.get("requestContext") or {}).get("requestId") or "")
    try:
        request = request_of(event)
        response = _route(request)(gate, request, deadline)
    except StoreError as e:
        gate.telemetry.failure("store", {"request_id": request_id})
        response = error_response(refusal(e))
    except Refusal as e:
        gate.telemetry.refusal({"request_id": request_id, "reason": e.reason, "status": e.status, **_loggable(e)})
        response = error_response(e)
    except Exception:  # noqa: BLE001 - the last stop: a bug is logged whole and answered in the shape of every error
        gate.telemetry.failure("bug", {"request_id": request_id})
        content = {"code": 500, "message": "a bug in the gateway; its log has it", "type": "api_error"}
        response = json_response(500, {"error": {**content, "metadata": {"reason": "internal"}}})
    return Response(response.status, {"X-Request-Id": request_id, **response.headers}, response.body)


def error_response(error: Refusal) -> Response:
    """A refusal in the shape that OpenRouter's and OpenAI's clients read."""
    content = {
        "code": error.status,
        "message": error.message,
        "type": error.type,
        "metadata": {"reason": error.reason, **error.facts},
    }
    return json_response(error.status, {"error": content}, error.headers)


def _loggable(error: Refusal) -> dict[str, Any]:
    return {name: value for name, value in error.facts.items() if name in ("tenant", "window", "field")}


Handler = Callable[[Gate, Request, float], Response]


def _route(request: Request) -> Handler:
    if request.path.startswith(USAGE):
        methods: Mapping[str, Handler] = {"GET": _usage}
    elif request.path in _ROUTES:
        methods = _ROUTES[request.path]
    else:
        raise NotFound(f"there is nothing at {request.path[:200]!r}; chat is at POST /api/v1/chat/completions")
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise MethodNotAllowed(
            f"{request.path[:200]} takes {allowed}, not {request.method[:20]}", headers={"Allow": allowed}
        )
    return methods[request.method]


def _health(gate: Gate, request: Request, deadline: float) -> Response:  # noqa: ARG001
    return json_response(200, {"status": "ok"})


def _models(gate: Gate, request: Request, deadline: float) -> Response:  # noqa: ARG001
    """The catalogue as upstream tells it."""
    authenticate(gate.settings, request)
    if len(request.query) > MAX_QUERY_LENGTH:
        raise Malformed(f"the query is longer than {MAX_QUERY_LENGTH} characters")
    try:
        status, body = gate.upstream.get("/models", request.query)
    except (NotSent, Lost):
        return upstream_error(502, {"message": "OpenRouter cannot be reached"}, {})
    if status == 401:
        return upstream_error(502, KEY_REFUSED, {})
    return Response(status, {"Content-Type": JSON}, (body,))


def _quote(gate: Gate, request: Request, deadline: float) -> Response:  # noqa: ARG001
    return json_response(200, quote(gate, authenticate(gate.settings, request), parse(request.body())))


def _usage(gate: Gate, request: Request, deadline: float) -> Response:  # noqa: ARG001
    require_key(request, gate.settings.farebox_gateway_key, gate.settings.farebox_admin_key)
    name = checked_name("the tenant in the path", request.path.removeprefix(USAGE))
    directory, now = gate.desk.directory, gate.now()
    ledger = gate.store.ledger(name, directory.at(name, now)[1].month)
    tenant, windows = directory.as_new_as(ledger, name, now)
    return json_response(200, usage.report(tenant, windows, ledger))


_ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/api/health": {"GET": _health},
    "/api/v1/models": {"GET": _models},
    "/api/v1/chat/completions": {"POST": chat},
    "/api/v1/quote": {"POST": _quote},
}
