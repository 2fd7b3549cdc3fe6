"""What may be asked of usage, how sums become rows, and what a month will come to."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.errors import InvalidTenant, Malformed
from farebox.forecasts import Forecast, forecast
from farebox.ledger import Hold, Ledger, Limits
from farebox.queries import Interval, TenantsQuery, UsageQuery, month_reach, tenants_query, usage_query
from farebox.reports import COLUMNS, MAX_ROWS, Part, csv_of, csv_text, flattened, rows, shown
from farebox.tally import DIMENSIONS, Line, Sums, Tally
from farebox.tenants import Tenant, windows

TODAY = date(2026, 11, 24)
USD = 10**9


# What may be asked.


@pytest.mark.parametrize(("text", "query"), [
    ("", UsageQuery(date(2026, 11, 1), TODAY)),
    ("to=2026-02-10", UsageQuery(date(2026, 2, 1), date(2026, 2, 10))),
    ("from=2026-11-20", UsageQuery(date(2026, 11, 20), TODAY)),
    ("from=2026-11-30&to=2026-11-30", UsageQuery(date(2026, 11, 30), date(2026, 11, 30))),
    ("from=2024-02&to=2024-02", UsageQuery(date(2024, 2, 1), date(2024, 2, 29))),
    ("from=2025-11&to=2026-11", UsageQuery(date(2025, 11, 1), date(2026, 11, 30))),
    ("from=2025-12-31&to=2026-01", UsageQuery(date(2025, 12, 31), date(2026, 1, 31))),
    ("interval=hour", UsageQuery(date(2026, 11, 1), TODAY, Interval.HOUR)),
    ("from=2026-10&to=2026-10&interval=hour", UsageQuery(date(2026, 10, 1), date(2026, 10, 31), Interval.HOUR)),
    ("group_by=key&interval=all", UsageQuery(date(2026, 11, 1), TODAY, Interval.ALL, "key")),
])  # fmt: skip
def test_days_are_inclusive_months_stand_for_their_days_and_this_month_so_far_is_meant_without(
    text: str, query: UsageQuery
) -> None:
    assert usage_query(text, TODAY) == query


@pytest.mark.parametrize(("text", "message"), [
    ("form=2026-11-01", "there is no parameter 'form'; known are from, to, group_by, interval"),
    ("from=2026-11-01&from=2026-11-02", "a parameter is given more than once"),
    ("from=2026-11-02&to=2026-11-01", "from (2026-11-02) is after to (2026-11-01)"),
    ("from=2026-12", "from (2026-12-01) is after to (2026-11-24)"),
    ("from=2025-10-31&to=2026-11-01", "from 2025-10-31 to 2026-11-01 is more than 13 months"),
    ("from=2026-10-01&to=2026-11-01&interval=hour", "interval=hour is for at most 31 days; ask by day"),
    ("from=2025-10-21&to=2025-10-22&interval=hour", "hours are kept for 400 days; ask by day"),
    *((f"{name}={text}", f"{name} must be a day like 2026-11-30 or a month like 2026-11, not {text!r}")
      for name in ("from", "to")
      for text in ("", "today", "2026-11-31", "2026-13", "2026-1-1", "2026", "20261101", "1999-01-01", "9999-12-31",
                   "2026-11-01T00:00:00Z", "2026-11-01\n", "202\u0666-11-01")),
    ("group_by=tenant", "group_by must be one of feature, provider, model, key, not 'tenant'"),
    ("group_by=", "group_by must be one of feature, provider, model, key, not ''"),
    ("interval=week", "interval must be one of hour, day, month, all, not 'week'"),
    ("x" * 8193, "the query is longer than 8192 characters"),
])  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(Malformed) as refused:
        usage_query(text, TODAY)
    assert refused.value.message == message


def test_the_oldest_hours_that_are_still_kept_may_be_asked_for() -> None:
    query = usage_query("from=2025-10-22&to=2025-10-23&interval=hour", TODAY)
    assert query == UsageQuery(date(2025, 10, 22), date(2025, 10, 23), Interval.HOUR)


@settings(max_examples=50, deadline=None)
@given(st.dates(date(2000, 1, 1), date(2098, 1, 1)), st.integers(0, 100))
def test_the_months_of_a_query_have_all_its_days_once_and_are_whole_where_none_is_missing(
    first: date, length: int
) -> None:
    query = UsageQuery(first, first + timedelta(days=length))
    days = [date.fromisoformat(f"{month}-{day:02}") for month in query.months for day in query.days_of(month)]
    assert days == list(query.days)
    assert (days[0], days[-1]) == (query.first, query.last)
    for month in query.months:
        following = date.fromisoformat(f"{month}-28") + timedelta(days=4)
        assert query.has_whole(month) == (
            len(query.days_of(month)) == (following - timedelta(days=following.day)).day
        ), month


def test_the_hours_that_may_have_spans_of_a_month_begin_and_end_with_it_on_the_earth() -> None:
    november = UsageQuery(date(2026, 11, 1), date(2026, 11, 30))
    assert november.reach == month_reach("2026-11") == ("2026-10-31T10", "2026-12-01T12")


@pytest.mark.parametrize(("text", "query"), [
    ("", TenantsQuery(100, "", None)),
    ("limit=500&after=acme&month=2026-10", TenantsQuery(500, "acme", "2026-10")),
    ("limit=1&month=2026-11", TenantsQuery(1, "", None)),
    ("month=2025-11", TenantsQuery(100, "", "2025-11")),
])  # fmt: skip
def test_tenants_are_asked_for_page_by_page_and_of_this_month_or_one_of_a_year_before(
    text: str, query: TenantsQuery
) -> None:
    assert tenants_query(text, "2026-11") == query


@pytest.mark.parametrize(("text", "message"), [
    *((f"limit={limit}", "limit must be a whole number from 1 to 500")
      for limit in ("0", "501", "-1", "1.5", "", "9" * 5000, "\u0661")),
    *((f"month={month}", f"month must be a month like 2026-11, not {month!r}")
      for month in ("2026-11-01", "2026-13", "", "now")),
    *((f"month={month}", "month must be one of the last 13; older lists of tenants are not kept")
      for month in ("2025-10", "2026-12", "2000-01")),
    ("from=2026-11-01", "there is no parameter 'from'; known are limit, after, month"),
])  # fmt: skip
def test_a_page_that_cannot_be_answered_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(Malformed) as refused:
        tenants_query(text, "2026-11")
    assert refused.value.message == message


def test_a_page_begins_behind_a_name_that_can_be_one() -> None:
    with pytest.raises(InvalidTenant):
        tenants_query("after=a%23b", "2026-11")


# Rows.


def tally(*costs: int, **names: str) -> Tally:
    """Calls with these costs, of one feature, provider, model and key."""
    found = Tally()
    for cost in costs:
        found.add(Line("acme", "2026-11", 1, [names.get(name, "-") for name in DIMENSIONS], Sums(1, 0, cost, 0, 2, 3)))
    return found


def part(day: int | None, *costs: int, hour: str | None = None, month: str = "2026-11", **names: str) -> Part:
    return Part(month, day, hour, tally(*costs, **names))


NOVEMBER = UsageQuery(date(2026, 11, 1), date(2026, 11, 30))


def starts(query: UsageQuery, parts: Sequence[Part], zone: str = "UTC") -> list[tuple[str, str | None, int]]:
    return [(row.start, row.group, row.sums.cost_nanousd) for row in rows(query, parts, zone)]


def test_without_an_interval_all_parts_are_one_row() -> None:
    parts = [part(None, 1, month="2026-11"), part(3, 20, hour="2026-11-03T10"), part(4, 300)]
    (row,) = rows(NOVEMBER, parts, "UTC")
    assert (row.start, row.group) == ("2026-11-01", None)
    assert row.sums == Sums(3, 0, 321, 0, 6, 9)


def test_by_month_and_by_day_a_row_is_labelled_with_it_and_they_are_in_order() -> None:
    parts = [part(3, 1), part(2, 20, hour="2026-11-02T10"), part(3, 300, hour="2026-11-03T01")]
    assert starts(UsageQuery(NOVEMBER.first, NOVEMBER.last, Interval.DAY), parts) == [
        ("2026-11-02", None, 20), ("2026-11-03", None, 301),
    ]  # fmt: skip
    parts = [part(None, 4000, month="2026-12"), *parts]
    assert starts(UsageQuery(NOVEMBER.first, date(2026, 12, 31), Interval.MONTH), parts) == [
        ("2026-11", None, 321), ("2026-12", None, 4000),
    ]  # fmt: skip


def test_groups_are_told_apart_and_the_dearest_comes_first() -> None:
    parts = [part(2, 1, model="a"), part(2, 5, model="b"), part(2, 2, model="c"), part(1, 1, model="c"), part(2, 2)]
    query = UsageQuery(NOVEMBER.first, NOVEMBER.last, Interval.DAY, "model")
    assert starts(query, parts) == [
        ("2026-11-01", "c", 1), ("2026-11-02", "b", 5), ("2026-11-02", "-", 2), ("2026-11-02", "c", 2),
        ("2026-11-02", "a", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("zone", "hour", "day", "start"), [
    ("UTC", "2026-11-23T10", 23, "2026-11-23T10:00:00+00:00"),
    ("UTC", "2026-11-23T00", 23, "2026-11-23T00:00:00+00:00"),
    ("Asia/Kathmandu", "2026-11-23T10", 23, "2026-11-23T15:45:00+05:45"),
    ("Asia/Kathmandu", "2026-11-22T18", 22, "2026-11-22T23:45:00+05:45"),
    ("Asia/Kathmandu", "2026-11-22T18", 23, "2026-11-23T00:00:00+05:45"),
    ("Pacific/Chatham", "2026-11-22T10", 22, "2026-11-22T23:45:00+13:45"),
    ("Pacific/Chatham", "2026-11-22T10", 23, "2026-11-23T00:00:00+13:45"),
    ("Australia/Lord_Howe", "2026-11-22T13", 23, "2026-11-23T00:00:00+11:00"),
    ("America/Los_Angeles", "2026-11-01T08", 1, "2026-11-01T01:00:00-07:00"),
    ("America/Los_Angeles", "2026-11-01T09", 1, "2026-11-01T01:00:00-08:00"),
    # Of days that were another zone's, before the tenant has moved: the moment is right all the same.
    ("UTC", "2026-11-22T20", 23, "2026-11-22T20:00:00+00:00"),
    ("Asia/Kathmandu", "2026-11-22T21", 22, "2026-11-23T02:45:00+05:45"),
])  # fmt: skip
def test_an_hour_is_labelled_with_its_local_beginning_and_offset_and_begins_within_its_day(
    zone: str, hour: str, day: int, start: str
) -> None:
    query = UsageQuery(NOVEMBER.first, NOVEMBER.last, Interval.HOUR)
    assert starts(query, [part(day, 7, hour=hour)], zone) == [(start, None, 7)]


def test_hours_are_in_the_order_of_time_also_where_local_time_goes_back() -> None:
    query = UsageQuery(NOVEMBER.first, NOVEMBER.last, Interval.HOUR)
    parts = [part(1, cost, hour=f"2026-11-01T{hour:02}") for hour, cost in ((9, 9), (10, 10), (8, 8))]
    assert [cost for _, _, cost in starts(query, parts, "America/Los_Angeles")] == [8, 9, 10]


def test_more_rows_than_an_answer_has_room_for_are_refused_and_as_many_are_not() -> None:
    query = UsageQuery(NOVEMBER.first, NOVEMBER.last, Interval.DAY, "feature")
    half = Tally(Sums(), {"feature": {f"f{number}": Sums(1) for number in range(MAX_ROWS // 2)}})
    many = [Part("2026-11", day, None, half) for day in (1, 2)]
    assert len(rows(query, many, "UTC")) == MAX_ROWS
    with pytest.raises(Malformed, match="that would be more than 20,000 rows"):
        rows(query, [*many, part(3, 1, feature="one more")], "UTC")


# JSON and CSV.


def test_a_row_is_shown_in_us_dollars() -> None:
    (row,) = rows(NOVEMBER, [Part("2026-11", None, None, Tally(Sums(3, 1, 1_500_000_001, 1, 2, 4)))], "UTC")
    assert shown(row) == {
        "start": "2026-11-01", "group": None, "calls": 3, "prompt_tokens": 2, "completion_tokens": 4,
        "cost_usd": 1.500000001, "estimated_usd": 1e-9,
    }  # fmt: skip
    assert tuple(shown(row)) == COLUMNS
    assert csv_of([row]).decode() == ",".join(COLUMNS) + "\r\n2026-11-01,,3,2,4,1.500000001,0.000000001\r\n"


@pytest.mark.parametrize(("name", "cell"), [
    ("openai/gpt-4o", "openai/gpt-4o"), ("-", "-"), ("~other", "~other"), ("a=b", "a=b"), ("", ""),
    ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "'\t=1"), ("\r=1", "'\r=1"),
    ("\n=1", "'\n=1"), ("\uff1d1", "'\uff1d1"), ("=\n", "'=\n"), ('a,"b"\nc', 'a,"b"\nc'),
])  # fmt: skip
def test_a_name_is_never_a_formula_and_comes_back_as_it_was_otherwise(name: str, cell: str) -> None:
    read = list(csv.reader(io.StringIO(csv_text(["name", "n"], [[name, -5]]).decode(), newline="")))
    assert read == [["name", "n"], [cell, "-5"]]


def test_amounts_are_plain_decimals_in_csv() -> None:
    assert csv_text(["a", "b", "c"], [[1.305e-05, -0.5, None]]).decode() == "a,b,c\r\n0.00001305,-0.5,\r\n"


def test_objects_in_objects_are_columns_under_both_names() -> None:
    assert dict(flattened({"a": 1, "b": {"c": 2, "d": {"e": None}}})) == {"a": 1, "b_c": 2, "b_d_e": None}


# Forecasts.


def ledger(*spent: int) -> Ledger:
    """A month with this spent on its days, in cents."""
    by_day = {day: cents * USD // 100 for day, cents in enumerate(spent, 1) if cents}
    return Ledger(committed_nanousd=sum(by_day.values()), committed_by_day=by_day)


def told(spent: Ledger, at: str, limit_usd: int = 100, zone: str = "UTC") -> Forecast | None:
    now = datetime.fromisoformat(at)
    return forecast(Tenant("acme", Limits(USD, limit_usd * USD, 0), zone), windows(now, zone), spent, now)


def test_on_the_first_day_nothing_is_told_of_the_month_s_end() -> None:
    assert told(ledger(5000), "2026-11-01T23:59:59+00:00") is None


def test_the_second_day_goes_by_the_first_and_by_all_that_is_left_of_the_month() -> None:
    # 28.5 days are left.
    assert told(ledger(100, 10), "2026-11-02T12:00:00+00:00") == Forecast(29_600_000_000, USD, 1, None)


def test_only_the_last_seven_full_days_count_and_days_without_calls_are_days_of_nothing() -> None:
    spent = ledger(9900, 100, 0, 200, 0, 0, 0, 50, 5)
    assert told(spent, "2026-11-09T00:00:00+00:00", 1000) == Forecast(
        102_550_000_000 + 3_500_000_000 * 22 // 7, 500_000_000, 7, None
    )


def test_the_day_on_which_the_month_s_limit_is_reached_is_told() -> None:
    spent = ledger(1000, 1000, 1000)
    found = told(spent, "2026-11-04T00:00:00+00:00")
    assert found is not None
    assert (found.spent_nanousd, found.limit_reached_on) == (300 * USD, date(2026, 11, 11))


def test_a_limit_that_is_reached_just_when_the_month_ends_is_not_reached() -> None:
    spent = ledger(1000)
    for limit_usd, reached in ((300, None), (299, date(2026, 11, 30))):
        found = told(spent, "2026-11-02T00:00:00+00:00", limit_usd)
        assert found is not None
        assert (found.spent_nanousd, found.limit_reached_on) == (300 * USD, reached)


def test_a_limit_that_is_spent_is_reached_today_and_without_spending_none_ever_is() -> None:
    spent, nothing = told(ledger(10000), "2026-11-04T00:00:00+00:00"), told(ledger(), "2026-11-04T00:00:00+00:00")
    assert spent is not None
    assert spent.limit_reached_on == date(2026, 11, 4)
    assert nothing == Forecast(0, 0, 3, None)


def test_the_day_is_the_tenant_s_own() -> None:
    spent = ledger(1000, 1000, 1000)
    found = told(spent, "2026-11-03T18:15:00+00:00", zone="Asia/Kathmandu")  # its fourth day begins
    assert found is not None
    assert found.limit_reached_on == date(2026, 11, 11)


def test_money_that_is_held_is_not_spent() -> None:
    now = int(datetime(2026, 11, 3, tzinfo=UTC).timestamp())
    held = Ledger(USD, {2: USD}, {"h": Hold("h", USD, 2, now, now, "sim/ok")})
    assert told(held, "2026-11-04T00:00:00+00:00") == Forecast(0, 0, 3, None)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=30, max_size=30), st.integers(1440, 30 * 1440 - 1), st.integers(0, 600))
def test_a_limit_is_reached_within_the_month_if_and_only_if_the_forecast_is_above_it(
    spent: list[int], minute: int, limit_usd: int
) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=minute)
    found = told(ledger(*spent[: now.day]), now.isoformat(), limit_usd)
    assert found is not None
    if found.limit_reached_on is None:
        assert found.spent_nanousd <= limit_usd * USD
    else:
        assert found.spent_nanousd >= limit_usd * USD
        assert now.date() <= found.limit_reached_on <= date(2026, 11, 30)
