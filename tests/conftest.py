"""Real parts for tests: stores in processes of their own, the simulator in-process, gates between them.

Every test gets a table of its own on a store that the session shares.
"""

import functools
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from farebox import store as store_module
from farebox.gate import Gate, open_gate
from farebox.rest import Response
from farebox.routes import answer
from farebox.store import Store
from local.child import ROOT, connect
from local.dynamodb_local import dynamodb_local, unavailable
from local.embedded_store import embedded_store
from local.gateway import event_of
from local.simulator import Simulator, transport
from local.sockets import HttpRequest
from tests.secrecy import Listener, json_lines, secrets_in

os.environ["PYTHONPATH"] = str(ROOT / "layers" / "farebox")  # for the programs that tests start

pytest_plugins = ("tests.scene_fixtures", "tests.owners", "tests.folds", "tests.command_line")

GATEWAY_KEY = "local-gateway-key"
DEADLINE = float("inf")

LISTENER = Listener()
LISTENER.install()


@pytest.fixture(autouse=True)
def _logs_hold_no_secret() -> Iterator[None]:
    """Of every test."""
    LISTENER.secrets()
    yield
    assert LISTENER.secrets() == [], "a log record holds a key, a prompt or an answer"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """The same for the lines that a logger has written to stdout."""
    outcome: Any = yield
    report: pytest.TestReport = outcome.get_result()
    found = secrets_in(json_lines(report.capstdout)) if report.passed and report.when == "call" else []
    if found:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} has logged a key, a prompt or an answer: {found}"


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """The embedded store, for tests that need a store but not both."""
    with embedded_store() as url:
        yield url


@pytest.fixture(scope="session")
def dynamodb_local_url() -> Iterator[str]:
    """AWS's DynamoDB Local; skipped, with the reason, where it cannot run."""
    if why := unavailable():
        pytest.skip(why)
    with dynamodb_local() as url:
        yield url


@pytest.fixture(params=["embedded_url", "dynamodb_local_url"], ids=["embedded", "dynamodb-local"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Both stores, one after the other."""
    url: str = request.getfixturevalue(request.param)
    return url


connected = functools.cache(connect)
"""One client a store: making one takes longer than most tests."""


def new_table(url: str) -> str:
    """An empty table as template.yaml has it."""
    name = f"t-{uuid.uuid4().hex}"
    store_module.create_table(connected(url), name)
    return name


@pytest.fixture
def store(store_url: str) -> Store:
    """An empty table on each store."""
    return Store(connected(store_url), new_table(store_url))


@pytest.fixture
def simulator() -> Simulator:
    """An OpenRouter that never really waits; `simulator.seen` has what was sent to it."""
    return Simulator(sleep=lambda _: None)


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole response, as a client sees it."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> Any:
        return self.json["error"]["metadata"]["reason"]


@dataclass(frozen=True, slots=True)
class Door:
    """A gate and the ways to call it in-process, through the events that API Gateway makes."""

    gate: Gate

    def open(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
        """A response whose body is still to be read; close it."""
        given = {"Authorization": f"Bearer {GATEWAY_KEY}", **(headers or {})}
        return answer(self.gate, event_of(HttpRequest(method, target, tuple(given.items()), body)), DEADLINE)

    def call(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answered:
        response = self.open(method, target, body, headers)
        try:
            return Answered(response.status, response.headers, b"".join(response.body))
        finally:
            response.close()

    def chat(self, body: Any = None, headers: Mapping[str, str] | None = None, **fields: Any) -> Answered:
        """A chat call: raw bytes, or a request to sim/ok with fields laid over it."""
        return self.call("POST", "/api/v1/chat/completions", chat_body(body, **fields), headers)

    def usage(self, tenant: str = "default") -> Any:
        return self.call("GET", f"/api/usage/{tenant}").json


def chat_body(body: Any = None, **fields: Any) -> bytes:
    """A request to sim/ok with fields laid over it, or what is given."""
    if isinstance(body, bytes):
        return body
    plain = {"model": "sim/ok", "messages": [{"role": "user", "content": "Say hello"}]}
    return json.dumps(body if body is not None else {**plain, **fields}).encode()


MakeDoor = Callable[..., Door]


@pytest.fixture
def make_door(embedded_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> MakeDoor:
    """Open a gate on the embedded store and the in-process simulator; settings and `store_url=` as keywords."""

    def make(*, store_url: str = embedded_url, upstream: httpx.BaseTransport | None = None, **settings: str) -> Door:
        for name in ("AWS_PROFILE",):
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_DYNAMODB": store_url,
        }.items():
            monkeypatch.setenv(name, value)
        environment = {
            "OPENROUTER_BASE_URL": "http://simulator/api/v1",
            "OPENROUTER_API_KEY": "simulated",
            "FAREBOX_GATEWAY_KEY": GATEWAY_KEY,
            "FAREBOX_ADMIN_KEY": "local-admin-key",
            "FAREBOX_TABLE": new_table(store_url),
            **settings,
        }
        return Door(open_gate(environment, upstream or transport(simulator)))

    return make


@pytest.fixture
def door(make_door: MakeDoor) -> Door:
    """A gate with the default settings."""
    return make_door()
