"""A model that is down costs one call a minute, whoever asks; one that is well costs a read now and then."""

import functools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from botocore.config import Config

from farebox.aws import to_dynamodb
from farebox.breaker import Breakers, CircuitOpen
from local.child import connect
from tests.conftest import connected, new_table
from tests.wire import Fault, Wire, name_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MODEL = "openai/gpt-4o-mini"
KEY = to_dynamodb({"pk": "BREAKER", "sk": MODEL})
THREADS = 50
MAX_AGE_S = 15
RECOVERY_S = 60
OPENS = {"model": MODEL, "from": "CLOSED", "to": "OPEN"}
PROBES = {"model": MODEL, "from": "OPEN", "to": "HALF_OPEN"}
REOPENS = {"model": MODEL, "from": "HALF_OPEN", "to": "OPEN"}
CLOSES = {"model": MODEL, "from": "HALF_OPEN", "to": "CLOSED"}


@functools.cache
def watched(url: str) -> tuple["DynamoDBClient", list[tuple[str, str]]]:
    """A client whose requests are seen: table and operation."""
    client = connect(url)
    seen: list[tuple[str, str]] = []

    def see(model: Any, params: Mapping[str, Any], **_: Any) -> None:
        seen.append((json.loads(params["body"])["TableName"], model.name))

    client.meta.events.register("before-call.dynamodb.*", see)
    return client, seen


@dataclass(slots=True)
class Clock:
    """The real time, which Powertools reads too, and a shift for what is kept in memory."""

    shift: float = 0

    def __call__(self) -> float:
        return time.time() + self.shift


@dataclass(slots=True)
class Upstream:
    """A model that is down or not, and how often it was asked."""

    is_down: bool = True
    asked: int = 0

    def __call__(self) -> str:
        self.asked += 1
        return "failed" if self.is_down else "fine"


@dataclass(frozen=True, slots=True)
class Environment:
    """A Lambda environment."""

    breakers: Breakers
    changes: list[Mapping[str, Any]]
    clock: Clock

    def ask(self, upstream: Callable[[], str], model: str = MODEL) -> str:
        """What the model said, or "open"."""
        try:
            return self.breakers.call(model, upstream, verdict)
        except CircuitOpen:
            return "open"

    def waits_s(self) -> int:
        """Of a circuit that is open."""
        with pytest.raises(CircuitOpen) as refused:
            self.breakers.call(MODEL, must_not_run, verdict)
        return refused.value.retry_after_s


def verdict(said: str) -> bool | None:
    return {"failed": True, "fine": False, "comments": None}[said]


def must_not_run() -> str:
    raise AssertionError("an attempt was made")


def undecided() -> str:
    return "comments"


@dataclass(frozen=True, slots=True)
class Table:
    """A table, the environments around it, and a hand that turns its clocks back."""

    url: str
    name: str
    upstream: Upstream = field(default_factory=Upstream)

    def environment(self, client: "DynamoDBClient | None" = None, *, table: str | None = None) -> Environment:
        changes: list[Mapping[str, Any]] = []
        clock = Clock()
        client = client or watched(self.url)[0]
        return Environment(Breakers(client, table or self.name, changes.append, now=clock), changes, clock)

    def opened(self) -> Environment:
        """An environment that has just opened the circuit."""
        environment = self.environment()
        assert [environment.ask(self.upstream) for _ in range(3)] == ["failed"] * 3
        self.requests()
        return environment

    def probing(self) -> Environment:
        """An environment that has made one good probe."""
        self.opened()
        self.passes(RECOVERY_S)
        self.upstream.is_down = False
        environment = self.environment()
        assert environment.ask(self.upstream) == "fine"
        self.requests()
        return environment

    def passes(self, seconds: int) -> None:
        """Time, in the item: for environments that have yet to read it."""
        connected(self.url).update_item(
            TableName=self.name,
            Key=KEY,
            UpdateExpression="ADD opened_at :back, probe_lease_expiry :back",
            ExpressionAttributeValues=to_dynamodb({":back": -seconds}),
        )

    def requests(self) -> list[str]:
        """The operations since the last time."""
        seen = watched(self.url)[1]
        mine = [operation for table, operation in seen if table == self.name]
        seen.clear()
        return mine

    @property
    def item(self) -> Mapping[str, Any]:
        answer = connected(self.url).get_item(TableName=self.name, Key=KEY, ConsistentRead=True)
        return {name: next(iter(value.values())) for name, value in answer.get("Item", {}).items()}


