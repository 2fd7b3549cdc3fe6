"""The kills, few enough for every run: real processes on DynamoDB Local. `make kills` is the full one.

And that it can fail: the verdict on books that were spoiled on purpose.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from farebox.aws import to_dynamodb
from farebox.ledger import Hold, Ledger, Limits
from farebox.spans import key
from farebox.store import Store
from local.bill import Generation
from local.simulator import Simulator, transport
from tests.conftest import connected, new_table
from tests.kills import run, swept
from tests.verdict_of_kills import Verdict, verdict

BILLED = 10_000_000
TENANT = "acme"


def test_after_gateways_were_killed_the_books_are_the_bill_or_more_by_what_is_marked_as_estimated(
    dynamodb_local_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    total = sum(run(dynamodb_local_url, kills=5, at_once=30, seed="test"), Verdict())
    with capsys.disabled():
        print(f"\n{total}")  # noqa: T201 - figures worth seeing in every run
    assert len(total.kills) == 5
    assert total.booked > total.billed > 0, "no call was billed, or none was killed: this run shows nothing"
    assert not total.wrong, "\n".join(total.wrong)


def test_a_span_that_only_the_sweep_has_written_knows_the_generation_that_was_noted_in_its_hold(
    embedded_url: str,
) -> None:
    simulator = Simulator(generation_ready_s=0)
    [generation] = generated(simulator)
    store = Store(connected(embedded_url), new_table(embedded_url))
    now = datetime.now(UTC)
    month, admitted_at = f"{now:%Y-%m}", int(now.timestamp())
    hold = Hold("a", 3 * BILLED, now.day, admitted_at, admitted_at + 960, "sim/cent")
    store.register(TENANT, month)
    assert isinstance(store.reserve(TENANT, month, hold, Limits(10**9, 10**9, 1)), Ledger)
    store.note(TENANT, month, hold.id, generation.id)

    swept(store, simulator, timedelta(minutes=20))

    span = store.span(*key(hold))
    assert (span["generation_id"], span["cost_nanousd"], span["is_estimated"]) == (generation.id, BILLED, False)


# Books that are right: one call is known, and one was of a function that died.


def generated(simulator: Simulator) -> tuple[Generation, ...]:
    """One more call, which costs a cent, on the simulator's bill."""
    with httpx.Client(transport=transport(simulator)) as client:
        request = {"model": "sim/cent", "messages": [{"role": "user", "content": "Say hello"}]}
        headers = {"HTTP-Referer": TENANT, "Authorization": "Bearer any"}
        client.post("http://simulated/api/v1/chat/completions", json=request, headers=headers).raise_for_status()
    return simulator.generations


def books(known: Generation) -> dict[str, dict[str, Any]]:
    span = {"tenant": TENANT, "month": "2026-11", "day": 24, "model": "sim/cent"}
    exact = {"generation_id": known.id, "outcome": "answered", "cost_nanousd": BILLED}
    estimated = {"outcome": "lost", "cost_nanousd": 3 * BILLED, "is_estimated": True}
    return {
        "ledger": {"pk": f"TENANT#{TENANT}", "sk": "LEDGER#2026-11", "m": 4 * BILLED, "d24": 4 * BILLED, "n": 0},
        "exact": {"pk": "SPANS#2026-11-24T10#0", "sk": "a", **span, **exact},
        "estimated": {"pk": "SPANS#2026-11-24T10#1", "sk": "b", **span, **estimated},
    }


def judged(table: dict[str, dict[str, Any]], generations: tuple[Generation, ...]) -> Verdict:
    return verdict(
        [to_dynamodb(item) for item in table.values()],
        generations,
        whole=[generations[0].id],
        limits={TENANT: 4 * BILLED},
        kills=[1],
        answers=Counter(),
    )


def two_calls() -> tuple[Generation, ...]:
    simulator = Simulator()
    generated(simulator)
    return generated(simulator)


def test_books_are_right_when_what_no_span_knows_is_covered_by_an_estimate() -> None:
    calls = two_calls()
    result = judged(books(calls[0]), calls)
    assert (result.wrong, result.billed, result.booked) == ((), 2 * BILLED, 4 * BILLED)


Table = dict[str, dict[str, Any]]
SPOILED: dict[str, tuple[Callable[[Table], object], str]] = {
    "a hold is left": (
        lambda table: table["ledger"].update(h_c={"a": 1, "d": 24, "t": 1, "x": 2, "o": "sim/cent"}),
        "has 1 holds",
    ),
    "a call counts as in flight": (lambda table: table["ledger"].update(n=-1), "counts -1 calls"),
    "a reminder is left": (lambda table: table.update(lost={"pk": "LOST", "sk": "a"}), "is still there"),
    "an estimate is open": (lambda table: table["ledger"].update(e_b={"a": 3, "d": 24}), "has 1 estimates"),
    "the month has spent more": (lambda table: table["ledger"].update(m=4 * BILLED + 1), "has spent 40000001"),
    "the day has spent less": (lambda table: table["ledger"].update(d24=4 * BILLED - 1), "day 24 has spent 39999999"),
    "a span is of another day": (lambda table: table["exact"].update(day=23), "day 23 are in no ledger"),
    "a span is there twice": (
        lambda table: table.update(again={**table["exact"], "pk": "SPANS#2026-11-24T10#2"}),
        "2 spans have the sk a",
    ),
    "a generation is booked twice": (
        lambda table: table.update(again={**table["exact"], "sk": "c"}),
        "2 spans have the generation_id",
    ),
    "a span has no cost": (lambda table: table["exact"].pop("cost_nanousd"), "has no cost"),
    "a span costs too much": (lambda table: table["exact"].update(cost_nanousd=BILLED + 1), "and billed at 10000000"),
    "a span costs nothing": (lambda table: table["exact"].update(cost_nanousd=0), "is booked at 0"),
    "a span is estimated for no reason": (lambda table: table["exact"].update(is_estimated=True), "was on record"),
    "a span is of another tenant": (lambda table: table["exact"].update(tenant="other"), "for a generation of acme"),
    "a whole answer is not known": (lambda table: table["exact"].pop("generation_id"), "no span knows it"),
    "an estimate is too low": (
        lambda table: table["estimated"].update(cost_nanousd=BILLED - 1),
        "neither booked nor estimated",
    ),
    "an estimate is of another model": (
        lambda table: table["estimated"].update(model="sim/ok"),
        "neither booked nor estimated",
    ),
    "less is booked than billed": (lambda table: table.pop("estimated"), "and only 10000000"),
    "a budget is passed": (lambda table: table["estimated"].update(cost_nanousd=3 * BILLED + 1), "of 40000000"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_the_verdict_says_what_is_wrong_when(how: str) -> None:
    spoil, sentence = SPOILED[how]
    calls = two_calls()
    table = books(calls[0])
    spoil(table)
    wrong = judged(table, calls).wrong
    assert any(sentence in each for each in wrong), wrong
