"""What an attacker would try: headers, names, and an upstream that is one itself."""

import itertools
import json
import re
import time
import uuid
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.errors import InvalidTenant
from farebox.ledger import Limits
from farebox.rest import request_of
from farebox.routes import answer
from farebox.store import Store
from farebox.tenants import Tenant, checked_name
from farebox.upstream import Upstream
from local.child import ROOT
from local.in_process import InProcess
from local.simulator import Simulator
from local.sockets import HttpRequest, HttpResponse, Server
from tests.conftest import DEADLINE, GATEWAY_KEY, Door, MakeDoor, chat_body
from tests.mutations import TEXTS

PACKAGE = ROOT / "layers" / "farebox" / "farebox"

# Headers of the client.

INJECTED = [
    "a\r\nX-Injected: 1",
    "a\nb",
    "a\x00b",
    "a\r\n b",
    "\ud800",
    "é",
    "a, b",
    "a b",
    "a" * 65,
    "a#b",
    "a%0d%0ab",
]


@pytest.mark.parametrize("value", INJECTED)
@pytest.mark.parametrize("header", ["X-Tenant-Id", "X-Feature"])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(
    header: str, value: str, door: Door, simulator: Simulator
) -> None:
    answered = door.chat(headers={header: value})
    assert (answered.status, answered.reason) == (400, "invalid_tenant")
    assert simulator.seen == []
    assert "X-Injected" not in answered.headers


@pytest.mark.parametrize("value", ["x\r\nX-Injected: 1", "é", "a" * 5000])
def test_a_request_id_of_the_client_is_not_the_request_s(value: str, door: Door) -> None:
    answered = door.chat(headers={"X-Request-Id": value})
    assert answered.status == 200
    assert str(uuid.UUID(answered.headers["X-Request-Id"])) == answered.headers["X-Request-Id"]


@pytest.mark.parametrize("value", ["x\r\nAuthorization: Bearer other", "a\x00b", "é", "a\r\n folded"])
def test_no_forwarded_header_brings_another_one_with_it(value: str, door: Door, simulator: Simulator) -> None:
    assert door.chat(headers={"X-Title": value, "HTTP-Referer": value}).status == 200
    (sent,) = [request for request in simulator.seen if request.method == "POST"]
    assert sent.header("x-title") is None
    assert [name for name, _ in sent.headers if name.lower() == "authorization"] == ["authorization"]


@pytest.mark.parametrize("value", [" before", "behind ", "\tboth\t ", "  "])
def test_white_space_around_a_forwarded_header_does_not_cost_a_call(value: str) -> None:
    """h11 refuses it, when the hold is made already."""
    with Server(Simulator(sleep=lambda _: None).handle) as server, httpx.Client(trust_env=False) as client:
        upstream = Upstream(f"{server.url}/api/v1", "k", client, time.monotonic)
        sent = upstream.chat(chat_body(), {"x-title": value}, time.monotonic() + 60, stream=False)
        sent.close()
    assert sent.status == 200


@pytest.mark.parametrize("name", ["X-Tenant-Id", "Authorization", "x-feature"])
@pytest.mark.parametrize("spelling", ["multi", "cases"])
def test_a_header_that_decides_who_pays_is_refused_when_it_says_two_things(
    name: str, spelling: str, door: Door
) -> None:
    first = {"Authorization": [f"Bearer {GATEWAY_KEY}"], "X-Tenant-Id": ["a"], "X-Feature": ["f"]}
    known = next(each for each in first if each.lower() == name.lower())
    two = {known: [*first[known], "b"]} if spelling == "multi" else {known: first[known], name.swapcase(): ["b"]}
    event = {
        "path": "/v1/chat/completions", "httpMethod": "POST", "body": chat_body().decode(),
        "multiValueHeaders": {**first, **two},
    }  # fmt: skip
    response = answer(door.gate, event, DEADLINE)
    assert (response.status, json.loads(b"".join(response.body))["error"]["metadata"]["reason"]) == (400, "malformed")


@given(st.dictionaries(st.text(), st.text() | st.none()), st.dictionaries(st.text(), st.lists(st.text()) | st.none()))
@settings(max_examples=100, deadline=None)
def test_any_query_of_an_event_is_read_as_ascii(single: dict[str, Any], many: dict[str, Any]) -> None:
    event = {"queryStringParameters": single, "multiValueQueryStringParameters": many}
    assert re.fullmatch(r"[\x21-\x7e]*", request_of(event).query)