@pytest.fixture
def table(store_url: str) -> Table:
    """An empty table on each store."""
    watched(store_url)[1].clear()
    return Table(store_url, new_table(store_url))


@contextmanager
def under_way(call: Callable[[Callable[[], str]], str], said: str) -> Iterator[Callable[[], str]]:
    """A call in a thread of its own that has reached upstream, which answers after the block, or when asked to."""
    reached, may_answer = threading.Event(), threading.Event()

    def attempt() -> str:
        reached.set()
        assert may_answer.wait(30)
        return said

    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(call, attempt)

        def ended() -> str:
            may_answer.set()
            return answer.result(30)

        try:
            assert reached.wait(30)
            yield ended
        finally:
            may_answer.set()


# Healthy.


def test_a_model_that_is_well_costs_no_write_and_one_read_in_15_seconds(table: Table) -> None:
    environment, upstream = table.environment(), Upstream(is_down=False)
    for _ in range(3):
        assert [environment.ask(upstream) for _ in range(5)] == ["fine"] * 5
        environment.clock.shift += 14
        assert environment.ask(upstream) == "fine"
        assert table.requests() == ["GetItem"]
        environment.clock.shift += 1
    assert (upstream.asked, environment.changes) == (18, [])


def test_many_threads_share_the_one_read(table: Table) -> None:
    environment, upstream = table.environment(), Upstream(is_down=False)
    with ThreadPoolExecutor(THREADS) as threads:
        assert set(threads.map(lambda _: environment.ask(upstream), range(THREADS))) == {"fine"}
    assert table.requests() == ["GetItem"]


def test_two_failures_write_nothing(table: Table) -> None:
    environment = table.environment()
    assert [environment.ask(table.upstream) for _ in range(2)] == ["failed"] * 2
    assert table.requests() == ["GetItem"]


def test_failures_count_only_in_a_row(table: Table) -> None:
    environment = table.environment()
    for is_down in (True, True, False, True, True):
        table.upstream.is_down = is_down
        environment.ask(table.upstream)
    assert not table.item
    table.upstream.is_down = True
    assert [environment.ask(table.upstream) for _ in range(2)] == ["failed", "open"]


def test_what_an_attempt_raises_passes_through_and_counts_as_neither(table: Table) -> None:
    environment = table.environment()

    def broken() -> str:
        raise ConnectionResetError

    for attempt in (broken, broken, broken, table.upstream, table.upstream, broken):
        if attempt is broken:
            with pytest.raises(ConnectionResetError):
                environment.ask(attempt)
        else:
            environment.ask(attempt)
    assert not table.item
    assert [environment.ask(table.upstream) for _ in range(2)] == ["failed", "open"]


def test_importing_it_does_not_import_boto3() -> None:
    subprocess.run([sys.executable, "-c", "import sys, farebox.breaker; sys.exit('boto3' in sys.modules)"], check=True)


# Open.


def test_three_failures_open_it_and_then_nothing_is_asked_neither_upstream_nor_the_store(table: Table) -> None:
    environment = table.environment()
    assert [environment.ask(table.upstream) for _ in range(3)] == ["failed"] * 3
    assert table.requests() == ["GetItem", "PutItem"]
    assert [environment.ask(table.upstream) for _ in range(20)] == ["open"] * 20
    assert (table.upstream.asked, table.requests(), environment.changes) == (3, [], [OPENS])


def test_what_one_environment_has_opened_is_open_for_the_others(table: Table) -> None:
    table.opened()
    other = table.environment()
    assert [other.ask(must_not_run) for _ in range(5)] == ["open"] * 5
    assert (table.requests(), other.changes) == (["GetItem"], [])


