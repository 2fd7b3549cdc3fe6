"""Rows of usage are the sums of spans, and what the ledger has spent, at whatever moment of a fold."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from farebox.aws import from_dynamodb
from farebox.hours import hour_of
from farebox.ledger import Hold, Ledger, Limits
from farebox.queries import Interval, UsageQuery
from farebox.readings import MAX_HOURS, Reading, read
from farebox.reports import rows
from farebox.rollups import Rollups
from farebox.spans import partition
from farebox.tally import DIMENSIONS
from farebox.tenants import windows
from tests.folds import Between, Killed, Shelf, each_shelf, shelf, unreadable
from tests.simulation.memory import Memory

__all__ = ["each_shelf", "shelf"]

HOUR = timedelta(hours=1)
NOON = datetime(2026, 11, 23, 12, 20, tzinfo=UTC)
NOVEMBER = UsageQuery(date(2026, 11, 1), date(2026, 11, 30))
AMPLE = Limits(10**16, 10**16, 0)
Sums = dict[tuple[str, str | None], tuple[int, int, int]]
"""Calls, cost and how much of it is estimated, by start and group."""


def reading(shelf: Shelf, query: UsageQuery, tenant: str = "acme", client: Any = None) -> Reading:
    return read(Rollups(client or shelf.client, shelf.table), tenant, query, shelf.at)


def told(shelf: Shelf, query: UsageQuery, zone: str = "UTC", client: Any = None) -> Sums:
    found = rows(query, reading(shelf, query, client=client).parts, zone)
    return {
        (row.start, row.group): (row.sums.calls, row.sums.cost_nanousd, row.sums.estimated_nanousd) for row in found
    }


def truth(shelf: Shelf, query: UsageQuery, zone: str = "UTC") -> Sums:
    """Of the spans in the table, in the plainest way."""
    found: dict[tuple[str, str | None], list[int]] = defaultdict(lambda: [0, 0, 0])
    for item in shelf.items:
        span: Any = from_dynamodb(item) if item["pk"]["S"].startswith("SPANS#") else {}
        day = f"{span.get('month')}-{span.get('day', 0):02}"
        if span.get("tenant") != "acme" or not str(query.first) <= day <= str(query.last):
            continue
        group = None if query.group_by is None else span.get(query.group_by, "-")
        sums = found[start_of(query, span, day, zone), group]
        sums[0] += 1
        sums[1] += span.get("cost_nanousd", 0)
        sums[2] += span.get("cost_nanousd", 0) if span.get("is_estimated") else 0
    return {key: (calls, cost, estimated) for key, (calls, cost, estimated) in found.items()}


def start_of(query: UsageQuery, span: Any, day: str, zone: str) -> str:
    if query.interval is Interval.HOUR:
        at = datetime.fromisoformat(span["pk"].split("#")[1] + ":00+00:00").astimezone(ZoneInfo(zone))
        midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
        return (at if str(at.date()) == day else midnight).isoformat()
    return {Interval.ALL: str(query.first), Interval.MONTH: day[:7], Interval.DAY: day}[query.interval]


# What comes from where.


def test_a_call_shows_up_at_once_and_stays_when_it_is_folded(each_shelf: Shelf) -> None:
    shelf, query = each_shelf, UsageQuery(NOVEMBER.first, NOVEMBER.last, Interval.DAY, "model")
    shelf.begin(NOON - HOUR)
    shelf.call(NOON - HOUR, cost=300)
    shelf.fold()
    shelf.call(cost=1)
    shelf.call(cost=20, model="sim/cent")
    shelf.call(tenant="beta", cost=4000)
    for _ in range(2):
        assert told(shelf, query) == {
            ("2026-11-23", "sim/ok"): (2, 301, 0), ("2026-11-23", "sim/cent"): (1, 20, 0),
        }  # fmt: skip
        shelf.fold()


def test_rollups_are_read_and_not_spans_where_the_fold_is_through(shelf: Shelf) -> None:
    shelf.begin(NOON)
    for hours in range(4):
        shelf.call(NOON + hours * HOUR, cost=10**hours)
    shelf.at += 100 * HOUR
    shelf.fold()
    for item in shelf.items:
        if item["pk"]["S"].startswith("SPANS#"):
            shelf.client.delete_item(TableName=shelf.table, Key={name: item[name] for name in ("pk", "sk")})
    for interval, starts in (
        (Interval.HOUR, [f"2026-11-23T{hour}:00:00+00:00" for hour in range(12, 16)]),
        (Interval.DAY, ["2026-11-23"]),
        (Interval.MONTH, ["2026-11"]),
        (Interval.ALL, ["2026-11-01"]),
    ):
        found = told(shelf, UsageQuery(NOVEMBER.first, NOVEMBER.last, interval))
        assert [start for start, _ in found] == starts
        assert sum(cost for _, cost, _ in found.values()) == 1111


def test_a_past_month_is_one_item_once_it_is_folded(shelf: Shelf) -> None:
    shelf.begin(NOON)
    shelf.call(cost=7)
    shelf.at += timedelta(days=30)
    shelf.fold()
    counting = Between(shelf.client, lambda *_: None)
    assert told(shelf, UsageQuery(NOVEMBER.first, NOVEMBER.last), client=counting) == {("2026-11-01", None): (1, 7, 0)}
    assert counting.asked == ["get_item", "query", "batch_get_item"]


@pytest.mark.parametrize("interval", [Interval.DAY, Interval.MONTH, Interval.ALL])
def test_days_outside_what_is_asked_for_are_left_out_wherever_they_come_from(interval: Interval, shelf: Shelf) -> None:
    query = UsageQuery(date(2026, 11, 22), date(2026, 11, 22), interval)
    shelf.begin(NOON - 50 * HOUR)
    for hours in range(50):
        shelf.call(NOON - hours * HOUR, cost=hours)
    expected = truth(shelf, query)
    for _ in range(2):
        shelf.fold()
        assert told(shelf, query) == expected


def test_a_late_change_is_seen_while_its_mark_is_there_and_afterwards(shelf: Shelf) -> None:
    shelf.begin(NOON)
    lost = shelf.call(cost=None)
    shelf.at += 30 * HOUR
    shelf.fold()
    assert told(shelf, NOVEMBER) == {("2026-11-01", None): (1, 0, 0)}
    shelf.mark("2026-11-23T12")
    shelf.store.resolve_span(*lost, 20, is_estimated=True, known={"tenant": "acme"})
    for _ in range(2):
        assert told(shelf, NOVEMBER) == {("2026-11-01", None): (1, 20, 20)}
        shelf.fold()


def test_before_the_first_fold_the_last_hours_are_there_and_it_is_said_that_older_ones_may_not_be(
    shelf: Shelf,
) -> None:
    shelf.call(cost=1)
    shelf.call(NOON - MAX_HOURS * HOUR, cost=20)
    assert told(shelf, NOVEMBER) == {("2026-11-01", None): (1, 1, 0)}
    assert reading(shelf, NOVEMBER).complete_until == datetime(2026, 11, 21, 12, tzinfo=UTC)
    shelf.fold()
    assert told(shelf, NOVEMBER) == {("2026-11-01", None): (2, 21, 0)}
    assert reading(shelf, NOVEMBER).complete_until == shelf.at


def test_of_a_fold_that_has_not_run_for_long_what_it_has_is_told_and_up_to_when_that_is_all(shelf: Shelf) -> None:
    shelf.begin(NOON)
    shelf.call(cost=1)
    shelf.fold()
    shelf.call(NOON + timedelta(minutes=5), cost=20)
    shelf.at += 9 * HOUR
    for hours in range(MAX_HOURS):
        shelf.call(NOON + (9 - hours) * HOUR, cost=300)
    assert told(shelf, NOVEMBER) == {("2026-11-01", None): (1 + MAX_HOURS, 1 + 300 * MAX_HOURS, 0)}
    assert reading(shelf, NOVEMBER).complete_until == datetime(2026, 11, 23, 12, tzinfo=UTC)
    october = UsageQuery(date(2026, 10, 1), date(2026, 10, 31))
    assert reading(shelf, october).complete_until == shelf.at


def test_never_more_hours_than_that_are_read_span_by_span(shelf: Shelf) -> None:
    shelf.at = NOON + 40 * HOUR
    shelf.begin(NOON)
    asked = set()

    def note(_at: int, operation: str, request: dict[str, Any]) -> None:
        pk = request.get("ExpressionAttributeValues", {}).get(":pk", {}).get("S", "")
        if operation == "query" and pk.startswith("SPANS#"):
            asked.add(pk.split("#")[1])

    told(shelf, NOVEMBER, client=Between(shelf.client, note))
    assert sorted(asked) == ["2026-11-25T02", "2026-11-25T03", "2026-11-25T04"]


def test_a_span_that_cannot_be_read_is_left_out_as_the_fold_leaves_it_out(shelf: Shelf) -> None:
    shelf.begin(NOON)
    shelf.put(unreadable(partition(hour_of(int(NOON.timestamp())), 0), "bad"))
    shelf.call(cost=7)
    for _ in range(2):
        assert told(shelf, NOVEMBER) == {("2026-11-01", None): (1, 7, 0)}
        shelf.fold()


def behind(shelf: Shelf) -> None:
    """Three hours that are not folded for good, one of them final and changed since it was folded, over a midnight."""
    shelf.at = datetime(2026, 11, 23, 22, 20, tzinfo=UTC)
    shelf.begin(shelf.at)
    lost = shelf.call(cost=None)
    for hours in range(2):
        shelf.call(shelf.at + hours * HOUR, cost=10**hours)
    shelf.fold()
    shelf.at += 2.3 * HOUR
    shelf.call(cost=100)
    shelf.mark(lost[0].split("#")[1])
    shelf.store.resolve_span(*lost, 2000, is_estimated=False, known={"tenant": "acme"})


@pytest.mark.parametrize("interval", Interval)
def test_a_fold_between_two_requests_of_a_reading_leaves_nothing_out_and_counts_nothing_twice(
    interval: Interval,
) -> None:
    query = UsageQuery(date(2026, 11, 1), date(2026, 11, 30 if interval is not Interval.HOUR else 24), interval)
    number, is_within = 0, True
    while is_within:
        shelf, is_within = Shelf(Memory(), "t"), False
        behind(shelf)

        def between(at: int, _operation: str, _request: dict[str, Any], shelf: Shelf = shelf) -> None:
            nonlocal is_within
            if at == number:  # noqa: B023 - called in this turn of the loop
                is_within = True
                shelf.fold()

        assert told(shelf, query, client=Between(shelf.client, between)) == truth(shelf, query), number
        number += 1
    assert number > 4 * MAX_HOURS


# Time zones.


@pytest.mark.parametrize(("zone", "day", "minutes", "first", "last"), [
    ("UTC", date(2026, 11, 1), 1440, "00:00:00+00:00", "23:00:00+00:00"),
    ("Asia/Kathmandu", date(2026, 11, 1), 1440, "00:00:00+05:45", "23:45:00+05:45"),
    ("America/Los_Angeles", date(2026, 11, 1), 1500, "00:00:00-07:00", "23:00:00-08:00"),
    ("America/Los_Angeles", date(2026, 3, 8), 1380, "00:00:00-08:00", "23:00:00-07:00"),
    ("Australia/Lord_Howe", date(2026, 4, 5), 1470, "00:00:00+11:00", "23:30:00+10:30"),
    ("Australia/Lord_Howe", date(2026, 10, 4), 1410, "00:00:00+10:30", "23:00:00+11:00"),
    ("Pacific/Chatham", date(2026, 4, 5), 1500, "00:00:00+13:45", "23:45:00+12:45"),
    ("Pacific/Chatham", date(2026, 9, 27), 1380, "00:00:00+12:45", "23:45:00+13:45"),
])  # fmt: skip
def test_a_day_has_all_its_calls_however_long_it_is_and_its_hours_begin_within_it(
    zone: str, day: date, minutes: int, first: str, last: str, shelf: Shelf
) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    begin = midnight - 2 * HOUR
    shelf.begin(begin)
    for quarters in range(30 * 4):
        shelf.call(begin + timedelta(minutes=15 * quarters), zone=zone, cost=1)
    shelf.at = begin + 30 * HOUR
    by_day, by_hour = (UsageQuery(day, day, interval) for interval in (Interval.DAY, Interval.HOUR))
    for _ in range(2):
        shelf.fold()
        assert told(shelf, by_day, zone) == {(str(day), None): (minutes // 15, minutes // 15, 0)}
        hours = told(shelf, by_hour, zone)
        assert hours == truth(shelf, by_hour, zone)
        assert [[start for start, _ in hours][at] for at in (0, -1)] == [f"{day}T{first}", f"{day}T{last}"]
        assert sum(calls for calls, _, _ in hours.values()) == minutes // 15
        shelf.at += 3 * HOUR


# At any moment.

ZONES = ("UTC", "America/Los_Angeles", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Chatham")
TURNS = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 4, 5, tzinfo=UTC), datetime(2026, 10, 4, tzinfo=UTC))
"""Near a change of the clocks, or of the month, or both."""


@dataclass
class Books:
    """Calls of one tenant with ledgers, spans and folds, all of them at random."""

    shelf: Shelf
    zone: str
    chance: Random
    lost: list[tuple[tuple[str, str], str, Hold]] = field(default_factory=list)
    months: set[str] = field(default_factory=set)
    agreed: int = 0

    def call(self) -> None:
        shelf, chance = self.shelf, self.chance
        at, cost = int(shelf.at.timestamp()), chance.choice((None, chance.randint(0, 10**9)))
        window = windows(shelf.at, self.zone)
        hold = Hold(f"h{chance.getrandbits(64):x}", 10**9, window.day, at, at + 960, "sim/ok")
        assert isinstance(shelf.store.reserve("acme", window.month, hold, AMPLE), Ledger)
        self.months.add(window.month)
        names: Any = {name: chance.choice((f"{name}-a", f"{name}-b")) for name in DIMENSIONS}
        key = shelf.call(zone=self.zone, cost=cost, **names)
        if cost is None:
            self.lost.append((key, window.month, hold))
        else:
            shelf.store.settle("acme", window.month, hold, cost)

    def resolve(self) -> None:
        if self.lost:
            key, month, hold = self.lost.pop(self.chance.randrange(len(self.lost)))
            self.shelf.mark(key[0].split("#")[1])
            cost, is_estimated = self.chance.randint(0, 10**9), self.chance.random() < 0.5
            self.shelf.store.resolve_span(*key, cost, is_estimated=is_estimated, known={"tenant": "acme"})
            self.shelf.store.settle("acme", month, hold, cost)

    def later(self) -> None:
        self.shelf.at += timedelta(minutes=self.chance.randint(1, 70))
        self.fold()

    def fold(self) -> None:
        """As a whole, or with an end in the middle, and asked about between its requests."""
        dies_at = self.chance.choice((None, self.chance.randrange(40)))
        asks_at = self.chance.randrange(40)

        def between(at: int, _operation: str, _request: dict[str, Any]) -> None:
            if at == asks_at:
                self.check()
            if at == dies_at:
                raise Killed

        with suppress(Killed):
            self.shelf.fold(Between(self.shelf.client, between))
        if dies_at is not None:
            self.check()
            self.shelf.fold()  # the next run comes before hours are missing

    def check(self) -> None:
        """Rows, spans and ledgers agree."""
        chance, shelf = self.chance, self.shelf
        first = date.fromisoformat(f"{min(self.months)}-01")
        last = (date.fromisoformat(f"{max(self.months)}-28") + timedelta(days=4)).replace(day=1) - timedelta(days=1)
        query = UsageQuery(first, last, chance.choice((Interval.DAY, Interval.MONTH, Interval.ALL)))
        found, expected = told(shelf, query, self.zone), truth(shelf, query, self.zone)
        if reading(shelf, query).complete_until < shelf.at:
            # Too many hours are marked to read them all; what is not there yet is counted later, and nothing twice.
            assert all(calls <= expected[key][0] for key, (calls, _, _) in found.items())
            return
        self.agreed += 1
        assert found == expected
        spent = sum(shelf.store.ledger("acme", month).spent_nanousd for month in self.months)
        assert sum(cost for _, cost, _ in found.values()) == spent
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        some = sorted((chance.choice(days), chance.choice(days)))
        for query in (
            UsageQuery(some[0], some[1], chance.choice((Interval.DAY, Interval.ALL)), chance.choice(DIMENSIONS)),
            UsageQuery(some[0], min(some[1], some[0] + timedelta(days=30)), Interval.HOUR, chance.choice(DIMENSIONS)),
        ):
            assert told(shelf, query, self.zone) == truth(shelf, query, self.zone)


@pytest.mark.parametrize("seed", range(15))
def test_rows_are_the_sums_of_spans_and_what_ledgers_have_spent_at_any_moment_of_a_fold(
    seed: int, shelf: Shelf
) -> None:
    chance = Random(seed)  # noqa: S311 - not a secret
    shelf.at = TURNS[seed % len(TURNS)] + timedelta(hours=chance.randint(-20, 20), minutes=chance.randint(0, 59))
    shelf.begin(shelf.at)
    books = Books(shelf, ZONES[seed % len(ZONES)], chance)
    books.call()
    acts: list[Callable[[], None]] = [books.call, books.call, books.resolve, books.later, books.later]
    for _ in range(60):
        chance.choice(acts)()
        books.check()
    assert books.agreed > 40
