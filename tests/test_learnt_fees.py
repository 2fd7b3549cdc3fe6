"""A fee that no catalogue announces passes a hold once: from then on it is in the hold of every call of its model."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import httpx
import pytest

from farebox.admission import HOLD_SECONDS
from farebox.catalogue import Catalogue
from farebox.chat import parse
from farebox.errors import StoreUnavailable
from farebox.fees import lesson, taught
from farebox.ledger import Hold, Limits
from farebox.pricing import quote
from farebox.store import FEES, Store, StoreError
from farebox.upstream import Upstream
from local.catalogue import Endpoint, Model
from local.scenarios import PLAIN, Script
from local.simulator import Simulator, transport
from tests.conftest import Answered, Door, MakeDoor, chat_body, connected
from tests.scenes import BOOKED, CORRECTED, ESTIMATED, NOTHING, UNKNOWN, OpenScene, Scene, record_of
from tests.wire import Fault, Wire, always, no_faults

MODEL = "sim/server-tool"
FEE = 14_000_000
"""What a call of it costs above its tokens."""
NEARLY = 5_000
"""What is not learnt of it: tokens are taken to have cost a little more than they did."""


def fee(door: Door, model: str = MODEL) -> int:
    """What is learnt of a model, as the table has it."""
    return door.gate.store.fee(model)


def ask(door: Door, model: str = MODEL, **fields: Any) -> Answered:
    answered = door.chat(model=model, **{"max_tokens": 100, **fields})
    assert answered.status == 200, answered.body
    return answered


def bound(door: Door, model: str = MODEL, headers: dict[str, str] | None = None, **fields: Any) -> int:
    """What the next call would hold, in nano-dollars."""
    body = chat_body(model=model, **{"max_tokens": 100, **fields})
    usd: float = door.call("POST", "/api/v1/quote", body, headers).json["candidates"][0]["bound_usd"]
    return round(usd * 10**9)


FREE = {"prompt": "0", "completion": "0"}
SEARCHES = Script(searches=2)


def door_to(make_door: MakeDoor, *models: Model, **settings: str) -> tuple[Door, Simulator]:
    simulator = Simulator(sleep=lambda _: None, models={model.id: model for model in models})
    return make_door(upstream=transport(simulator), **settings), simulator


# What is held.


@pytest.mark.parametrize("stream", [False, True])
def test_the_second_call_holds_the_fee_that_the_first_one_was_billed(
    *, stream: bool, door: Door, simulator: Simulator
) -> None:
    before = bound(door, stream=stream)
    ask(door, stream=stream)
    learnt = fee(door)
    assert FEE - NEARLY < learnt <= FEE
    assert bound(door, stream=stream) == before + learnt >= simulator.billed_nanousd
    ask(door, stream=stream)
    assert fee(door) == learnt


def test_what_one_tenant_has_learnt_is_held_for_all(door: Door) -> None:
    acme = {"X-Tenant-Id": "acme"}
    before = bound(door, headers=acme)
    ask(door)
    assert bound(door, headers=acme) == before + fee(door) > before


def test_a_fee_is_learnt_though_the_hold_had_room_for_it(make_door: MakeDoor) -> None:
    """Near the cap answers are clamped, and their holds have no room."""
    dear = Endpoint({"prompt": "0.00001", "completion": "0.00001"})
    door, simulator = door_to(make_door, Model(MODEL, SEARCHES, (dear,)))
    assert bound(door, max_tokens=10_000) > 2 * FEE
    ask(door, max_tokens=10_000)
    assert FEE // 2 < fee(door) <= FEE
    assert bound(door, max_tokens=16) >= simulator.billed_nanousd


@pytest.mark.parametrize("first", [15_000, 100])
def test_without_tokens_what_was_above_the_hold_is_learnt_and_added_to_what_was_known(
    first: int, make_door: MakeDoor
) -> None:
    door = make_door(upstream=Tokenless(Simulator(sleep=lambda _: None)))
    ask(door, max_tokens=first)
    assert (fee(door) < FEE // 2) == (first == 15_000)  # most of that hold was for output that never came
    ask(door, max_tokens=100)
    assert FEE - 100_000 < fee(door) <= FEE
    learnt = fee(door)
    ask(door, max_tokens=15_000)
    ask(door, max_tokens=100)
    assert fee(door) == learnt


class Tokenless(httpx.BaseTransport):
    """The simulator, whose usage is a cost and nothing else."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = transport(simulator)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._simulator.handle_request(request)
        if request.method == "GET":
            return answer
        said = json.loads(answer.read())
        return httpx.Response(200, json={**said, "usage": {"cost": said["usage"]["cost"]}})


