"""API Gateway REST events to requests, responses to API Gateway answers.

The local gateway makes the same events from HTTP, so one handler serves `make dev`, tests and Lambda.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlencode

from .errors import Malformed
from .money import dumps

JSON = "application/json"
CSV = "text/csv"
SINGLE = frozenset({"authorization", "x-tenant-id", "x-feature", "content-type"})
"""Headers that decide who pays or how a body reads: two of them, and proxies on the way may each pick another."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. Header names are in small letters; `path` begins with /api whatever the stage is."""

    id: str
    method: str
    path: str
    headers: Mapping[str, str]
    query: str
    raw_body: str
    is_base64: bool

    def body(self) -> bytes:
        """The body's bytes. Raises Malformed."""
        if not self.is_base64:
            return self.raw_body.encode(errors="surrogatepass")
        try:
            return base64.b64decode(self.raw_body, validate=True)
        except (binascii.Error, ValueError):
            raise Malformed("the body is not valid base64") from None


def request_of(event: Mapping[str, Any]) -> Request:
    """A REST API proxy event. Raises Malformed where a header that must be one is given twice."""
    context = event.get("requestContext") or {}
    path = str(event.get("path") or "/")
    return Request(
        id=str(context.get("requestId") or ""),
        method=str(event.get("httpMethod") or "GET").upper(),
        # The stage is named api, so the URL has it and the event's path does not; a custom domain may keep it.
        path=path if path == "/api" or path.startswith("/api/") else f"/api{path}",
        headers=_headers(event),
        query=_query(event),
        raw_body=event.get("body") or "",
        is_base64=bool(event.get("isBase64Encoded")),
    )


def _headers(event: Mapping[str, Any]) -> dict[str, str]:
    many: dict[str, list[str]] = {}
    for name, values in (event.get("multiValueHeaders") or {}).items():
        many.setdefault(name.lower(), []).extend(values or [])
    for name, value in (event.get("headers") or {}).items():
        if name.lower() not in many and value is not None:
            many[name.lower()] = [value]
    for name in SINGLE & many.keys():
        if len(set(many[name])) > 1:
            raise Malformed(f"the header {name} is given more than once")
    return {name: values[-1] for name, values in many.items() if values}


def _query(event: Mapping[str, Any]) -> str:
    many = event.get("multiValueQueryStringParameters") or {}
    single = {name: [value] for name, value in (event.get("queryStringParameters") or {}).items()}
    return urlencode({**single, **many}, doseq=True, errors="replace")


@runtime_checkable
class Closable(Protocol):
    """A body that has something to finish when nobody reads it any more."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer; the body is bytes as they come, and `close` must be called whatever happens to them."""

    status: int
    headers: Mapping[str, str]
    body: Iterable[bytes] = field(default=())

    def close(self) -> None:
        if isinstance(self.body, Closable):
            self.body.close()

    def buffered(self) -> dict[str, Any]:
        """The answer in one piece, as a REST API without response streaming takes it."""
        try:
            body = b"".join(self.body)
        finally:
            self.close()
        try:
            text, is_base64 = body.decode(), False
        except UnicodeDecodeError:
            text, is_base64 = base64.b64encode(body).decode(), True
        return {"statusCode": self.status, "headers": dict(self.headers), "body": text, "isBase64Encoded": is_base64}


def json_response(status: int, content: object, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer in one piece."""
    return Response(status, {"Content-Type": JSON, **(headers or {})}, (dumps(content).encode(),))


def wants_csv(request: Request) -> bool:
    """Whether the header Accept names it."""
    return any(kind.partition(";")[0].strip().lower() == CSV for kind in request.headers.get("accept", "").split(","))


def csv_response(name: str, content: bytes, headers: Mapping[str, str]) -> Response:
    """A file to save. `name` has nothing in it that a header cannot."""
    disposition = f'attachment; filename="{name}.csv"'
    return Response(
        200, {"Content-Type": f"{CSV}; charset=utf-8", "Content-Disposition": disposition, **headers}, (content,)
    )
