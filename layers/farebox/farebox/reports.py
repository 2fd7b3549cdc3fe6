"""Sums of usage to the rows that an owner reads, as JSON or as CSV.

A row's `start` is the day or the month itself, or the moment at which an hour began, in the tenant's zone and with its
offset. Hours are those of UTC: where a zone has half hours they begin at half past, and one in which a day ends is two
rows, of which the second one begins at midnight. What has no calls has no row.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from .errors import Malformed
from .hours import HOUR_S, began
from .money import usd_number, usd_text
from .queries import Interval, UsageQuery
from .tally import Sums, Tally

MAX_ROWS = 20_000
"""Lambda answers with 6 MB at most, where it does not stream."""
COLUMNS = ("start", "group", "calls", "prompt_tokens", "completion_tokens", "cost_usd", "estimated_usd")
# A lone sign, as of calls without an API key, is no formula.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """Sums of a tenant's spans: of a month, of a day in it, or of what an hour in UTC has of that day."""

    month: str
    day: int | None
    hour: str | None
    tally: Tally


@dataclass(frozen=True, slots=True)
class Row:
    """Of an interval, and of a group where groups were asked for."""

    start: str
    group: str | None
    sums: Sums


def rows(query: UsageQuery, parts: Iterable[Part], time_zone: str) -> list[Row]:
    """In order of time, and what has cost most first. Raises Malformed where they are too many."""
    zone = ZoneInfo(time_zone)
    found: dict[tuple[str, str, str | None], Sums] = {}
    for part in parts:
        at, start = _start(query, part, zone)
        for group, sums in _groups(part.tally, query.group_by):
            found.setdefault((at, start, group), Sums()).add(sums)
        if len(found) > MAX_ROWS:
            raise Malformed(f"that would be more than {MAX_ROWS:,} rows; ask for fewer days, or for longer intervals")
    in_order = sorted(found.items(), key=lambda each: (each[0][0], -each[1].cost_nanousd, each[0][2] or ""))
    return [Row(start, group, sums) for (_, start, group), sums in in_order]


def _groups(tally: Tally, group_by: str | None) -> Iterable[tuple[str | None, Sums]]:
    return [(None, tally.total)] if group_by is None else tally.by[group_by].items()


def _start(query: UsageQuery, part: Part, zone: ZoneInfo) -> tuple[str, str]:
    """By what a row is sorted, and how it is labelled."""
    label = str(query.first)
    if query.interval is Interval.MONTH:
        label = part.month
    elif part.day is not None and query.interval is Interval.DAY:
        label = f"{part.month}-{part.day:02}"
    elif part.day is not None and part.hour is not None and query.interval is Interval.HOUR:
        at = _hour_start(part.month, part.day, part.hour, zone)
        # By local time the hour that comes twice in autumn would be out of order.
        return at.isoformat(), at.astimezone(zone).isoformat()
    return label, label


def _hour_start(month: str, day: int, hour: str, zone: ZoneInfo) -> datetime:
    at = datetime.fromtimestamp(began(hour), UTC)
    midnight = datetime.fromisoformat(f"{month}-{day:02}").replace(tzinfo=zone).astimezone(UTC)
    return midnight if at < midnight < at + timedelta(seconds=HOUR_S) else at


# JSON and CSV.


def shown(row: Row) -> dict[str, Any]:
    """For JSON."""
    return dict(
        zip(COLUMNS, (row.start, row.group, *_counts(row.sums), *map(usd_number, _money(row.sums))), strict=True)
    )


def csv_of(found: Sequence[Row]) -> bytes:
    """The same, with exact amounts."""
    return csv_text(
        COLUMNS, ((row.start, row.group, *_counts(row.sums), *map(usd_text, _money(row.sums))) for row in found)
    )


def _counts(sums: Sums) -> tuple[int, ...]:
    return sums.calls, sums.prompt_tokens, sums.completion_tokens


def _money(sums: Sums) -> tuple[int, ...]:
    return sums.cost_nanousd, sums.estimated_nanousd


def csv_text(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> bytes:
    """A header line, and a line each; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return out.getvalue().encode()


def _cell(value: object) -> object:
    """Names come from outside, and spreadsheets take for a formula what begins like one."""
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def flattened(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """An object in objects as columns: daily.spent_usd is daily_spent_usd."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", value
