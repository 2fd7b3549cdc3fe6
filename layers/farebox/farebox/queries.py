"""What is asked of usage: which days, summed by hour, day, month or all together, and in groups or not.

Days are the tenant's own. A month in the place of a day is its first one in `from`, and its last one in `to`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from urllib.parse import parse_qsl

from .errors import Malformed
from .hours import hour_of
from .reminders import KEPT_DAYS
from .tally import DIMENSIONS
from .tenants import checked_name

MAX_LENGTH = 8192
MAX_MONTHS = 13
MAX_HOURLY_DAYS = 31
MAX_PAGE = 500
PAGE = 100
AHEAD_H, BEHIND_H = 14, 12
"""No zone is further from UTC, so a day of any zone has no other hours than these."""
_DAY = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")
_MONTH = re.compile(r"20[0-9]{2}-[0-9]{2}")
_PAGE = re.compile(r"[0-9]{1,3}")


class Interval(Enum):
    """What one row is of."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Of one tenant. Both days are in it; `group_by` is a dimension of tallies."""

    first: date
    last: date
    interval: Interval = Interval.ALL
    group_by: str | None = None

    @property
    def months(self) -> Sequence[str]:
        """In order, as 2026-11."""
        return list(dict.fromkeys(f"{day:%Y-%m}" for day in self.days))

    @property
    def days(self) -> Iterator[date]:
        for number in range((self.last - self.first).days + 1):
            yield self.first + timedelta(days=number)

    def days_of(self, month: str) -> Sequence[int]:
        return [day.day for day in self.days if f"{day:%Y-%m}" == month]

    def has_whole(self, month: str) -> bool:
        begin = date.fromisoformat(f"{month}-01")
        return self.first <= begin and _months_last(begin) <= self.last

    @property
    def reach(self) -> tuple[str, str]:
        """The first and the last hour in UTC that may have spans of these days, whatever the zone was."""
        return reach(self.first, self.last)


def reach(first: date, last: date) -> tuple[str, str]:
    """The hours in UTC in which it can be one of these days somewhere."""
    begin = datetime.combine(first, time(), UTC) - timedelta(hours=AHEAD_H)
    end = datetime.combine(last, time(), UTC) + timedelta(hours=24 + BEHIND_H)
    return hour_of(int(begin.timestamp())), hour_of(int(end.timestamp()))


def month_reach(month: str) -> tuple[str, str]:
    begin = date.fromisoformat(f"{month}-01")
    return reach(begin, _months_last(begin))


def usage_query(text: str, today: date) -> UsageQuery:
    """A query string; what it leaves out is this month so far, in one row. Raises Malformed."""
    given = _parameters(text, ("from", "to", "group_by", "interval"))
    last = _day("to", given["to"], is_end=True) if "to" in given else today
    # Of a `to` alone the month so far is meant, too.
    first = _day("from", given["from"], is_end=False) if "from" in given else last.replace(day=1)
    interval = Interval(_one_of("interval", given.get("interval", "all"), [each.value for each in Interval]))
    group_by = _one_of("group_by", given["group_by"], DIMENSIONS) if "group_by" in given else None
    query = UsageQuery(first, last, interval, group_by)
    _check_length(query, today)
    return query


def _check_length(query: UsageQuery, today: date) -> None:
    first, last = query.first, query.last
    if first > last:
        raise Malformed(f"from ({first}) is after to ({last})", facts={"field": "from"})
    if (last.year - first.year) * 12 + last.month - first.month >= MAX_MONTHS:
        raise Malformed(f"from {first} to {last} is more than {MAX_MONTHS} months", facts={"field": "from"})
    if query.interval is Interval.HOUR and (last - first).days >= MAX_HOURLY_DAYS:
        raise Malformed(f"interval=hour is for at most {MAX_HOURLY_DAYS} days; ask by day", facts={"field": "interval"})
    if query.interval is Interval.HOUR and first < today - timedelta(days=KEPT_DAYS - 2):
        raise Malformed(f"hours are kept for {KEPT_DAYS} days; ask by day", facts={"field": "from"})


@dataclass(frozen=True, slots=True)
class TenantsQuery:
    """A page of all tenants, behind a name; `month` is None where this one is meant."""

    limit: int
    after: str
    month: str | None


def tenants_query(text: str, this_month: str) -> TenantsQuery:
    """A query string. Raises Malformed, InvalidTenant."""
    given = _parameters(text, ("limit", "after", "month"))
    limit, month = given.get("limit", str(PAGE)), given.get("month")
    if not _PAGE.fullmatch(limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise Malformed(f"limit must be a whole number from 1 to {MAX_PAGE}", facts={"field": "limit"})
    if month is not None and not _is_listed(_day("month", month, is_end=False, takes_days=False), this_month):
        raise Malformed(
            f"month must be one of the last {MAX_MONTHS}; older lists of tenants are not kept", facts={"field": "month"}
        )
    after = checked_name("after", given["after"]) if "after" in given else ""
    return TenantsQuery(limit=int(limit), after=after, month=None if month == this_month else month)


def _is_listed(month: date, this_month: str) -> bool:
    this = date.fromisoformat(f"{this_month}-01")
    return 0 <= (this.year - month.year) * 12 + this.month - month.month < MAX_MONTHS


# Parameters.


def _parameters(text: str, names: Sequence[str]) -> Mapping[str, str]:
    if len(text) > MAX_LENGTH:
        raise Malformed(f"the query is longer than {MAX_LENGTH} characters")
    given = parse_qsl(text, keep_blank_values=True)
    found = dict(given)
    for name in found:
        if name not in names:
            raise Malformed(f"there is no parameter {name[:40]!r}; known are {', '.join(names)}")
    if len(found) < len(given):
        raise Malformed("a parameter is given more than once")
    return found


def _one_of(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise Malformed(f"{name} must be one of {', '.join(choices)}, not {value[:40]!r}", facts={"field": name})
    return value


def _day(name: str, text: str, *, is_end: bool, takes_days: bool = True) -> date:
    try:
        if _MONTH.fullmatch(text):
            begin = date.fromisoformat(f"{text}-01")
            return _months_last(begin) if is_end else begin
        if takes_days and _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass  # 2026-02-30
    kinds = "a day like 2026-11-30 or a month like 2026-11" if takes_days else "a month like 2026-11"
    raise Malformed(f"{name} must be {kinds}, not {text[:40]!r}", facts={"field": name})


def _months_last(begin: date) -> date:
    return (begin + timedelta(days=31)).replace(day=1) - timedelta(days=1)