def test_surrogates_in_a_query_are_no_bug(door: Door) -> None:
    event = {"path": "/health", "queryStringParameters": {"\ud800": "\udfff"}}
    assert answer(door.gate, event, DEADLINE).status == 200


def test_a_query_too_long_for_a_url_is_refused(door: Door) -> None:
    answered = door.call("GET", f"/api/v1/models?q={'a' * 70_000}")
    assert (answered.status, answered.reason) == (400, "malformed")


@pytest.mark.parametrize("method", ["GET", "PUT", "M" * 5000])
def test_a_refusal_does_not_repeat_more_of_a_request_than_is_useful(method: str, door: Door) -> None:
    for path in ("/api/usage/", "/api/x/"):
        assert len(door.call(method, path + "a" * 9000).body) < 1000


# Headers of upstream.


def saying(headers: dict[str, str], simulator: Simulator, status: int = 200, **fields: Any) -> InProcess:
    """An upstream with these headers, and these members in its answer."""
    body = {"id": "gen-1", "choices": [{"message": {"content": "x"}}], "usage": {"cost": 1e-6}, **fields}

    def handle(request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return simulator.handle(request)
        return HttpResponse(
            status, (("content-type", "application/json"), *headers.items()), (json.dumps(body).encode(),)
        )

    return InProcess(handle)


EVIL = ["gen\r\nX-Injected: 1", "gen\x00", "gen\x7f", "g" * 201]


@pytest.mark.parametrize("value", EVIL)
@pytest.mark.parametrize("status", [200, 429])
def test_no_header_of_upstream_brings_another_one_with_it(
    status: int, value: str, make_door: MakeDoor, simulator: Simulator
) -> None:
    evil = dict.fromkeys(("x-generation-id", "retry-after", "set-cookie", "x-farebox-model"), value)
    more = {"error": {"message": value}} if status != 200 else {}
    answered = make_door(upstream=saying(evil, simulator, status, **more)).chat()
    assert answered.status == status
    assert "set-cookie" not in {name.lower() for name in answered.headers}
    assert all(each.isascii() and each.isprintable() and value not in each for each in answered.headers.values())


@pytest.mark.parametrize("value", [*EVIL, "é", "\ud800", "模型"])
def test_no_member_of_an_answer_becomes_a_header_that_is_none(
    value: str, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(upstream=saying({}, simulator, id=value, model=value, provider=value))
    answered = door.chat(models=["sim/ok", "openai/gpt-4o-mini"])
    assert answered.status == 200
    assert all(each.isascii() and each.isprintable() and value not in each for each in answered.headers.values())


@pytest.mark.parametrize("name", ["modèle", "模型", "m" * 201, "\ud800", "", 1, None, ["sim/ok"], "a\nb"])
@pytest.mark.parametrize("place", ["id", "canonical_slug"])
def test_a_model_whose_name_can_be_no_header_has_no_price(
    place: str, name: Any, make_door: MakeDoor, simulator: Simulator
) -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        response = simulator.handle(request)
        if not request.target.endswith("/models"):
            return response
        rows = json.loads(b"".join(response.body))["data"]
        strange = {**next(row for row in rows if row["id"] == "sim/ok"), place: name}
        body = json.dumps({"data": [strange, *(row for row in rows if row["id"] != "sim/ok")]}).encode()
        return HttpResponse(200, (("content-type", "application/json"),), (body,))

    door = make_door(upstream=InProcess(handle))
    assert door.chat(model="openai/gpt-4o-mini").status == 200
    if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200:
        answered = door.chat(model=name)
        assert (answered.status, answered.reason) == (422, "model_not_priced")


@pytest.mark.parametrize("place", ["models", "endpoints"])
@pytest.mark.parametrize(
    "strange",
    [{"service_tier": "-1"}, {"service_tier": {}}, {"context_length": 0.5}, {"context_length": 0}, {"pricing": []},
     {"context_length": 10**18}, {"architecture": 1}, {"top_provider": []}, {"canonical_slug": {}},
     {"alias_target": 1}],
    ids=str,
)  # fmt: skip
def test_strange_rows_of_a_catalogue_are_no_bug(
    strange: dict[str, Any], place: str, make_door: MakeDoor, simulator: Simulator
) -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        response = simulator.handle(request)
        if request.method == "POST" or not request.target.endswith(place):
            return response
        said = json.loads(b"".join(response.body))["data"]
        rows = said if place == "models" else said["endpoints"]
        for row in rows:
            row.update(strange)
        return HttpResponse(200, (("content-type", "application/json"),), (json.dumps({"data": said}).encode(),))

    assert make_door(upstream=InProcess(handle)).chat().status in (200, 422)


# Tenants.

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
strange_names = st.text(max_size=70) | st.sampled_from([*TEXTS, *INJECTED])


def test_different_tenants_never_share_a_key() -> None:
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    store = Keys()
    pool = [
        "a",
        "A",
        "a.",
        "a-",
        "a_",
        "a-2",
        "a.CONFIG",
        "LEDGER",
        "a-2026-11",
        "TENANT",
        "LOST",
        "EVENTS",
        "1",
        "BREAKER",
    ]
    for name, month in itertools.product(pool, ["2026-11", "2026-12"]):
        for key in store.of(name, month):
            assert seen.setdefault(key, (name, month if key[1] != "CONFIG" else "")) in ((name, month), (name, ""))


class Keys:
    """The keys that a store asks for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def get_item(self, **request: Any) -> dict[str, Any]:
        self.asked.append((request["Key"]["pk"]["S"], request["Key"]["sk"]["S"]))
        return {}

    def of(self, name: str, month: str) -> list[tuple[str, str]]:
        self.asked.clear()
        store = Store(self, "t")  # type: ignore[arg-type]
        store.ledger(name, month)
        store.tenant(Tenant(name, Limits(1, 1, 0)))
        return list(self.asked)


@given(names, names, st.sampled_from(["2026-11", "2026-12"]))
@settings(max_examples=100, deadline=None)
def test_two_names_have_no_key_in_common(one: str, other: str, month: str) -> None:
    if one != other:
        assert not set(Keys().of(one, month)) & set(Keys().of(other, "2026-11"))


@given(strange_names)
@settings(max_examples=100, deadline=None)
def test_a_name_is_taken_as_it_is_or_not_at_all(name: str) -> None:
    """No trimming, no folding: two spellings are two tenants, and nothing outside ASCII is one."""
    try:
        assert checked_name("it", name) == name
    except InvalidTenant:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name)
    assert "#" not in name


def test_spellings_of_a_name_are_tenants_of_their_own(door: Door) -> None:
    assert door.chat(headers={"X-Tenant-Id": "acme"}).status == 200
    for other in ("Acme", "ACME", "acme.", "acme-", "acme_"):
        assert door.usage(other)["daily"]["spent_usd"] == 0
    assert door.usage("acme")["daily"]["spent_usd"] > 0


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "%2e%2e",
        "a/../acme",
        "a%2f..%2facme",
        "acme%00",
        "acme/",
        "acme%20",
        "%61cme#x",
        "acme;x",
        "acme%23LEDGER",
    ],
)
def test_the_path_of_usage_names_one_tenant_or_none(path: str, door: Door) -> None:
    assert door.chat(headers={"X-Tenant-Id": "acme"}).status == 200
    answered = door.call("GET", f"/api/usage/{path}")
    assert answered.status == 400 or (path == "%61cme#x" and answered.json["tenant"] == "acme")


# The table.


def all_items(door: Door) -> list[dict[str, Any]]:
    store: Any = door.gate.store
    items: list[dict[str, Any]] = store._client.scan(TableName=store._table)["Items"]
    return items


ATTRIBUTE = re.compile(r"[a-z_]{1,24}|[ds][0-9]{2}|[hej]_[0-9a-f]{20,24}(-[0-9]+)?")


def test_no_name_of_a_client_or_of_upstream_becomes_the_name_of_an_attribute(
    make_door: MakeDoor, simulator: Simulator
) -> None:
    evil = "m} SET #month = :x"
    door = make_door(upstream=saying({"x-generation-id": evil}, simulator, id=evil, model=evil, provider=evil))
    answered = door.chat(headers={"X-Tenant-Id": "LEDGER", "X-Feature": "h_1"}, user=evil)
    assert answered.status == 200
    for item in all_items(door):
        for name in item:
            assert ATTRIBUTE.fullmatch(name), name
        assert not {"X-Farebox", "#month"} & set(item)