def test_a_call_within_its_hold_teaches_nothing(door: Door) -> None:
    ask(door, "sim/ok")
    assert fee(door, "sim/ok") == 0


def test_a_fee_that_the_catalogue_announces_is_not_learnt(make_door: MakeDoor) -> None:
    pricing = {"prompt": "0.00000015", "completion": "0.0000006", "request": "0.005"}
    door, simulator = door_to(make_door, Model("acme/fees", PLAIN, (Endpoint(pricing),)))
    ask(door, "acme/fees")
    assert simulator.billed_nanousd > 5_000_000
    assert fee(door, "acme/fees") == 0


def test_tokens_explain_at_least_the_output_that_some_providers_bill_whatever_is_asked(door: Door) -> None:
    quoted = quote(parse(chat_body(model=MODEL)), [door.gate.catalogue.model(MODEL)])
    one, sixteen, seventeen = (quoted.explained_nanousd(1, output) for output in (1, 16, 17))
    assert 0 < one == sixteen < seventeen


def test_a_fee_that_is_only_learnt_is_in_no_price_cap(door: Door, simulator: Simulator) -> None:
    ask(door)
    ask(door)
    caps = [json.loads(seen.body)["provider"]["max_price"] for seen in simulator.seen if seen.method == "POST"]
    assert [set(cap) for cap in caps] == [{"prompt", "completion"}] * 2


def test_a_quote_shows_the_fee(door: Door) -> None:
    ask(door)
    said = door.call("POST", "/api/v1/quote", chat_body(model=MODEL)).json
    assert said["candidates"][0]["fees_usd"] == {"learnt": fee(door) / 10**9}


def test_a_turn_more_is_a_fee_more(make_door: MakeDoor) -> None:
    door = make_door(FAREBOX_SERVER_TOOLS_USD="0.01")
    tools = [{"type": "openrouter:web_search"}]
    before = bound(door, tools=tools)
    ask(door)
    assert bound(door, tools=tools) == before + 2 * fee(door)


# Which models.


def test_a_free_model_that_has_billed_a_fee_is_free_no_more(make_door: MakeDoor) -> None:
    free = Model("acme/free", SEARCHES, (Endpoint(FREE),))
    door, _ = door_to(make_door, free, Model("acme/gift", PLAIN, (Endpoint(FREE),)), FALLBACK_MODEL_CHAIN="acme/free")
    assert bound(door, "acme/free") == 0
    ask(door, "acme/free")
    assert bound(door, "acme/free") == fee(door, "acme/free") == FEE
    said = door.call("POST", "/api/v1/quote", chat_body(model="acme/gift")).json
    assert [each["kept"] for each in said["candidates"]] == [True, False]


def test_a_list_of_models_is_held_with_the_dearest_fee_and_only_the_billed_one_has_learnt(door: Door) -> None:
    plain, reversed_ = [MODEL, "sim/ok"], ["sim/ok", MODEL]
    before = bound(door, "sim/ok", models=reversed_)
    ask(door, models=plain)
    assert fee(door) > 0
    assert fee(door, "sim/ok") == 0
    assert bound(door, "sim/ok", models=reversed_) == before + fee(door)


def test_a_fee_is_held_under_every_name_of_its_model(make_door: MakeDoor) -> None:
    reports = replace(SEARCHES, reports_canonical=True)
    searcher = Model("acme/searcher", reports, canonical="acme/searcher-20260801")
    door, _ = door_to(make_door, searcher, Model("~acme/latest", reports, alias_of="acme/searcher"))
    names = ("acme/searcher", "acme/searcher-20260801", "~acme/latest", "acme/searcher:nitro")
    before = [bound(door, name) for name in names]
    ask(door, "~acme/latest")
    assert [bound(door, name) - was for name, was in zip(names, before, strict=True)] == [fee(door, "~acme/latest")] * 4


def test_the_lesson_of_a_list_is_that_of_the_model_that_was_billed() -> None:
    models = ("a/x:nitro", "b/y:free")
    assert taught(models, "a/x") == {"a/x"}
    assert taught(models, "b/y:free") == {"b/y:free"}


@pytest.mark.parametrize("billed", [None, "", ":nitro"])
def test_where_upstream_does_not_say_who_was_billed_all_have_the_lesson(billed: str | None) -> None:
    assert taught(("a/x:nitro", "b/y"), billed) == {"a/x", "b/y"}


def test_a_name_that_nobody_asked_for_has_the_lesson_beside_those_asked_for() -> None:
    assert taught(("a/x",), "a/x-20260801") == {"a/x", "a/x-20260801"}


