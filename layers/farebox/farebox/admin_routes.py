"""The routes of the admin's side, and with them its OpenAPI document.

Powertools keeps the event of the request in a class, so one request is answered at a time (admin.py has the lock).
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, NoReturn, cast

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.params import Body, Header, Path, Query
from aws_lambda_powertools.event_handler.openapi.swagger_ui import generate_swagger_html

from . import changes
from .admin_answers import key_answer, span_answer, tenant_answer
from .admin_docs import ABOUT, PREFIX, Resolver, answers, swagger_files
from .admin_shapes import (
    MAX_GRACE_DAYS,
    ApiKeyChange,
    KeyPage,
    KeyShape,
    MadeKey,
    NewApiKey,
    NewTenant,
    Rotation,
    SpanPage,
    TenantChange,
    TenantName,
    TenantPage,
    TenantShape,
)
from .clerk import Known, Visit, changed, created, known, page
from .errors import Malformed, MethodNotAllowed, NotFound
from .keys import ID_LENGTH, digest, written
from .money import dumps, loads_exact
from .rest import JSON
from .tenants import checked_name
from .trail import MAX_BACK_S

MAX_PAGE = 500
MAX_SPANS = 1000
SECRET_BYTES = 32
NO_STORE = {"Cache-Control": "no-store"}
SIGNED = "x-amz-"
"""So begin the parameters of a URL that was signed beforehand."""
Answer = Response[str]


def json_object(text: str) -> dict[str, Any]:
    """A body. Raises Malformed."""
    try:
        found = loads_exact(text, once=True)
    except ValueError as e:
        raise Malformed(f"the body is not JSON: {e}") from None
    if not isinstance(found, dict):
        raise Malformed("the body must be a JSON object")
    return found


app = Resolver(enable_validation=True, debug=False, json_body_deserializer=json_object)

Name = Annotated[TenantName, Path(description="the tenant")]
Id = Annotated[str, Path(description="the key's id", max_length=100)]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", max_length=200, description='of this version or not at all: "3"')
]
Repeatable = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=200, description="the same again makes no second key"),
]


def here(if_match: str | None = None) -> Visit:
    """Who is here, and for which version."""
    return replace(cast("Visit", app.context["visit"]), if_match=if_match)


# Tenants.


@app.post("/tenants", summary="Create a tenant", responses={
    **answers(201, "created", TenantShape, 409, 412),
    200: answers(200, "it is there already, with the same content", TenantShape)[200],
})  # fmt: skip
def create_tenant(body: Annotated[NewTenant, Body()], if_match: IfMatch = None) -> Answer:
    is_new, tenant = created(here(if_match), body.name, body.wanted())
    return _tenant(tenant, 201 if is_new else 200)


@app.get("/tenants", summary="List tenants by name", responses=answers(200, "a page", TenantPage))
def list_tenants(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    after: Annotated[str, Query(max_length=100, description="names behind this one")] = "",
) -> Answer:
    found, following = page(here().clerk, after, limit)
    return _json(200, {"data": [_told(tenant) for tenant in found], "next": following})


@app.get("/tenants/<name>", summary="Read a tenant", responses=answers(200, "the tenant", TenantShape, 404))
def read_tenant(name: Name) -> Answer:
    return _tenant(known(here().clerk, name))


CHANGED = answers(200, "the tenant as it is now", TenantShape, 404, 409, 412)


@app.patch("/tenants/<name>", summary="Change a tenant", responses=CHANGED)
def change_tenant(name: Name, body: Annotated[TenantChange, Body()], if_match: IfMatch = None) -> Answer:
    wanted = body.wanted()
    tenant = changed(
        here(if_match), name, lambda config, default, now: changes.changed(config, wanted, default, now),
        "tenant changed", wanted,
    )  # fmt: skip
    return _tenant(tenant)


@app.delete("/tenants/<name>", summary="Delete a tenant, after a time of grace", responses=CHANGED)
def delete_tenant(
    name: Name,
    grace_days: Annotated[
        int | None, Query(ge=0, le=MAX_GRACE_DAYS, description=f"how long it can be brought back; {changes.GRACE_DAYS}")
    ] = None,
    if_match: IfMatch = None,
) -> Answer:
    tenant = changed(
        here(if_match), name, lambda config, _, now: changes.deleted(config, grace_days, now), "tenant deleted"
    )
    return _tenant(tenant)


# API keys.

MADE = answers(201, "the key, whose secret is shown this once", MadeKey, 404, 409, 412)
CHANGED_KEY = answers(200, "the key as it is now", KeyShape, 404, 409, 412)


@app.post("/tenants/<name>/keys", summary="Create an API key", responses=MADE)
def create_key(
    name: Name, body: Annotated[NewApiKey, Body()], idempotency_key: Repeatable = None, if_match: IfMatch = None
) -> Answer:
    wanted, key_id, secret = body.wanted(), _new_id(name, idempotency_key), _new_secret()
    tenant = changed(
        here(if_match), name, lambda config, _, now: changes.with_key(config, key_id, digest(secret), wanted, now),
        "key created", body.model_fields_set, key=key_id,
    )  # fmt: skip
    return _made(tenant, key_id, secret)


@app.get("/tenants/<name>/keys", summary="List API keys, the newest first", responses=answers(200, "all", KeyPage, 404))
def list_keys(name: Name) -> Answer:
    clerk = here().clerk
    tenant = known(clerk, name)
    used = clerk.office.last_used(name)
    keys = sorted(tenant.config.keys.values(), key=lambda key: (-key.created_at, key.id))
    return _json(200, {"data": [key_answer(name, key, clerk.now(), used.get(key.id)) for key in keys]})


@app.patch("/tenants/<name>/keys/<key_id>", summary="Change an API key", responses=CHANGED_KEY)
def change_key(name: Name, key_id: Id, body: Annotated[ApiKeyChange, Body()], if_match: IfMatch = None) -> Answer:
    wanted = body.wanted()
    tenant = changed(
        here(if_match), name, lambda config, _, now: changes.changed_key(config, key_id, wanted, now),
        "key changed", body.model_fields_set, key=key_id,
    )  # fmt: skip
    return _key(tenant, key_id)


@app.post("/tenants/<name>/keys/<key_id>/rotate", summary="Put a new API key in the place of one", responses=MADE)
def rotate_key(
    name: Name,
    key_id: Id,
    body: Annotated[Rotation | None, Body()] = None,
    idempotency_key: Repeatable = None,
    if_match: IfMatch = None,
) -> Answer:
    wanted, secret = (body or Rotation()).wanted(), _new_secret()
    new_id, hashed = _new_id(f"{name}\n{key_id}", idempotency_key), digest(secret)
    tenant = changed(
        here(if_match), name, lambda config, _, now: changes.rotated(config, key_id, new_id, hashed, wanted, now),
        "key rotated", key=key_id, key_new=new_id,
    )  # fmt: skip
    return _made(tenant, new_id, secret)


@app.delete("/tenants/<name>/keys/<key_id>", summary="Revoke an API key, at once", responses=CHANGED_KEY)
def revoke_key(name: Name, key_id: Id, if_match: IfMatch = None) -> Answer:
    tenant = changed(
        here(if_match), name, lambda config, _, now: changes.revoked(config, key_id, now), "key revoked", key=key_id
    )
    return _key(tenant, key_id)


def _new_id(of: str, repeatable: str | None) -> str:
    """At random, or always the same one for an Idempotency-Key of a tenant, or of the key that it follows."""
    if repeatable is None:
        source = here().clerk.random(SECRET_BYTES)
    else:
        source = f"{of}\n{repeatable}".encode(errors="surrogatepass")
    return base64.b32encode(hashlib.sha256(source).digest()).decode().lower()[:ID_LENGTH]


def _new_secret() -> str:
    return base64.urlsafe_b64encode(here().clerk.random(SECRET_BYTES)).decode().rstrip("=")


# Calls.


@app.get("/spans", summary="The last calls, as they have ended", responses=answers(200, "the newest last", SpanPage))
def list_spans(
    since: Annotated[
        int | None,
        Query(ge=0, le=10**10, description=f"epoch seconds, at most {MAX_BACK_S} ago; calls that began since then"),
    ] = None,
    tenant: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_SPANS)] = 100,
) -> Answer:
    clerk = here().clerk
    if tenant is not None:
        checked_name("tenant", tenant)
    now = int(clerk.now().timestamp())
    begin = max(now - MAX_BACK_S, 0 if since is None else since)
    found, more = clerk.trail.since(begin, now, tenant, limit)
    return _json(200, {"data": [span_answer(span) for span in found], "more": more})


# The document.


@app.get("/openapi.json", include_in_schema=False)
def openapi() -> Answer:
    return Response(200, JSON, app.get_openapi_json_schema(**ABOUT))


@app.get("/docs", include_in_schema=False)
def docs() -> Answer:
    """Swagger's page with everything in it: nothing is loaded from elsewhere."""
    spec = app.get_openapi_json_schema(**ABOUT).replace("</", "<\\/")
    return Response(200, "text/html; charset=utf-8", generate_swagger_html(spec, *swagger_files(), "", None))


