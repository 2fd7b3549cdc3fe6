"""GET /api/admin/spans: the last calls as they are in the table."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from farebox import trail as trails
from farebox.admin import answer, open_admin
from farebox.clerk import Clerk
from farebox.hours import hour_of
from farebox.spans import SHARDS, partition
from farebox.store import Store
from farebox.trail import MAX_PAGES, Trail
from local.gateway import event_of
from local.sockets import HttpRequest
from tests.conftest import connected, new_table
from tests.folds import Between
from tests.simulation.memory import Memory
from tests.test_events import event

NOW = int(datetime(2026, 11, 24, 10, 5, tzinfo=UTC).timestamp())


def put(store: Store, admitted_at: int, tenant: str = "acme", shard: int = 0, **more: Any) -> str:
    """A span as a call leaves it; its hold's id."""
    id_ = f"{admitted_at * 1000:011x}{shard:010x}"
    fields = {"feature": "default", "model": "sim/ok", "outcome": "answered", "cost_nanousd": 13_050, **more}
    store.put_span(
        partition(hour_of(admitted_at), shard), id_, {"tenant": tenant, "admitted_at": admitted_at, **fields}
    )
    return id_


@pytest.fixture
def trail(store: Store, store_url: str) -> Trail:
    """Of the store's table."""
    return Trail(connected(store_url), store._table)


def ids(found: tuple[list[Any], bool]) -> list[str]:
    return [span["sk"] for span in found[0]]


def test_spans_of_all_shards_and_of_the_hour_before_come_in_order(store: Store, trail: Trail) -> None:
    moments = [NOW - 900, NOW - 301, NOW - 300, NOW - 299, NOW - 20, NOW]
    put_in = [put(store, at, shard=number % SHARDS) for number, at in reversed(list(enumerate(moments)))]
    found = trail.since(NOW - 960, NOW, None, 100)
    assert (ids(found), found[1]) == (put_in[::-1], False)


def test_what_began_before_the_moment_is_not_told(store: Store, trail: Trail) -> None:
    put(store, NOW - 101)
    kept = put(store, NOW - 100)
    assert [ids(trail.since(NOW - 100, NOW, tenant, 100)) for tenant in (None, "acme")] == [[kept]] * 2


@pytest.mark.parametrize("shards", [1, SHARDS])
def test_of_too_many_the_newest_are_told_and_that_there_were_others(shards: int, store: Store, trail: Trail) -> None:
    put_in = [put(store, NOW - 200 + 50 * number, shard=number % shards) for number in range(5)]
    assert ids(trail.since(NOW - 900, NOW, None, 3)) == put_in[2:]
    assert [trail.since(NOW - 900, NOW, None, most)[1] for most in (3, 4, 5, 6)] == [True, True, False, False]


def test_one_tenant_s_are_found_among_those_of_many_others(store: Store, trail: Trail) -> None:
    mine = [put(store, NOW - 250, "mine"), put(store, NOW - 5, "mine", shard=1)]
    for number in range(6):
        put(store, NOW - 200 + number, "other")
    found = trail.since(NOW - 900, NOW, "mine", 2)
    assert (ids(found), found[1]) == (mine, False)


def test_a_tenant_without_calls_does_not_make_the_gateway_read_everybody_s() -> None:
    memory: Any = Memory(page_size=1)
    for number in range(2 * MAX_PAGES):
        put(Store(memory, "t"), NOW - number, "other", shard=number % SHARDS)
    counting: Any = Between(memory, lambda *_: None)
    assert Trail(counting, "t").since(NOW - 900, NOW, "mine", 100) == ([], True)
    assert len(counting.asked) == MAX_PAGES


