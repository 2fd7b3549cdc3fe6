"""Without the ledger nothing is admitted; where an allowance is set a little is, and it is booked afterwards, once."""

from dataclasses import replace

from botocore.config import Config

from farebox.books import Books
from farebox.directory import Directory
from farebox.money import nanousd_ceil
from farebox.outage import Outage
from farebox.store import Store
from farebox.watch import Watch
from local.child import connect
from local.simulator import Simulator
from tests.conftest import Door, MakeDoor
from tests.test_exactly_once import chats_sent, door_behind, month_of, spans_of
from tests.wire import Fault, Wire, always, first, no_faults

ALLOWED = {"FAREBOX_FAIL_OPEN_USD": "0.05"}


def warm(wire: Wire, make_door: MakeDoor, **settings: str) -> Door:
    """A gate that has answered one call, of 0.01 USD."""
    door = opened(wire, make_door, **settings)
    assert cent(door) == 200
    return door


def opened(wire: Wire, make_door: MakeDoor, **settings: str) -> Door:
    """A gate that knows tenant, prices and circuits, and asks the table for each thing once: here nearly all fail."""
    gate = door_behind(wire, make_door, **settings).gate
    for model in ("sim/cent", "sim/cut", "sim/agent"):
        gate.catalogue.model(model)
        gate.breakers.wait_s(model)
    once = Config(retries={"total_max_attempts": 1})
    store = Store(connect(wire.url, once), gate.settings.farebox_table)
    watch = Watch(store, gate.telemetry, gate.now)
    outage = Outage(store, gate.telemetry, nanousd_ceil(gate.settings.farebox_fail_open_usd))
    desk = replace(gate.desk, store=store, watch=watch, directory=Directory(store, gate.settings))
    books = Books(store, watch, gate.telemetry, gate.now, gate.monotonic, desk.sleep, outage, pauses_s=())
    desk.directory.at("default", gate.now())
    wire.seen.clear()
    return Door(replace(gate, store=store, desk=desk, books=books, outage=outage))


def cent(door: Door) -> int:
    return door.chat(model="sim/cent", max_tokens=1000).status


def test_by_default_nothing_is_let_through(wire: Wire, make_door: MakeDoor, simulator: Simulator) -> None:
    door = warm(wire, make_door)
    wire.plan = always("reserve", Fault.FAILED)
    refused = door.chat(model="sim/cent", max_tokens=1000)
    assert (refused.status, refused.reason, refused.headers["Retry-After"]) == (503, "store_unavailable", "2")
    assert chats_sent(simulator) == 1


def test_an_outage_lets_through_what_is_allowed_and_no_more(
    wire: Wire, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = warm(wire, make_door, **ALLOWED)
    wire.plan = always_down
    assert [cent(door) for _ in range(6)] == [200] * 4 + [503] * 2  # the fifth could cost more than is left
    assert simulator.billed_nanousd == 50_000_000


def test_what_was_let_through_is_booked_once_when_the_ledger_answers_again(
    wire: Wire, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = warm(wire, make_door, **ALLOWED)
    wire.plan = always_down
    assert [cent(door), cent(door)] == [200, 200]
    wire.plan = first("mark_ended", Fault.LOST)  # the write of `book`
    assert [cent(door), cent(door)] == [200, 200]
    assert month_of(door).spent_nanousd == simulator.billed_nanousd == 50_000_000
    assert sorted(span["cost_nanousd"] for span in spans_of(door)) == [10_000_000] * 5
    wire.plan = always_down
    assert [cent(door) for _ in range(5)] == [200] * 4 + [503]  # another outage, another allowance


def test_a_call_is_booked_after_an_outage_only_when_its_hour_is_marked_and_each_try_has_a_mark_of_its_own(
    wire: Wire, make_door: MakeDoor
) -> None:
    door = warm(wire, make_door, **ALLOWED)
    wire.plan = always_down
    assert cent(door) == 200
    wire.plan = always("put_span", Fault.DROPPED)
    assert cent(door) == 200
    wire.plan, before = no_faults, len(wire.seen)
    assert cent(door) == 200
    after = wire.steps[before:]
    assert after.index("mark_stale") < after.index("put_span")
    marks = {seen.key for seen in wire.seen if seen.step == "mark_stale"}
    assert len({key for key in marks if key[0] == "ROLLUP"}) == len(marks) >= 3
    for span in spans_of(door):
        assert span["cost_nanousd"] == 10_000_000


def test_a_call_whose_cost_is_not_known_is_booked_at_its_bound(
    wire: Wire, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = warm(wire, make_door, **ALLOWED)
    wire.plan = always_down
    lost = door.chat(model="sim/cut", max_tokens=1000)
    assert lost.reason == "upstream_cut"
    wire.plan = no_faults
    assert cent(door) == 200
    (estimated,) = [span for span in spans_of(door) if span.get("is_estimated")]
    assert estimated["cost_nanousd"] == estimated["hold_nanousd"]
    assert month_of(door).spent_nanousd >= simulator.billed_nanousd


def test_the_tenant_s_cap_for_one_request_counts_in_an_outage_too(wire: Wire, make_door: MakeDoor) -> None:
    door = warm(wire, make_door, FAREBOX_REQUEST_CAP_USD="0.02", **ALLOWED)
    wire.plan = always_down
    assert cent(door) == 200
    assert door.chat(model="sim/agent", messages=[{"role": "user", "content": "x" * 2000}]).status == 503


def test_a_cap_of_nothing_for_one_request_lets_nothing_through(
    wire: Wire, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = opened(wire, make_door, FAREBOX_REQUEST_CAP_USD="0", **ALLOWED)
    wire.plan = always_down
    assert cent(door) == 503
    assert chats_sent(simulator) == 0


def always_down(seen: object) -> Fault | None:  # noqa: ARG001 - whatever it is
    return Fault.FAILED