def test_an_environment_that_knew_it_closed_learns_within_15_seconds(table: Table) -> None:
    other, upstream = table.environment(), Upstream(is_down=False)
    assert other.ask(upstream) == "fine"
    table.opened()
    assert other.ask(upstream) == "fine"
    other.clock.shift += MAX_AGE_S
    assert other.ask(upstream) == "open"


def test_a_failure_that_was_long_under_way_does_not_begin_the_60_seconds_anew(table: Table) -> None:
    slow = table.environment()
    assert [slow.ask(table.upstream) for _ in range(2)] == ["failed"] * 2
    with under_way(slow.ask, "failed") as ended:
        table.opened()
        table.passes(50)
        before = table.item
        assert ended() == "failed"
    assert (table.item, slow.changes) == (before, [])
    assert slow.waits_s() <= 10


def test_the_wait_is_what_is_left_of_60_seconds(table: Table) -> None:
    environment = table.opened()
    assert 58 <= environment.waits_s() <= 60
    table.passes(45)
    assert 13 <= table.environment().waits_s() <= 15


def test_a_wait_is_whole_seconds_and_at_least_one() -> None:
    assert [CircuitOpen(left).retry_after_s for left in (-3.0, 0, 0.1, 1.5, 60)] == [1, 1, 1, 2, 60]


def test_other_models_and_other_tables_have_circuits_of_their_own(table: Table) -> None:
    environment, upstream = table.opened(), Upstream(is_down=False)
    assert environment.ask(upstream, "sim/ok") == "fine"
    assert table.environment(table=new_table(table.url)).ask(upstream) == "fine"


def test_failures_at_one_table_do_not_count_at_another_of_the_same_process(table: Table) -> None:
    for environment in (table.environment(), table.environment(table=new_table(table.url))):
        assert [environment.ask(table.upstream) for _ in range(2)] == ["failed"] * 2
    assert not table.item


def test_a_circuit_that_nobody_asks_for_is_forgotten(table: Table) -> None:
    table.opened()
    assert abs(int(table.item["ttl"]) - time.time() - 3_660) < 5


# Probes.


def test_two_good_probes_close_it_for_everybody(table: Table) -> None:
    prober = table.probing()
    other = table.environment()
    assert other.ask(must_not_run) == "open"
    assert prober.ask(table.upstream) == "fine"
    assert table.item["state"] == "CLOSED"
    assert prober.changes == [PROBES, CLOSES]
    other.clock.shift += MAX_AGE_S
    table.requests()
    assert [environment.ask(table.upstream) for environment in (prober, other) for _ in range(3)] == ["fine"] * 6
    assert table.requests() == ["GetItem"]


def test_a_circuit_that_has_closed_again_opens_after_three_failures(table: Table) -> None:
    prober = table.probing()
    assert prober.ask(table.upstream) == "fine"
    table.upstream.is_down = True
    assert [prober.ask(table.upstream) for _ in range(4)] == ["failed", "failed", "failed", "open"]
    assert prober.changes == [PROBES, CLOSES, OPENS]


def test_each_minute_of_a_dead_model_costs_one_call_in_all_environments(table: Table) -> None:
    table.opened()
    for minute in range(1, 4):
        table.passes(RECOVERY_S)
        environments = [table.environment() for _ in range(4)]
        said = [environment.ask(table.upstream) for environment in environments for _ in range(5)]
        assert said == ["failed", *["open"] * 19]
        assert table.upstream.asked == 3 + minute
        assert [environment.changes for environment in environments] == [[PROBES, REOPENS], [], [], []]
    assert 58 <= table.environment().waits_s() <= 60


def test_one_bad_probe_reopens_it_although_the_one_before_was_good(table: Table) -> None:
    prober = table.probing()
    table.upstream.is_down = True
    assert [prober.ask(table.upstream) for _ in range(2)] == ["failed", "open"]
    assert prober.changes == [PROBES, REOPENS]


