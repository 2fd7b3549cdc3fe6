"""HTTP to API Gateway REST events and back, so that `make dev` and tests run the handler that Lambda runs."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from farebox.rest import Response
from local.sockets import HttpRequest, HttpResponse

STAGE = "/api"
ADMIN = f"{STAGE}/admin/"
FUNCTION_TIMEOUT_S = 900

Handler = Callable[[dict[str, Any], Any], Response | dict[str, Any]]


class Context:
    """Lambda's context for one call: a function that has just started, in a runtime that streams."""

    streams_responses = True

    def get_remaining_time_in_millis(self) -> int:
        return FUNCTION_TIMEOUT_S * 1000


class Body(Iterator[bytes]):
    """A response's body for the server, which closes it whatever happens: the call is settled there."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._chunks = iter(response.body)

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        self._response.close()


def serve(handler: Handler, admin: Handler | None = None) -> Callable[[HttpRequest], HttpResponse]:
    """The handlers behind a socket (sockets.Server): the admin's has the paths below /api/admin."""

    def handle(request: HttpRequest) -> HttpResponse:
        path = urlsplit(request.target).path
        if not path.startswith(f"{STAGE}/"):
            return _error(404, "the base URL ends in /api/v1")
        asked = admin if admin is not None and f"{path}/".startswith(ADMIN) else handler
        response = asked(event_of(request), Context())
        if not isinstance(response, Response):
            raise TypeError("the handler did not stream, although its context can")
        headers = dict(response.headers)
        if isinstance(response.body, tuple):
            headers["Content-Length"] = str(sum(map(len, response.body)))
        return HttpResponse(response.status, tuple(headers.items()), Body(response))

    return handle


def _error(status: int, message: str) -> HttpResponse:
    content = {"error": {"code": status, "message": message, "type": "local_gateway", "metadata": {}}}
    return HttpResponse(status, (("Content-Type", "application/json"),), (json.dumps(content).encode(),))


def event_of(request: HttpRequest) -> dict[str, Any]:
    """What API Gateway makes of a request: the stage is not in `path`, and a body that is not text is base64."""
    target = urlsplit(request.target)
    path = unquote(target.path)
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        headers.setdefault(name, []).append(value)
    query = parse_qs(target.query, keep_blank_values=True)
    body, is_base64 = _body(request.body)
    return {
        "resource": "/{proxy+}",
        "path": path.removeprefix(STAGE),
        "httpMethod": request.method,
        "headers": {name: values[-1] for name, values in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "requestContext": {"requestId": str(uuid.uuid4()), "stage": STAGE[1:], "path": path},
        "body": body,
        "isBase64Encoded": is_base64,
    }


def _body(body: bytes) -> tuple[str | None, bool]:
    if not body:
        return None, False
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True
