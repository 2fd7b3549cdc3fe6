"""The admin's side beside its own OpenAPI document: random requests of it, good and bad, answered as it says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from farebox.admin import answer
from farebox.admin_docs import ABOUT, PREFIX
from farebox.admin_routes import app
from local import gateway
from local.sockets import Server
from tests.owners import ADMIN_KEY, Owner

CASES = 30
"""Of each operation: half of them as the document says, half of them not."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
DOCUMENT: dict[str, Any] = json.loads(app.get_openapi_json_schema(**ABOUT))
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


@pytest.fixture
def served(owner: Owner) -> Iterator[tuple[str, str]]:
    """The admin's side behind a socket, with a tenant that has a key; where it is, and the key's id."""
    owner.create()
    key = owner.key()
    with Server(gateway.serve(lambda event, _: answer(owner.clerk, event))) as server:
        yield f"{server.url}{PREFIX}", key["id"]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_one_of_the_document(path: str, method: str, served: tuple[str, str]) -> None:
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    url, key_id = served
    good, bad = (operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))
    session = requests.Session()
    seen = set()

    @settings(
        max_examples=CASES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=good | bad, knows=st.booleans())
    def try_it(case: Case[Any], knows: bool) -> None:  # noqa: FBT001
        if knows:  # who is there, what is to come
            known = {"name": "acme", "key_id": key_id}
            case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
            case.headers.pop("If-Match", None)
            if isinstance(case.body, dict):
                case.body.pop("expires_at", None)
        response = case.call(url, session, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        case.validate_response(response, checks=CHECKS)
        seen.add(response.status_code)

    with session:
        try_it()
    assert seen & {200, 201}, seen
