"""An owner at the admin's side of a table, and a gate on the same table, by one clock that tests move."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from farebox.admin import answer, open_admin
from farebox.clerk import Clerk
from farebox.configs import Config
from farebox.office import Office
from farebox.rollup import Parts, open_parts, run
from farebox.store import Store
from local.gateway import event_of
from local.sockets import HttpRequest
from tests.conftest import Answered, Door, MakeDoor, connected

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MONTH = "2026-11"
ADMIN_KEY = "local-admin-key"
USD = 10**9


@dataclass(slots=True)
class Clock:
    """A moment that tests move."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def passes(self, **time: float) -> None:
        self.now += timedelta(**time)


@dataclass(frozen=True, slots=True)
class Owner:
    """The admin's side, and a gate that has the same tenants."""

    clerk: Clerk
    door: Door
    clock: Clock
    store: Store
    environment: dict[str, str]

    @property
    def office(self) -> Office:
        return self.clerk.office

    def answer(self, event: dict[str, Any]) -> Answered:
        response = answer(self.clerk, event)
        return Answered(response.status, response.headers, b"".join(response.body))

    def call(self, method: str, target: str, body: Any = None, **headers: str) -> Answered:
        """A request to a path below /api/admin; a body that is not bytes is sent as JSON."""
        sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {ADMIN_KEY}", **{name.replace("_", "-"): at for name, at in headers.items()}}
        return self.answer(event_of(HttpRequest(method, f"/api/admin{target}", tuple(given.items()), sent)))

    def create(self, name: str = "acme", **fields: Any) -> Any:
        made = self.call("POST", "/tenants", {"name": name, **fields})
        assert made.status == 201, made.body
        return made.json

    def change(self, name: str = "acme", /, **fields: Any) -> Any:
        made = self.call("PATCH", f"/tenants/{name}", fields)
        assert made.status == 200, made.body
        return made.json

    def read(self, name: str = "acme") -> Any:
        return self.call("GET", f"/tenants/{name}").json

    def key(self, tenant: str = "acme", **fields: Any) -> Any:
        made = self.call("POST", f"/tenants/{tenant}/keys", {"name": "laptop", **fields})
        assert made.status == 201, made.body
        return made.json

    def config(self, name: str = "acme") -> Config:
        found = self.office.read(name)
        assert found is not None
        return found

    def chat(self, tenant: str = "acme", **fields: Any) -> Answered:
        return self.door.chat(headers={"X-Tenant-Id": tenant}, **fields)

    def chat_with(self, key: str) -> Answered:
        return self.door.chat(headers={"Authorization": f"Bearer {key}"})

    def rollup(self, *, folds: bool = False) -> None:
        """A run of the schedule's function; it has time for the fold, or not."""
        parts = open_parts(self.environment)
        folder = replace(parts.folder, now=self.clock)
        run(Parts(parts.sweeper, folder, parts.office, parts.settings), lambda: False, lambda: folds)
        parts.sweeper.upstream._client.close()


MakeOwner = Callable[..., Owner]


def owner_maker(make_door: MakeDoor, store_url: str) -> MakeOwner:
    """Owners on a store; `client` is what the admin's side calls it with, settings are keywords."""

    def make(*, client: "DynamoDBClient | None" = None, **settings: str) -> Owner:
        door, clock = make_door(store_url=store_url, **settings), Clock()
        table = door.gate.settings.farebox_table
        environment = {"FAREBOX_ADMIN_KEY": ADMIN_KEY, "FAREBOX_TABLE": table, **settings}
        clerk = replace(open_admin(environment), office=Office(client or connected(store_url), table), now=clock)
        desk = replace(door.gate.desk, now=clock, sleep=lambda _: None)
        gate = replace(door.gate, now=clock, desk=desk)
        return Owner(clerk, Door(gate), clock, Store(connected(store_url), table), environment)

    return make


@pytest.fixture
def make_owner(make_door: MakeDoor, embedded_url: str) -> MakeOwner:
    """On the embedded store."""
    return owner_maker(make_door, embedded_url)


@pytest.fixture
def owner(make_owner: MakeOwner) -> Owner:
    """With the default settings."""
    return make_owner()


@pytest.fixture
def each_owner(make_door: MakeDoor, store_url: str) -> Owner:
    """On each store."""
    return owner_maker(make_door, store_url)()
