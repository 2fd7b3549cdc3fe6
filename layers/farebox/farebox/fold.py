"""Folds spans into rollups: whole hours are summed anew, so that a run which is repeated, late or killed does no harm.

    the hours                  from the watermark to now, and older ones with a mark; oldest first, some at a time
    each one's spans           summed by tenant, month and day; what differs from the table is written
    the days of these hours    summed from their hours, unless they have these revisions in them already
    the months of these days   from their days, in the same way
    then                       the hours' marks go, and the watermark moves behind those that are final

A mark was left before its span was changed, and was read before the spans were: it goes when the change is in.

Two runs at once: a run that has read an hour writes it only if no other has begun to write since (`Rollups.claim`), and
each item only as it was read, so what was read later always stands. Hours only grow, so the same holds for a day, which
is read before its hours are, and for a month.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import spans
from .hours import FIRST_HOURS, HOUR_S, began, following, hour_of, hours, is_final
from .reminders import KEPT_DAYS, kept_until
from .rollups import MISSING, Key, Rollup, Rollups, day_key, hour_key, month_key
from .store import Store, StoreError
from .tally import DIMENSIONS, NOBODY, Line, Poisoned, Tally
from .telemetry import Telemetry

GROUP = 24
"""Hours whose days and months are summed together: a day is not summed again for each of its hours."""
MANY_SPANS = 10_000
"""An hour that is worth a line of its own."""

KEY = DIMENSIONS.index("key")
Slice = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Folder:
    """The parts that a fold needs."""

    store: Store
    rollups: Rollups
    telemetry: Telemetry
    now: Callable[[], datetime]
    new_id: Callable[[], str]

    @property
    def seconds(self) -> int:
        return int(self.now().timestamp())


class Overtaken(Exception):
    """Another run has written what this one was about to."""


class Run:
    """What a run has done so far."""

    def __init__(self, folder: Folder, has_time: Callable[[], bool]) -> None:
        self.folder = folder
        self.has_time = has_time
        self.began = folder.now()
        self.watermark = ""
        self.counts = dict.fromkeys(("hours", "spans", "skipped", "written", "overtaken"), 0)
        self.failed: StoreError | None = None

    def overtaken(self) -> Overtaken:
        self.counts["overtaken"] = 1
        return Overtaken()

    @contextmanager
    def failing(self, what: Mapping[str, Any]) -> Iterator[None]:
        """An error of the store ends this step and not the run."""
        try:
            yield
        except StoreError as e:
            self.folder.telemetry.failure("not folded", what)
            self.failed = e


def fold(folder: Folder, has_time: Callable[[], bool], since: str | None = None) -> dict[str, int]:
    """Bring the rollups up to the spans, as far as there is time; how much that was.

    `since` is an older hour, from which on all are summed again. An hour that the store fails for keeps no other
    waiting, and is the next run's; its error is raised at the end, so that the run counts as failed. Raises StoreError.
    """
    run = Run(folder, has_time)
    run.watermark = folder.rollups.progress().hour or hour_of(folder.seconds - FIRST_HOURS * HOUR_S)
    if since is not None:
        _mark_since(folder, since, run.watermark)
    marks = folder.rollups.marks()
    wanted = sorted({*marks, *hours(run.watermark, hour_of(folder.seconds))})
    with suppress(Overtaken):
        for at in range(0, len(wanted), GROUP):
            if not _fold_group(run, wanted[at : at + GROUP], marks):
                break
    took = folder.now() - run.began
    said = {**run.counts, "until": run.watermark, "duration_ms": int(took.total_seconds() * 1000)}
    folder.telemetry.folded(said)
    if run.failed is not None:
        raise run.failed
    return run.counts


def _fold_group(run: Run, group: Sequence[str], marks: Mapping[str, Sequence[str]]) -> bool:
    """Some hours, and then the days and months of them; only now they are done. Whether there was time for all."""
    done: dict[str, bool] = {}
    touched: dict[Slice, dict[str, int]] = defaultdict(dict)
    has_time = True
    for hour in group:
        if not (has_time := run.has_time()):
            break
        can_be_final = is_final(hour, run.folder.seconds)  # before its spans are read
        with run.failing({"hour": hour}):
            for slice_, rev in _fold_hour(run, hour).items():
                touched[slice_][hour] = rev
            done[hour] = can_be_final
    with run.failing({"hours": len(done)}):
        _sum_up(run, touched)
        for mark in (mark for hour in done for mark in marks.get(hour, ())):
            run.folder.rollups.unmark(mark)
        _move(run, done)
    run.counts["hours"] += len(done)
    return has_time


def _move(run: Run, done: Mapping[str, bool]) -> None:
    """Move the watermark behind the hours that are done and final, and follow each other."""
    watermark = run.watermark
    while done.get(watermark, False):
        watermark = following(watermark)
    if watermark != run.watermark:
        run.folder.rollups.move(watermark)
        run.watermark = watermark


def _mark_since(folder: Folder, since: str, watermark: str) -> None:
    """Marks are work that is not lost, however many runs it takes. Hours whose spans are about to expire stay."""
    oldest = hour_of(folder.seconds - (KEPT_DAYS - 2) * 24 * HOUR_S)
    for hour in hours(max(since, oldest), watermark):
        folder.store.mark_stale(hour, folder.new_id())


def _fold_hour(run: Run, hour: str) -> dict[Slice, int]:
    """Sum its spans anew, and write what differs; the revisions that its rollups have then."""
    rollups = run.folder.rollups
    last_run = rollups.progress().by
    tallies, used = _tallies(run, hour)
    ttl = kept_until(began(hour))
    known = rollups.read([hour_key(*slice_, hour) for slice_ in tallies])
    made = {hour_key(*slice_, hour): {**tally.item(), "ttl": ttl} for slice_, tally in tallies.items()}
    differing = {key: fields for key, fields in made.items() if known.get(key, MISSING).fields != fields}
    # All has been read by now: whoever writes after this has read it later.
    if differing and not rollups.claim(last_run, run.folder.new_id()):
        raise run.overtaken()
    for (tenant, key_id), at in used.items() if differing else ():  # before the sums: who dies here does it again
        rollups.used(tenant, key_id, at)
    for key, fields in differing.items():
        known[key] = _put(run, key, fields, known.get(key, MISSING))
    return {slice_: known[hour_key(*slice_, hour)].rev for slice_ in tallies}


def _sum_up(run: Run, touched: Mapping[Slice, Mapping[str, int]]) -> None:
    """The days with these revisions of hours in them, and then their months."""
    days = _summed(run, {day_key(*slice_): revs for slice_, revs in touched.items()}, lambda sk: f"H#{sk[2:]}#")
    by_month: dict[Key, dict[str, int]] = defaultdict(dict)
    for tenant, month, day in touched:
        by_month[month_key(tenant, month)][f"{day:02}"] = days[day_key(tenant, month, day)]
    _summed(run, by_month, lambda _: "D#")


def _tallies(run: Run, hour: str) -> tuple[dict[Slice, Tally], dict[tuple[str, str], int]]:
    """The sums of an hour's spans, read page by page; and when each tenant's API keys were used last in it."""
    tallies: dict[Slice, Tally] = {}
    used: dict[tuple[str, str], int] = {}
    read = 0
    for pk, sk, span in _spans(run.folder.rollups, hour):
        try:
            line = Line.of(span)
        except Poisoned as e:
            run.counts["skipped"] += 1
            run.folder.telemetry.skipped({"span_pk": pk, "hold": sk, "cause": str(e)})
            continue
        read += 1
        tallies.setdefault((line.tenant, line.month, line.day), Tally()).add(line)
        key, at = line.names[KEY], span.get("admitted_at")
        if key != NOBODY and isinstance(at, int):
            used[line.tenant, key] = max(at, used.get((line.tenant, key), at))
    run.counts["spans"] += read
    if read > MANY_SPANS:
        run.folder.telemetry.hour({"hour": hour, "spans": read, "slices": len(tallies)})
    return tallies, used


def _spans(rollups: Rollups, hour: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for pk in (spans.partition(hour, shard) for shard in range(spans.SHARDS)):
        for sk, span in rollups.spans(pk):
            yield pk, sk, span


def _summed(run: Run, parts: Mapping[Key, Mapping[str, int]], begin: Callable[[str], str]) -> dict[Key, int]:
    """Bring sums up to the revisions of some of their parts, whose sort keys begin so; the revisions of the sums."""
    known = run.folder.rollups.read(list(parts))
    revisions = {}
    for key, revs in parts.items():
        before = known.get(key, MISSING)
        contained = before.fields.get("of", {})
        if any(contained.get(name) != rev for name, rev in revs.items()):
            before = _put(run, key, _sum(run.folder.rollups, key[0], begin(key[1])), before)
        revisions[key] = before.rev
    return revisions


def _sum(rollups: Rollups, pk: str, begin: str) -> dict[str, Any]:
    tally, of = Tally(), {}
    for sk, part in rollups.under(pk, begin):
        tally.merge(Tally.of(part.fields))
        of[sk.rpartition("#")[2]] = part.rev
    return {**tally.item(), "of": of}


def _put(run: Run, key: Key, fields: Mapping[str, Any], before: Rollup) -> Rollup:
    if not run.folder.rollups.put(key, fields, before):
        raise run.overtaken()
    run.counts["written"] += 1
    return Rollup(fields, before.rev + 1)
