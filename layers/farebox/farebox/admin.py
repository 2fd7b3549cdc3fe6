"""The admin's side, from an event of API Gateway to its answer: who it is, what is wrong, and in between the routes.

Who it is: whoever has the admin key; with FAREBOX_ADMIN_AUTH=iam whoever has signed the request with SigV4, which API
Gateway has checked before. A request that brings neither gets no further, whatever it asks for.
"""

import secrets
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs

from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError

from .admin_docs import PREFIX
from .admin_routes import app, require_known
from .aws import dynamodb_client
from .clerk import Clerk, Visit
from .errors import BodyTooLarge, Malformed, NotFound, Refusal, StoreUnavailable, Unauthenticated
from .office import NotAnnounced, Office
from .parts import now, telemetry_of
from .proxy import require_key
from .rest import Request, Response, request_of
from .routes import bug_response, error_response
from .settings import settings_from
from .store import StoreError
from .trail import Trail
from .vault import with_secrets

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

NOBODY = "no client"
IAM = "iam"
MAX_BODY = 64 * 1024
SAID = {"missing": "is missing", "extra_forbidden": "is not known here"}
"""In place of pydantic's own words."""
RETRY = {"Retry-After": "2"}
_one_at_a_time = threading.Lock()


def open_admin(environment: Mapping[str, str]) -> Clerk:
    """The parts of an environment. Applications do not call here, so their key is not needed. Raises SettingsError."""
    given = {"FAREBOX_GATEWAY_KEY": NOBODY, **with_secrets(environment)}
    settings = settings_from(given)
    dynamodb = dynamodb_client()
    office, trail = Office(dynamodb, settings.farebox_table), Trail(dynamodb, settings.farebox_table)
    return Clerk(settings, office, trail, telemetry_of(settings), now, secrets.token_bytes)


def answer(clerk: Clerk, event: Mapping[str, Any]) -> Response:
    """The response to an API Gateway event."""
    request_id = str((event.get("requestContext") or {}).get("requestId") or "")
    try:
        request = request_of(event)
        visit = Visit(clerk, _who(clerk, request, event), request.id)
        response = _resolved(visit, request)
    except (Refusal, StoreError, RequestValidationError) as e:
        response = _refused(clerk, request_id, e)
    except Exception:  # noqa: BLE001 - the last stop: a bug is logged whole and answered in the shape of every error
        response = bug_response(clerk.telemetry, request_id)
    return Response(response.status, {"X-Request-Id": request_id, **response.headers}, response.body)


def _who(clerk: Clerk, request: Request, event: Mapping[str, Any]) -> str:
    """Raises Unauthenticated."""
    settings = clerk.settings
    if settings.farebox_admin_auth != IAM:
        require_key(request, settings.farebox_admin_key)
        return "admin key"
    identity = (event.get("requestContext") or {}).get("identity") or {}
    if not identity.get("userArn"):
        raise Unauthenticated("this gateway's admin side takes requests that are signed with AWS SigV4, and no key")
    return str(identity["userArn"])


def _resolved(visit: Visit, request: Request) -> Response:
    """Powertools' answer to a request that is as it must be: text, and every header once."""
    body = request.body()
    if len(body) > MAX_BODY:
        raise BodyTooLarge(f"the body is larger than {MAX_BODY // 1024} KB")
    if request.path != PREFIX and not request.path.startswith(f"{PREFIX}/"):
        raise NotFound(f"there is nothing at {request.path[:200]!r}; the admin's side is below {PREFIX}")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None
    path, query = request.path.removeprefix(PREFIX) or "/", parse_qs(request.query, keep_blank_values=True)
    event = {
        "path": path,
        "httpMethod": request.method,
        "headers": {**request.headers, "content-type": "application/json"},  # curl -d calls it a form
        "multiValueQueryStringParameters": query,
        "requestContext": {"stage": "", "path": request.path},
        "body": text,
        "isBase64Encoded": False,
    }
    with _one_at_a_time:
        require_known(request.method, path, query)
        app.context["visit"] = visit
        made = app.resolve(event, cast("LambdaContext", None))  # no route reads it
    headers = {name: values[-1] for name, values in made["multiValueHeaders"].items()}
    return Response(made["statusCode"], headers, (made["body"].encode(),))


def _refused(clerk: Clerk, request_id: str, error: Refusal | StoreError | RequestValidationError) -> Response:
    if isinstance(error, StoreError):
        clerk.telemetry.failure("store", {"request_id": request_id})
        return error_response(_unavailable(error))
    if isinstance(error, RequestValidationError):
        error = _malformed(error)
    said = {name: value for name, value in error.facts.items() if name in ("tenant", "field")}
    clerk.telemetry.refusal({"request_id": request_id, "reason": error.reason, "status": error.status, **said})
    return error_response(error)


def _unavailable(error: StoreError) -> StoreUnavailable:
    if isinstance(error, NotAnnounced):
        return StoreUnavailable(
            "the change is stored, but not announced yet: calls may obey it some minutes late; repeat it to be sure",
            facts={"stored": True},
            headers=RETRY,
        )
    return StoreUnavailable("the table does not answer; whether a change was stored is not known", headers=RETRY)


def _malformed(error: RequestValidationError) -> Malformed:
    """The first of what is wrong, with its field; what was given is not repeated."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header"))[:200]
    said = SAID.get(first["type"]) or str(first["msg"]).removeprefix("Value error, ")
    return Malformed(f"{field or 'the body'}: {said}", facts={"field": field} if field else {})
