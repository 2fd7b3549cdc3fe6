"""The simulation itself: some of its seeds, what it catches, and that its table is like DynamoDB's.

`make simulate` and `make mutants` run more of them.
"""

import random
import secrets
from contextlib import suppress
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from farebox.ledger import Hold, Limits
from farebox.store import Store
from local.simulator import Simulator
from tests.conftest import MakeDoor, connected, new_table
from tests.simulation.memory import Memory
from tests.simulation.mutants import MUTANTS, caught
from tests.simulation.requests import Requests
from tests.simulation.world import World, run
from tests.test_exactly_once import door_behind, month_of, spans_of
from tests.wire import Fault, Wire, always, no_faults

MONTH = "2026-11"
SEEDS = 80
FEW = 200
SOME_MUTANTS = [
    name for name in MUTANTS if name not in ("reserves-twice", "swaps-twice", "corrects-twice", "leaves-no-marks")
]
"""Those that are left out take longer to catch: `make mutants` has them all."""
RANDOM_REQUESTS = 400
KEPT_BY_A_STORE_ONLY = ("ResponseMetadata", "ScannedCount", "ConsumedCapacity")


@pytest.mark.parametrize("first", range(1, SEEDS, 20))
def test_nothing_that_must_be_true_is_broken_by_faults_crashes_and_the_clock(first: int) -> None:
    violations = [(seed, run(seed).violation) for seed in range(first, first + 20)]
    assert [each for each in violations if each[1] is not None] == []


def test_new_seeds_are_tried_each_time() -> None:
    for _ in range(10):
        seed = secrets.randbelow(10**9)
        assert run(seed).violation is None, f"python -m tests.simulation --first {seed} --seeds 1"


def test_a_seed_is_the_same_run_each_time() -> None:
    for seed in (3, 50, 232):
        one, two = run(seed), run(seed)
        assert one == two
        assert len(one.trace) > 50


def test_the_seeds_have_what_they_are_for() -> None:
    """Answers, refusals, crashes, copies that come late, clients that leave, prices that change, estimates."""
    results = [run(seed) for seed in range(1, 40)]
    steps = "\n".join(line for result in results for line in result.story())
    for what in (
        "answers 200", "answers 429", "answers 502", "answers 503", "crash", "is dead", "late copy", "answer lost",
        "twice", "dropped", "throttled", "the client leaves", "times as much", "'estimated': 1", "'booked': 1",
        "/api/v1/generation", "SET #new", "answer cut",
    ):  # fmt: skip
        assert what in steps, what
    assert sum(result.billed_nanousd for result in results) > 0


@pytest.mark.parametrize("name", SOME_MUTANTS)
def test_a_ledger_that_is_wrong_is_caught(name: str) -> None:
    assert caught(name, FEW) is not None


# What it has found.


def test_a_call_that_left_no_record_keeps_its_hold(embedded_url: str, make_door: MakeDoor) -> None:
    """I4: what is spent is in the spans. Neither span nor reminder could be written, so the sweep must find a hold."""
    with Wire(embedded_url) as wire:
        door = door_behind(wire, make_door)
        wire.plan = lambda seen: Fault.DROPPED if seen.step in ("put_span", "remind") else None
        assert door.chat().status == 200
        wire.plan = no_faults
        assert month_of(door).spent_nanousd == sum(span["cost_nanousd"] for span in spans_of(door))


def test_a_free_call_is_not_let_through_either_while_the_ledger_is_away(
    embedded_url: str, make_door: MakeDoor, simulator: Simulator
) -> None:
    """I7: nothing is sent upstream without a hold."""
    with Wire(embedded_url) as wire:
        door = door_behind(wire, make_door)
        assert door.chat(model="sim/free:free").status == 200
        simulator.seen.clear()
        wire.plan = always("reserve", Fault.DROPPED)
        assert door.chat(model="sim/free:free").status == 503
        assert [request.target for request in simulator.seen] == []