# Answers.


def _told(tenant: Known) -> dict[str, Any]:
    clerk = here().clerk
    return tenant_answer(tenant, clerk.settings, clerk.now())


def _tenant(tenant: Known, status: int = 200) -> Answer:
    return _json(status, _told(tenant), {"ETag": f'"{tenant.config.version}"'})


def _key(tenant: Known, id_: str) -> Answer:
    return _json(200, _key_told(tenant, id_), {"ETag": f'"{tenant.config.version}"'})


def _made(tenant: Known, id_: str, secret: str) -> Answer:
    told = {**_key_told(tenant, id_), "key": written(tenant.config.name, id_, secret)}
    return _json(201, told, {"ETag": f'"{tenant.config.version}"'})


def _key_told(tenant: Known, id_: str) -> dict[str, Any]:
    return key_answer(tenant.config.name, tenant.config.keys[id_], here().clerk.now())


def _json(status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
    return Response(status, JSON, dumps(content), {**NO_STORE, **(headers or {})})


# What goes past the routes.


def require_known(method: str, path: str, parameters: Iterable[str]) -> None:
    """Query parameters are those of the route: a misspelt one is not passed over. Raises Malformed."""
    routes = (*app._static_routes, *app._dynamic_routes)
    route = next((each for each in routes if each.method == method and each.rule.match(path)), None)
    known = set() if route is None else {parameter.alias for parameter in route.dependant.query_params}
    unknown = sorted(name for name in set(parameters) - known if not name.lower().startswith(SIGNED))
    if route is not None and unknown:
        said = ", ".join(unknown)[:200]
        raise Malformed(f"{said}: not known here as a query parameter", facts={"field": unknown[0][:200]})


@app.not_found
def _nothing(_: NotFoundError) -> NoReturn:
    """Raises NotFound, or MethodNotAllowed where another method would do."""
    event, path = app.current_event, f"{PREFIX}{app.current_event.path}"
    routes = (*app._static_routes, *app._dynamic_routes)
    allowed = sorted({route.method for route in routes if route.rule.match(event.path)})
    if not allowed:
        raise NotFound(f"there is nothing at {path[:200]!r}; see GET {PREFIX}/openapi.json")
    said = ", ".join(allowed)
    raise MethodNotAllowed(f"{path[:200]} takes {said}, not {event.http_method[:20]}", headers={"Allow": said})


@app.exception_handler(Exception)  # type: ignore[untyped-decorator]
def _out(error: Exception) -> NoReturn:
    """To admin.py, which answers every error in the same shape. Powertools would write it into a log of its own."""
    raise error
