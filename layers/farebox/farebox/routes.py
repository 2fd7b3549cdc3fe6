"""Which path goes where, and every refusal to its response."""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

from . import overview, reports, usage
from .answers import KEY_REFUSED, upstream_error
from .chat import parse
from .errors import KeyMismatch, Malformed, MethodNotAllowed, NotFound, Refusal
from .gate import Gate
from .ledger import Ledger
from .proxy import authenticate, bearer, chat, is_any_of
from .queries import tenants_query, usage_query
from .quotes import quote
from .readings import read
from .rest import JSON, Request, Response, csv_response, json_response, request_of, wants_csv
from .store import StoreError, refusal
from .telemetry import Telemetry
from .tenants import Tenant, Windows, checked_name, timestamp
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
        response = bug_response(gate.telemetry, request_id)
    return Response(response.status, {"X-Request-Id": request_id, **response.headers}, response.body)


def bug_response(telemetry: Telemetry, request_id: str) -> Response:
    """The last stop of an exception that is being handled: it is logged whole, and answered as every error."""
    telemetry.failure("bug", {"request_id": request_id})
    content = {"code": 500, "message": "a bug in the gateway; its log has it", "type": "api_error"}
    return json_response(500, {"error": {**content, "metadata": {"reason": "internal"}}})


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
    authenticate(gate, request, anew=True)
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
    return json_response(200, quote(gate, authenticate(gate, request, anew=True), parse(request.body())))


def _usage(gate: Gate, request: Request, deadline: float) -> Response:  # noqa: ARG001
    name = checked_name("the tenant in the path", request.path.removeprefix(USAGE))
    _require_reader(gate, request, name)
    now = gate.now()
    tenant, windows, ledger = _month_of(gate, name, now)
    if request.query or wants_csv(request):
        today = date.fromisoformat(f"{windows.month}-{windows.day:02}")
        return _queried(gate, request, tenant, today, now)
    return json_response(200, usage.report(tenant, windows, ledger, now))


def _month_of(gate: Gate, name: str, now: datetime) -> tuple[Tenant, Windows, Ledger]:
    """A tenant that is as new as its ledger, and that."""
    directory = gate.desk.directory
    ledger = gate.store.ledger(name, directory.at(name, now)[1].month)
    return *directory.as_new_as(ledger, name, now), ledger


def _queried(gate: Gate, request: Request, tenant: Tenant, today: date, now: datetime) -> Response:
    """Rows by interval and group, from rollups and spans."""
    query = usage_query(request.query, today)
    reading = read(gate.rollups, tenant.name, query, now)
    rows = reports.rows(query, reading.parts, tenant.time_zone)
    complete_until = timestamp(reading.complete_until)
    if wants_csv(request):
        name = f"usage-{tenant.name}-{query.first}-{query.last}"
        return csv_response(name, reports.csv_of(rows), {"X-Farebox-Complete-Until": complete_until})
    return json_response(
        200,
        {
            "tenant": tenant.name,
            "time_zone": tenant.time_zone,
            "from": str(query.first),
            "to": str(query.last),
            "interval": query.interval.value,
            "group_by": query.group_by,
            "complete_until": complete_until,
            "rows": [reports.shown(row) for row in rows],
        },
    )


def _all_usage(gate: Gate, request: Request, deadline: float) -> Response:  # noqa: ARG001
    """All tenants of a month."""
    _require_admin(gate, request)
    now = gate.now()
    page = overview.page(
        gate.store, gate.settings, tenants_query(request.query, overview.this_month(gate.settings, now)), now
    )
    if wants_csv(request):
        found = [dict(reports.flattened(row)) for row in page.rows]
        content = reports.csv_text(
            overview.COLUMNS, ([each.get(column) for column in overview.COLUMNS] for each in found)
        )
        following = {} if page.next is None else {"X-Farebox-Next": page.next}
        return csv_response(f"usage-{page.month}", content, following)
    return json_response(200, {"month": page.month, "data": page.rows, "next": page.next})


def _require_admin(gate: Gate, request: Request) -> None:
    """Applications have the gateway's key. It may name any tenant, but who they all are is none of their business."""
    if is_any_of(bearer(request), gate.settings.farebox_admin_key):
        return
    authenticate(gate, request, anew=True)
    raise KeyMismatch("only the admin key reads the usage of all tenants; ask for one: GET /api/usage/{tenant}")


def _require_reader(gate: Gate, request: Request, tenant: str) -> None:
    """The gateway's and the admin's key read every tenant's usage, a tenant's key its own."""
    if is_any_of(bearer(request), gate.settings.farebox_gateway_key, gate.settings.farebox_admin_key):
        return
    if authenticate(gate, request, anew=True).tenant != tenant:
        raise KeyMismatch(f"the key does not read the usage of tenant {tenant}")


def _key(gate: Gate, request: Request, deadline: float) -> Response:  # noqa: ARG001
    """In OpenRouter's shape, for clients that show credits."""
    caller = authenticate(gate, request, anew=True)
    now = gate.now()
    tenant, windows, ledger = _month_of(gate, caller.tenant, now)
    return json_response(200, {"data": usage.key_report(tenant, windows, ledger, caller.key, now)})


_ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/api/health": {"GET": _health},
    "/api/usage": {"GET": _all_usage},
    "/api/v1/models": {"GET": _models},
    "/api/v1/key": {"GET": _key},
    "/api/v1/auth/key": {"GET": _key},
    "/api/v1/chat/completions": {"POST": chat},
    "/api/v1/quote": {"POST": _quote},
}
