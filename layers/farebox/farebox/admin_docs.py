"""The admin's OpenAPI document: Powertools makes it of the routes, and this puts right what it cannot know."""

from pathlib import Path
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.openapi import swagger_ui
from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer, Server
from pydantic import BaseModel

from .admin_shapes import ErrorShape
from .rest import JSON

PREFIX = "/api/admin"
SCHEME = "adminKey"
ABOUT: dict[str, Any] = {
    "title": "Farebox, the admin's side",
    "version": "1",
    "description": (
        "Tenants, their budgets, rules and API keys. Amounts are US dollars, as JSON numbers or as text. "
        "A change takes effect on the next call. Send Authorization: Bearer <admin key>, or sign with SigV4 where the "
        "stack was deployed with AdminAuth=iam."
    ),
    "servers": [Server(url=PREFIX)],
    "security_schemes": {SCHEME: HTTPBearer(description="FAREBOX_ADMIN_KEY")},
    "security": [{SCHEME: []}],
}
ERRORS = {
    400: "malformed, invalid_tenant: the request is not what this takes",
    401: "unauthenticated",
    404: "not_found: no such tenant or key",
    409: "conflict: it cannot be done as the tenant is now",
    412: "stale_version: somebody else was faster; read again",
    413: "body_too_large: more than 64 KB",
    500: "internal: a bug, which is logged",
    503: "store_unavailable: repeat it",
}
ALWAYS = (400, 401, 413, 500, 503)


def answers(status: int, meaning: str, shape: type[BaseModel], *refusals: int) -> dict[int, Any]:
    """What a route can answer: its own, the refusals that it knows, and those that every route knows."""
    found: dict[int, Any] = {status: {"description": meaning, "content": {JSON: {"model": shape}}}}
    for code in sorted({*ALWAYS, *refusals}):
        found[code] = {"description": ERRORS[code], "content": {JSON: {"model": ErrorShape}}}
    return found


def swagger_files() -> tuple[str, str]:
    """Script and style. Powertools' own page leaves both files open."""
    folder = Path(swagger_ui.__file__).parent
    return (folder / "swagger-ui-bundle.min.js").read_text(), (folder / "swagger-ui.min.css").read_text()


class Resolver(APIGatewayRestResolver):
    """Powertools' resolver, whose document has no 422: what is malformed is a 400 here, in the shape of every error."""

    def get_openapi_schema(self, **about: Any) -> Any:
        made = super().get_openapi_schema(**about)
        for path in (made.paths or {}).values():
            for method in ("get", "post", "patch", "delete"):
                operation = getattr(path, method)
                if operation is not None:
                    operation.responses.pop(422, None)
        for name in ("HTTPValidationError", "ValidationError", "ResponseValidationError"):
            if made.components is not None:
                (made.components.schemas or {}).pop(name, None)
        return made