def test_while_one_environment_probes_the_others_are_refused(table: Table) -> None:
    table.opened()
    table.passes(RECOVERY_S)
    prober, waiting, late = (table.environment() for _ in range(3))
    assert not waiting.breakers.wait_s(MODEL)  # has read that a probe is due
    with under_way(prober.ask, "fine") as ended:
        for other in (waiting, late):
            assert [other.ask(must_not_run) for _ in range(3)] == ["open"] * 3
            assert other.breakers.wait_s(MODEL)
            assert 58 <= other.waits_s() <= 60
        assert ended() == "fine"
    assert [prober.changes, waiting.changes, late.changes] == [[PROBES], [], []]


def test_an_environment_that_does_not_know_of_a_bad_probe_makes_no_other(table: Table) -> None:
    table.opened()
    table.passes(RECOVERY_S)
    stale, prober = table.environment(), table.environment()
    assert not stale.breakers.wait_s(MODEL)
    assert prober.ask(table.upstream) == "failed"
    table.requests()
    assert [stale.ask(must_not_run) for _ in range(5)] == ["open"] * 5
    assert table.requests() == ["PutItem"]  # refused, with what stands instead
    assert 58 <= stale.waits_s() <= 60


def test_of_50_threads_that_find_a_probe_due_one_makes_it(table: Table) -> None:
    table.opened()
    table.passes(RECOVERY_S)
    environment = table.environment()
    all_there, refused = threading.Barrier(THREADS), threading.Semaphore(0)
    asked: list[int] = []

    def attempt() -> str:
        asked.append(threading.get_ident())
        assert all(refused.acquire(timeout=30) for _ in range(THREADS - 1))  # it lasts until all others were refused
        return "fine"

    def ask(_: int) -> str:
        all_there.wait(30)
        said = environment.ask(attempt)
        if said == "open":
            refused.release()
        return said

    with ThreadPoolExecutor(THREADS) as threads:
        said = list(threads.map(ask, range(THREADS)))
    assert sorted(said) == ["fine", *["open"] * (THREADS - 1)]
    assert (len(asked), table.requests()) == (1, ["GetItem", "PutItem"])


def test_50_environments_that_find_a_probe_due_elect_one(table: Table) -> None:
    table.opened()
    table.passes(RECOVERY_S)
    environments = [table.environment() for _ in range(THREADS)]
    all_there, refused = threading.Barrier(THREADS), threading.Semaphore(0)

    def attempt() -> str:
        assert all(refused.acquire(timeout=30) for _ in range(THREADS - 1))
        return "fine"

    def ask(environment: Environment) -> str:
        all_there.wait(30)
        said = environment.ask(attempt)
        if said == "open":
            refused.release()
        return said

    with ThreadPoolExecutor(THREADS) as threads:
        assert sorted(threads.map(ask, environments)) == ["fine", *["open"] * (THREADS - 1)]
    assert sum(len(environment.changes) for environment in environments) == 1


def test_the_second_probe_may_be_made_by_another_thread(table: Table) -> None:
    prober = table.probing()
    with under_way(prober.ask, "fine") as ended:
        assert prober.breakers.wait_s(MODEL)
        assert prober.ask(must_not_run) == "open"  # but not while it is under way
        assert ended() == "fine"
    assert prober.changes == [PROBES, CLOSES]


def test_a_probe_that_raised_is_made_again(table: Table) -> None:
    table.opened()
    table.passes(RECOVERY_S)
    prober = table.environment()
    with pytest.raises(AssertionError, match="an attempt was made"):
        prober.ask(must_not_run)
    table.upstream.is_down = False
    with ThreadPoolExecutor(1) as thread:
        assert [thread.submit(prober.ask, table.upstream).result() for _ in range(2)] == ["fine"] * 2
    assert prober.changes == [PROBES, CLOSES]


def test_a_prober_that_is_gone_is_replaced_after_60_seconds(table: Table) -> None:
    table.probing()
    assert table.environment().ask(must_not_run) == "open"
    table.passes(RECOVERY_S)
    other = table.environment()
    assert [other.ask(table.upstream) for _ in range(2)] == ["fine"] * 2
    assert other.changes == [{**PROBES, "from": "HALF_OPEN", "to": "CLOSED"}]