def test_of_more_than_are_read_the_newest_of_every_shard_are_told_and_that_there_may_be_others(
    store: Store, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_PAGE", 1), ("MAX_PAGES", 2 * SHARDS)):
        monkeypatch.setattr(trails, name, value)
    for number in range(3 * SHARDS):
        put(store, NOW - 200 + number, "mine" if number < SHARDS else "other", shard=number % SHARDS)
    newest = [put(store, NOW - 100 + shard, "mine", shard=shard) for shard in range(SHARDS)]
    found = trail.since(NOW - 250, NOW, "mine", 100)
    assert (ids(found), found[1]) == (newest, True)


# Over the admin's side.


@pytest.fixture
def clerk(embedded_url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Clerk, Store]:
    """The admin's parts at 10:05, on a table of their own."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", embedded_url)
    table = new_table(embedded_url)
    settings = {"FAREBOX_TABLE": table, "FAREBOX_ADMIN_KEY": "local-admin-key", "OPENROUTER_API_KEY": "simulated"}
    made = replace(open_admin(settings), now=lambda: datetime.fromtimestamp(NOW, UTC))
    return made, Store(connected(embedded_url), table)


def get(clerk: Clerk, query: str) -> tuple[int, Any]:
    headers = (("Authorization", "Bearer local-admin-key"),)
    response = answer(clerk, event_of(HttpRequest("GET", f"/api/admin/spans{query}", headers, b"")))
    return response.status, json.loads(b"".join(response.body))


def test_a_span_is_told_with_amounts_in_dollars_and_without_what_it_does_not_know(clerk: tuple[Clerk, Store]) -> None:
    desk, store = clerk
    known = put(store, NOW - 60, prompt_tokens=12, completion_tokens=5, hold_nanousd=20_000, model_asked="sim/dear")
    lost = put(store, NOW - 30, outcome="lost", cost_nanousd=7, is_estimated=True, key="k3v9q2mwxd", cause="cut")
    status, said = get(desk, "")
    assert status == 200
    assert said["more"] is False
    assert [(span["id"], span["admitted_at"]) for span in said["data"]] == [
        (known, "2026-11-24T10:04:00Z"),
        (lost, "2026-11-24T10:04:30Z"),
    ]
    first, second = said["data"]
    assert (first["cost_usd"], first["hold_usd"], first["estimated"]) == (0.00001305, 0.00002, False)
    assert (first["prompt_tokens"], first["model_asked"], first["key"]) == (12, "sim/dear", None)
    assert (second["cost_usd"], second["hold_usd"], second["estimated"], second["key"], second["cause"]) == (
        7e-9, None, True, "k3v9q2mwxd", "cut",
    )  # fmt: skip
    assert first.keys() == second.keys()


def test_nobody_looks_further_back_than_two_hours(clerk: tuple[Clerk, Store]) -> None:
    desk, store = clerk
    put(store, NOW - 7201)
    kept = put(store, NOW - 7200)
    for query in ("", "?since=0", f"?since={NOW - 8000}"):
        assert [span["id"] for span in get(desk, query)[1]["data"]] == [kept], query
    assert get(desk, f"?since={NOW + 100_000}")[1]["data"] == []


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?since=yesterday", "malformed"),
        ("?since=-1", "malformed"),
        ("?since=1e400", "malformed"),
        ("?limit=0", "malformed"),
        ("?limit=1001", "malformed"),
        ("?tenant=a%20b", "invalid_tenant"),
    ],
)
def test_what_is_no_moment_number_or_name_is_refused(query: str, reason: str, clerk: tuple[Clerk, Store]) -> None:
    status, said = get(clerk[0], query)
    assert (status, said["error"]["metadata"]["reason"]) == (400, reason)


def test_the_event_of_api_gateway_is_answered_and_only_with_the_admins_key(clerk: tuple[Clerk, Store]) -> None:
    desk, store = clerk
    kept = put(store, NOW - 5)
    put(store, NOW - 5, "other", shard=1)
    sent = event("admin-spans")
    response = answer(desk, sent)
    assert [span["id"] for span in json.loads(b"".join(response.body))["data"]] == [kept]
    sent["headers"]["Authorization"] = "Bearer local-gateway-key"
    sent["multiValueHeaders"]["Authorization"] = ["Bearer local-gateway-key"]
    assert answer(desk, sent).status == 401
