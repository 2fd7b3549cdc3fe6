"""Functions that die in the middle of a call: it is booked by its span, by the id in its hold, or at its hold."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from farebox.admission import HOLD_SECONDS
from farebox.course import NOTE_S
from farebox.ledger import Ledger, Limits
from farebox.store import StoreError
from tests.conftest import Door
from tests.scenes import (
    BOOKED,
    ESTIMATED,
    NOTHING,
    NOVEMBER,
    READY_S,
    START,
    Killed,
    OpenScene,
    Scene,
    dying,
)
from tests.wire import Fault, Wire, always, name_of, no_faults

AMPLE = Limits(10**15, 10**15, 0)
BEGAN = int(START.timestamp())


# A function that dies at some step of a call.


def died(scene: Scene, store_url: str, number: int, model: str, tenant: str, *, after: bool = False) -> None:
    """A call whose function dies at its n-th request, and the time until its hold has expired."""
    scene.clock.at = START
    with pytest.raises(Killed):
        dying(scene, store_url, number, after=after).call(model, tenant=tenant, stream=model == "sim/slow")
    scene.clock.at = START + timedelta(seconds=HOLD_SECONDS - 1)


CALL = ["tenant", "register", "reserve", "put_span", "settle"]
LOST_CALL = [*CALL[:4], "remind"]
SLOW_CALL = [*CALL[:3], "note", *CALL[3:]]


def end_of(tenant: str, scene: Scene) -> tuple[int, dict[str, int]]:
    """What a sweep does to the ledger of one tenant: spent, and what it counts; before its time it does nothing."""
    before = scene.month(tenant=tenant)
    is_reminded = bool(scene.reminders)
    if not is_reminded:
        assert scene.sweep() == NOTHING
        assert scene.month(tenant=tenant) == before
    scene.clock.sleep(1)
    counts = scene.sweep()
    ledger = scene.month(tenant=tenant)
    assert dict(ledger.holds) == {}
    assert ledger.committed_by_day in ({}, {23: ledger.committed_nanousd})
    assert scene.sweep() == NOTHING
    return ledger.spent_nanousd, counts


def test_a_call_that_dies_at_any_request_is_booked_by_its_span_or_at_its_hold(scene: Scene, embedded_url: str) -> None:
    for number, step in enumerate(CALL):
        for after in (False, True):
            tenant, billed = f"{step}-{after}", scene.billed
            died(scene, embedded_url, number, "sim/ok", tenant, after=after)
            held, billed = scene.month(tenant=tenant).held_nanousd, scene.billed - billed
            spent, counts = end_of(tenant, scene)
            if (number, after) < (CALL.index("reserve"), True):
                assert (spent, billed, counts) == (0, 0, NOTHING)
            elif (number, after) <= (CALL.index("put_span"), False):
                assert spent == held >= billed
                assert counts == ESTIMATED
            elif (number, after) < (CALL.index("settle"), True):
                assert (spent, counts) == (billed, BOOKED)
                assert billed > 0
            else:
                assert (spent, counts) == (billed, NOTHING)


def test_a_lost_call_that_dies_after_its_span_is_booked_at_its_bill_also_without_a_reminder(
    scene: Scene, embedded_url: str
) -> None:
    for number, after in ((3, True), (4, False), (4, True)):
        tenant, billed = f"t-{number}-{after}", scene.billed
        died(scene, embedded_url, number, "sim/usage-missing", tenant, after=after)
        assert bool(scene.reminders) is ((number, after) == (4, True))
        assert scene.month(tenant=tenant).held_nanousd > 0
        if scene.reminders:
            assert scene.sweep() == BOOKED
            assert scene.month(tenant=tenant).spent_nanousd == scene.billed - billed
        else:
            assert end_of(tenant, scene) == (scene.billed - billed, BOOKED)


def test_a_span_that_dies_with_its_function_is_made_of_what_the_hold_knows(scene: Scene, embedded_url: str) -> None:
    died(scene, embedded_url, CALL.index("put_span"), "sim/ok", "default")
    ((_, hold),) = scene.month().holds.items()
    scene.clock.sleep(1)
    assert scene.sweep() == ESTIMATED
    (span,) = scene.spans
    assert (span["sk"], span["tenant"], span["feature"], span["model"]) == (hold.id, "default", "default", "sim/ok")
    assert (span["cost_nanousd"], span["is_estimated"], span["month"]) == (hold.amount_nanousd, True, NOVEMBER)
    scene.has_ended(hold.amount_nanousd, is_estimated=True)


# The generation's id in the hold.


def noted(scene: Scene) -> dict[str, str | None]:
    return {hold.model: hold.generation_id for hold in scene.month().holds.values()}


def test_a_call_that_takes_long_has_its_id_in_its_hold_and_a_short_one_has_not(wired: Scene, wire: Wire) -> None:
    wired.call("sim/ok")
    assert (wire.steps.count("note"), wired.clock.timers) == (0, {})
    wired.call("sim/slow", stream=True)
    assert (wire.steps.count("note"), wired.clock.timers) == (1, {})
    assert [step for step in wire.steps[-4:] if step != "put_breaker"] == ["reserve", "note", "put_span", "settle"]
    assert wired.month().spent_nanousd == wired.billed


def test_a_function_that_is_killed_in_a_long_call_has_it_booked_at_the_true_cost(each: Scene, store_url: str) -> None:
    died(each, store_url, SLOW_CALL.index("put_span"), "sim/slow", "default")
    assert noted(each) == {"sim/slow": each.simulator.generations[0].id}
    held = each.month().held_nanousd
    assert end_of("default", each) == (each.billed, BOOKED)
    assert 0 < each.billed < held
    assert each.spans[0]["cost_nanousd"] == each.billed


def test_a_note_that_comes_after_the_end_of_its_call_changes_nothing(each: Scene) -> None:
    each.call("sim/ok")
    (span,) = each.spans
    before = each.all
    each.store.note("default", NOVEMBER, span["sk"], "gen-1")
    each.store.note("nobody", NOVEMBER, span["sk"], "gen-1")
    assert each.all == before
    assert each.month(tenant="nobody") == Ledger()


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.TWICE, Fault.LATE, Fault.FAILED], ids=name_of)
def test_a_note_that_fails_does_not_harm_the_call(fault: Fault, wired: Scene, wire: Wire) -> None:
    wire.plan = always("note", fault)
    assert wired.call("sim/slow", stream=True).status == 200
    assert wire.steps.count("note") == 1
    wire.deliver()
    assert wired.month() == Ledger(wired.billed, {23: wired.billed}, {}, 0)


def test_a_note_is_due_after_a_second_and_called_off_by_the_end_of_each_attempt(
    open_scene: OpenScene, embedded_url: str
) -> None:
    scene = open_scene(embedded_url, FALLBACK_MODEL_CHAIN="sim/ok")
    due: list[float] = []

    def later(seconds: float, do: Any) -> Any:
        due.append(seconds)
        return scene.clock.later(seconds, do)

    scene = replace(scene, door=Door(replace(scene.door.gate, later=later)))
    assert scene.call("sim/finish-error").status == 200
    assert due[:1] == [NOTE_S] * len(due[:1])
    assert len(due) >= 1
    assert scene.clock.timers == {}


# Books that could not be written when the call ended (I6).


def test_a_call_whose_settlement_never_arrived_is_ended_at_the_cost_in_its_span(wired: Scene, wire: Wire) -> None:
    wire.plan = always("settle", Fault.DROPPED)
    wired.call("sim/ok")
    wire.plan = no_faults
    wired.clock.sleep(HOLD_SECONDS)
    wired.sweep()
    assert wired.month() == Ledger(wired.billed, {23: wired.billed}, {}, 0)


@pytest.mark.parametrize("steps", [("put_span",), ("remind",), ("put_span", "remind")], ids="-and-".join)
def test_a_lost_call_whose_span_or_reminder_never_arrived_is_booked(
    steps: tuple[str, ...], wired: Scene, wire: Wire
) -> None:
    wire.plan = lambda seen: Fault.DROPPED if seen.step in steps else None
    wired.call()
    wire.plan = no_faults
    wired.clock.sleep(HOLD_SECONDS)
    wired.sweep()
    assert dict(wired.month().holds) == {}
    assert wired.month().spent_nanousd >= wired.billed
    assert sum(span["cost_nanousd"] for span in wired.spans) == wired.month().spent_nanousd


def test_a_tenant_whose_ledger_does_not_answer_does_not_keep_the_others_waiting(wired: Scene, wire: Wire) -> None:
    for tenant in ("default", "acme"):
        wired.call(tenant=tenant)
    wired.clock.sleep(READY_S)
    wire.plan = lambda seen: Fault.THROTTLED if seen.step == "settle" and seen.key[0] == "TENANT#default" else None
    with pytest.raises(StoreError):
        wired.sweep()
    assert dict(wired.month(tenant="acme").holds) == {}


@pytest.mark.parametrize("model", ["sim/429", "sim/ok"])
def test_a_cost_that_was_known_is_booked_also_when_its_span_could_not_be_written(
    model: str, wired: Scene, wire: Wire
) -> None:
    wire.plan = always("put_span", Fault.DROPPED)
    wired.call(model)
    wire.plan = no_faults
    wired.sweep()
    assert wired.month() == Ledger(wired.billed, {23: wired.billed}, {}, 0)
    assert sum(span["cost_nanousd"] for span in wired.spans) == wired.billed
