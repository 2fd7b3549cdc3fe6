"""No hold is lost silently: whatever the store does not take, each hold has ended or a reminder of it is left.

A call to a model that is down, with another behind it: the first hold is exchanged for the second.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.config import Config

from farebox.admission import Admission
from farebox.books import Books
from farebox.ledger import Ledger
from farebox.settlement import Settlement
from farebox.store import Store
from farebox.watch import Watch
from local.child import connect
from local.simulator import Simulator
from tests.conftest import Door, MakeDoor
from tests.test_exactly_once import MONTH, chats_sent, door_behind, month_of, spans_of
from tests.wire import Fault, Plan, Seen, Wire, always, first, name_of, no_faults

DOWN = "sim/500"


@pytest.fixture
def wire(store_url: str) -> Iterator[Wire]:
    """To each store."""
    with Wire(store_url) as wire:
        yield wire


@pytest.fixture
def door(wire: Wire, make_door: MakeDoor) -> Door:
    """A gate with sim/cent behind every model."""
    return opened(wire, make_door)


@pytest.fixture
def embedded_door(embedded_wire: Wire, make_door: MakeDoor) -> Door:
    """The same on the embedded store, asked once for each step: what is never confirmed need not be so three times."""
    gate = opened(embedded_wire, make_door).gate
    once = Config(retries={"total_max_attempts": 1})
    store = Store(connect(embedded_wire.url, once), gate.settings.farebox_table)
    watch = Watch(store, gate.telemetry, gate.now)
    desk = replace(gate.desk, store=store, watch=watch)
    books = Books(store, watch, gate.telemetry, gate.now, gate.monotonic, desk.sleep, pauses_s=())
    return Door(replace(gate, store=store, desk=desk, books=books))


def opened(wire: Wire, make_door: MakeDoor) -> Door:
    door = door_behind(wire, make_door, FALLBACK_MODEL_CHAIN="sim/cent")
    for model in (DOWN, "sim/524-html", "sim/cent"):
        door.gate.catalogue.model(model)
        door.gate.breakers.wait_s(model)
    wire.seen.clear()
    return door


def reminders(door: Door) -> dict[str, Any]:
    """Hold to cost."""
    return {item["sk"]: item.get("cost_nanousd") for item in door.gate.store.reminders()}


def is_found(door: Door) -> None:
    """Every hold that is left has a reminder."""
    assert set(month_of(door).holds) <= reminders(door).keys()


def is_paid(door: Door, simulator: Simulator) -> None:
    """Nothing is held, and the spans have all that was spent, which is the bill."""
    ledger = month_of(door)
    assert (dict(ledger.holds), ledger.spent_nanousd) == ({}, simulator.billed_nanousd)
    assert sum(span["cost_nanousd"] for span in spans_of(door)) == simulator.billed_nanousd


# The exchange.


def test_an_exchange_leaves_two_spans_of_one_call_and_one_payment(wire: Wire, door: Door, simulator: Simulator) -> None:
    assert door.chat(model=DOWN).status == 200
    assert wire.steps == ["reserve", "put_span", "swap", "put_span", "settle"]
    declined, answered = sorted(spans_of(door), key=lambda span: span["attempt"])
    assert (declined["sk"], answered["sk"]) == (declined["call"], f"{declined['call']}-2")
    assert declined["call"] == answered["call"]
    assert [(span["attempt"], span["outcome"]) for span in (declined, answered)] == [(1, "declined"), (2, "answered")]
    assert [span["model"] for span in (declined, answered)] == [DOWN, "sim/cent"]
    is_paid(door, simulator)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.TWICE, Fault.DROPPED], ids=name_of)
def test_a_swap_that_is_lost_or_comes_twice_changes_nothing_for_the_call(
    fault: Fault, wire: Wire, door: Door, simulator: Simulator
) -> None:
    wire.plan = first("swap", fault)
    assert door.chat(model=DOWN).status == 200
    is_paid(door, simulator)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.DROPPED, Fault.THROTTLED, Fault.JUNK], ids=name_of)
def test_a_swap_that_is_never_confirmed_leaves_neither_hold_and_asks_no_other_model(
    fault: Fault, embedded_wire: Wire, embedded_door: Door, simulator: Simulator
) -> None:
    embedded_wire.plan = always("swap", fault)
    assert embedded_door.chat(model=DOWN).status != 200
    assert chats_sent(simulator) == 1
    ledger = month_of(embedded_door)
    assert (dict(ledger.holds), ledger.committed_nanousd) == ({}, 0)


@pytest.mark.parametrize("before", [1, 2], ids=["before-the-first", "before-the-second"])
def test_a_swap_that_arrives_between_the_ends_of_both_holds_leaves_neither(
    before: int, wire: Wire, door: Door, simulator: Simulator
) -> None:
    settled: list[Seen] = []

    def plan(seen: Seen) -> Fault | None:
        if seen.step == "settle":
            settled.append(seen)
            if len(settled) == before:
                wire.deliver()
        return Fault.LATE if seen.step == "swap" else None

    wire.plan = plan
    door.chat(model=DOWN)
    wire.deliver()
    ledger = month_of(door)
    assert (dict(ledger.holds), ledger.committed_nanousd) == ({}, 0)
    assert chats_sent(simulator) == 1


def never(*steps: str, fault: Fault = Fault.FAILED) -> Plan:
    return lambda seen: fault if seen.step in steps else None


@pytest.mark.parametrize("swap", [Fault.LOST, Fault.DROPPED], ids=name_of)
@pytest.mark.parametrize("settle", [Fault.LOST, Fault.FAILED], ids=name_of)
def test_a_swap_and_both_ends_that_are_never_confirmed_leave_reminders_of_both_at_no_cost(
    swap: Fault, settle: Fault, embedded_wire: Wire, embedded_door: Door
) -> None:
    embedded_wire.plan = lambda seen: {"swap": swap, "settle": settle}.get(seen.step)
    embedded_door.chat(model=DOWN)
    embedded_wire.plan = no_faults
    (call,) = {span["call"] for span in spans_of(embedded_door)}
    assert reminders(embedded_door) == {call: 0, f"{call}-2": 0}
    is_found(embedded_door)


# The end of an attempt.


@pytest.mark.parametrize("model", ["sim/ok", DOWN, "sim/524-html"])
@pytest.mark.parametrize("step", ["put_span", "settle", "remind"])
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.FAILED], ids=name_of)
def test_a_call_is_answered_and_no_hold_is_lost_when_the_store_never_confirms_a_step(
    fault: Fault, step: str, model: str, embedded_wire: Wire, embedded_door: Door
) -> None:
    """A lost call whose reminder is not written is found by the walk, which has its tests in test_walk.py."""
    embedded_wire.plan = never(step, fault=fault)
    assert embedded_door.chat(model=model).status == 200
    embedded_wire.plan = no_faults
    if (step, fault, model) == ("remind", Fault.FAILED, "sim/524-html"):
        return
    is_found(embedded_door)
    known = {span["sk"] for span in spans_of(embedded_door)} | reminders(embedded_door).keys()
    assert len(known) == (1 if model == "sim/ok" else 2)


def test_a_lost_attempt_whose_successor_has_no_hold_keeps_its_own(
    embedded_wire: Wire, embedded_door: Door, simulator: Simulator
) -> None:
    reserves = iter([None])
    embedded_wire.plan = lambda seen: next(reserves, Fault.FAILED) if seen.step == "reserve" else None
    embedded_door.chat(model="sim/524-html")
    assert chats_sent(simulator) == 1
    ledger = month_of(embedded_door)
    (hold,) = ledger.holds
    assert reminders(embedded_door) == {hold: None}
    assert ledger.held_nanousd == ledger.committed_nanousd > simulator.billed_nanousd > 0


def test_a_hold_stays_while_neither_its_span_nor_a_reminder_is_written(
    embedded_wire: Wire, embedded_door: Door
) -> None:
    embedded_wire.plan = never("put_span", "remind")
    assert embedded_door.chat().status == 200
    embedded_wire.plan = no_faults
    ledger: Ledger = embedded_door.gate.store.ledger("default", MONTH)
    assert ledger.spent_nanousd == sum(span["cost_nanousd"] for span in spans_of(embedded_door))


# What is not answered is asked again, while there is time.


class Waiting:
    """A clock that only naps move; each nap may change the plan."""

    def __init__(self, wire: Wire, naps: int, then: Plan) -> None:
        self.seconds = 0.0
        self.naps: list[float] = []
        self._wire, self._changes_after, self._then = wire, naps, then

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.seconds += seconds
        if len(self.naps) == self._changes_after:
            self._wire.plan = self._then


class WithoutTime(Books):
    """Half a second is left when an attempt ends."""

    def settle(self, admission: Admission, settlement: Settlement, deadline: float) -> Ledger:
        return super().settle(admission, settlement, min(deadline, self._monotonic() + 0.5))


def insisting(door: Door, waiting: Waiting, kind: type[Books] = Books) -> Door:
    gate = door.gate
    books = kind(gate.store, gate.desk.watch, gate.telemetry, gate.now, waiting.monotonic, waiting.sleep)
    return Door(replace(gate, books=books))


@pytest.mark.parametrize("step", ["put_span", "settle"])
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.THROTTLED], ids=name_of)
def test_a_store_that_fails_for_a_moment_gets_the_span_and_the_settlement_once(
    step: str, fault: Fault, embedded_wire: Wire, embedded_door: Door, simulator: Simulator
) -> None:
    embedded_wire.plan = always(step, fault)
    waiting = Waiting(embedded_wire, 2, no_faults)
    assert insisting(embedded_door, waiting).chat(model="sim/cent").status == 200
    assert waiting.naps == [0.2, 0.4]
    assert reminders(embedded_door) == {}
    is_paid(embedded_door, simulator)


def test_a_store_that_stays_away_is_asked_for_three_seconds_and_a_reminder_is_left(
    embedded_wire: Wire, embedded_door: Door, simulator: Simulator
) -> None:
    embedded_wire.plan = always("settle", Fault.THROTTLED)
    waiting = Waiting(embedded_wire, 99, no_faults)
    assert insisting(embedded_door, waiting).chat(model="sim/cent").status == 200
    assert sum(waiting.naps) == pytest.approx(3)
    (cost,) = reminders(embedded_door).values()
    assert cost == simulator.billed_nanousd


def test_no_try_begins_after_the_deadline(embedded_wire: Wire, embedded_door: Door, simulator: Simulator) -> None:
    embedded_wire.plan = always("settle", Fault.THROTTLED)
    waiting = Waiting(embedded_wire, 99, no_faults)
    assert insisting(embedded_door, waiting, WithoutTime).chat(model="sim/cent").status == 200
    assert waiting.naps == [0.2]
    assert list(reminders(embedded_door).values()) == [simulator.billed_nanousd]
