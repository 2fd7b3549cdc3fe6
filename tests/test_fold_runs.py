"""Folds that die, that run at once, and whose requests to the store go wrong: the next run makes it right."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from farebox.rollups import MISSING, Rollup, Rollups
from farebox.spans import partition
from farebox.store import TRIES, StoreError
from tests.folds import NOON, Between, Killed, Shelf, dying
from tests.simulation.memory import Memory

HOUR = timedelta(hours=1)
TWELVE = "2026-11-23T12"
LOST_HOUR = "USAGE#acme#2026-11", f"H#23#{TWELVE}"


def filled(shelf: Shelf) -> tuple[str, str]:
    """Two hours, of which one is final and was changed since; the key of a span without a cost in it."""
    shelf.begin(NOON)
    lost = shelf.call(cost=None)
    shelf.call(tenant="beta")
    shelf.at += 2 * HOUR
    shelf.fold()
    shelf.call(cost=1)
    resolve(shelf, lost, 20)
    return lost


def resolve(shelf: Shelf, key: tuple[str, str], cost: int, *, is_estimated: bool = True) -> None:
    """As the sweep does it: first the mark, then the change."""
    shelf.mark(key[0].split("#")[1])
    shelf.store.resolve_span(*key, cost, is_estimated=is_estimated, known={"tenant": "acme"})


def correct(shelf: Shelf, key: tuple[str, str], cost: int) -> None:
    shelf.mark(key[0].split("#")[1])
    shelf.store.correct_span(*key, cost)


def requests_of_a_fold(shelf: Shelf) -> int:
    """How many a whole one has on a table like this."""
    filled(shelf)
    counting = Between(shelf.client, lambda *_: None)
    shelf.fold(counting)
    return len(counting.asked)


REQUESTS = requests_of_a_fold(Shelf(Memory(), "t"))


def is_through(shelf: Shelf) -> None:
    """All is right, nothing is left to do, and another run changes nothing."""
    shelf.is_right()
    assert shelf.marks == []
    before = shelf.items
    assert shelf.fold()["written"] == 0
    assert shelf.items == before


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(REQUESTS))
def test_a_run_that_dies_at_any_request_is_made_good_by_the_next_one(
    number: int,
    is_done: bool,  # noqa: FBT001
    shelf: Shelf,
) -> None:
    filled(shelf)

    def die(at: int, operation: str, request: dict[str, Any]) -> None:
        if at == number:
            if is_done:
                getattr(shelf.client, operation)(**request)
            raise Killed

    with pytest.raises(Killed):
        shelf.fold(Between(shelf.client, die))
    shelf.fold()
    is_through(shelf)


@pytest.mark.parametrize("change", ["before the other run", "after it", "none"])
@pytest.mark.parametrize("number", range(REQUESTS))
def test_a_run_inside_another_one_leaves_what_was_read_last(number: int, change: str, shelf: Shelf) -> None:
    """The other run is whole, between two requests of the first; a late change comes before or after it."""
    lost = filled(shelf)

    def between(at: int, _operation: str, _request: dict[str, Any]) -> None:
        if at == number:
            if change == "before the other run":
                correct(shelf, lost, 5)
            shelf.fold()
            if change == "after it":
                correct(shelf, lost, 5)

    shelf.fold(Between(shelf.client, between))
    # Of a change that has no mark left nobody will hear again.
    if not shelf.marks:
        assert shelf.rollups[LOST_HOUR]["total", ""]["c"] == (20 if change == "none" else 5)
    shelf.fold()
    is_through(shelf)


@pytest.mark.parametrize("change", ["when it begins", "when it stops"])
@pytest.mark.parametrize("first", range(REQUESTS))
def test_what_a_run_writes_after_a_later_one_has_ended_does_no_harm(first: int, change: str) -> None:
    """One begins before a request of another, stops at each of its own, and goes on when the other has ended."""
    for second in range(first % 2, REQUESTS, 2):
        shelf = Shelf(Memory(), "t")
        lost = filled(shelf)
        inner = Halting(shelf, second)

        def begin(at: int, _operation: str, _request: dict[str, Any], shelf: Shelf = shelf) -> None:
            if at == first:
                if change == "when it begins":
                    correct(shelf, lost, 5)  # noqa: B023 - called in this turn of the loop
                inner.run_until_halt()  # noqa: B023 - the same
                if change == "when it stops":
                    correct(shelf, lost, 5)  # noqa: B023 - the same

        shelf.fold(Between(shelf.client, begin))
        inner.go_on()
        if not shelf.marks:
            assert shelf.rollups[LOST_HOUR]["total", ""]["c"] == 5, (first, second)
        shelf.fold()
        is_through(shelf)


class Halting:
    """A fold in a thread, which halts before its n-th request. Only one of the two threads ever runs."""

    def __init__(self, shelf: Shelf, number: int) -> None:
        self._number = number
        self._halted, self._goes_on = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(shelf,), daemon=True)

    def run_until_halt(self) -> None:
        self._thread.start()
        assert self._halted.wait(20)

    def go_on(self) -> None:
        self._goes_on.set()
        self._thread.join(20)
        assert self._failure is None

    def _run(self, shelf: Shelf) -> None:
        try:
            shelf.fold(Between(shelf.client, self._before))
        except BaseException as e:  # noqa: BLE001 - looked at by `go_on`
            self._failure = e
        self._halted.set()

    def _before(self, at: int, _operation: str, _request: dict[str, Any]) -> None:
        if at == self._number:
            self._halted.set()
            assert self._goes_on.wait(20)


def test_two_runs_at_once_on_a_real_store_are_made_good_by_a_third(each_shelf: Shelf) -> None:
    shelf, lost = each_shelf, filled(each_shelf)
    together = threading.Barrier(2, timeout=20)

    def run(_: int) -> None:
        together.wait()
        shelf.fold()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    correct(shelf, lost, 5)
    shelf.fold()
    is_through(shelf)


def test_a_run_that_dies_on_a_real_store_is_made_good_by_the_next_one(each_shelf: Shelf) -> None:
    filled(each_shelf)
    for number in range(4):
        with pytest.raises(Killed):
            each_shelf.fold(dying(each_shelf.client, "put_item", 1 if number % 2 else 2))
        each_shelf.call(cost=number)
    each_shelf.fold()
    is_through(each_shelf)


# Requests that go wrong.


def throttled(operation: str) -> ClientError:
    return ClientError({"Error": {"Code": "ProvisionedThroughputExceededException", "Message": ""}}, operation)


def test_an_hour_that_the_store_fails_for_keeps_no_other_waiting_and_is_folded_by_the_next_run(shelf: Shelf) -> None:
    shelf.begin(NOON)
    shelf.call(cost=1)
    shelf.at += 3 * HOUR
    shelf.call(NOON + HOUR, cost=20)

    def fail(_at: int, operation: str, request: dict[str, Any]) -> None:
        if partition(TWELVE, 2) in str(request):
            raise throttled(operation)

    with pytest.raises(StoreError):
        shelf.fold(Between(shelf.client, fail))
    assert shelf.cost("M") == 20
    assert shelf.watermark == TWELVE
    assert [what for what, _ in shelf.said] == ["not folded", "folded"]
    shelf.fold()
    assert shelf.watermark == "2026-11-23T14"
    is_through(shelf)


def test_a_failed_hour_keeps_its_marks(shelf: Shelf) -> None:
    filled(shelf)

    def fail(_at: int, operation: str, request: dict[str, Any]) -> None:
        if operation == "put_item" and TWELVE in request["Item"]["sk"]["S"]:
            raise EndpointConnectionError(endpoint_url="http://store")

    with pytest.raises(StoreError):
        shelf.fold(Between(shelf.client, fail))
    assert shelf.marks == [TWELVE]
    shelf.fold()
    is_through(shelf)


@pytest.mark.parametrize("operation", ["put_item", "update_item"])
def test_a_write_that_is_repeated_is_not_taken_for_another_run_s(operation: str, each_shelf: Shelf) -> None:
    filled(each_shelf)

    def twice(_at: int, asked: str, request: dict[str, Any]) -> None:
        if asked == operation:
            getattr(each_shelf.client, asked)(**request)

    assert each_shelf.fold(Between(each_shelf.client, twice))["overtaken"] == 0
    is_through(each_shelf)


def test_a_copy_of_a_write_that_comes_late_changes_nothing(shelf: Shelf) -> None:
    lost = filled(shelf)
    copies: list[tuple[str, dict[str, Any]]] = []

    def keep(_at: int, operation: str, request: dict[str, Any]) -> None:
        if operation in ("put_item", "update_item", "delete_item"):
            copies.append((operation, request))

    shelf.fold(Between(shelf.client, keep))
    correct(shelf, lost, 5)
    shelf.fold()
    before = shelf.items
    for operation, request in copies:
        with suppress(ClientError):
            getattr(shelf.client, operation)(**request)
    assert shelf.items == before


def test_what_a_batch_leaves_unread_is_asked_for_again() -> None:
    memory = Memory(page_size=2)
    rollups, keys = Rollups(cast("Any", memory), "t"), [("USAGE#a#2026-11", f"D#{day:02}") for day in range(1, 8)]
    for key in keys[1:]:
        assert rollups.put(key, {"total": {}}, MISSING)
    assert rollups.read(keys) == {key: Rollup({"total": {}}, 1) for key in keys[1:]}


def test_a_batch_of_which_nothing_is_ever_read_is_an_error() -> None:
    asked = []

    class Busy:
        def batch_get_item(self, **request: Any) -> Any:
            asked.append(request)
            return {"Responses": {}, "UnprocessedKeys": request["RequestItems"]}

    with pytest.raises(StoreError):
        Rollups(cast("Any", Busy()), "t").read([("a", "b")])
    assert len(asked) == TRIES


def test_an_answer_that_is_not_dynamodb_s_is_an_error() -> None:
    class Other:
        def batch_get_item(self, **_request: Any) -> Any:
            return {"ResponseMetadata": {}}

    with pytest.raises(StoreError):
        Rollups(cast("Any", Other()), "t").read([("a", "b")])
