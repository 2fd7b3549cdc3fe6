"""A lost call ends at its true cost, or at its hold when nobody knows it in time: once, whatever dies on the way."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from farebox.admission import HOLD_SECONDS
from farebox.ledger import Estimate, Hold, Ledger, Limits
from farebox.upstream import GET_TIMEOUT_S
from local.scenarios import Fault as Scenario
from tests.scenes import (
    BOOKED,
    ESTIMATED,
    NOTHING,
    READY_S,
    START,
    UNKNOWN,
    WAITING,
    Handle,
    Scene,
    answering,
    raising,
    record_of,
)

# /generation knows the cost.


NAMED = [
    ("sim/cut", True),
    ("sim/usage-missing", False),
    ("sim/usage-missing", True),
    ("sim/cost-null", False),
    ("sim/cost-null", True),
    ("sim/error-mid-stream", True),
]
"""Calls whose answer had an id in its body before it was lost."""
HEADER_ONLY = [
    ("sim/cut", False),
    ("sim/cut-early", False),
    ("sim/cut-early", True),
    ("sim/pad-forever", False),
    ("sim/pad-forever", True),
]
"""Calls whose id was in the header X-Generation-Id and nowhere else."""
NAMELESS = [(model, stream) for model in ("sim/524-html", "sim/504", "sim/not-json") for stream in (False, True)]
"""Calls whose id nobody has heard."""


def calls(scene: Scene, kinds: list[tuple[str, bool]]) -> None:
    for model, stream in kinds:
        scene.call(model, stream=stream)


def test_a_lost_call_is_booked_at_its_bill_once_that_is_known(each: Scene) -> None:
    kinds = [*NAMED, *HEADER_ONLY]
    calls(each, kinds)
    assert each.month().held_nanousd == sum(span["hold_nanousd"] for span in each.spans) > 0
    assert all(span["hold_nanousd"] > 0 for span in each.spans)
    each.clock.sleep(READY_S)
    assert each.sweep() == {**NOTHING, "booked": len(kinds)}
    each.has_ended(each.billed)
    bills = {generation.id: generation.charge.billed_nanousd for generation in each.simulator.generations}
    assert {span["generation_id"]: span["cost_nanousd"] for span in each.spans} == bills
    assert min(bills.values()) > 0
    assert each.sweep() == NOTHING


def test_before_its_bill_is_known_a_lost_call_waits_and_nothing_changes(each: Scene) -> None:
    kinds = [*NAMED, *NAMELESS]
    calls(each, kinds)
    before = each.all
    each.clock.at = START + timedelta(seconds=READY_S - 1)
    for _ in range(2):
        assert each.sweep() == {**NOTHING, "waiting": len(kinds)}
        assert each.all == before


def test_the_record_of_the_call_itself_is_asked_for(scene: Scene) -> None:
    scene.call()
    scene.clock.sleep(READY_S)
    scene.sweep()
    assert scene.records.asked == [generation.id for generation in scene.simulator.generations]
    assert scene.records.asked == [scene.spans[0]["generation_id"]]


def test_with_a_key_of_ones_own_the_providers_bill_is_booked_too(scene: Scene) -> None:
    byok = scene.simulator.models["sim/byok"]
    scene.simulator.models["sim/byok"] = replace(byok, script=replace(byok.script, usage="missing"))
    scene.call("sim/byok")
    scene.clock.sleep(READY_S)
    assert scene.sweep() == BOOKED
    scene.has_ended(scene.billed)
    assert scene.billed > 0


def test_a_lost_call_is_booked_at_what_its_record_says_to_the_nanodollar(scene: Scene) -> None:
    spent = 0
    for fields, nanousd in (
        ({"total_cost": 0}, 0),
        ({"total_cost": 1.5e-10}, 1),
        ({"total_cost": 0.000_000_003}, 3),
        ({"total_cost": 0.1, "upstream_inference_cost": 0.1}, 10**8),
        ({"total_cost": 0.005, "is_byok": True, "upstream_inference_cost": 0.1}, 105_000_000),
    ):
        scene.call()
        scene.records.other = record_of(**fields)
        assert scene.sweep() == BOOKED
        spent += nanousd
        scene.has_ended(spent)


def test_a_cost_above_the_hold_is_booked_in_full_and_logged_as_an_overrun(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.call()
    hold = scene.spans[0]["hold_nanousd"]
    scene.records.other = record_of(total_cost=(hold + 1) / 10**9)
    assert scene.sweep() == BOOKED
    scene.has_ended(hold + 1)
    assert [record.levelname for record in caplog.records if record.message == "overrun"] == ["ERROR"]


def test_a_cost_of_the_whole_hold_is_no_overrun(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.call()
    hold = scene.spans[0]["hold_nanousd"]
    scene.records.other = record_of(total_cost=hold / 10**9)
    assert scene.sweep() == BOOKED
    scene.has_ended(hold)
    assert [record.message for record in caplog.records if record.message == "overrun"] == []


# It does not.


def test_a_call_whose_bill_nobody_knows_is_booked_at_its_full_hold_when_that_expires(each: Scene) -> None:
    kinds = [*NAMED, *NAMELESS]
    each.records.other = UNKNOWN
    calls(each, kinds)
    held = each.month().held_nanousd
    assert held >= each.billed
    assert all(span["hold_nanousd"] > 0 for span in each.spans)
    each.clock.at = START + timedelta(seconds=HOLD_SECONDS - 1)
    before = each.all
    assert each.sweep() == {**NOTHING, "waiting": len(kinds)}
    assert each.all == before
    each.clock.sleep(1)
    assert each.sweep() == {**NOTHING, "estimated": len(kinds)}
    each.has_ended(held, is_estimated=True)
    assert [span["cost_nanousd"] for span in each.spans] == [span["hold_nanousd"] for span in each.spans]
    assert len(each.reminders) == len(NAMED)  # the others have no id by which the truth could be found


BAD_RECORDS: dict[str, Handle] = {
    "500": answering(500, {"error": {"code": 500, "message": "Internal Server Error"}}),
    "a record with 500": answering(500, {"data": {"total_cost": 0.1}}),
    "401": answering(401, {"error": {"code": 401, "message": "User not found."}}),
    "429": answering(429, b""),
    "a redirect": lambda _: httpx.Response(302, headers={"location": "https://elsewhere.example/"}),
    "HTML": answering(200, b"<html>Checking your browser</html>"),
    "nothing": answering(200, b""),
    "204": answering(204, b""),
    "a list": answering(200, []),
    "no data": answering(200, {}),
    "data of null": answering(200, {"data": None}),
    "data that is a list": answering(200, {"data": [{"total_cost": 0.1}]}),
    "no cost": record_of(),
    "a cost of null": record_of(total_cost=None),
    "a negative cost": record_of(total_cost=-0.000_001),
    "a cost that is a string": record_of(total_cost="0.1"),
    "a cost that is true": record_of(total_cost=True),
    "a cost that is NaN": record_of(total_cost=float("nan")),
    "an absurd cost": record_of(total_cost=10**30),
    "an own key without the provider's bill": record_of(total_cost=0, is_byok=True, upstream_inference_cost=None),
    "an own key with a negative bill": record_of(total_cost=1, is_byok=True, upstream_inference_cost=-1),
    "nested deeply": answering(200, b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "not UTF-8": answering(200, b'{"data":"\xff"}'),
    "not gzip": lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"hello")),
    "a refused connection": raising(httpx.ConnectError("refused")),
    "no connection in time": raising(httpx.ConnectTimeout("slow")),
    "no answer in time": raising(httpx.ReadTimeout("slow")),
    "a cut": raising(httpx.RemoteProtocolError("cut")),
}


def test_a_record_that_tells_no_cost_changes_nothing_until_the_hold_expires(scene: Scene) -> None:
    for _ in BAD_RECORDS:
        scene.call()
    held, before = scene.month().held_nanousd, scene.all
    records = dict(zip((generation.id for generation in scene.simulator.generations), BAD_RECORDS, strict=True))
    scene.records.other = lambda request: BAD_RECORDS[records[request.url.params["id"]]](request)
    scene.clock.sleep(READY_S)
    assert scene.sweep() == {**NOTHING, "waiting": len(BAD_RECORDS)}
    assert scene.all == before
    assert sorted(scene.records.asked) == sorted(records)

    scene.clock.at = START + timedelta(seconds=HOLD_SECONDS)
    assert scene.sweep() == {**NOTHING, "estimated": len(BAD_RECORDS)}
    scene.has_ended(held, is_estimated=True)


def test_a_record_that_comes_in_drops_is_given_up_in_seconds(scene: Scene) -> None:
    def drops() -> Iterator[bytes]:
        for _ in range(3600):
            scene.clock.sleep(1)
            yield b" "

    scene.call()
    scene.records.other = lambda _: httpx.Response(200, content=drops())
    began = scene.clock.seconds()
    assert scene.sweep() == WAITING
    assert scene.clock.seconds() - began <= GET_TIMEOUT_S + 1


def test_a_record_that_comes_after_a_failure_is_believed(scene: Scene) -> None:
    scene.call()
    scene.clock.sleep(READY_S)
    for name in ("500", "a refused connection", "HTML"):
        scene.records.other = BAD_RECORDS[name]
        assert scene.sweep() == WAITING
    scene.records.other = None
    assert scene.sweep() == BOOKED
    scene.has_ended(scene.billed)


def test_a_record_is_believed_also_after_the_hold_has_expired(scene: Scene) -> None:
    scene.call()
    scene.clock.sleep(HOLD_SECONDS * 3)
    assert scene.sweep() == BOOKED
    scene.has_ended(scene.billed)


def test_a_call_without_an_id_asks_nobody(scene: Scene) -> None:
    scene.call("sim/524-html")
    assert scene.sweep() == WAITING
    assert scene.records.asked == []


# Which calls are reminded of, and where they are booked.


def test_a_lost_call_of_a_free_model_leaves_nothing_behind(scene: Scene) -> None:
    free = scene.simulator.models["sim/free:free"]
    scene.simulator.models["sim/free:free"] = replace(free, script=replace(free.script, fault=Scenario.CUT))
    calls(scene, [("sim/free:free", False), ("sim/free:free", True)])
    assert [span["outcome"] for span in scene.spans] == ["lost", "lost"]
    assert (dict(scene.month().holds), scene.month().committed_nanousd, scene.reminders) == ({}, 0, [])
    scene.clock.sleep(HOLD_SECONDS)
    assert scene.sweep() == NOTHING


def test_a_call_that_ended_is_not_reminded_of(scene: Scene) -> None:
    calls(scene, [(model, False) for model in ("sim/ok", "sim/429", "sim/refuse", "sim/finish-error")])
    before = scene.all
    assert scene.reminders == []
    assert scene.sweep() == NOTHING
    assert scene.all == before


def test_calls_that_ended_and_calls_in_flight_are_left_alone(scene: Scene) -> None:
    scene.call("sim/ok")
    in_flight = Hold("f" * 21, 5_000, 23, int(START.timestamp()), int(START.timestamp()) + HOLD_SECONDS, "sim/ok")
    scene.store.reserve("default", "2026-11", in_flight, Limits(10**10, 10**11, 0))
    scene.call()
    scene.clock.sleep(READY_S)
    assert scene.sweep() == BOOKED
    assert dict(scene.month().holds) == {in_flight.id: in_flight}
    assert scene.month().spent_nanousd == scene.billed


@pytest.mark.parametrize("is_known", [True, False])
def test_a_hold_of_last_month_ends_in_last_month(is_known: bool, each: Scene) -> None:  # noqa: FBT001
    each.clock.at = datetime(2026, 10, 31, 23, 59, 50, tzinfo=UTC)
    each.call()
    each.records.other = None if is_known else UNKNOWN
    each.clock.at = datetime(2026, 11, 1, 0, 30, tzinfo=UTC)
    each.call("sim/ok")
    november = each.month()
    ((_, hold),) = each.month("2026-10").holds.items()
    cost = each.simulator.generations[0].charge.billed_nanousd if is_known else hold.amount_nanousd
    assert each.sweep() == (BOOKED if is_known else ESTIMATED)
    estimates = {} if is_known else {hold.id: Estimate(cost, 31)}
    assert each.month("2026-10") == Ledger(cost, {31: cost}, {}, 0, estimates=estimates)
    assert each.month() == november


def test_tenants_are_each_booked_their_own_calls(scene: Scene) -> None:
    names = ("acme", "bolt")
    for name in names:
        scene.call(tenant=name, max_tokens=500)
    scene.clock.sleep(READY_S)
    assert scene.sweep() == {**NOTHING, "booked": 2}
    ledgers = [scene.store.ledger(name, "2026-11") for name in names]
    billed = [generation.charge.billed_nanousd for generation in scene.simulator.generations]
    assert [ledger.spent_nanousd for ledger in ledgers] == billed
    assert [dict(ledger.holds) for ledger in ledgers] == [{}, {}]
