"""An estimate is corrected when the truth arrives within a day: once, in span and ledger alike; after that it stays."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from farebox import sweep as sweeping
from farebox.admission import HOLD_SECONDS
from farebox.ledger import Estimate, Ledger
from farebox.reminders import Reminder
from farebox.store import StoreError
from farebox.sweep import CORRECTED_FOR_S
from tests.scenes import (
    CORRECTED,
    ESTIMATED,
    NOTHING,
    START,
    UNKNOWN,
    WAITING,
    Handle,
    OpenScene,
    Scene,
    killed,
    record_of,
    requests_of_a_sweep,
)
from tests.wire import Fault, Wire, always, first, name_of, no_faults

TRUTH = record_of(total_cost=0.000_004)
"""4,000 nano-dollars, far below the hold."""
LAST_LOOK = START + timedelta(seconds=CORRECTED_FOR_S)


def estimated(scene: Scene) -> int:
    """One more call that is booked at its hold, which this is; it is to be looked at again by now."""
    scene.clock.at = START
    scene.records.other = UNKNOWN
    scene.call()
    hold: int = scene.spans[-1]["hold_nanousd"]
    scene.clock.sleep(HOLD_SECONDS)
    assert scene.sweep() == ESTIMATED
    scene.clock.sleep(HOLD_SECONDS)
    return hold


def is_corrected(scene: Scene, spent: int) -> None:
    """Nothing is open any more, and ledger and spans agree."""
    assert scene.month() == Ledger(spent, {23: spent}, {}, 0)
    assert sum(span["cost_nanousd"] for span in scene.spans) == spent
    assert scene.reminders == []


@pytest.mark.parametrize("share", [0, 0.5, 1, 3], ids=["nothing", "lower", "as-estimated", "higher"])
def test_the_truth_takes_the_place_of_an_estimate_in_span_and_ledger(share: float, each: Scene) -> None:
    hold = estimated(each)
    each.has_ended(hold, is_estimated=True)
    cost = int(hold * share)
    each.records.other = record_of(total_cost=cost / 10**9)
    assert each.sweep() == CORRECTED
    is_corrected(each, cost)
    (span,) = each.spans
    assert (span["cost_nanousd"], span["is_estimated"], span["estimated_nanousd"]) == (cost, False, hold)
    assert each.sweep() == NOTHING
    is_corrected(each, cost)


def test_a_correction_above_the_hold_is_logged_as_an_overrun(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    hold = estimated(scene)
    scene.records.other = record_of(total_cost=(hold + 1) / 10**9)
    assert scene.sweep() == CORRECTED
    assert [record.levelname for record in caplog.records if record.message == "overrun"] == ["ERROR"]


def test_before_its_next_look_an_estimate_is_not_asked_about(scene: Scene) -> None:
    estimated(scene)
    scene.clock.sleep(-1)
    scene.records.other = TRUTH
    asked = len(scene.records.asked)
    assert scene.sweep() == NOTHING
    assert len(scene.records.asked) == asked
    scene.clock.sleep(1)
    assert scene.sweep() == CORRECTED


def test_an_estimate_is_looked_at_ever_less_often_and_the_last_time_after_a_day(scene: Scene) -> None:
    estimated(scene)
    asked = len(scene.records.asked)
    for _ in range(2 * CORRECTED_FOR_S // 1800):
        assert scene.sweep() in (NOTHING, WAITING, ESTIMATED)
        scene.clock.sleep(1800)
    assert 4 <= len(scene.records.asked) - asked <= 9
    assert scene.reminders == []


def test_what_nobody_knows_within_a_day_stays_as_it_was_estimated(each: Scene) -> None:
    hold = estimated(each)
    each.clock.at = LAST_LOOK - timedelta(seconds=1)
    before = each.month()
    assert each.sweep() == WAITING
    assert each.month() == before
    assert (before.spent_nanousd, len(before.estimates)) == (hold, 1)
    each.clock.at = LAST_LOOK + timedelta(days=2)
    each.sweep()
    is_corrected(each, hold)
    (span,) = each.spans
    assert (span["cost_nanousd"], span["is_estimated"]) == (hold, True)
    each.records.other = TRUTH
    each.clock.sleep(CORRECTED_FOR_S)
    assert each.sweep() == NOTHING
    is_corrected(each, hold)


def test_the_truth_is_believed_also_at_the_last_look(scene: Scene) -> None:
    estimated(scene)
    scene.clock.at = LAST_LOOK + timedelta(hours=1)
    scene.records.other = TRUTH
    assert scene.sweep() == CORRECTED
    is_corrected(scene, 4_000)


def test_a_call_of_last_month_is_corrected_in_last_month(each: Scene) -> None:
    each.clock.at = datetime(2026, 10, 31, 23, 50, tzinfo=UTC)
    each.records.other = UNKNOWN
    each.call()
    ((id_, hold),) = each.month("2026-10").holds.items()
    each.clock.sleep(HOLD_SECONDS)
    assert each.sweep() == ESTIMATED
    amount = hold.amount_nanousd
    assert each.month("2026-10").estimates == {id_: Estimate(amount, 31)}
    each.clock.sleep(HOLD_SECONDS)
    each.records.other = TRUTH
    assert each.sweep() == CORRECTED
    assert each.month("2026-10") == Ledger(4_000, {31: 4_000}, {}, 0)
    assert each.month() == Ledger()


# Once.

CORRECTING = ["Query", "correct_span", "GetItem", "correct", "forget"]
WALK = ["cursor", "registered", "registered", "GetItem"]
"""What comes before that."""


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.TWICE, Fault.DROPPED, Fault.LATE], ids=name_of)
def test_a_request_of_a_correction_that_is_repeated_or_late_changes_nothing(
    fault: Fault, wire: Wire, embedded_url: str, open_scene: OpenScene
) -> None:
    scene, spent = open_scene(wire.url, past=embedded_url), 0
    for step in CORRECTING[1:]:
        wire.plan = no_faults
        estimated(scene)
        scene.records.other = TRUTH
        wire.seen.clear()
        wire.plan = first(step, fault)
        assert scene.sweep() == CORRECTED, step
        assert step in wire.steps
        spent += 4_000
        is_corrected(scene, spent)
        wire.deliver()
        is_corrected(scene, spent)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.THROTTLED, Fault.FAILED, Fault.JUNK], ids=name_of)
def test_a_correction_whose_requests_never_get_through_is_completed_by_the_next_run(
    fault: Fault, wired: Scene, wire: Wire
) -> None:
    for number, step in enumerate(["Query", "correct_span", "correct", "forget"], start=1):
        estimated(wired)
        wired.records.other = TRUTH
        wire.plan = always(step, fault)
        with suppress(StoreError):
            wired.sweep()
        wire.plan = no_faults
        wired.sweep()
        is_corrected(wired, 4_000 * number)


@pytest.mark.parametrize(
    "then", [TRUTH, record_of(total_cost=0.5), UNKNOWN], ids=["the-same", "something-else", "unknown"]
)
def test_a_sweep_that_dies_while_it_corrects_is_completed_by_the_next_whatever_that_hears(
    then: Handle, scene: Scene, embedded_url: str
) -> None:
    written = len(WALK) + CORRECTING.index("correct_span")
    for number in range(len(WALK) + len(CORRECTING)):
        for after in (False, True):
            before = scene.month().committed_nanousd
            hold = estimated(scene)
            scene.records.other = TRUTH
            killed(scene, embedded_url, number, after=after)
            scene.records.other = then
            scene.clock.at = LAST_LOOK
            scene.sweep()
            # The dead sweep's word stands, if it was spoken; else what the next one hears.
            heard = {id(TRUTH): 4_000, id(UNKNOWN): hold}.get(id(then), 5 * 10**8)
            cost = 4_000 if (number, after) >= (written, True) else heard
            is_corrected(scene, before + cost)
    assert requests_of_a_sweep(scene, embedded_url) == 5  # none for what has ended


def test_sweeps_at_once_correct_an_estimate_once(each: Scene) -> None:
    for _ in range(4):
        each.records.other = UNKNOWN
        each.clock.at = START
        each.call()
    each.clock.sleep(HOLD_SECONDS)
    assert each.sweep() == {**NOTHING, "estimated": 4}
    each.clock.sleep(HOLD_SECONDS)
    each.records.other = TRUTH
    together = threading.Barrier(6, timeout=20)

    def run(_: int) -> None:
        together.wait()
        each.sweep()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    is_corrected(each, 16_000)


@pytest.mark.parametrize("times", range(3))
def test_of_two_sweeps_of_which_one_hears_the_truth_and_one_gives_up_both_book_the_same(
    times: int, each: Scene
) -> None:
    hold = estimated(each)
    each.clock.at = LAST_LOOK
    together, lock = threading.Barrier(2, timeout=20), threading.Lock()
    answers = iter([UNKNOWN, record_of(total_cost=0.000_001 * times)])

    def other(request: httpx.Request) -> httpx.Response:
        with lock:
            handle = next(answers)
        together.wait()  # both have read the reminder, and neither has written anything
        return handle(request)

    each.records.other = other
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: each.sweep(), range(2)))
    (span,) = each.spans
    assert span["cost_nanousd"] in (hold, 1_000 * times)
    is_corrected(each, span["cost_nanousd"])


def test_the_first_last_word_stands_in_the_span(each: Scene) -> None:
    estimated(each)
    each.call("sim/ok")
    (lost, answered) = each.spans
    key, known = (lost["pk"], lost["sk"]), (answered["pk"], answered["sk"])
    assert each.store.correct_span(*key, None) is None
    assert each.store.correct_span(*key, 4_000) is None
    assert each.spans[0]["cost_nanousd"] == lost["cost_nanousd"]
    assert each.store.correct_span("SPANS#1", "nobody", 4_000) is None
    assert each.store.span("SPANS#1", "nobody") == {}
    assert each.store.span(*known) == answered


def test_a_reminder_that_is_late_corrects_nothing_twice(each: Scene) -> None:
    estimated(each)
    (item,) = each.reminders
    each.records.other = TRUTH
    assert each.sweep() == CORRECTED
    before = each.all
    known = {name: value for name, value in item.items() if name not in ("pk", "sk")}
    for reminder in (known, {name: value for name, value in known.items() if name != "look_at"}):
        each.store.remind(item["sk"], reminder)
        each.records.other = record_of(total_cost=0.5)
        each.sweep()
        assert each.all == before


def test_an_estimate_without_an_id_or_of_a_free_hold_is_the_last_word_at_once(scene: Scene) -> None:
    scene.call("sim/524-html")
    scene.clock.sleep(HOLD_SECONDS)
    assert scene.sweep() == ESTIMATED
    (span,) = scene.spans
    is_corrected(scene, span["hold_nanousd"])
    assert replace(scene.month(), estimates={}) == scene.month()


@pytest.mark.parametrize("known", [True, False], ids=["known", "never-known"])
def test_the_last_word_ends_a_hold_that_a_slower_run_has_estimated_and_not_yet_ended(
    known: bool,  # noqa: FBT001 - a case
    scene: Scene,
) -> None:
    scene.clock.at = START
    scene.records.other = UNKNOWN
    scene.call()
    (item,) = scene.reminders
    reminder = Reminder.of(item)
    hold = reminder.hold
    scene.clock.sleep(HOLD_SECONDS)
    as_lost = reminder.span()
    scene.store.resolve_span(reminder.span_pk, hold.id, hold.amount_nanousd, is_estimated=True, known=as_lost)
    scene.store.look_again(hold.id, int(scene.clock.seconds()))
    scene.records.other = TRUTH if known else UNKNOWN
    scene.clock.sleep(CORRECTED_FOR_S)
    spent = 4000 if known else hold.amount_nanousd
    assert sweeping._corrected(scene.sweeper, Reminder.of(scene.reminders[0])) == (
        "corrected" if known else "estimated"
    )
    is_corrected(scene, spent)
    scene.store.settle("default", "2026-11", hold, hold.amount_nanousd, is_estimated=True)  # the slower run goes on
    is_corrected(scene, spent)