@pytest.mark.parametrize(
    ("learnt", "cost", "fee"), [(0, 9, None), (0, 10, None), (0, 11, 1), (4, 10, None), (4, 15, 9)]
)
def test_a_lesson_is_the_fee_that_was_held_and_what_was_above_the_hold(learnt: int, cost: int, fee: int | None) -> None:
    assert lesson(Hold("h", 10, 1, 0, 960, MODEL, learnt_nanousd=learnt), cost) == fee


# Where it is known, and how long.


def test_another_function_holds_the_fee_when_its_prices_are_too_old(make_door: MakeDoor) -> None:
    door = make_door()
    moment = 0.0
    other = make_door(FAREBOX_TABLE=door.gate.settings.farebox_table)
    catalogue = Catalogue(other.gate.upstream, 300, lambda: moment, other.gate.store.fee)
    other = Door(replace(other.gate, catalogue=catalogue))
    before = bound(other)
    ask(door)
    moment = 299.9
    assert bound(other) == before
    moment = 300.0
    assert bound(other) == before + fee(door)


def test_a_function_that_starts_holds_the_fee_of_its_first_call(make_door: MakeDoor) -> None:
    door = make_door()
    before = bound(door)
    ask(door)
    assert bound(make_door(FAREBOX_TABLE=door.gate.settings.farebox_table)) == before + fee(door)


def test_a_deleted_lesson_is_forgotten_with_the_next_reading_of_prices(embedded_url: str, door: Door) -> None:
    before = bound(door)
    ask(door)
    connected(embedded_url).delete_item(
        TableName=door.gate.settings.farebox_table, Key={"pk": {"S": FEES}, "sk": {"S": MODEL}}
    )
    assert bound(door) == before


def item(store: Store) -> dict[str, Any]:
    (found,) = store.spans(FEES)
    return dict(found)


def test_the_highest_fee_is_kept_and_what_is_seen_again_is_kept_longer(store: Store) -> None:
    plain = {"pk": FEES, "sk": MODEL}
    assert store.learn(MODEL, 7, 100, 200)
    assert item(store) == {**plain, "fee_nanousd": 7, "at": 100, "ttl": 200}
    for lower in (7, 6):
        assert not store.learn(MODEL, lower, 110 + lower, 210 + lower)
        assert item(store) == {**plain, "fee_nanousd": 7, "at": 110 + lower, "ttl": 210 + lower}
    assert store.learn(MODEL, 8, 120, 220)
    assert item(store) == {**plain, "fee_nanousd": 8, "at": 120, "ttl": 220}
    assert (store.fee(MODEL), store.fee("sim/ok")) == (8, 0)


def test_a_hold_remembers_the_fee_in_it_for_who_ends_it_later(store: Store) -> None:
    hold = Hold("h", 10, 1, 0, 960, MODEL, learnt_nanousd=4)
    store.reserve("acme", "2026-11", hold, Limits(100, 100, 1))
    assert store.ledger("acme", "2026-11").holds == {"h": hold}


def test_a_lesson_is_kept_for_90_days(scene: Scene) -> None:
    scene.call(MODEL, max_tokens=100)
    found = item(scene.store)
    assert (found["at"], found["ttl"]) == (int(scene.clock.seconds()), int(scene.clock.seconds()) + 90 * 86_400)