@pytest.mark.parametrize("said", ["fine", "failed"])
def test_a_prober_that_was_replaced_changes_nothing_any_more(said: str, table: Table) -> None:
    prober = table.probing()
    with under_way(prober.ask, said) as ended:
        table.passes(RECOVERY_S)
        other = table.environment()
        assert other.ask(table.upstream) == "fine"
        before = table.item
        assert ended() == said
    assert (table.item, prober.changes) == (before, [PROBES])
    assert prober.ask(must_not_run) == "open"
    assert other.ask(table.upstream) == "fine"
    assert other.changes == [CLOSES]


def test_a_prober_that_does_not_know_of_its_replacement_makes_no_other_probe(table: Table) -> None:
    prober = table.probing()
    table.passes(RECOVERY_S)
    other = table.environment()
    assert other.ask(table.upstream) == "fine"
    assert [prober.ask(must_not_run) for _ in range(3)] == ["open"] * 3
    assert prober.changes == [PROBES]


def test_a_prober_with_a_call_a_while_closes_it_all_the_same(table: Table) -> None:
    prober = table.probing()
    prober.clock.shift += MAX_AGE_S
    table.passes(2 * RECOVERY_S)
    assert prober.ask(table.upstream) == "fine"
    assert prober.changes == [PROBES, CLOSES]


# Undecided.


def test_undecided_calls_count_as_neither(table: Table) -> None:
    environment = table.environment()
    for attempt in (undecided, undecided, undecided, table.upstream, undecided, table.upstream):
        assert environment.ask(attempt) == attempt()
    assert not table.item
    assert [environment.ask(table.upstream) for _ in range(2)] == ["failed", "open"]


def test_a_late_verdict_counts_as_one_that_came_at_once(table: Table) -> None:
    environment = table.environment()
    for failed in (True, True, False, True, True):
        environment.ask(undecided)
        environment.breakers.report(MODEL, failed=failed)
    assert not table.item
    environment.ask(undecided)
    environment.breakers.report(MODEL, failed=True)
    assert (environment.ask(must_not_run), environment.changes) == ("open", [OPENS])


@pytest.mark.parametrize(("failed", "last"), [(False, CLOSES), (True, REOPENS)])
def test_a_probe_is_resolved_by_its_late_verdict(failed: bool, last: Mapping[str, str], table: Table) -> None:  # noqa: FBT001
    prober = table.probing()
    assert prober.ask(undecided) == "comments"
    with ThreadPoolExecutor(1) as another_thread:
        assert another_thread.submit(prober.ask, must_not_run).result() == "open"
    prober.breakers.report(MODEL, failed=failed)
    assert prober.changes == [PROBES, last]
    assert prober.ask(table.upstream) == ("open" if failed else "fine")


def test_the_verdict_on_a_call_from_before_it_opened_is_out_of_date(table: Table) -> None:
    environment = table.environment()
    environment.ask(undecided)
    assert [environment.ask(table.upstream) for _ in range(3)] == ["failed"] * 3
    table.passes(RECOVERY_S)
    environment.clock.shift += MAX_AGE_S
    before = table.item
    for failed in (False, True):
        environment.breakers.report(MODEL, failed=failed)
    assert (table.item, environment.changes) == (before, [OPENS])


def test_the_verdict_of_a_thread_that_does_not_probe_does_not_end_the_probe(table: Table) -> None:
    prober = table.probing()
    with under_way(prober.ask, "fine") as ended:
        prober.breakers.report(MODEL, failed=True)
        assert ended() == "fine"
    assert prober.changes == [PROBES, CLOSES]


# A quote.


def test_asking_whether_it_is_open_reads_once_and_elects_nobody(table: Table) -> None:
    environment = table.environment()
    assert [environment.breakers.wait_s(MODEL) > 0 for _ in range(3)] == [False] * 3
    table.opened()
    environment.clock.shift += MAX_AGE_S
    assert [environment.breakers.wait_s(MODEL) > 0 for _ in range(3)] == [True] * 3
    table.passes(RECOVERY_S)
    environment.clock.shift += MAX_AGE_S
    assert [environment.breakers.wait_s(MODEL) > 0 for _ in range(3)] == [False] * 3
    assert table.requests() == ["GetItem"] * 2
    assert table.item["state"] == "OPEN"


