"""A window is a calendar day or month where the tenant lives, and nothing has to reset it."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.errors import InvalidTenant
from farebox.ledger import Limits
from farebox.tenants import DEFAULT, MAX_NAME_LENGTH, Tenant, Windows, checked_name, timestamp, windows

ZONES = ["UTC", "Pacific/Chatham", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Los_Angeles", "America/Sao_Paulo"]
QUARTER = timedelta(minutes=15)


def first_moment_after(now: datetime, zone: ZoneInfo, is_over: "IsOver") -> datetime:
    """Look at the wall clock of every quarter of an hour (all these zones change on one) until the window is over."""
    moment = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0)
    while not is_over(moment.astimezone(zone).date()):
        moment += QUARTER
    return moment


class IsOver:
    """Whether a date is beyond the day, or beyond the month, of a first one."""

    def __init__(self, today: date, window: str) -> None:
        self._today = today
        self._window = window

    def __call__(self, other: date) -> bool:
        if self._window == "day":
            return other > self._today
        return (other.year, other.month) > (self._today.year, self._today.month)


moments = st.integers(
    int(datetime(1995, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2037, 1, 1, tzinfo=UTC).timestamp())
).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@pytest.mark.parametrize("name", ZONES)
@given(now=moments)
@example(now=datetime(2026, 11, 1, 8, 59, 59, tzinfo=UTC)).via("the hour that Los Angeles has twice")
@example(now=datetime(2026, 3, 8, 9, 59, 59, tzinfo=UTC)).via("just before the hour that Los Angeles has not")
@example(now=datetime(2018, 11, 3, 23, 0, 0, tzinfo=UTC)).via("the next day begins at 01:00 in Sao Paulo")
@example(now=datetime(2018, 2, 18, 1, 30, 0, tzinfo=UTC)).via("23:30 for the first time in Sao Paulo")
@example(now=datetime(2018, 2, 18, 2, 30, 0, tzinfo=UTC)).via("23:30 for the second time in Sao Paulo")
@example(now=datetime(2026, 4, 4, 14, 45, 0, tzinfo=UTC)).via("half an hour twice on Lord Howe")
@example(now=datetime(2028, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)).via("leap day")
@example(now=datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)).via("year's end")
@settings(max_examples=40, deadline=None)
def test_the_windows_of_any_moment_are_those_of_the_wall_calendar(name: str, now: datetime) -> None:
    zone = ZoneInfo(name)
    found, today = windows(now, name), now.astimezone(zone).date()
    assert (found.month, found.day) == (today.isoformat()[:7], today.day)
    assert found.day_resets_at == first_moment_after(now, zone, IsOver(today, "day"))
    assert found.month_resets_at == first_moment_after(now, zone, IsOver(today, "month"))
    assert now < found.day_resets_at <= found.month_resets_at
    assert found.day_resets_at.tzinfo is found.month_resets_at.tzinfo is UTC


@pytest.mark.parametrize("name", ZONES)
def test_a_reset_is_local_midnight_on_every_day_of_a_year(name: str) -> None:
    zone, now = ZoneInfo(name), datetime(2028, 1, 1, 12, tzinfo=UTC)
    while now.year == 2028:
        found = windows(now, name)
        for reset in (found.day_resets_at, found.month_resets_at):
            assert reset.astimezone(zone).time().isoformat() == "00:00:00"
        assert found.month_resets_at.astimezone(zone).day == 1
        now = now + timedelta(hours=7)


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("America/Los_Angeles", date(2026, 3, 8), 23),
        ("America/Los_Angeles", date(2026, 11, 1), 25),
        ("America/Los_Angeles", date(2026, 11, 2), 24),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("Pacific/Chatham", date(2026, 9, 27), 23),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        ("UTC", date(2026, 3, 8), 24),
    ],
)
def test_days_are_as_long_as_they_are(name: str, day: date, hours: float) -> None:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(name))
    begins = windows(noon - timedelta(days=1), name).day_resets_at
    assert windows(noon, name).day_resets_at - begins == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("now", "zone", "found"),
    [
        pytest.param(
            "2026-11-23T15:43:00+00:00", "UTC", ("2026-11", 23, "2026-11-24T00:00:00Z", "2026-12-01T00:00:00Z"),
            id="not-24-hours-after-the-first-call",
        ),
        pytest.param(
            "2026-11-30T23:59:59+00:00", "UTC", ("2026-11", 30, "2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            id="the-last-second-of-a-month",
        ),
        pytest.param(
            "2026-12-01T00:00:00+00:00", "UTC", ("2026-12", 1, "2026-12-02T00:00:00Z", "2027-01-01T00:00:00Z"),
            id="midnight-is-the-next-day",
        ),
        pytest.param(
            "2026-01-31T12:00:00+00:00", "UTC", ("2026-01", 31, "2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            id="31-days",
        ),
        pytest.param(
            "2028-02-28T12:00:00+00:00", "UTC", ("2028-02", 28, "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            id="leap-year",
        ),
        pytest.param(
            "2027-02-28T12:00:00+00:00", "UTC", ("2027-02", 28, "2027-03-01T00:00:00Z", "2027-03-01T00:00:00Z"),
            id="no-leap-year",
        ),
        pytest.param(
            "2026-11-30T23:00:00+00:00", "Asia/Kathmandu",
            ("2026-12", 1, "2026-12-01T18:15:00Z", "2026-12-31T18:15:00Z"), id="already-december-in-kathmandu",
        ),
        pytest.param(
            "2026-12-01T00:30:00+02:00", "America/Los_Angeles",
            ("2026-11", 30, "2026-12-01T08:00:00Z", "2026-12-01T08:00:00Z"), id="the-callers-offset-does-not-matter",
        ),
    ],
)  # fmt: skip
def test_windows_by_hand(now: str, zone: str, found: tuple[str, int, str, str]) -> None:
    seen = windows(datetime.fromisoformat(now), zone)
    assert (seen.month, seen.day, timestamp(seen.day_resets_at), timestamp(seen.month_resets_at)) == found


def test_every_window_has_its_reset() -> None:
    day, month = datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    found = Windows("2026-11", 23, day, month)
    assert (found.resets_at("day"), found.resets_at("month")) == (day, month)


def test_a_timestamp_is_utc_to_the_second() -> None:
    moment = datetime(2026, 11, 23, 22, 30, 15, 999999, tzinfo=ZoneInfo("America/Los_Angeles"))
    assert timestamp(moment) == "2026-11-24T06:30:15Z"


@pytest.mark.parametrize("name", [DEFAULT, "a", "7", "Acme-Corp_2.eu", "a" * MAX_NAME_LENGTH])
def test_a_name_that_can_stand_in_a_key_is_taken_as_it_is(name: str) -> None:
    assert checked_name("X-Tenant-Id", name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-a", ".a", "_a", "a#b", "a/b", "a\n", "\na", "a" * (MAX_NAME_LENGTH + 1), "\u00e9", "\uff11",
     "a\x00", "TENANT#acme"],
    ids=repr,
)  # fmt: skip
def test_any_other_name_is_refused_and_the_refusal_says_which_header(name: str) -> None:
    with pytest.raises(InvalidTenant, match="X-Tenant-Id must be 1 to 64 letters"):
        checked_name("X-Tenant-Id", name)


@given(st.text(max_size=70))
@settings(max_examples=200, deadline=None)
def test_no_name_that_is_taken_can_break_a_key(name: str) -> None:
    try:
        checked_name("X-Feature", name)
    except InvalidTenant:
        return
    assert name.isascii()
    assert name.replace(".", "").replace("-", "").replace("_", "").isalnum()
    assert 1 <= len(name) <= MAX_NAME_LENGTH


def test_a_tenant_lives_in_utc_unless_told() -> None:
    assert Tenant("acme", Limits(1, 2, version=0)).time_zone == "UTC"