def test_each_fee_is_told_once(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    ask(door)
    ask(door)
    (line,) = [record for record in caplog.records if record.message == "fee learnt"]
    said = vars(line)
    assert (said["model"], said["fee_nanousd"]) == (MODEL, fee(door))
    assert said["cost_nanousd"] - said["hold_nanousd"] > FEE // 2


def catalogue_of(simulator: Simulator, fee: Callable[[str], int], ttl_s: float = 300) -> Catalogue:
    client = httpx.Client(transport=transport(simulator), trust_env=False)
    return Catalogue(Upstream("http://simulator/api/v1", "simulated", client, lambda: 0.0), ttl_s, lambda: 0.0, fee)


def test_a_fee_that_is_read_while_another_is_learnt_is_not_kept(simulator: Simulator) -> None:
    fees = iter((1, 2, 3))

    def read(_name: str) -> int:
        found = next(fees)
        if found == 1:
            catalogue.forget(frozenset({MODEL}))
        return found

    catalogue = catalogue_of(simulator, read)
    assert [catalogue.model(MODEL).learnt_nanousd for _ in range(3)] == [1, 2, 2]


def test_a_lesson_of_one_model_leaves_the_prices_of_others_as_they_are(simulator: Simulator) -> None:
    fees = count(1)
    catalogue = catalogue_of(simulator, lambda _name: next(fees))
    assert catalogue.model("sim/ok").learnt_nanousd == 1
    catalogue.forget(frozenset({MODEL}))
    assert catalogue.model("sim/ok").learnt_nanousd == 1


# A store that fails.


def test_a_model_whose_fee_cannot_be_read_is_not_called(wired: Scene, wire: Wire) -> None:
    wire.plan = always("fee", Fault.FAILED)
    refused = wired.call(MODEL)
    assert (refused.status, refused.reason) == (503, "store_unavailable")
    assert wired.billed == 0
    wire.plan = no_faults
    assert wired.call(MODEL).status == 200


def test_a_fee_that_was_read_before_counts_while_the_store_does_not_answer(simulator: Simulator) -> None:
    answers = iter((5, None, 7))

    def read(_name: str) -> int:
        if (found := next(answers)) is None:
            raise StoreError("no answer")
        return found

    catalogue = catalogue_of(simulator, read, ttl_s=0)
    assert [catalogue.model(MODEL).learnt_nanousd for _ in range(3)] == [5, 5, 7]


def test_after_a_lesson_an_older_fee_does_not_count_though_the_store_does_not_answer(simulator: Simulator) -> None:
    answers = iter((5,))

    def read(_name: str) -> int:
        for found in answers:
            return found
        raise StoreError("no answer")

    catalogue = catalogue_of(simulator, read)
    assert catalogue.model(MODEL).learnt_nanousd == 5
    catalogue.forget(frozenset({MODEL}))
    with pytest.raises(StoreUnavailable):
        catalogue.model(MODEL)


def test_a_lesson_that_the_store_does_not_take_is_left_to_the_sweep_and_the_call_is_booked(
    wired: Scene, wire: Wire
) -> None:
    wire.plan = always("learn", Fault.FAILED)
    wired.call(MODEL, max_tokens=100)
    assert (wired.month().spent_nanousd, dict(wired.month().holds)) == (wired.billed, {})
    assert wired.store.fee(MODEL) == 0
    wire.plan = no_faults
    assert wired.sweep() == BOOKED
    (span,) = wired.spans
    assert wired.store.fee(MODEL) == span["cost_nanousd"] - span["hold_nanousd"] > 0
    assert (wired.month().spent_nanousd, wired.reminders) == (wired.billed, [])


# The sweep.


def test_a_lost_call_that_turns_out_dearer_than_its_hold_teaches_its_fee(scene: Scene) -> None:
    scene.call("sim/cut", max_tokens=100)
    (span,) = scene.spans
    scene.records.other = record_of(total_cost=0.02)
    assert scene.sweep() == BOOKED
    assert scene.store.fee("sim/cut") == 20_000_000 - span["hold_nanousd"]


def test_a_call_whose_function_died_before_it_could_teach_is_taught_by_the_sweep(wired: Scene, wire: Wire) -> None:
    wire.plan = lambda seen: Fault.FAILED if seen.step in ("learn", "settle", "remind") else None
    wired.call(MODEL, max_tokens=100)
    wire.plan = no_faults
    assert wired.month().holds
    assert wired.reminders == []
    wired.clock.sleep(HOLD_SECONDS)
    assert wired.sweep() == BOOKED
    (span,) = wired.spans
    assert wired.store.fee(MODEL) == span["cost_nanousd"] - span["hold_nanousd"] > 0


def test_an_estimate_teaches_nothing_and_its_correction_does(scene: Scene) -> None:
    scene.call("sim/cut", max_tokens=100)
    scene.records.other = UNKNOWN
    scene.clock.sleep(HOLD_SECONDS)
    assert scene.sweep() == ESTIMATED
    assert scene.store.fee("sim/cut") == 0
    (span,) = scene.spans
    scene.records.other = record_of(total_cost=0.02)
    scene.clock.sleep(HOLD_SECONDS)
    assert scene.sweep() == CORRECTED
    assert scene.store.fee("sim/cut") == 20_000_000 - span["hold_nanousd"]


def test_a_sweep_that_cannot_teach_does_so_in_its_next_run(open_scene: OpenScene, embedded_wire: Wire) -> None:
    wire = embedded_wire
    scene = open_scene(wire.url, tries=1)
    scene.call("sim/cut", max_tokens=100)
    scene.records.other = record_of(total_cost=0.02)
    sweeper = replace(scene.sweeper, store=scene.door.gate.store)
    wire.plan = always("learn", Fault.FAILED)
    with pytest.raises(StoreError):
        replace(scene, sweeper=sweeper).sweep()
    wire.plan = no_faults
    assert replace(scene, sweeper=sweeper).sweep() == BOOKED
    assert scene.store.fee("sim/cut") > 0
    assert scene.sweep() == NOTHING
