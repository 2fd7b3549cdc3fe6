"""What a call costs in requests, counted on the wire: to DynamoDB, which bills them, and to OpenRouter's catalogue."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from farebox.admission import TRIES, WAITS_S
from farebox.breaker import MAX_AGE_S
from farebox.catalogue import Catalogue
from farebox.ledger import Hold, Ledger
from farebox.store import Store
from farebox.variants import variant
from local.simulator import Simulator
from tests.conftest import Answered, Door, MakeDoor, connected
from tests.test_exactly_once import AMPLE, DAY, MONTH, NOW, at, chats_sent, door_behind
from tests.wire import Seen, Wire

TOLD = ["put_event", "mark"]
ADMITTED = ["UpdateItem", "PutItem", "UpdateItem"]
CENT: dict[str, Any] = {"model": "sim/cent", "max_tokens": 3000}
"""Costs 0.01 USD, and holds 0.03 and a little for its prompt."""


@pytest.fixture
def door(wire: Wire, make_door: MakeDoor) -> Door:
    """A gate with warm caches."""
    door = door_behind(wire, make_door)
    warm(wire, door, "sim/ok", "sim/cent", "sim/free:free", "sim/429", "sim/cut", "sim/refuse")
    return door


def warm(wire: Wire, door: Door, *models: str) -> None:
    """Let a gate know prices and circuits."""
    for model in models:
        door.gate.catalogue.model(model)
        door.gate.breakers.wait_s(variant(model).base)
    wire.seen.clear()


@pytest.fixture
def poor(wire: Wire, make_door: MakeDoor) -> Door:
    """A gate with warm caches and 0.05 USD a day, of which one call may take everything."""
    door = door_behind(wire, make_door, DEFAULT_DAILY_BUDGET="0.05", FAREBOX_HOLD_FRACTION="1")
    warm(wire, door, "sim/cent")
    return door


@dataclass(frozen=True, slots=True)
class Rival:
    """Other calls of the same tenant, through another gate."""

    store: Store

    def hold(self, nanousd: int, name: str = "rival") -> Hold:
        hold = Hold(name, nanousd, DAY, 0, 960, "sim/cent")
        assert isinstance(self.store.reserve("default", MONTH, hold, AMPLE), Ledger)
        return hold

    def spend(self, nanousd: int) -> None:
        self.store.settle("default", MONTH, self.hold(nanousd), nanousd)

    def beats(self, wire: Wire, nanousd: int, times: int) -> None:
        """Whenever somebody comes to hold, the rival is there first and spends a little, as often as said."""
        left = iter(range(times))

        def first(seen: Seen) -> None:
            if seen.step == "reserve" and next(left, None) is not None:
                self.spend(nanousd)

        wire.plan = first


@pytest.fixture
def rival(poor: Door, embedded_url: str) -> Rival:
    """On the same table as `poor`, past the wire."""
    return Rival(Store(connected(embedded_url), poor.gate.settings.farebox_table))


# DynamoDB.


@pytest.mark.parametrize(
    "fields",
    [{}, {"stream": True}, {"model": "sim/cent", "stream": True}, {"model": "sim/free:free"}, {"model": "sim/429"}],
    ids=["plain", "streamed", "streamed in many pieces", "free", "declined upstream"],
)
def test_an_admitted_call_is_a_hold_a_span_and_a_settlement_and_no_read(
    fields: dict[str, Any], wire: Wire, door: Door
) -> None:
    door.chat(**fields)
    assert wire.steps == ["reserve", "put_span", "settle"]
    assert wire.operations == ADMITTED
    hold, span, settlement = (seen.key for seen in wire.seen)
    assert hold == settlement == ("TENANT#default", f"LEDGER#{MONTH}")
    assert span[0].startswith("SPANS#")


def test_every_further_call_costs_the_same(wire: Wire, door: Door) -> None:
    for _ in range(10):
        door.chat()
    assert wire.operations == ADMITTED * 10


def test_a_call_whose_cost_is_not_known_is_a_hold_a_span_and_a_reminder(wire: Wire, door: Door) -> None:
    door.chat(model="sim/cut")
    assert wire.steps == ["reserve", "put_span", "remind"]
    assert wire.operations == ["UpdateItem", "PutItem", "PutItem"]


def test_a_call_that_could_not_be_sent_is_released_with_the_same_three_requests(wire: Wire, door: Door) -> None:
    door.chat(model="sim/refuse")
    assert wire.operations == ADMITTED


def test_the_first_call_of_a_tenant_reads_it_once_and_registers_its_month_once(wire: Wire, door: Door) -> None:
    for _ in range(3):
        door.chat(headers={"X-Tenant-Id": "acme"})
    assert wire.operations == ["GetItem", "PutItem", *ADMITTED * 3]
    assert wire.steps[:2] == ["GetItem", "register"]


def test_a_call_that_takes_long_is_one_update_more(wire: Wire, door: Door) -> None:
    gate = replace(door.gate, later=at_once)
    Door(gate).chat(stream=True)
    assert wire.steps == ["reserve", "note", "put_span", "settle"]


def at_once(_seconds: float, do: Callable[[], None]) -> Callable[[], None]:
    """As if so many seconds were over."""
    do()
    return lambda: None


def test_a_call_clamped_to_the_share_of_one_call_costs_nothing_more(wire: Wire, make_door: MakeDoor) -> None:
    door = door_behind(wire, make_door, FAREBOX_HOLD_FRACTION="0.01")  # of 10 USD a day; sim/cent could take 0.17
    warm(wire, door, "sim/cent")
    assert clamped_to(door.chat(model="sim/cent")) is not None
    assert wire.operations == ADMITTED


def test_a_call_clamped_to_what_is_left_costs_one_update_more(wire: Wire, poor: Door, rival: Rival) -> None:
    rival.spend(19_000_000)
    assert clamped_to(poor.chat(**CENT)) is not None
    assert wire.operations == ["UpdateItem", *ADMITTED]
    assert wire.steps == ["reserve", "reserve", "put_span", "settle"]


def test_every_try_that_another_call_beats_costs_one_update_more(wire: Wire, poor: Door, rival: Rival) -> None:
    rival.spend(19_000_000)
    rival.beats(wire, 1_000_000, times=TRIES - 1)
    clamped = clamped_to(poor.chat(**CENT))
    assert clamped is not None
    assert int(clamped) < 3000 - 2 * 90  # 0.001 USD are 98 tokens
    assert wire.steps == [*["reserve"] * TRIES, "put_span", "settle"]


def test_a_call_that_is_beaten_every_time_is_told_to_come_back_and_has_read_nothing(
    wire: Wire, poor: Door, rival: Rival, simulator: Simulator
) -> None:
    rival.spend(19_000_000)
    rival.beats(wire, 1_000_000, times=TRIES)
    answered = poor.chat(**CENT)
    assert (answered.status, answered.reason) == (429, "budget_held")
    assert int(answered.headers["Retry-After"]) > 0
    assert wire.steps == ["reserve"] * TRIES
    assert chats_sent(simulator) == 0


def clamped_to(answered: Answered) -> str | None:
    """The output that an admitted call was clamped to."""
    assert answered.status == 200, answered.body
    return answered.headers.get("X-Farebox-Max-Tokens")


def test_a_call_refused_for_good_is_one_update_and_no_read_and_the_first_one_tells_that_the_window_is_stopped(
    wire: Wire, poor: Door, rival: Rival
) -> None:
    rival.spend(49_000_000)
    refused = [poor.chat(**CENT) for _ in range(2)]
    assert [(each.status, each.reason) for each in refused] == [(429, "budget_exhausted")] * 2
    assert wire.steps == ["reserve", *TOLD, "reserve"]


def test_a_call_refused_for_now_is_one_update_and_a_read_after_each_of_five_waits(
    wire: Wire, poor: Door, rival: Rival
) -> None:
    rival.hold(49_000_000)
    answered = poor.chat(**CENT)
    assert (answered.status, answered.reason) == (429, "budget_held")
    assert wire.steps == ["reserve", *["GetItem"] * len(WAITS_S)]


def test_a_call_too_many_in_flight_is_one_update(wire: Wire, make_door: MakeDoor) -> None:
    rules = {"default": {"in_flight": 1}}
    door = door_behind(wire, make_door, TENANT_BUDGETS=json.dumps(rules))
    assert isinstance(door.gate.store.reserve("default", MONTH, Hold("a", 0, DAY, 0, 960, "sim/ok"), AMPLE), Ledger)
    warm(wire, door, "sim/ok")
    assert door.chat().reason == "too_many_in_flight"
    assert wire.steps == ["reserve"]


def test_a_call_that_can_never_fit_is_one_read_and_no_update(
    wire: Wire, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = door_behind(wire, make_door, DEFAULT_DAILY_BUDGET="0")
    warm(wire, door, "sim/ok")
    refused = [door.chat() for _ in range(2)]
    assert [(each.status, each.reason) for each in refused] == [(429, "budget_exhausted")] * 2
    assert wire.steps == ["GetItem", *TOLD, "GetItem"]
    assert wire.seen[0].key == ("TENANT#default", f"LEDGER#{MONTH}")
    assert chats_sent(simulator) == 0


# Fees that were learnt.


def test_the_first_call_that_costs_more_than_its_hold_is_one_update_more_and_the_next_one_reads_what_it_taught(
    wire: Wire, door: Door
) -> None:
    warm(wire, door, "sim/server-tool")
    for steps in (["reserve", "put_span", "learn", "settle"], ["fee", "reserve", "put_span", "settle"]):
        wire.seen.clear()
        door.chat(model="sim/server-tool", max_tokens=100)
        assert wire.steps == steps
    wire.seen.clear()
    door.chat(model="sim/server-tool", max_tokens=100)
    assert wire.operations == ADMITTED


def test_what_was_learnt_of_a_model_is_read_with_its_prices_only_by_each_of_its_names(
    wire: Wire, make_door: MakeDoor
) -> None:
    door = door_behind(wire, make_door)
    for model in ("sim/cent", "sim/canonical"):
        door.gate.breakers.wait_s(model)
    wire.seen.clear()
    for _ in range(2):
        door.chat(model="sim/cent", max_tokens=16)
        door.chat(model="sim/canonical")
    reads = [seen.key[1] for seen in wire.seen if seen.step == "fee"]
    assert reads == ["sim/cent", "sim/canonical", "sim/canonical-20260801"]
    assert [operation for operation in wire.operations if operation != "GetItem"] == ADMITTED * 4


# States.


def test_a_change_of_state_is_two_more_requests_once(wire: Wire, make_door: MakeDoor) -> None:
    door = door_behind(wire, make_door, DEFAULT_DAILY_BUDGET="0.0125", FAREBOX_HOLD_FRACTION="1")
    warm(wire, door, "sim/cent", "sim/free:free")
    assert door.chat(model="sim/cent", max_tokens=1000).status == 200
    assert wire.steps == ["reserve", "put_span", "settle", *TOLD]
    wire.seen.clear()
    door.chat(model="sim/free:free")
    assert wire.operations == ADMITTED


# Other models.

CHAIN = {"FALLBACK_MODEL_CHAIN": "sim/ok"}


def test_a_declined_call_with_another_model_behind_it_is_two_more_requests(wire: Wire, make_door: MakeDoor) -> None:
    door = door_behind(wire, make_door, **CHAIN)
    warm(wire, door, "sim/500", "sim/ok")
    assert door.chat(model="sim/500").status == 200
    assert wire.steps == ["reserve", "put_span", "swap", "put_span", "settle"]


def test_a_lost_call_with_another_model_behind_it_is_three_more_requests(wire: Wire, make_door: MakeDoor) -> None:
    door = door_behind(wire, make_door, **CHAIN)
    warm(wire, door, "sim/524-html", "sim/ok")
    assert door.chat(model="sim/524-html").status == 200
    assert wire.steps == ["reserve", "put_span", "remind", "reserve", "put_span", "settle"]


def test_a_call_with_a_downgrade_rule_costs_nothing_more_and_one_update_more_when_it_is_downgraded(
    wire: Wire, make_door: MakeDoor
) -> None:
    rules = [{"from": ["sim/cent"], "to": "sim/ok"}]
    door = door_behind(wire, make_door, FAREBOX_DOWNGRADE_RULES=json.dumps(rules), DEFAULT_DAILY_BUDGET="0.2")
    warm(wire, door, "sim/cent", "sim/ok")
    assert door.chat(model="sim/cent", max_tokens=1000).headers["X-Farebox-Model"] == "sim/cent"
    assert wire.steps == ["reserve", "put_span", "settle"]
    door.gate.store.reserve("default", MONTH, Hold("a", 189_000_000, DAY, 0, 960, "sim/cent"), AMPLE)
    wire.seen.clear()
    assert door.chat(model="sim/cent", max_tokens=1000).headers["X-Farebox-Model"] == "sim/ok"
    assert wire.steps == ["reserve", "reserve", "put_span", "settle"]


# Circuits.


def test_the_circuit_of_each_model_is_read_once_in_fifteen_seconds(wire: Wire, make_door: MakeDoor) -> None:
    moment = NOW.timestamp()
    door = at(lambda: moment, make_door(store_url=wire.url), wire)
    door.gate.desk.directory.at("default", NOW)
    door.gate.desk.directory.register("default", MONTH)
    wire.seen.clear()

    def reads(model: str) -> list[tuple[str, str]]:
        wire.seen.clear()
        door.chat(model=model)
        assert [seen.operation for seen in wire.seen if seen.step not in ("breaker", "fee")] == ADMITTED
        return [seen.key for seen in wire.seen if seen.step == "breaker"]

    assert reads("sim/ok") == [("BREAKER", "sim/ok")]
    assert reads("sim/cent") == [("BREAKER", "sim/cent")]
    moment += MAX_AGE_S - 0.001
    assert [reads("sim/ok"), reads("sim/cent")] == [[], []]
    moment += 0.001
    assert reads("sim/ok") == [("BREAKER", "sim/ok")]
    assert reads("sim/ok") == []


# Nothing at all.


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"{", {}), (None, {"Authorization": "Bearer wrong"}), (None, {"X-Tenant-Id": "a b"})],
    ids=["malformed", "unauthenticated", "no such name"],
)
def test_a_request_that_is_not_a_call_costs_nothing(
    body: bytes | None, headers: dict[str, str], wire: Wire, door: Door
) -> None:
    assert door.chat(body, headers=headers).status in (400, 401)
    assert wire.operations == []


def test_a_look_at_the_usage_is_one_read(wire: Wire, door: Door) -> None:
    door.usage()
    assert wire.operations == ["GetItem"]


# OpenRouter's catalogue.


def asked(simulator: Simulator) -> list[str]:
    """What the gate asked upstream besides calls, since the last time."""
    paths = [request.target.removeprefix("/api/v1") for request in simulator.seen if request.method == "GET"]
    simulator.seen.clear()
    return paths


@pytest.fixture
def cold(make_door: MakeDoor) -> Door:
    """A gate that has not asked for any price."""
    return make_door()


def test_the_catalogue_is_asked_at_the_first_call_of_a_model_only(cold: Door, simulator: Simulator) -> None:
    assert cold.chat().status == 200
    assert asked(simulator) == ["/models", "/models/sim/ok/endpoints"]
    assert [cold.chat(stream=stream).status for stream in (False, True, False)] == [200] * 3
    assert asked(simulator) == []
    assert cold.chat(model="sim/cent").status == 200
    assert asked(simulator) == ["/models/sim/cent/endpoints"]
    assert cold.chat().status == 200
    assert asked(simulator) == []


def test_a_refused_call_asks_the_catalogue_no_more_than_an_admitted_one(
    make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(DEFAULT_DAILY_BUDGET="0")
    assert [door.chat().status for _ in range(3)] == [429] * 3
    assert asked(simulator) == ["/models", "/models/sim/ok/endpoints"]


def test_prices_are_asked_again_when_their_time_is_over_and_not_before(cold: Door, simulator: Simulator) -> None:
    moment = 0.0
    catalogue = Catalogue(cold.gate.upstream, 300, lambda: moment)
    door = Door(replace(cold.gate, catalogue=catalogue))
    door.chat()
    assert asked(simulator) == ["/models", "/models/sim/ok/endpoints"]
    moment = 299.9
    door.chat()
    assert asked(simulator) == []
    moment = 300.0
    door.chat()
    assert asked(simulator) == ["/models", "/models/sim/ok/endpoints"]


def test_a_name_that_is_not_in_the_catalogue_costs_no_request_once_the_catalogue_is_known(
    cold: Door, simulator: Simulator
) -> None:
    cold.chat()
    asked(simulator)
    assert [cold.chat(model=f"no/such-{number}").status for number in range(3)] == [422] * 3
    assert asked(simulator) == []
