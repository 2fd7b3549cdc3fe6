"""Holds of functions that died: a walk over all ledgers finds them, whatever step their call had come to."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from farebox import spans
from farebox import sweep as sweeping
from farebox.admission import HOLD_SECONDS
from farebox.ledger import MAX_IN_FLIGHT, Estimate, Hold, Ledger, Limits
from farebox.reminders import Reminder
from farebox.store import StoreError
from farebox.sweep import sweep
from farebox.tenants import Tenant
from tests.conftest import connected
from tests.scenes import (
    BOOKED,
    ESTIMATED,
    NOTHING,
    NOVEMBER,
    READY_S,
    START,
    UNKNOWN,
    Killed,
    Scene,
    dying,
    killed,
)
from tests.seeds import seed
from tests.wire import Fault, Wire, always, name_of, no_faults

AMPLE = Limits(10**15, 10**15, 0)
BEGAN = int(START.timestamp())


def left_by(scene: Scene, tenant: str = "default", *, month: str = NOVEMBER, **fields: Any) -> Hold:
    """A hold of a function that died, in a ledger that was registered as the gate does it."""
    began = int(scene.clock.seconds())
    hold = Hold(**{
        "id": f"{began:x}",
        "amount_nanousd": 5_000,
        "day": 23,
        "admitted_at": began,
        "expires_at": began + HOLD_SECONDS,
        "model": "sim/ok",
        **fields,
    })  # fmt: skip
    scene.store.register(tenant, month)
    assert isinstance(scene.store.reserve(tenant, month, hold, AMPLE), Ledger)
    if hold.generation_id is not None:
        scene.store.note(tenant, month, hold.id, hold.generation_id)
    return hold


# Which ledgers.


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "America/New_York"])
@pytest.mark.parametrize("at", ["2026-11-01T00:10", "2026-10-31T10:05", "2026-11-01T11:50", "2027-01-01T00:01"])
def test_a_hold_is_found_in_the_month_of_its_tenants_time_zone(
    zone: str, at: str, scene: Scene, embedded_url: str
) -> None:
    scene.clock.at = datetime.fromisoformat(at).replace(tzinfo=UTC)
    seed(scene.store, Tenant("acme", AMPLE, zone))
    with pytest.raises(Killed):
        dying(scene, embedded_url, 3, after=False).call("sim/ok", tenant="acme")
    scene.clock.sleep(HOLD_SECONDS)
    assert scene.sweep() == ESTIMATED
    _, windows = scene.door.gate.desk.directory.at("acme", datetime.fromisoformat(at).replace(tzinfo=UTC))
    ledger = scene.month(windows.month, "acme")
    assert (dict(ledger.holds), ledger.spent_on(windows.day) > 0) == ({}, True)


def test_a_hold_of_last_month_is_found_all_through_this_one(scene: Scene) -> None:
    for number, at in enumerate(("2026-11-01T00:00", "2026-11-15T12:00", "2026-11-30T23:59")):
        scene.clock.at = datetime(2026, 10, 31, 23, 40, tzinfo=UTC)
        hold = left_by(scene, month="2026-10", day=31, id=f"{number}")
        scene.clock.at = datetime.fromisoformat(at).replace(tzinfo=UTC)
        assert scene.sweep() == ESTIMATED
        assert dict(scene.month("2026-10").holds) == {}
        assert scene.month("2026-10").spent_on(31) == (number + 1) * hold.amount_nanousd


def test_a_hold_that_has_not_expired_is_left_alone(scene: Scene) -> None:
    hold = left_by(scene)
    scene.clock.at = START + timedelta(seconds=HOLD_SECONDS - 1)
    assert scene.sweep() == NOTHING
    assert dict(scene.month().holds) == {hold.id: hold}
    scene.clock.sleep(1)
    assert scene.sweep() == ESTIMATED


def test_a_ledger_full_of_expired_holds_is_emptied_in_one_run(scene: Scene, embedded_url: str) -> None:
    one = left_by(scene, amount_nanousd=0)
    key = {"pk": {"S": "TENANT#default"}, "sk": {"S": f"LEDGER#{NOVEMBER}"}}
    client = connected(embedded_url)
    item = dict(client.get_item(TableName=scene.table, Key=key)["Item"])
    held = item.pop(f"h_{one.id}")["M"]
    holds = {f"h_{number:03}": {"M": {**held, "a": {"N": f"{number}"}}} for number in range(MAX_IN_FLIGHT)}
    spent = sum(range(MAX_IN_FLIGHT))
    counts = {"m": {"N": f"{spent}"}, "d23": {"N": f"{spent}"}, "n": {"N": f"{MAX_IN_FLIGHT}"}}
    client.put_item(TableName=scene.table, Item={**item, **holds, **counts})
    assert scene.month().held_nanousd == spent
    scene.clock.sleep(HOLD_SECONDS)
    assert scene.sweep() == {**NOTHING, "estimated": MAX_IN_FLIGHT}
    assert scene.month() == Ledger(spent, {23: spent}, {}, 0)
    assert sum(span["cost_nanousd"] for span in scene.spans) == spent


def test_walks_at_once_end_every_hold_once(each: Scene) -> None:
    for tenant in ("acme", "bolt"):
        for number in range(6):
            left_by(each, tenant, id=f"{tenant}-{number}", generation_id=f"gen-{number}")
    each.records.other = UNKNOWN
    each.clock.sleep(HOLD_SECONDS)
    together = threading.Barrier(6, timeout=20)

    def run(_: int) -> None:
        together.wait()
        each.sweep()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    for tenant in ("acme", "bolt"):
        estimates = {f"{tenant}-{number}": Estimate(5_000, 23) for number in range(6)}
        assert each.month(tenant=tenant) == Ledger(30_000, {23: 30_000}, {}, 0, estimates=estimates)
    assert len(each.spans) == len(each.reminders) == 12


# Where it stops, and what stops it.

TENANTS = ("ada", "bob", "cyd", "dan", "eve")


def open_holds(scene: Scene) -> set[str]:
    return {tenant for tenant in TENANTS if scene.month(tenant=tenant).holds}


def test_a_walk_sees_so_many_ledgers_and_the_next_one_goes_on_and_begins_anew_at_the_end(
    each: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "MAX_LEDGERS", 2)
    left_by(each, "eve", month="2026-10", day=31)
    for tenant in TENANTS:
        left_by(each, tenant)
    each.clock.sleep(HOLD_SECONDS)
    left = []
    for _ in range(3):
        each.sweep()
        left.append((len(each.month("2026-10", "eve").holds), open_holds(each)))
    assert left == [(0, {*TENANTS[1:]}), (0, {*TENANTS[3:]}), (0, set())]
    for tenant in ("ada", "eve"):
        left_by(each, tenant, id="again", admitted_at=0, expires_at=1)
    seen = []
    while open_holds(each):
        each.sweep()
        seen.append(open_holds(each))
        assert len(seen) < 6
    assert seen[-1] == set()


def test_a_walk_whose_time_is_out_is_gone_on_with_by_the_next(scene: Scene) -> None:
    for tenant in TENANTS:
        left_by(scene, tenant)
    scene.clock.sleep(HOLD_SECONDS)
    assert sweep(scene.sweeper, asked(4)) == {**NOTHING, "estimated": 2}
    assert open_holds(scene) == {*TENANTS[2:]}
    assert sweep(scene.sweeper, lambda: False) == NOTHING
    assert scene.sweep() == {**NOTHING, "estimated": 3}


def asked(times: int) -> Callable[[], bool]:
    """Time is left so often: a walk asks before each ledger and each hold."""
    left = iter([True] * times)
    return lambda: next(left, False)


def ledgers_of(wire: Wire) -> list[str]:
    """The tenants whose ledgers were read, in order, since this was asked."""
    keys = [seen.key for seen in wire.seen if seen.operation == "GetItem"]
    wire.seen.clear()
    return [pk.removeprefix("TENANT#") for pk, sk in keys if sk.startswith("LEDGER#")]


def test_time_is_asked_for_before_each_ledger_and_the_next_walk_begins_behind_the_last_one(
    wired: Scene, wire: Wire
) -> None:
    for tenant in TENANTS:
        wired.store.register(tenant, NOVEMBER)
    wire.seen.clear()
    read = []
    for _ in range(4):
        sweep(wired.sweeper, asked(2))
        read.append(ledgers_of(wire))
    assert read == [["ada", "bob"], ["cyd", "dan"], ["eve"], ["ada", "bob"]]


def test_a_walk_whose_time_is_out_within_a_ledger_is_gone_on_with_in_that_ledger(wired: Scene, wire: Wire) -> None:
    for tenant in TENANTS:
        for number in range(3):
            left_by(wired, tenant, id=f"{tenant}-{number}")
    wired.clock.sleep(HOLD_SECONDS)
    sweep(wired.sweeper, asked(4 + 2))
    assert [len(wired.month(tenant=tenant).holds) for tenant in TENANTS] == [0, 2, 3, 3, 3]
    wire.seen.clear()
    assert wired.sweep() == {**NOTHING, "estimated": 11}
    assert ledgers_of(wire) == [*TENANTS[1:]]


def test_lost_calls_whose_records_take_all_the_time_keep_no_walk_from_its_ledgers(scene: Scene) -> None:
    left_by(scene, "acme")
    scene.clock.sleep(HOLD_SECONDS - 1)
    for _ in range(5):
        scene.call()

    def slow(request: httpx.Request) -> httpx.Response:
        scene.clock.sleep(60)
        return UNKNOWN(request)

    scene.records.other = slow
    scene.clock.sleep(1)
    until = scene.clock.seconds() + 210
    assert sweep(scene.sweeper, lambda: scene.clock.seconds() < until) == {**NOTHING, "estimated": 1, "waiting": 4}
    assert dict(scene.month(tenant="acme").holds) == {}


@pytest.mark.parametrize("step", ["cursor", "registered", "GetItem", "move_cursor"])
def test_a_walk_that_is_broken_off_keeps_no_reminder_waiting_and_the_run_counts_as_failed(
    step: str, wired: Scene, wire: Wire
) -> None:
    for tenant in TENANTS[:2]:
        wired.store.register(tenant, NOVEMBER)
    wired.call(tenant="bob")
    sweep(wired.sweeper, asked(1))  # the next walk will move the cursor
    wired.clock.sleep(READY_S)
    wire.plan = lambda seen: Fault.FAILED if seen.step == step and seen.key[1] != "CONFIG" else None
    with pytest.raises(StoreError):
        wired.sweep()
    assert (dict(wired.month(tenant="bob").holds), wired.reminders) == ({}, [])


def test_a_hold_that_the_walk_finds_ends_as_its_reminder_has_it(scene: Scene) -> None:
    hold = left_by(scene)
    known = Reminder(spans.key(hold)[0], "default", hold.feature, NOVEMBER, hold, None, cost_nanousd=1_234)
    scene.store.remind(hold.id, known.item())
    scene.clock.sleep(HOLD_SECONDS)
    assert scene.sweep() == BOOKED
    scene.has_ended(1_234)


@pytest.mark.parametrize("step", ["GetItem", "settle"])
def test_a_ledger_that_does_not_answer_keeps_no_other_waiting_and_the_run_counts_as_failed(
    step: str, wired: Scene, wire: Wire
) -> None:
    for tenant in TENANTS:
        left_by(wired, tenant)
    wired.clock.sleep(HOLD_SECONDS)
    bad = ("TENANT#bob", f"LEDGER#{NOVEMBER}")
    wire.plan = lambda seen: Fault.THROTTLED if seen.step == step and seen.key == bad else None
    with pytest.raises(StoreError):
        wired.sweep()
    assert open_holds(wired) == {"bob"}
    wire.plan = no_faults
    assert wired.sweep() == ESTIMATED


STEPS = ["cursor", "registered", "GetItem", "resolve_span", "settle", "forget", "unmark", "move_cursor"]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.FAILED, Fault.JUNK], ids=name_of)
def test_a_walk_whose_requests_never_get_through_is_completed_by_the_next(
    fault: Fault, wired: Scene, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "MAX_LEDGERS", 1)
    for number, step in enumerate(STEPS):
        wired.clock.at = START
        left_by(wired, "acme", id=f"a{number}")
        left_by(wired, "bolt", id=f"b{number}")
        mark(wired, f"m{number}", BEGAN)
        wired.clock.sleep(HOLD_SECONDS)
        wire.plan = always(step, fault)
        with suppress(StoreError):
            wired.sweep()
        wire.plan = no_faults
        for _ in range(4):
            wired.sweep()
        for tenant in ("acme", "bolt"):
            assert wired.store.ledger(tenant, NOVEMBER) == Ledger(
                5_000 * (number + 1), {23: 5_000 * (number + 1)}, {}, 0
            ), step
    assert {step for step in wire.steps if step in STEPS} == set(STEPS)
    assert sum(span["cost_nanousd"] for span in wired.spans) == 10_000 * len(STEPS)


def test_a_walk_that_dies_at_any_request_is_completed_by_the_next(scene: Scene, embedded_url: str) -> None:
    walk = ["cursor", "registered", "registered", "GetItem", "reminder", "span", "resolve_span", "settle", "forget"]
    for number in range(len(walk)):
        for after in (False, True):
            scene.clock.at = START
            hold = left_by(scene, id=f"{number}-{after}")
            scene.clock.sleep(HOLD_SECONDS)
            killed(scene, embedded_url, number, after=after)
            scene.sweep()
            spent = (2 * number + after + 1) * hold.amount_nanousd
            scene.has_ended(spent, is_estimated=True)
    assert scene.sweep() == NOTHING


# Marks of holds that have ended.


def mark(scene: Scene, id_: str, until: int, tenant: str = "acme") -> None:
    """What a hold of this environment leaves whose reserve was repeated."""
    store, hold = scene.sweeper.store, Hold(id_, 0, 23, until - HOLD_SECONDS, until, "sim/ok")
    store._repeated.add(id_)
    store.reserve(tenant, NOVEMBER, hold, AMPLE)
    store.settle(tenant, NOVEMBER, hold, 0)
    store._repeated.clear()
    assert scene.store.ledger(tenant, NOVEMBER).ended[id_] == until


def test_a_mark_is_taken_away_when_no_copy_can_be_on_its_way_any_more(each: Scene) -> None:
    each.store.register("acme", NOVEMBER)
    mark(each, "old", BEGAN)
    mark(each, "young", BEGAN + 1)
    assert each.sweep() == NOTHING
    assert each.store.ledger("acme", NOVEMBER).ended == {"young": BEGAN + 1}
    each.clock.sleep(1)
    each.sweep()
    assert each.store.ledger("acme", NOVEMBER) == Ledger(0, {23: 0}, {}, 0)
