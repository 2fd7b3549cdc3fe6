"""Usage of a tenant beside others with more calls than one request reads: what is told is right, and until when."""

from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import pytest

from farebox import readings
from farebox.queries import Interval, UsageQuery
from farebox.readings import MAX_PAGES
from tests.folds import Between, Shelf
from tests.simulation.memory import Memory
from tests.test_readings import HOUR, NOON, NOVEMBER, TURNS, ZONES, Sums, reading, told, truth


@pytest.fixture
def paged() -> Shelf:
    """Each page has one span, or none."""
    return Shelf(Memory(page_size=1), "t")


def crowd(shelf: Shelf, calls: int, at: datetime | None = None) -> None:
    """Calls of somebody else."""
    for _ in range(calls):
        shelf.call(at, tenant="beta")


def test_a_tenant_without_calls_does_not_make_the_gateway_read_everybody_s(paged: Shelf) -> None:
    shelf = paged
    shelf.begin(NOON)
    shelf.at += 2 * HOUR
    for hours in range(3):
        crowd(shelf, MAX_PAGES + 20, NOON + hours * HOUR)
    asked = []

    def note(_at: int, operation: str, request: dict[str, Any]) -> None:
        pk = request.get("ExpressionAttributeValues", {}).get(":pk", {}).get("S", "")
        if operation == "query" and pk.startswith("SPANS#"):
            asked.append(pk)

    assert told(shelf, NOVEMBER, client=Between(shelf.client, note)) == {}
    assert len(asked) == MAX_PAGES


@pytest.mark.parametrize(("calls", "told_of", "until"), [
    (MAX_PAGES, {("2026-11-01", None): (1, 7, 0)}, NOON),
    (MAX_PAGES + 1, {}, NOON.replace(minute=0)),
])  # fmt: skip
def test_an_hour_is_whole_when_its_last_page_is_the_last_one_allowed(
    calls: int, told_of: Sums, until: datetime, paged: Shelf
) -> None:
    paged.begin(NOON)
    crowd(paged, calls - 1)
    paged.call(cost=7)
    assert (told(paged, NOVEMBER), reading(paged, NOVEMBER).complete_until) == (told_of, until)


@pytest.mark.parametrize("interval", Interval)
def test_an_hour_that_is_not_read_whole_is_told_as_far_as_it_was_folded_and_complete_until_is_its_beginning(
    interval: Interval, paged: Shelf
) -> None:
    shelf, query = (
        paged,
        UsageQuery(NOVEMBER.first, date(2026, 11, 30 if interval is not Interval.HOUR else 24), interval),
    )
    shelf.begin(NOON)
    shelf.at += HOUR
    shelf.call(NOON, cost=1)
    shelf.call(cost=20)
    crowd(shelf, MAX_PAGES)
    assert sum(cost for _, cost, _ in told(shelf, query).values()) == 1
    shelf.fold()
    folded = truth(shelf, query)
    shelf.call(cost=300)
    assert told(shelf, query) == folded
    assert sum(cost for _, cost, _ in folded.values()) == 21
    assert reading(shelf, query).complete_until == datetime(2026, 11, 23, 13, tzinfo=UTC)


@pytest.mark.parametrize("seed", range(5))
def test_however_few_pages_are_read_all_before_complete_until_is_told_and_nothing_twice_at_any_moment_of_a_fold(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, zone = Random(seed), ZONES[seed % len(ZONES)]  # noqa: S311 - not a secret
    shelf = Shelf(Memory(page_size=2), "t", TURNS[seed % len(TURNS)] + timedelta(minutes=chance.randint(-900, 900)))
    shelf.begin(shelf.at)
    begin, gaps = shelf.at.date() - timedelta(days=2), 0

    def check(*, is_all: bool = False) -> None:
        nonlocal gaps
        monkeypatch.setattr(readings, "MAX_PAGES", chance.randint(0, 30))
        query = UsageQuery(begin, begin + timedelta(days=20), chance.choice(list(Interval)))
        until = reading(shelf, query).complete_until
        gaps += until < shelf.at
        found, expected = told(shelf, query, zone), truth(shelf, query, zone)
        assert all(sums <= expected[key] for key, sums in found.items())
        if is_all:
            assert found == expected
        elif query.interval is Interval.HOUR:
            before = {key for key in expected if datetime.fromisoformat(key[0]) + HOUR <= until}
            assert all(found[key] == expected[key] for key in before)

    for _ in range(40):
        for _ in range(chance.randint(0, 8)):
            shelf.call(zone=zone, tenant=chance.choice(("acme", "beta")), cost=chance.randint(0, 10**9))
        check()
        asks_at = chance.randrange(40)
        shelf.fold(Between(shelf.client, lambda at, *_, asks_at=asks_at: check() if at == asks_at else None))
        check(is_all=True)
        shelf.at += timedelta(minutes=chance.randint(1, 50))
    assert gaps > 20