def test_between_probes_it_is_open_for_all_but_the_prober(table: Table) -> None:
    prober = table.probing()
    assert not prober.breakers.wait_s(MODEL)
    assert table.environment().breakers.wait_s(MODEL)
    table.passes(RECOVERY_S)
    assert not table.environment().breakers.wait_s(MODEL)


# A pause that upstream asked for.


def test_a_model_that_asked_for_a_pause_gets_one_without_a_request(table: Table) -> None:
    environment, upstream = table.environment(), Upstream(is_down=False)
    environment.breakers.cool(MODEL, 20)
    assert environment.breakers.wait_s(MODEL)
    assert environment.waits_s() == 20
    environment.clock.shift += 19.5
    assert environment.waits_s() == 1
    assert table.requests() == []
    environment.clock.shift += 0.5
    assert not environment.breakers.wait_s(MODEL)
    assert environment.ask(upstream) == "fine"


def test_a_pause_is_for_this_model_and_this_environment(table: Table) -> None:
    environment, upstream = table.environment(), Upstream(is_down=False)
    environment.breakers.cool(MODEL, 20)
    assert environment.ask(upstream, "sim/ok") == "fine"
    assert table.environment().ask(upstream) == "fine"


def test_a_pause_is_at_most_a_minute_and_not_shortened(table: Table) -> None:
    environment = table.environment()
    for seconds in (86_400, 1, 0, -5):
        environment.breakers.cool(MODEL, seconds)
        assert environment.waits_s() == 60


# The store in trouble.


def test_calls_pass_when_the_store_cannot_be_reached(table: Table) -> None:
    nowhere = connect("http://127.0.0.1:9", Config(connect_timeout=1, retries={"total_max_attempts": 1}))
    environment = table.environment(nowhere)
    assert [environment.ask(table.upstream) for _ in range(7)] == ["failed"] * 7
    environment.breakers.report(MODEL, failed=True)
    assert not environment.breakers.wait_s(MODEL)
    assert environment.changes == []


def test_calls_pass_when_the_store_refuses(table: Table) -> None:
    environment = table.environment(table="t-that-does-not-exist")
    assert [environment.ask(table.upstream) for _ in range(7)] == ["failed"] * 7
    assert environment.changes == []


def test_what_was_open_is_not_known_any_more_when_the_store_fails(store_url: str, table: Table) -> None:
    table.opened()
    with Wire(store_url) as wire:
        environment = table.environment(connect(wire.url, Config(retries={"total_max_attempts": 1})))
        assert environment.ask(must_not_run) == "open"
        wire.plan = lambda _: Fault.FAILED
        assert environment.ask(must_not_run) == "open"
        environment.clock.shift += MAX_AGE_S
        assert environment.ask(table.upstream) == "failed"


@pytest.mark.parametrize("fault", [Fault.FAILED, Fault.DROPPED, Fault.THROTTLED], ids=name_of)
def test_calls_pass_when_the_store_fails_at_the_election(fault: Fault, store_url: str, table: Table) -> None:
    table.opened()
    table.passes(RECOVERY_S)
    with Wire(store_url) as wire:
        environment = table.environment(connect(wire.url, Config(retries={"total_max_attempts": 1})))
        assert not environment.breakers.wait_s(MODEL)
        wire.plan = lambda _: fault
        assert [environment.ask(table.upstream) for _ in range(5)] == ["failed"] * 5
    assert environment.changes == []


def test_an_election_whose_answer_was_lost_was_won(store_url: str, table: Table) -> None:
    table.opened()
    table.passes(RECOVERY_S)
    table.upstream.is_down = False
    with Wire(store_url) as wire:
        environment = table.environment(connect(wire.url))
        lost = iter([Fault.LOST])
        wire.plan = lambda seen: next(lost, None) if seen.operation == "PutItem" else None
        assert [environment.ask(table.upstream) for _ in range(2)] == ["fine"] * 2
        assert next(lost, None) is None
    assert environment.changes == [PROBES, CLOSES]
