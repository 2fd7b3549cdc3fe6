"""POST /api/v1/quote says what the next call will do, and why, and does nothing itself."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from farebox.ledger import Limits
from farebox.rest import Response
from farebox.routes import answer
from local import gateway
from local.catalogue import Endpoint, Model, catalogue, pricing
from local.scenarios import CENT
from local.simulator import Simulator
from local.sockets import Server
from tests.bank import DOWN, MONTH, USD, Bank, MakeBank, bank_maker, cent, hold_of, told
from tests.conftest import GATEWAY_KEY, Answered, Door, MakeDoor, chat_body
from tests.test_directory import Office

LEFT_CENTS = (10, 10, 5, 2, 1, 0.5, 0.3, 0.1, 0.01, 0)
"""Of 0.10 USD a day."""


@pytest.fixture
def make_bank(make_door: MakeDoor, simulator: Simulator, store_url: str) -> MakeBank:
    """On each store."""
    return bank_maker(make_door, simulator, store_url)


@pytest.fixture
def plain_bank(make_door: MakeDoor, simulator: Simulator, embedded_url: str) -> MakeBank:
    """Where the store does not matter."""
    return bank_maker(make_door, simulator, embedded_url)


def table(bank: Bank) -> list[dict[str, Any]]:
    """Everything that is stored."""
    pages = bank.store._client.get_paginator("scan").paginate(TableName=bank.store._table, ConsistentRead=True)
    items = [dict(item) for page in pages for item in page["Items"]]
    return sorted(items, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))


def outcome(quoted: Answered | Mapping[str, Any]) -> dict[str, Any]:
    """What a quote says that a call would do; one that is refused itself says so, too."""
    if isinstance(quoted, Answered):
        found = quoted.json if quoted.status == 200 else {"outcome": "refused", "reason": quoted.reason}
    else:
        found = dict(quoted)
    return {name: found[name] for name in ("outcome", "model", "max_tokens", "hold_usd", "reason") if name in found}


def done(bank: Bank, body: Any, tenant: str = "default") -> dict[str, Any]:
    """What a call does, in the words of a quote: by its headers, what came upstream and what was held then."""
    held: list[int] = []
    before = set(bank.store.ledger(tenant, MONTH).holds)

    def look() -> None:
        holds = bank.store.ledger(tenant, MONTH).holds
        held.append(sum(hold.amount_nanousd for id_, hold in holds.items() if id_ not in before))

    bank.upstream.before = look
    answered = bank.door.chat(body, {"X-Tenant-Id": tenant})
    if answered.status != 200:
        return {"outcome": "refused", "reason": answered.reason}
    said = told(answered)
    names = {"Downgraded-From": "downgraded", "Fallback-From": "fallback", "Max-Tokens": "clamped"}
    model, tokens = bank.last
    return {
        "outcome": next((names[name] for name in names if name in said), "as_asked"),
        "model": model,
        "max_tokens": tokens,
        "hold_usd": held[0] / USD,
    }


# It is what the next call does.

DEAREST = cent(900, model="sim/agent")
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "downgrade": {"downgrade": DOWN},
    "deny": {"downgrade": DOWN, "deny": ["sim/cent"]},
    "cap": {"per_request": "0.004"},
    "cap-downgrade": {"per_request": "0.004", "downgrade": DOWN},
    "in-flight": {"in_flight": 3},
}
BODIES = {
    "cent": cent(900),
    "much": cent(16_000),
    "little": cent(16),
    "agent": DEAREST,
    "unasked": {"model": "sim/cent", "messages": cent()["messages"]},
    "list": cent(900, model="sim/ok", models=["sim/ok", "sim/cent"]),
    "free": cent(model="sim/free:free"),
    "reasoning": cent(4000, reasoning={"effort": "low"}),
    "both": cent(900, max_completion_tokens=700),
    "streamed": cent(900, stream=True),
}


@pytest.mark.parametrize("rules", RULES)
def test_what_a_quote_says_is_what_the_next_call_does(rules: str, make_bank: MakeBank) -> None:
    """For requests of all kinds with all, some or nothing left of the budget, spent or held by some calls or many."""
    chance = random.Random(rules)  # noqa: S311 - the same cases in every run
    cases = chance.sample([(name, left) for name in BODIES for left in LEFT_CENTS], 12)
    tenants = {f"t{number}": RULES[rules] for number in range(len(cases))}
    bank, seen = make_bank(tenants=tenants), set[str]()
    for tenant, (name, left) in zip(tenants, cases, strict=True):
        gone, holds = round((10 - left) * 10_000_000), chance.choice([0, 0, 1, 2, 5, 12])
        held = chance.randint(0, gone) if holds else 0
        bank.spend(gone - held, tenant=tenant)
        for number in range(holds):
            bank.hold(held // holds, f"rival-{number}", tenant)
        before, calls = bank.store.ledger(tenant, MONTH), len(bank.sent)
        found = outcome(bank.quote(BODIES[name], **{"X-Tenant-Id": tenant}))
        assert (bank.store.ledger(tenant, MONTH), len(bank.sent)) == (before, calls)
        assert found == done(bank, BODIES[name], tenant), (name, left, holds, held)
        seen.add(found.get("reason", found["outcome"]))
    assert seen >= SEEN[rules], seen


MONEY = {"as_asked", "clamped", "budget_held", "budget_exhausted"}
SEEN = {
    "plain": MONEY,
    "downgrade": {"as_asked", "clamped", "downgraded"},
    "deny": {"as_asked", "downgraded", "model_not_allowed"},
    "cap": {"as_asked", "clamped", "request_too_expensive"},
    "cap-downgrade": {"as_asked", "downgraded"},
    "in-flight": {"as_asked", "too_many_in_flight"},
}


def test_a_call_that_would_go_as_asked_is_said_to_whatever_the_number_of_calls_in_flight(make_bank: MakeBank) -> None:
    """Such a call is held without a look at the ledger, so it has no share to keep to."""
    bank, body = make_bank({"daily": 10}), cent(16_000)
    for number in range(12):
        bank.hold(1, f"rival-{number}")
    assert outcome(bank.quote(body)) == done(bank, body)
    bank.spend(9_400_000_000)
    assert outcome(bank.quote(body)) == done(bank, body)
    assert "Max-Tokens" in told(bank.chat(body))


def test_a_quote_writes_nothing_and_calls_nobody(make_bank: MakeBank) -> None:
    """Not even in a month, or of a tenant, that has no ledger yet; and a refusal is no event."""
    bank = make_bank({"downgrade": DOWN})
    assert bank.quote(cent(900)).json["outcome"] == "as_asked"
    assert table(bank) == []
    bank.spend(99_000_000)
    before = table(bank)
    for body in BODIES.values():
        assert bank.quote(body).status == 200
    assert table(bank) == before
    assert (bank.sent, bank.naps) == ([], [])


# Why.


def test_a_quote_says_what_the_bound_is_made_of(make_bank: MakeBank) -> None:
    bank, body = make_bank({"daily": 1}), cent(900)
    prompt_tokens = len(chat_body(body)) + 32
    bank.spend(100_000_000)
    bank.hold(50_000_000)
    assert bank.quote(body, **{"X-Feature": "search"}).json == {
        "tenant": "default",
        "feature": "search",
        "outcome": "as_asked",
        "model": "sim/cent",
        "max_tokens": 900,
        "hold_usd": hold_of(900, body) / USD,
        "candidates": [
            {
                "model": "sim/cent",
                "role": "asked",
                "kept": True,
                "bound_usd": hold_of(900, body) / USD,
                "prompt_tokens_max": prompt_tokens,
                "output_tokens_max": 900,
                "prompt_usd": prompt_tokens * 10_200 / USD,
                "rates_usd_per_million": {
                    "prompt": 10.0,
                    "completion": 10.0,
                    "cache_write": 10.0,
                    "cache_write_long": 20.0,
                    "media": 10.0,
                },
                "fees_usd": {},
                "max_price": {"prompt": 10.2, "completion": 10.2},
            }
        ],
        "state": "active",
        "in_flight": 1,
        "daily": {
            "limit_usd": 1.0,
            "spent_usd": 0.1,
            "held_usd": 0.05,
            "remaining_usd": 0.85,
            "resets_at": "2026-11-24T00:00:00Z",
        },
        "monthly": {
            "limit_usd": 100.0,
            "spent_usd": 0.1,
            "held_usd": 0.05,
            "remaining_usd": 99.85,
            "resets_at": "2026-12-01T00:00:00Z",
        },
    }


def why(bank: Bank, body: Any) -> list[tuple[str, str, Any]]:
    """Each candidate with its role, and why it was dropped; True where it was kept."""
    found = bank.quote(body).json["candidates"]
    return [(each["model"], each["role"], each["kept"] or each["reason"]) for each in found]


def test_a_quote_names_the_candidates_that_were_kept_and_why_others_were_not(plain_bank: MakeBank) -> None:
    further = [{"from": ["sim/ok"], "to": "sim/tiers-2-fast"}, {"from": ["sim/tiers-2-fast"], "to": "x/y"}]
    bank = plain_bank({
        "downgrade": [*DOWN, *further],
        "fallback": ["sim/agent-cheap", "sim/agent", "sim/cent-bytes", "x/y", "sim/free:free"],
        "deny": ["sim/cent-*"],
    })  # fmt: skip
    bank.door.gate.breakers.cool("sim/agent-cheap", 60)
    assert why(bank, cent(300)) == [
        ("sim/cent", "asked", True),
        ("sim/ok", "downgrade", True),
        ("sim/tiers-2-fast", "downgrade", True),
        ("x/y", "downgrade", "model_not_priced"),
        ("sim/agent-cheap", "fallback", "circuit_open"),
        ("sim/agent", "fallback", True),
        ("sim/cent-bytes", "fallback", "model_not_allowed"),
        ("x/y", "fallback", "model_not_priced"),
        ("sim/free:free", "fallback", True),
    ]
    dropped = {each["model"]: each for each in bank.quote(cent(300)).json["candidates"] if not each["kept"]}
    assert dropped["sim/cent-bytes"]["message"] == "sim/cent-bytes is not among the models that this tenant may use"
    assert "bound_usd" in dropped["sim/agent-cheap"]


def test_what_would_not_be_cheaper_is_no_downgrade(plain_bank: MakeBank) -> None:
    bank = plain_bank({"downgrade": [{"from": ["sim/cent"], "to": "sim/agent"}]})
    found = bank.quote(cent(300)).json["candidates"][1]
    assert (found["kept"], found["message"]) == (False, "sim/agent would not be cheaper")


def test_nothing_that_costs_money_is_behind_a_free_model(plain_bank: MakeBank) -> None:
    bank = plain_bank({"fallback": ["sim/cent"], "downgrade": [{"from": ["*:free"], "to": "sim/ok"}]})
    found = bank.quote(cent(model="sim/free:free")).json
    assert (found["outcome"], found["hold_usd"]) == ("as_asked", 0)
    assert [each["kept"] for each in found["candidates"]] == [True, False, False]
    assert {each["message"].partition(" ")[2] for each in found["candidates"][1:]} == {
        "costs money, and a free model was asked for"
    }


def test_where_a_models_circuit_is_open_a_quote_says_who_would_answer_instead(make_bank: MakeBank) -> None:
    bank = make_bank({"fallback": ["sim/ok"]})
    bank.door.gate.breakers.cool("sim/cent", 60)
    for model in ("sim/cent", "sim/cent:nitro"):
        body = cent(300, model=model)
        found = bank.quote(body).json
        assert (found["candidates"][0]["kept"], found["candidates"][0]["reason"]) == (False, "circuit_open")
        assert outcome(found) == done(bank, body)
        assert found["outcome"] == "fallback"
    bank.door.gate.breakers.cool("sim/ok", 60)
    found = bank.quote(cent(300)).json
    assert (found["outcome"], found["reason"]) == ("refused", "circuit_open")
    assert bank.chat(cent(300)).status == 502


def test_limits_that_were_changed_behind_a_warm_cache_are_those_that_a_quote_shows(make_bank: MakeBank) -> None:
    bank = make_bank()
    bank.quote(cent(300))
    office, limits = Office(bank.store._client, bank.store._table), Limits(7 * USD, 70 * USD, 1)
    office.configure(limits, tenant="default")
    office.announce(limits, tenant="default", month=MONTH)
    found = bank.quote(cent(300)).json
    assert (found["daily"]["limit_usd"], found["monthly"]["limit_usd"]) == (7, 70)


# What a call is refused for before it looks at the budget.


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", {}, {"model": "sim/ok"}, cent(max_tokens=0), cent(max_tokens="9"), cent(n=2), cent(model="x/y"),
     cent(models="sim/ok"), cent(service_tier="gold"), cent(plugins=[{"id": "web"}]), cent(provider=7),
     {"messages": cent()["messages"]}, cent(model="sim/agent")],
)  # fmt: skip
def test_a_quote_is_refused_for_what_a_call_is_refused_for(body: Any, plain_bank: MakeBank) -> None:
    bank = plain_bank({"deny": ["sim/agent"]})
    said, called = bank.quote(body), bank.door.chat(body)
    assert said.status == called.status >= 400
    assert said.json == called.json


def test_a_quote_needs_a_key_and_a_post_and_a_tenants_name(plain_bank: MakeBank) -> None:
    bank = plain_bank()
    assert bank.quote(cent(), Authorization="Bearer no").status == 401
    assert bank.quote(cent(), Authorization="").reason == "unauthenticated"
    assert bank.quote(cent(), **{"X-Tenant-Id": "a b"}).reason == "invalid_tenant"
    got = bank.door.call("GET", "/api/v1/quote")
    assert (got.status, got.headers["Allow"]) == (405, "POST")


# Over sockets.


@contextmanager
def on_sockets(door: Door) -> Iterator[httpx.Client]:
    def handle(event: dict[str, Any], _context: Any) -> Response:
        return answer(door.gate, event, time.monotonic() + 60)

    with Server(gateway.serve(handle)) as server:
        headers = {"Authorization": f"Bearer {GATEWAY_KEY}", "X-Tenant-Id": "acme"}
        with httpx.Client(base_url=f"{server.url}/api/v1", headers=headers, timeout=30) as client:
            yield client


def test_a_budget_goes_from_asked_to_clamped_to_downgraded_to_exhausted_over_sockets(
    make_door: MakeDoor, store_url: str
) -> None:
    """Each call does what the quote before it said, and the books are the bill."""
    half = Model("sim/half", CENT, (Endpoint(pricing("0.000005", "0.000005")),))
    simulator = Simulator(models={**catalogue(), half.id: half})
    budgets = {"acme": {"daily": "0.10", "downgrade": [{"from": ["sim/cent"], "to": half.id}]}}
    with Server(simulator.handle) as upstream:
        door = make_door(
            store_url=store_url,
            upstream=httpx.HTTPTransport(),
            OPENROUTER_BASE_URL=f"{upstream.url}/api/v1",
            TENANT_BUDGETS=json.dumps(budgets),
        )
        with on_sockets(door) as client:
            steps = list(until_refused(client, cent(1000)))
        door.gate.upstream._client.close()
    assert list(dict.fromkeys(steps)) == ["as_asked", "clamped", "downgraded", "budget_exhausted"]
    assert round(door.usage("acme")["daily"]["spent_usd"] * USD) == simulator.billed_nanousd <= 100_000_000


def until_refused(client: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    for _ in range(60):
        found = client.post("/quote", json=body).json()
        answered = client.post("/chat/completions", json=body)
        if answered.status_code != 200:
            assert answered.status_code == 429
            assert found["reason"] == answered.json()["error"]["metadata"]["reason"]
            yield found["reason"]
            return
        assert answered.headers["X-Farebox-Model"] == found["model"]
        assert ("X-Farebox-Max-Tokens" in answered.headers) == (found["max_tokens"] < body["max_tokens"])
        yield found["outcome"]
