"""Between two attempts the store may fail: no hold is left behind unseen, and none ends twice."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from farebox.store import Store
from farebox.sweep import Sweeper, sweep
from local.simulator import Simulator
from tests.conftest import Door, MakeDoor, connected
from tests.test_upstream_faults import NOON, at_noon, books, spans
from tests.wire import Fault, Wire, always, first, name_of, no_faults

BEHIND = "sim/cent"
MONTH = "2026-11"
LATER = NOON.replace(hour=13)


@pytest.fixture
def door(wire: Wire, make_door: MakeDoor) -> Door:
    """At noon, with a chain of two, behind the wire."""
    opened = at_noon(make_door(store_url=wire.url, FALLBACK_MODEL_CHAIN=BEHIND))
    opened.gate.desk.directory.at("default", NOON)
    wire.seen.clear()
    return Door(replace(opened.gate, desk=replace(opened.gate.desk, sleep=lambda _: None)))


def sweep_at(door: Door, wire: Wire, now: Callable[[], datetime]) -> Mapping[str, int]:
    gate = door.gate
    store = Store(connected(wire.url), gate.settings.farebox_table)
    return sweep(Sweeper(store, gate.desk.directory, gate.desk.watch, gate.upstream, gate.telemetry, now), lambda: True)


def story(door: Door) -> list[tuple[Any, ...]]:
    return sorted((span["attempt"], span["model"], span["outcome"]) for span in spans(door))


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.TWICE, Fault.DROPPED], ids=name_of)
def test_holds_are_exchanged_once_by_a_request_that_is_repeated(
    fault: Fault, wire: Wire, door: Door, simulator: Simulator
) -> None:
    wire.plan = first("swap", fault)
    assert door.chat(model="sim/502", max_tokens=1000).headers["X-Farebox-Model"] == BEHIND
    wire.plan = no_faults
    assert story(door) == [(1, "sim/502", "declined"), (2, BEHIND, "answered")]
    assert books(door) == (simulator.billed_nanousd, 0)


@pytest.mark.parametrize("fault", [Fault.DROPPED, Fault.LOST, Fault.LATE], ids=name_of)
def test_without_word_of_the_exchange_there_is_no_second_attempt_and_nothing_stays_held(
    fault: Fault, wire: Wire, door: Door, simulator: Simulator
) -> None:
    """Whether it was made, was not, or is made later."""
    wire.plan = always("swap", fault)
    answered = door.chat(model="sim/502", max_tokens=1000)
    wire.plan = no_faults
    wire.deliver()
    assert answered.status == 502
    assert not simulator.generations
    assert story(door) == [(1, "sim/502", "declined")]
    assert books(door) == (0, 0)
    assert not door.gate.store.ledger("default", MONTH).holds


def test_where_neither_hold_can_be_ended_reminders_of_both_are_left_for_the_sweep(wire: Wire, door: Door) -> None:
    wire.plan = lambda seen: Fault.LOST if seen.step == "swap" else Fault.JUNK if seen.step == "settle" else None
    assert door.chat(model="sim/502", max_tokens=1000).status == 502
    wire.plan = no_faults
    assert len(door.gate.store.ledger("default", MONTH).holds) == 1
    sweep_at(door, wire, lambda: LATER)
    assert not list(door.gate.store.reminders())
    assert not door.gate.store.ledger("default", MONTH).holds
    assert books(door) == (0, 0)


def test_a_lost_attempt_without_a_second_hold_ends_the_call_and_keeps_its_own(wire: Wire, door: Door) -> None:
    reserves = Counter[str]()

    def second_reserve_fails(seen: Any) -> Fault | None:
        if seen.step != "reserve":
            return None
        reserves["seen"] += 1
        return Fault.JUNK if reserves["seen"] > 1 else None

    wire.plan = second_reserve_fails
    answered = door.chat(model="sim/504", max_tokens=1000)
    wire.plan = no_faults
    assert answered.status == 504
    assert answered.headers["x-should-retry"] == "false"
    (span,) = spans(door)
    assert books(door) == (0, span["hold_nanousd"])
    assert sweep_at(door, wire, lambda: LATER)["estimated"] == 1
    assert not door.gate.store.ledger("default", MONTH).holds
    assert books(door) == (span["hold_nanousd"], 0)
