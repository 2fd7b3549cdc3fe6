"""A gateway over HTTP, as the command line sees it: where it is, with which keys, and what it answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from .money import loads_exact

TIMEOUT_S = 30.0
PAGE = 500
LOCAL_KEYS = {"FAREBOX_ADMIN_KEY": "local-admin-key", "FAREBOX_GATEWAY_KEY": "local-gateway-key"}
"""Those of `make dev`, where it has been given no others."""
CSV = {"Accept": "text/csv"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ClientError(Exception):
    """One sentence for whoever has typed the command, and what the program ends with."""

    exit_code = 1


class Refused(ClientError):
    """The gateway has answered, and not with what was asked for."""


class Unconfigured(ClientError):
    """It is not known where the gateway is, or no key is."""

    exit_code = 2


class NotReached(ClientError):
    """Nobody has answered."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway is: a URL that ends in /api, and keys as far as they are known.

    `signer` stands in for the admin's key where the admin's side takes requests that are signed.
    """

    url: str
    admin_key: str | None = field(default=None, repr=False)
    gateway_key: str | None = field(default=None, repr=False)
    signer: httpx.Auth | None = None


def base_of(url: str) -> str:
    """Of a base URL as applications have it, with or without its /v1. Raises Unconfigured."""
    parts = urlsplit(url)
    base = url.rstrip("/").removesuffix("/v1").rstrip("/")
    if parts.scheme in ("http", "https") and parts.netloc and not parts.query and not parts.fragment:
        if urlsplit(base).path == "":
            return f"{base}/api"
        if base.endswith("/api"):
            return base
    raise Unconfigured(f"FAREBOX_URL must be a base URL like https://ai.example.com/api/v1, not {url[:200]!r}")


def place_in(environment: Mapping[str, str], *, local: bool) -> Place:
    """What the environment says; with `local` what it leaves open is as `make dev` has it. Raises Unconfigured."""
    known = {**(LOCAL_KEYS if local else {}), **{name: value for name, value in environment.items() if value}}
    url = f"http://127.0.0.1:{known.get('PORT', '8787')}/api" if local else known.get("FAREBOX_URL")
    if url is None:
        raise Unconfigured(
            "which gateway? Set FAREBOX_URL and FAREBOX_ADMIN_KEY, or say --stack NAME, or --local for `make dev`"
        )
    return Place(base_of(url), known.get("FAREBOX_ADMIN_KEY"), known.get("FAREBOX_GATEWAY_KEY"))


class Client:
    """One gateway. Every method raises Refused, NotReached, and Unconfigured where its key is missing."""

    def __init__(self, place: Place) -> None:
        self._place = place
        is_here = urlsplit(place.url).hostname in _LOOPBACK  # a proxy for the outside does not lead there
        self._http = httpx.Client(timeout=TIMEOUT_S, trust_env=not is_here, headers={"User-Agent": "farebox"})

    def close(self) -> None:
        self._http.close()

    def admin(
        self,
        method: str,
        *path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Something below /api/admin."""
        signer = self._place.signer
        key = {} if signer is not None else _bearer(self._place.admin_key, "FAREBOX_ADMIN_KEY")
        return _json(self._send(method, ("admin", *path), signer, body, query, {**key, **(headers or {})}))

    def pages(self, *path: str) -> Iterator[Any]:
        """What a list below /api/admin has, asked for page by page."""
        after = None
        while True:
            page = self.admin("GET", *path, query=_given({"limit": PAGE, "after": after}))
            yield from page["data"]
            if (after := page["next"]) is None:
                return

    def usage(self, tenant: str, query: Mapping[str, Any] | None = None) -> Any:
        """Of one tenant: the month so far, or rows."""
        return _json(self._send("GET", ("usage", tenant), None, None, query, self._reader()))

    def usage_csv(self, tenant: str, query: Mapping[str, Any]) -> str:
        return self._send("GET", ("usage", tenant), None, None, query, {**self._reader(), **CSV}).text

    def usage_of_all(self, month: str | None) -> dict[str, Any]:
        """All tenants of a month, in one piece."""
        found: dict[str, Any] = {"month": month, "data": []}
        after: str | None = None
        while True:
            page = _json(self._all(month, after))
            found = {"month": page["month"], "data": [*found["data"], *page["data"]]}
            if (after := page["next"]) is None:
                return found

    def usage_of_all_csv(self, month: str | None) -> Iterator[str]:
        """The same as CSV, page by page, with one header line."""
        after, is_first = None, True
        while True:
            answer = self._all(month, after, **CSV)
            yield answer.text if is_first else answer.text.partition("\r\n")[2]
            after, is_first = answer.headers.get("X-Farebox-Next"), False
            if after is None:
                return

    def _all(self, month: str | None, after: str | None, **headers: str) -> httpx.Response:
        key = _bearer(self._place.admin_key, "FAREBOX_ADMIN_KEY")
        query = _given({"limit": PAGE, "after": after, "month": month})
        return self._send("GET", ("usage",), None, None, query, {**key, **headers})

    def quote(self, body: bytes, tenant: str | None, feature: str | None) -> Any:
        """What a chat request would come to."""
        key = _bearer(self._place.gateway_key, "FAREBOX_GATEWAY_KEY")
        who = _given({"X-Tenant-Id": tenant, "X-Feature": feature})
        return _json(self._send("POST", ("v1", "quote"), None, body, None, {**key, **who}))

    def _reader(self) -> dict[str, str]:
        """The admin's key reads all tenants, others at least one."""
        return _bearer(self._place.admin_key or self._place.gateway_key, "FAREBOX_ADMIN_KEY")

    def _send(
        self,
        method: str,
        path: tuple[str, ...],
        signer: httpx.Auth | None,
        body: Mapping[str, Any] | bytes | None,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> httpx.Response:
        url = "/".join((self._place.url, *(quote(part, safe="") for part in path)))
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body} if body else {}
        try:
            answer = self._http.request(method, url, params=query, headers=dict(headers or {}), auth=signer, **content)
        except httpx.HTTPError as e:
            raise NotReached(f"the gateway at {self._place.url} cannot be reached: {_why(e)}") from e
        except UnicodeEncodeError:
            raise Unconfigured("keys and names in headers must be ASCII") from None
        if not answer.is_success:
            raise Refused(_sentence(answer))
        return answer


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _bearer(key: str | None, name: str) -> dict[str, str]:
    if not key:
        raise Unconfigured(f"this needs a key: set {name}")
    return {"Authorization": f"Bearer {key}"}


def _json(answer: httpx.Response) -> Any:
    try:
        return loads_exact(answer.content)
    except ValueError:
        raise Refused(_strange(answer)) from None


def _sentence(answer: httpx.Response) -> str:
    """Why it was refused, in the gateway's words, or in API Gateway's."""
    try:
        said = loads_exact(answer.content)
        error = said.get("error")
        if error is None:
            return f"{said['message']} (status {answer.status_code})"
        return f"{error['message']} ({error['metadata']['reason']})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return _strange(answer)


def _strange(answer: httpx.Response) -> str:
    return f"{answer.url} has answered with status {answer.status_code}, and not as a gateway does"


def _why(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