class Copying:
    """A client whose every request is said to have been sent twice; the other one is kept."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.kept: list[dict[str, Any]] = []

    def update_item(self, **request: Any) -> Any:
        self.kept.append(request)
        return {**self._memory.update_item(**request), "ResponseMetadata": {"RetryAttempts": 1}}


def test_a_copy_of_reserve_that_comes_after_a_sweep_has_ended_the_hold_changes_nothing() -> None:
    memory, hold = Memory(), Hold("5a1e", 7_000, 23, 1_795_435_200, 1_795_436_160, "sim/usage-missing")
    client = Copying(memory)
    function, sweeper = Store(cast("Any", client), "t"), Store(cast("Any", memory), "t")
    function.reserve("acme", MONTH, hold, Limits(10**10, 10**11, 0))
    # Seconds later: its reminder was there, and /generation knew the cost.
    sweeper.settle("acme", MONTH, hold, 2_500, leaves_mark=True)
    with suppress(ClientError):
        memory.update_item(**client.kept[0])
    assert sweeper.ledger("acme", MONTH).committed_nanousd == 2_500


# The table.


def said(client: Any, operation: str, request: Any) -> Any:
    """An answer without what only a real store has: what was done, or the error and the item in it."""
    try:
        answered = page(client, request) if operation == "query" else getattr(client, operation)(**request)
    except ClientError as e:
        return e.response["Error"]["Code"], e.response.get("Item")
    return {name: value for name, value in answered.items() if name not in KEPT_BY_A_STORE_ONLY}


def page(client: Any, request: Any) -> Any:
    """A whole query: pages are as long as each store likes."""
    pages = list(client.get_paginator("query").paginate(**request))
    return {"Items": [item for each in pages for item in each["Items"]]}


def test_the_table_answers_random_requests_as_dynamodb_does(dynamodb_local_url: str) -> None:
    seed, table = secrets.randbelow(2**32), new_table(dynamodb_local_url)
    requests = Requests(random.Random(seed), table)  # noqa: S311 - requests, not secrets
    memory, real = Memory(page_size=2), connected(dynamodb_local_url)
    for number in range(RANDOM_REQUESTS):
        operation, request = requests.next()
        assert said(memory, operation, request) == said(real, operation, request), (seed, number, operation, request)


def test_the_table_answers_what_runs_ask_as_dynamodb_does(dynamodb_local_url: str) -> None:
    assert sum(asked_again(seed, dynamodb_local_url) for seed in range(1, 5)) > 200


def asked_again(seed: int, dynamodb_local_url: str) -> int:
    """Everything that a run has asked its table, asked again there; how much that is."""
    world = World(seed)
    world.line.heard = []
    world.run()
    table, real = new_table(dynamodb_local_url), connected(dynamodb_local_url)
    for item in world.seeded:
        real.put_item(TableName=table, Item=item)
    for operation, request, outcome in world.line.heard:
        if operation == "batch_get_item":
            assert batched(real, table, request, world.memory.page_size) == found_in(outcome), (seed, request)
            continue
        asked = {**request, "TableName": table}
        if operation == "query":
            asked["Limit"] = world.memory.page_size
            answered: Any = cast("Any", real).query(**asked)
        else:
            answered = said(real, operation, asked)
        assert without(answered) == without(outcome), (seed, operation, request)
    return len(world.line.heard)


def batched(real: Any, table: str, request: Any, size: int) -> Any:
    """The items of as many keys as a page of the other table has."""
    ((_, asked),) = request["RequestItems"].items()
    return found_in(real.batch_get_item(RequestItems={table: {**asked, "Keys": asked["Keys"][:size]}}))


def found_in(answer: Any) -> Any:
    """The items of a batch, in an order."""
    ((_, items),) = answer["Responses"].items()
    return sorted(items, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))


def without(outcome: Any) -> Any:
    if isinstance(outcome, ClientError):
        return outcome.response["Error"]["Code"], outcome.response.get("Item")
    if isinstance(outcome, dict):
        return {name: value for name, value in outcome.items() if name not in KEPT_BY_A_STORE_ONLY}
    return outcome
