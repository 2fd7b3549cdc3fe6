"""Sweeps that die, that run at once, and whose requests to the store go wrong: every hold ends once all the same."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from farebox.admission import HOLD_SECONDS
from farebox.ledger import Limits
from farebox.store import StoreError
from farebox.sweep import sweep
from farebox.tenants import Tenant
from local.simulator import Simulator, transport
from local.sockets import Server
from tests.cold_start import loaded
from tests.conftest import MakeDoor, new_table
from tests.scenes import (
    BOOKED,
    NOTHING,
    READY_S,
    START,
    UNKNOWN,
    WAITING,
    OpenScene,
    Scene,
    killed,
    record_of,
)
from tests.seeds import seed
from tests.wire import Fault, Wire, always, first, name_of, no_faults

RUN = ["Query", "resolve_span", "settle", "forget"]
"""The requests to the store that end one lost call."""
WALK = ["cursor", "registered", "registered", "GetItem"]
"""And those that come first, which look for holds in the ledgers of two months, of which one has calls."""
FOUND = [*WALK, "GetItem"]
"""And those before one that has expired is resolved: what its reminder knows is asked for."""


# More than one run.


def test_a_run_ends_when_its_time_is_out_and_the_next_one_goes_on(each: Scene) -> None:
    for _ in range(5):
        each.call()
    each.clock.sleep(READY_S)
    left = iter([True, True, True, False])  # for the one ledger, and for two calls
    assert sweep(each.sweeper, lambda: next(left)) == {**NOTHING, "booked": 2}
    assert ["cost_nanousd" in span for span in each.spans] == [True, True, False, False, False]  # the oldest first
    assert [item["sk"] for item in each.reminders] == [span["sk"] for span in each.spans[2:]]
    assert sweep(each.sweeper, lambda: False) == NOTHING
    assert each.sweep() == {**NOTHING, "booked": 3}
    each.has_ended(each.billed)


def test_a_hold_that_has_ended_is_never_ended_again(each: Scene) -> None:
    each.call()
    (item,) = each.reminders
    reminder = {name: value for name, value in item.items() if name not in ("pk", "sk")}
    each.clock.sleep(READY_S)
    assert each.sweep() == BOOKED
    before = each.all
    # A copy of the reminder that comes late, and an OpenRouter that has thought about its bill, or forgotten it.
    for other in (None, record_of(total_cost=5), UNKNOWN):
        each.store.remind(item["sk"], reminder)
        each.records.other = other
        each.clock.sleep(HOLD_SECONDS)
        each.sweep()
        assert each.all == before


def test_the_same_reminder_twice_is_one(each: Scene) -> None:
    each.call()
    (item,) = each.reminders
    each.store.remind(item["sk"], {name: value for name, value in item.items() if name not in ("pk", "sk")})
    assert each.reminders == [item]


@pytest.mark.parametrize("is_known", [True, False])
def test_sweeps_at_once_end_every_hold_once(is_known: bool, each: Scene) -> None:  # noqa: FBT001
    for _ in range(6):
        each.call()
    held = each.month().held_nanousd
    each.records.other = None if is_known else UNKNOWN
    each.clock.sleep(HOLD_SECONDS)
    together = threading.Barrier(8, timeout=20)

    def run(_: int) -> None:
        together.wait()
        each.sweep()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    each.has_ended(each.billed if is_known else held, is_estimated=not is_known)


@pytest.mark.parametrize("times", range(3))
def test_of_two_sweeps_that_found_different_costs_one_is_right_for_span_and_ledger(times: int, each: Scene) -> None:
    each.call()
    each.clock.sleep(HOLD_SECONDS)
    together = threading.Barrier(2, timeout=20)
    answers = iter([UNKNOWN, record_of(total_cost=0.000_001 * times)])
    lock = threading.Lock()

    def other(request: httpx.Request) -> httpx.Response:
        with lock:
            handle = next(answers)
        together.wait()  # both have read the reminder, and neither has written anything
        return handle(request)

    each.records.other = other
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: each.sweep(), range(2)))
    (span,) = each.spans
    each.has_ended(span["cost_nanousd"], is_estimated=span["is_estimated"])
    assert span["cost_nanousd"] == (span["hold_nanousd"] if span["is_estimated"] else 1_000 * times)


def test_the_first_reminder_of_a_call_stands(each: Scene) -> None:
    each.store.remind("a", {"generation_id": "gen-1"})
    each.store.remind("a", {})
    assert [reminder["generation_id"] for reminder in each.reminders] == ["gen-1"]


# A run that dies.


def is_whole(scene: Scene) -> None:
    """At every moment: what is held has a reminder, what is spent has a span, and nothing was released."""
    ledger, spans = scene.month(), scene.spans
    assert set(ledger.holds) <= {item["sk"] for item in scene.reminders}
    assert {span["sk"] for span in spans if "cost_nanousd" not in span} <= set(ledger.holds)
    ended = [span["cost_nanousd"] for span in spans if span["sk"] not in ledger.holds]
    assert ledger.spent_nanousd == sum(ended)
    assert ledger.held_nanousd == sum(span["hold_nanousd"] for span in spans if span["sk"] in ledger.holds)


ESTIMATING = ["Query", "resolve_span", "remind", "look_again", "settle"]
"""The requests that end a call whose cost nobody knows."""


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
def test_a_sweep_that_dies_at_any_request_is_completed_by_the_next(
    is_known: bool,  # noqa: FBT001 - a parameter of the table
    scene: Scene,
    embedded_url: str,
) -> None:
    held = 0
    scene.records.other = None if is_known else UNKNOWN
    for number in range(len(FOUND) + len(RUN if is_known else ESTIMATING)):
        for after in (False, True):
            scene.clock.at = START
            scene.call()
            held += scene.month().held_nanousd
            scene.clock.sleep(HOLD_SECONDS)
            killed(scene, embedded_url, number, after=after)
            is_whole(scene)
            scene.sweep()
            scene.has_ended(scene.billed if is_known else held, is_estimated=not is_known)
    assert scene.sweep() == NOTHING


@pytest.mark.parametrize("is_known", [True, False], ids=["known-first", "unknown-first"])
def test_the_cost_that_a_dead_sweep_wrote_stands_although_the_next_one_finds_another(
    is_known: bool,  # noqa: FBT001 - a parameter of the table
    scene: Scene,
    embedded_url: str,
) -> None:
    found = {True: None, False: UNKNOWN}
    written = len(FOUND)
    for number in range(written, written + len((RUN if is_known else ESTIMATING)[1:])):
        for after in (False, True):
            scene.clock.at = START
            scene.call()
            scene.clock.sleep(HOLD_SECONDS)
            scene.records.other = found[is_known]
            killed(scene, embedded_url, number, after=after)
            is_whole(scene)
            scene.records.other = found[not is_known]
            scene.sweep()
            span, wrote = scene.spans[-1], (number, after) >= (written, True)
            assert span["is_estimated"] is (is_known != wrote)
            bill = scene.simulator.generations[-1].charge.billed_nanousd
            assert span["cost_nanousd"] == (span["hold_nanousd"] if span["is_estimated"] else bill)
            is_whole(scene)
            assert dict(scene.month().holds) == {}


# The line to the store.


@pytest.fixture
def wire(store_url: str) -> Iterator[Wire]:
    """To each store."""
    with Wire(store_url) as wire:
        yield wire


@pytest.fixture
def wired(embedded_wire: Wire, embedded_url: str, open_scene: OpenScene) -> Scene:
    """A scene behind the wire, each request of which is sent once."""
    return open_scene(embedded_wire.url, past=embedded_url, tries=1)


def lost(scene: Scene) -> None:
    """One more lost call, whose cost is known."""
    scene.clock.at = START
    scene.call()
    scene.clock.sleep(READY_S)


def test_a_span_of_an_hour_that_is_over_is_changed_only_when_the_hour_is_marked(
    wired: Scene, embedded_wire: Wire
) -> None:
    wired.call()
    wired.clock.sleep(3599)
    wired.sweep()
    assert "resolve_span" in embedded_wire.steps
    assert "mark_stale" not in embedded_wire.steps
    wired.clock.at = START
    wired.call()
    wired.clock.at = START + timedelta(seconds=3600)
    before = len(embedded_wire.seen)
    wired.sweep()
    steps = embedded_wire.steps[before:]
    assert steps.index("mark_stale") < steps.index("resolve_span")
    (mark,) = [seen.key for seen in embedded_wire.seen if seen.step == "mark_stale"]
    assert mark[1].startswith("STALE#2026-11-23T12#")


def test_a_lost_call_is_ended_with_three_writes_and_its_tenant_is_read_once(wired: Scene, embedded_wire: Wire) -> None:
    steps = []
    for _ in range(2):
        lost(wired)
        embedded_wire.seen.clear()
        wired.sweep()
        steps.append(embedded_wire.steps)
    assert steps == [[*WALK, *RUN[:3], "GetItem", "forget"], [*WALK, *RUN]]
    embedded_wire.seen.clear()
    wired.sweep()
    assert embedded_wire.steps == [*WALK, "Query"]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.TWICE, Fault.DROPPED], ids=name_of)
def test_a_request_of_a_sweep_that_is_lost_or_comes_twice_changes_nothing(
    fault: Fault, wire: Wire, store_url: str, open_scene: OpenScene
) -> None:
    scene = open_scene(wire.url, past=store_url)
    for step in RUN:
        wire.plan = no_faults
        lost(scene)
        wire.plan = first(step, fault)
        assert scene.sweep() == BOOKED, step
        scene.has_ended(scene.billed)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.THROTTLED, Fault.FAILED, Fault.JUNK], ids=name_of)
def test_a_sweep_whose_requests_never_get_through_is_completed_by_the_next(
    fault: Fault, wired: Scene, embedded_wire: Wire
) -> None:
    for step in RUN:
        lost(wired)
        embedded_wire.plan = always(step, fault)
        with suppress(StoreError):
            wired.sweep()
        embedded_wire.plan = no_faults
        is_whole(wired)
        wired.sweep()
        wired.has_ended(wired.billed)


def test_a_reminder_is_written_although_its_request_is_lost_or_comes_twice(
    embedded_wire: Wire, embedded_url: str, open_scene: OpenScene
) -> None:
    scene = open_scene(embedded_wire.url, past=embedded_url)
    for fault in (Fault.LOST, Fault.TWICE, Fault.DROPPED):
        embedded_wire.plan = first("remind", fault)
        lost(scene)
        assert scene.sweep() == BOOKED
        scene.has_ended(scene.billed)


# Budget states.


LOW = {"DEFAULT_DAILY_BUDGET": "0.0125", "FAREBOX_HOLD_FRACTION": "1"}
"""A lost call of sim/cent costs 80 percent of it."""


def lost_cent(scene: Scene) -> None:
    cent = scene.simulator.models["sim/cent"]
    scene.simulator.models["sim/cent"] = replace(cent, script=replace(cent.script, usage="missing"))
    scene.call("sim/cent", max_tokens=1000)
    assert list(scene.store.events()) == []
    scene.clock.sleep(READY_S)


def told(scene: Scene) -> list[tuple[str, str, int, int]]:
    names = ("from", "to", "spent_nanousd", "limit_nanousd")
    return [tuple(event[name] for name in names) for event in scene.store.events()]


def test_a_settlement_by_the_sweep_that_crosses_a_threshold_tells_it(open_scene: OpenScene, store_url: str) -> None:
    scene = open_scene(store_url, **LOW)
    lost_cent(scene)
    assert scene.sweep() == BOOKED
    assert told(scene) == [("active", "warned", 10_000_000, 12_500_000)]
    assert scene.sweep() == NOTHING
    assert len(told(scene)) == 1


@pytest.mark.parametrize("step", ["put_event", "mark"])
def test_a_sweep_whose_change_cannot_be_told_ends_the_call_all_the_same(
    step: str, open_scene: OpenScene, embedded_wire: Wire
) -> None:
    wire = embedded_wire
    scene = open_scene(wire.url, tries=1, **LOW)
    lost_cent(scene)
    wire.plan = always(step, Fault.FAILED)
    assert scene.sweep() == BOOKED
    assert (scene.month().spent_nanousd, dict(scene.month().holds), scene.reminders) == (10_000_000, {}, [])
    wire.plan = no_faults
    scene.call("sim/free:free")
    assert told(scene) == [("active", "warned", 10_000_000, 12_500_000)]


def test_a_sweep_whose_tenant_cannot_be_read_tells_the_change_in_its_next_run(
    open_scene: OpenScene, embedded_wire: Wire
) -> None:
    wire = embedded_wire
    scene = open_scene(wire.url, tries=1, **LOW)
    lost_cent(scene)
    wire.plan = always("GetItem", Fault.FAILED)
    with pytest.raises(StoreError):
        scene.sweep()
    wire.plan = no_faults
    assert scene.sweep() == BOOKED
    assert told(scene) == [("active", "warned", 10_000_000, 12_500_000)]


def test_a_warm_sweep_tells_by_limits_that_were_changed_meanwhile(open_scene: OpenScene, embedded_url: str) -> None:
    scene = open_scene(embedded_url, FAREBOX_HOLD_FRACTION="1")
    scene.call()
    scene.clock.sleep(READY_S)
    scene.sweep()  # has read the tenant
    spent = scene.month().spent_nanousd
    lowered = Limits(spent + 12_500_000, 10**12, 7)
    seed(scene.store, Tenant("default", lowered))
    scene.door.gate.desk.directory.forget("default")
    lost_cent(scene)
    scene.sweep()
    assert told(scene) == [("active", "warned", spent + 10_000_000, lowered.day_nanousd)]


# The handler.


SCHEDULED = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.scheduler",
    "account": "123456789012",
    "time": "2026-11-23T12:05:00Z",
    "region": "us-east-1",
    "resources": ["arn:aws:scheduler:us-east-1:123456789012:schedule/default/farebox-RollupOften"],
    "detail": "{}",
}


@dataclass(frozen=True, slots=True)
class Left:
    """Lambda's context, with so much time left."""

    milliseconds: int

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def test_the_scheduled_function_ends_lost_calls_and_reports_how_many(
    make_door: MakeDoor, embedded_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator, table = Simulator(sleep=lambda _: None, generation_ready_s=0), new_table(embedded_url)
    door = make_door(upstream=transport(simulator), FAREBOX_TABLE=table)
    for model in ("sim/usage-missing", "sim/cost-null", "sim/524-html"):
        door.chat(model=model)
    held = door.gate.store.ledger("default", f"{datetime.now(UTC):%Y-%m}").holds
    with Server(simulator.handle) as upstream:
        monkeypatch.setenv("OPENROUTER_BASE_URL", f"{upstream.url}/api/v1")
        monkeypatch.setenv("OPENROUTER_API_KEY", "simulated")
        monkeypatch.setenv("FAREBOX_TABLE", table)
        handler = loaded("rollup")
        assert handler.handler(dict(SCHEDULED), Left(30_000)) == NOTHING
        assert handler.handler(dict(SCHEDULED), Left(240_000)) == {**NOTHING, "booked": 2, "waiting": 1}
        assert handler.handler(dict(SCHEDULED), Left(240_000)) == WAITING
        handler.parts.sweeper.upstream._client.close()
    usage = door.usage()["monthly"]
    known = [one for one in simulator.generations if one.model != "sim/524-html"]
    assert round(usage["spent_usd"] * 10**9) == sum(one.charge.billed_nanousd for one in known)
    (waiting,) = [hold for hold in held.values() if hold.model == "sim/524-html"]
    assert round(usage["held_usd"] * 10**9) == waiting.amount_nanousd
