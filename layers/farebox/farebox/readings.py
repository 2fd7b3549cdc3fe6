"""Where the sums of a query come from. Each span is counted in one place, at whatever moment of a fold it is asked:

    hours that a fold may not have seen whole   from their spans: those from the watermark to now, and those with a mark
    a month of which there is no such hour      from its rollup
    else a day of which there is none           from its rollup
    else the day's other hours                  from theirs

At most MAX_HOURS are read span by span, the last ones, and of these as many whole ones as MAX_PAGES have. The others
come from rollups, as far as these are: earlier ones where no fold has run for a while, later ones where all tenants
together have many calls. `complete_until` is where the first of them begins.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime

from . import spans
from .hours import FIRST_HOURS, HOUR_S, began, hour_of, hours
from .queries import Interval, UsageQuery, month_reach
from .reports import Part
from .rollups import Allowance, Rollups, day_key, month_key
from .tally import Line, Poisoned, Tally

MAX_HOURS = 3
"""A fold is behind by two, for half an hour after an hour's end, and by more only where it does not run."""
MAX_PAGES = 40
"""Of 1 MB, with the spans of all tenants: 10,240 read units, a tenth of a cent, for whoever asks."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The parts that a query's rows are made of. All that was before `complete_until` is in them."""

    parts: Iterator[Part]
    complete_until: datetime


def read(rollups: Rollups, tenant: str, query: UsageQuery, now: datetime) -> Reading:
    """Spans are read at once, rollups part by part. Raises StoreError, also from the parts."""
    unfolded = _unfolded(rollups, query, now)
    late = _of_spans(rollups, tenant, query, unfolded[-MAX_HOURS:])
    missing = [hour for hour in unfolded if hour not in late]
    complete_until = datetime.fromtimestamp(began(missing[0]), UTC) if missing else now
    return Reading(_parts(rollups, tenant, query, late), complete_until)


def _unfolded(rollups: Rollups, query: UsageQuery, now: datetime) -> Sequence[str]:
    """Hours of these days whose rollups may be behind their spans, in order.

    This is read first: what is folded later is not taken from its rollup all the same.
    """
    seconds = int(now.timestamp())
    watermark = rollups.progress().hour or hour_of(seconds - FIRST_HOURS * HOUR_S)
    first, last = query.reach
    return sorted(hour for hour in {*hours(watermark, hour_of(seconds)), *rollups.marks()} if first <= hour <= last)


def _parts(rollups: Rollups, tenant: str, query: UsageQuery, late: Mapping[str, Sequence[Part]]) -> Iterator[Part]:
    """`late` has what comes from spans, by hour."""
    for parts in late.values():
        yield from parts
    whole = [month for month in query.months if _is_of_use(query, month, late.keys())]
    found = rollups.read([month_key(tenant, month) for month in whole])
    for month in query.months:
        if month in whole:
            if (rollup := found.get(month_key(tenant, month))) is not None:
                yield Part(month, None, None, Tally.of(rollup.fields))
        elif query.interval is Interval.HOUR:
            for day in query.days_of(month):
                yield from _of_hours(rollups, tenant, month, day, late.keys())
        else:
            yield from _of_days(rollups, tenant, month, set(query.days_of(month)), late.keys())


def _is_of_use(query: UsageQuery, month: str, late: AbstractSet[str]) -> bool:
    """Whether a month's rollup is not too coarse, and has none of the hours that are read by themselves."""
    first, last = month_reach(month)
    is_coarse = query.interval in (Interval.MONTH, Interval.ALL)
    return is_coarse and query.has_whole(month) and not any(first <= hour <= last for hour in late)


def _of_days(
    rollups: Rollups, tenant: str, month: str, days: AbstractSet[int], late: AbstractSet[str]
) -> Iterator[Part]:
    for sk, rollup in rollups.under(day_key(tenant, month, 0)[0], "D#"):
        day = int(sk.removeprefix("D#"))
        if day not in days:
            continue
        if rollup.fields["of"].keys() & late:
            yield from _of_hours(rollups, tenant, month, day, late)
        else:
            yield Part(month, day, None, Tally.of(rollup.fields))


def _of_hours(rollups: Rollups, tenant: str, month: str, day: int, late: AbstractSet[str]) -> Iterator[Part]:
    for sk, rollup in rollups.under(day_key(tenant, month, day)[0], f"H#{day:02}#"):
        hour = sk.rpartition("#")[2]
        if hour not in late:
            yield Part(month, day, hour, Tally.of(rollup.fields))


def _of_spans(rollups: Rollups, tenant: str, query: UsageQuery, late: Sequence[str]) -> Mapping[str, Sequence[Part]]:
    """Of the hours that could be read whole, from the first one on; half an hour is none."""
    allowance = Allowance(MAX_PAGES)
    found: dict[str, Sequence[Part]] = {}
    for hour in late:
        parts = _of_hour_s_spans(rollups, tenant, query, hour, allowance)
        if allowance.is_used_up:
            break
        found[hour] = parts
    return found


def _of_hour_s_spans(
    rollups: Rollups, tenant: str, query: UsageQuery, hour: str, allowance: Allowance
) -> Sequence[Part]:
    days = {(f"{day:%Y-%m}", day.day) for day in query.days}
    tallies: dict[tuple[str, int], Tally] = {}
    for pk in (spans.partition(hour, shard) for shard in range(spans.SHARDS)):
        for _, span in rollups.spans(pk, tenant, allowance):
            try:
                line = Line.of(span)
            except Poisoned:
                continue  # the fold leaves it out, too, and says so
            if (line.month, line.day) in days:
                tallies.setdefault((line.month, line.day), Tally()).add(line)
    return [Part(month, day, hour, tally) for (month, day), tally in tallies.items()]
