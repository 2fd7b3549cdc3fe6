"""Rollups say what the spans do: by hour, day and month, in every zone, however late a span is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.aws import to_dynamodb
from farebox.fold import MANY_SPANS
from farebox.hours import FIRST_HOURS, began, following, hour_of, hours, is_final, is_over
from farebox.reminders import KEPT_DAYS, kept_until
from farebox.spans import partition
from farebox.tally import MAX_NAMES, OTHER
from tests.folds import NOON, Killed, Shelf, dying, unreadable

HOUR = timedelta(hours=1)


# Hours.


def test_an_hour_is_over_at_its_end_and_final_half_an_hour_later() -> None:
    ten, moment = "2026-11-23T10", int(datetime(2026, 11, 23, 11, tzinfo=UTC).timestamp())
    assert hour_of(moment - 1) == ten
    assert following(ten) == hour_of(moment) == "2026-11-23T11"
    assert began(ten) == moment - 3600
    assert [is_over(ten, moment - 1), is_over(ten, moment)] == [False, True]
    assert [is_final(ten, moment + 1799), is_final(ten, moment + 1800)] == [False, True]


def test_hours_follow_each_other_over_the_ends_of_years() -> None:
    assert list(hours("2026-12-31T22", "2027-01-01T01")) == [
        "2026-12-31T22", "2026-12-31T23", "2027-01-01T00", "2027-01-01T01",
    ]  # fmt: skip
    assert list(hours("2026-11-23T11", "2026-11-23T10")) == []


# What is summed.


def test_spans_are_summed_by_hour_day_and_month(each_shelf: Shelf) -> None:
    shelf = each_shelf
    shelf.begin(NOON - 24 * HOUR)
    shelf.call(cost=1)
    shelf.call(cost=20, feature="chat", provider=None, key="k1")
    shelf.call(NOON - HOUR, cost=300, is_estimated=True)
    shelf.call(NOON - 24 * HOUR, cost=4000)
    shelf.call(tenant="beta", cost=None, prompt_tokens=None)
    shelf.fold()
    shelf.is_right()
    sums = {sk: shelf.cost(sk) for _, sk in shelf.rollups}
    assert sums == {
        "H#23#2026-11-23T12": 21, "H#23#2026-11-23T11": 300, "H#22#2026-11-22T12": 4000,
        "D#23": 321, "D#22": 4000, "M": 4321,
    }  # fmt: skip
    assert shelf.cost("M", tenant="beta") == 0
    assert shelf.rollups["USAGE#acme#2026-11", "D#23"] == {
        ("total", ""): {"n": 3, "c": 321, "e": 300, "p": 6, "o": 9},
        ("feature", "search"): {"n": 2, "c": 301, "e": 300, "p": 4, "o": 6},
        ("feature", "chat"): {"n": 1, "c": 20, "p": 2, "o": 3},
        ("provider", "Sim"): {"n": 2, "c": 301, "e": 300, "p": 4, "o": 6},
        ("provider", "-"): {"n": 1, "c": 20, "p": 2, "o": 3},
        ("model", "sim/ok"): {"n": 3, "c": 321, "e": 300, "p": 6, "o": 9},
        ("key", "-"): {"n": 2, "c": 301, "e": 300, "p": 4, "o": 6},
        ("key", "k1"): {"n": 1, "c": 20, "p": 2, "o": 3},
    }


def test_a_second_run_changes_no_item(each_shelf: Shelf) -> None:
    each_shelf.begin(NOON - 3 * HOUR)
    for hours_ago in range(4):
        each_shelf.call(NOON - hours_ago * HOUR)
    assert each_shelf.fold()["written"] == 4 + 2
    before = each_shelf.items
    assert each_shelf.fold()["written"] == 0
    assert each_shelf.items == before


def test_hours_expire_with_their_spans_and_days_and_months_do_not(shelf: Shelf) -> None:
    shelf.call()
    shelf.fold()
    expires = {item["sk"]["S"]: item.get("ttl") for item in shelf.items if item["pk"]["S"].startswith("USAGE#")}
    assert expires == {
        "H#23#2026-11-23T12": {"N": str(kept_until(began("2026-11-23T12")))}, "D#23": None, "M": None,
    }  # fmt: skip


def test_a_run_over_nothing_writes_no_rollup(shelf: Shelf) -> None:
    assert shelf.fold() == {"hours": 49, "spans": 0, "skipped": 0, "written": 0, "overtaken": 0}
    assert shelf.rollups == {}
    shelf.at += 24 * HOUR  # and so does an empty day
    assert shelf.fold()["written"] == 0
    assert shelf.rollups == {}


ZONES = {
    "UTC": (2026, 12, 1),
    "Asia/Kathmandu": (2026, 12, 1),
    "America/Los_Angeles": (2026, 11, 1),
    "Pacific/Chatham": (2026, 4, 5),
    "Australia/Lord_Howe": (2026, 4, 5),
    "Europe/Berlin": (2027, 1, 1),
}
"""Ends of months, of a year, and days on which the clock is changed."""


@pytest.mark.parametrize("zone", ZONES)
def test_days_and_months_are_those_of_the_tenant_whatever_its_zone(zone: str, shelf: Shelf) -> None:
    midnight = datetime(*ZONES[zone], tzinfo=UTC)
    shelf.at = midnight + timedelta(hours=30)
    days: dict[tuple[str, int], int] = {}
    for number in range(4 * 44):
        at = midnight - timedelta(hours=15) + timedelta(minutes=15 * number, seconds=1)
        key = shelf.call(at, zone=zone, cost=number)
        span = shelf.store.span(*key)
        window = str(span["month"]), int(span["day"])
        days[window] = days.get(window, 0) + number
    shelf.fold()
    shelf.is_right()
    assert {window: shelf.cost(f"D#{window[1]:02}", window[0]) for window in days} == days
    assert len(days) >= 2
    both = {sk.partition("#")[2][3:] for _, sk in shelf.rollups if sk[0] == "H"}
    slices = [sk for _, sk in shelf.rollups if sk[0] == "H"]
    # Where midnight is within an hour of UTC, that hour has spans of two days.
    assert (len(slices) > len(both)) is (zone in ("Asia/Kathmandu", "Pacific/Chatham", "Australia/Lord_Howe"))


def test_more_names_than_fit_are_summed_exactly(shelf: Shelf) -> None:
    for number in range(MAX_NAMES + 20):
        shelf.call(cost=number, feature=f"f{number}")
    shelf.call(NOON - HOUR, cost=10**9, feature="f0")
    shelf.fold()
    for sk in ("H#23#2026-11-23T12", "D#23", "M"):
        rollup = shelf.rollups["USAGE#acme#2026-11", sk]
        features = {name: sums for (dimension, name), sums in rollup.items() if dimension == "feature"}
        assert OTHER in features
        assert len(features) == MAX_NAMES + 1
        assert sum(sums.get("c", 0) for sums in features.values()) == rollup["total", ""]["c"] == shelf.cost(sk)
    assert shelf.cost("M") == sum(range(MAX_NAMES + 20)) + 10**9


def test_a_partition_of_many_pages_is_summed_whole(each_shelf: Shelf) -> None:
    each_shelf.begin(NOON)
    for _ in range(40):
        each_shelf.call(cause="x" * 150_000, cost=1)
    each_shelf.fold()
    assert each_shelf.cost("M") == 40


def test_more_tenants_than_one_request_reads_are_all_compared(each_shelf: Shelf) -> None:
    each_shelf.begin(NOON)
    for number in range(105):
        each_shelf.call(tenant=f"t{number}")
    each_shelf.fold()
    each_shelf.is_right()
    assert each_shelf.fold()["written"] == 0


def test_a_poisoned_span_is_skipped_and_named_and_keeps_nobody_waiting(each_shelf: Shelf) -> None:
    shelf = each_shelf
    shelf.begin(NOON)
    shelf.call(cost=5)
    before = shelf.fold()
    pk = partition("2026-11-23T12", 0)
    shelf.put(unreadable(pk, "!list"))
    shelf.put({**to_dynamodb({"pk": pk, "sk": "!float", "day": 23}), "cost_nanousd": {"N": "1.5"}})
    shelf.put(to_dynamodb({"pk": pk, "sk": "!bare"}))
    shelf.call(cost="a secret", tenant="nobody")  # type: ignore[arg-type]
    shelf.call(cost=6)
    after = shelf.fold()
    assert (before["skipped"], after["skipped"], after["spans"]) == (0, 4, 2)
    assert {sk: shelf.cost(sk) for _, sk in shelf.rollups} == {"H#23#2026-11-23T12": 11, "D#23": 11, "M": 11}
    skipped = [fields for what, fields in shelf.said if what == "skipped"]
    assert {(fields["span_pk"], fields["hold"]) for fields in skipped} >= {(pk, "!list"), (pk, "!float"), (pk, "!bare")}
    assert "secret" not in str(shelf.said)
    assert shelf.fold()["written"] == 0


# Which hours.


def test_the_first_run_goes_two_days_back(shelf: Shelf) -> None:
    for hours_ago in (FIRST_HOURS, FIRST_HOURS + 1):
        shelf.call(NOON - hours_ago * HOUR)
    shelf.fold()
    assert [sk for _, sk in shelf.rollups if sk[0] == "H"] == ["H#21#2026-11-21T12"]


def test_older_hours_are_summed_when_that_is_asked_for_and_in_as_many_runs_as_it_takes(shelf: Shelf) -> None:
    shelf.at = NOON - 10 * 24 * HOUR
    for number in range(12):
        shelf.call(shelf.at + number * HOUR)
    shelf.at = NOON
    shelf.fold()
    assert shelf.rollups == {}
    left = iter([True] * 5 + [False])
    shelf.fold(since="2026-11-13T12", has_time=lambda: next(left))
    assert len([sk for _, sk in shelf.rollups if sk[0] == "H"]) == 5
    shelf.fold()
    shelf.is_right()
    assert shelf.marks == []


def test_hours_whose_spans_are_about_to_expire_are_not_summed_again(shelf: Shelf) -> None:
    oldest = hour_of(int((NOON - timedelta(days=KEPT_DAYS - 2)).timestamp()))
    with pytest.raises(Killed):  # it would take a while
        shelf.fold(dying(shelf.client, "put_item", 3), since="2020-01-01T00")
    assert shelf.marks == [oldest, following(oldest)]


def test_the_watermark_follows_final_hours_and_never_goes_back(shelf: Shelf) -> None:
    seen = []
    for minutes in (0, 9, 10, 60, 69, 70):
        shelf.at = NOON + timedelta(minutes=minutes)
        shelf.fold()
        seen.append(shelf.watermark)
    assert seen == [f"2026-11-23T{hour}" for hour in ("11", "11", "12", "12", "12", "13")]
    shelf.at = NOON - 5 * HOUR  # a clock that is wrong
    shelf.fold()
    assert shelf.watermark == "2026-11-23T13"


def test_a_span_that_comes_before_its_hour_is_final_is_summed_without_a_mark(shelf: Shelf) -> None:
    shelf.fold()
    shelf.at = NOON + timedelta(minutes=69)  # 13:29, and the call was made before 13:00
    shelf.fold()
    shelf.call(NOON)
    shelf.at += timedelta(minutes=5)
    shelf.fold()
    shelf.is_right()
    assert shelf.cost("M") == 7


def test_a_final_hour_is_summed_again_when_it_has_a_mark(each_shelf: Shelf) -> None:
    shelf = each_shelf
    shelf.begin(NOON)
    pk, sk = shelf.call(cost=None)
    shelf.at += 5 * HOUR
    shelf.fold()
    shelf.mark("2026-11-23T12")
    shelf.store.resolve_span(pk, sk, 9, is_estimated=True, known={"tenant": "acme"})
    assert shelf.fold()["written"] == 3
    shelf.is_right()
    shelf.mark("2026-11-23T12")
    shelf.store.correct_span(pk, sk, 4)
    assert shelf.fold()["written"] == 3
    shelf.is_right()
    assert shelf.marks == []
    assert shelf.watermark == "2026-11-23T16"


# What is said.


def test_a_run_says_in_one_line_what_it_did(shelf: Shelf) -> None:
    shelf.call()
    counts = shelf.fold()
    assert counts == {"hours": 49, "spans": 1, "skipped": 0, "written": 3, "overtaken": 0}
    assert shelf.said == [("folded", {**counts, "until": "2026-11-23T11", "duration_ms": 0})]


class ManySpans:
    """A client whose every partition of spans has one more than MANY_SPANS in all four."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_paginator(self, operation: str) -> Any:
        pages = self._client.get_paginator(operation)

        class Repeated:
            def paginate(self, **request: Any) -> Any:
                for page in pages.paginate(**request):
                    is_spans = request["ExpressionAttributeValues"][":pk"]["S"].startswith("SPANS#")
                    yield {"Items": page["Items"] * (MANY_SPANS + 1 if is_spans else 1)}

        return Repeated()


def test_an_hour_of_many_spans_has_a_line_of_its_own(shelf: Shelf) -> None:
    shelf.call()
    shelf.fold(ManySpans(shelf.client))
    assert ("hour", {"hour": "2026-11-23T12", "spans": MANY_SPANS + 1, "slices": 1}) in shelf.said
    assert shelf.cost("M") == 7 * (MANY_SPANS + 1)
