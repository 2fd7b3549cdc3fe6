"""Ends what calls have left open: holds of calls whose cost was not known, or whose function has died.

    the span has a cost                   the hold ends at it: only that was missing
    /generation knows the cost            booked at it
    it does not (yet), the hold is young  tried again in the next run: the record may take minutes
    it does not, the hold has expired     booked at the full hold, marked as estimated: what may have been spent is
                                          never released
    it does after all, within a day       the estimate is corrected, once

Lost calls are found by their reminders, and the holds of functions that died by a walk over all ledgers that may have
any. The walk goes first: what it finds has expired and so is the oldest, and each hold that it comes to ends; the
reminders of calls that OpenRouter does not know yet come again in every run, and their lookups could use up all of it.

Each step may be repeated, by a run after a crash or by two runs at once: the span's cost is written once, the hold ends
once, an estimate is corrected once, and only then the reminder goes.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

from . import spans
from .directory import Directory
from .fees import lesson, taught, teach
from .hours import is_over
from .ledger import Hold, Ledger, expired
from .parts import random_id
from .reminders import Reminder
from .settlement import cost_of_generation, object_of
from .store import Store, StoreError
from .telemetry import Telemetry
from .upstream import Lost, NotSent, Upstream
from .watch import Watch

CORRECTED_FOR_S = 86_400
"""So long after a call its estimate may be corrected; a day after it OpenRouter's record would have come."""
MAX_LEDGERS = 500
"""Of one walk: the next run goes on where it stopped."""


@dataclass(frozen=True, slots=True)
class Sweeper:
    """The parts that a sweep needs."""

    store: Store
    directory: Directory
    watch: Watch
    upstream: Upstream
    telemetry: Telemetry
    now: Callable[[], datetime]
    new_mark: Callable[[], str] = random_id

    @property
    def seconds(self) -> int:
        return int(self.now().timestamp())


def sweep(sweeper: Sweeper, has_time: Callable[[], bool]) -> dict[str, int]:
    """Resolve what can be resolved, what has expired first, while there is time; how many ended which way.

    A call that the store fails for does not keep the others waiting; its error is raised at the end, so that the run
    counts as failed. Raises StoreError.
    """
    counts = {"booked": 0, "estimated": 0, "corrected": 0, "waiting": 0}
    failed: StoreError | None = None
    for work in (_walked(sweeper, has_time), _reminded(sweeper, has_time)):
        for hold_id, resolve in work:
            try:
                counts[resolve()] += 1
            except StoreError as e:
                sweeper.telemetry.failure("not resolved", {"hold": hold_id})
                failed = e
    if failed is not None:
        raise failed
    return counts


Step = tuple[str, Callable[[], str]]
Work = Iterable[Step]


def _reminded(sweeper: Sweeper, has_time: Callable[[], bool]) -> Work:
    """Lost calls, oldest first."""
    for item in sweeper.store.reminders():
        if not has_time():
            return
        reminder = Reminder.of(item)
        if "look_at" in item:
            if item["look_at"] <= sweeper.seconds:
                yield reminder.hold.id, partial(_corrected, sweeper, reminder)
        else:
            yield reminder.hold.id, partial(_resolved, sweeper, reminder)


def _resolved(sweeper: Sweeper, reminder: Reminder) -> str:
    hold = reminder.hold
    found = reminder.cost_nanousd
    if found is None:
        found = _true_cost(sweeper.upstream, reminder.generation_id)
    if found is None and sweeper.seconds < hold.expires_at:
        return "waiting"
    _mark(sweeper, reminder)
    # A run before this one may have written the cost and then died: its word stands.
    cost, is_estimated = sweeper.store.resolve_span(
        reminder.span_pk,
        hold.id,
        hold.amount_nanousd if found is None else found,
        is_estimated=found is None,
        known=reminder.span(),
    )
    _teach(sweeper, hold, cost)
    can_be_corrected = is_estimated and reminder.generation_id is not None and hold.amount_nanousd > 0
    if can_be_corrected:
        # Before the hold ends: an estimate that nobody looks at again would be the last word.
        sweeper.store.remind(hold.id, reminder.item())
        sweeper.store.look_again(hold.id, _next_look(hold.admitted_at, sweeper.seconds))
    ledger = sweeper.store.settle(
        reminder.tenant,
        reminder.month,
        hold,
        cost,
        is_estimated=can_be_corrected,
        leaves_mark=sweeper.seconds < hold.expires_at,
    )
    _look(sweeper, reminder, ledger)
    outcome = "estimated" if is_estimated else "booked"
    _tell(sweeper, reminder, cost, outcome)
    if not can_be_corrected:
        sweeper.store.forget(hold.id)
    return outcome


def _corrected(sweeper: Sweeper, reminder: Reminder) -> str:
    """Look once more for the cost of a call that was estimated."""
    hold = reminder.hold
    found = _true_cost(sweeper.upstream, reminder.generation_id)
    if found is None and sweeper.seconds < hold.admitted_at + CORRECTED_FOR_S:
        sweeper.store.look_again(hold.id, _next_look(hold.admitted_at, sweeper.seconds))
        return "waiting"
    if found is not None:
        _mark(sweeper, reminder)
    # A run before this one may have spoken the last word in the span and then died: it stands.
    found = sweeper.store.correct_span(reminder.span_pk, hold.id, found)
    if found is not None:
        _teach(sweeper, hold, found)
    ledger = sweeper.store.correct(reminder.tenant, reminder.month, hold.id, found)
    if hold.id in ledger.holds:
        # Whoever has estimated it is slow, and has not ended the hold yet: its estimate would be the last word.
        cost = hold.amount_nanousd if found is None else found
        sweeper.store.settle(reminder.tenant, reminder.month, hold, cost)
        ledger = sweeper.store.correct(reminder.tenant, reminder.month, hold.id, found)
    _look(sweeper, reminder, ledger)
    outcome = "estimated" if found is None else "corrected"
    _tell(sweeper, reminder, hold.amount_nanousd if found is None else found, outcome)
    sweeper.store.forget(hold.id)
    return outcome


def _mark(sweeper: Sweeper, reminder: Reminder) -> None:
    """Rollups may be through with the hour of a span that is about to be changed."""
    hour = spans.hour_in(reminder.span_pk)
    if is_over(hour, sweeper.seconds):
        sweeper.store.mark_stale(hour, sweeper.new_mark())


def _next_look(admitted_at: int, now: int) -> int:
    """Twice as late after the call each time."""
    return now + max(60, now - admitted_at)


def _look(sweeper: Sweeper, reminder: Reminder, ledger: Ledger) -> None:
    """Tell of a budget state that this has changed."""
    tenant, _ = sweeper.directory.as_new_as(ledger, reminder.tenant, sweeper.now())
    sweeper.watch.look(tenant, reminder.month, reminder.hold.day, ledger)


def _tell(sweeper: Sweeper, reminder: Reminder, cost: int, outcome: str) -> None:
    hold = reminder.hold
    facts = {"tenant": reminder.tenant, "hold": hold.id, "hold_nanousd": hold.amount_nanousd, "cost_nanousd": cost}
    sweeper.telemetry.resolved({**facts, "outcome": outcome})
    if cost > hold.amount_nanousd:
        sweeper.telemetry.overrun(facts)


def _teach(sweeper: Sweeper, hold: Hold, cost: int) -> None:
    """Before the hold ends, so that a crash does not lose the lesson. Which model of a list was billed is not known
    here; the first one stands for the list."""
    fee = lesson(hold, cost)
    if fee is not None:
        teach(sweeper.store, sweeper.telemetry, sweeper.now(), hold, cost, fee, taught((hold.model,)))


# The walk.


def _walked(sweeper: Sweeper, has_time: Callable[[], bool]) -> Work:
    """Expired holds in all ledgers that may have any; a walk that is broken off keeps no reminder waiting."""
    try:
        yield from _from_cursor(sweeper, has_time)
    except StoreError as e:
        yield "the walk", partial(_failed, e)


def _from_cursor(sweeper: Sweeper, has_time: Callable[[], bool]) -> Work:
    """Tenant by tenant, from where the last walk has stopped.

    One that stops in the middle of a ledger leaves the cursor before it: the next one finds what is left of it.
    """
    begin = at = sweeper.store.cursor()
    for seen, (month, tenant) in enumerate(_ledgers(sweeper, begin)):
        if seen >= MAX_LEDGERS or not has_time():
            break
        if not (yield from _while(has_time, _left_open(sweeper, month, tenant))):
            break
        at = f"{month}#{tenant}"
    else:
        at = ""
    if at != begin:
        sweeper.store.move_cursor(at)


def _while(has_time: Callable[[], bool], work: Work) -> Generator[Step, None, bool]:
    """Work while there is time; whether all of it is done."""
    for step in work:
        if not has_time():
            return False
        yield step
    return True


def _left_open(sweeper: Sweeper, month: str, tenant: str) -> Work:
    """Expired holds of one ledger, its old marks being taken away; one that does not answer keeps no other waiting."""
    try:
        ledger = sweeper.store.ledger(tenant, month)
        for hold_id, until in ledger.ended.items():
            if until <= sweeper.seconds:
                sweeper.store.unmark(tenant, month, hold_id)
    except StoreError as e:
        yield f"{tenant} {month}", partial(_failed, e)
        return
    for hold in expired(ledger, sweeper.seconds):
        reminder = Reminder(spans.key(hold)[0], tenant, hold.feature, month, hold, hold.generation_id)
        yield hold.id, partial(_found, sweeper, reminder)


def _failed(error: StoreError) -> str:
    raise error


def _ledgers(sweeper: Sweeper, begin: str) -> Iterable[tuple[str, str]]:
    """Month and tenant, in order, behind a place: of this month in any time zone, and the one before."""
    now = sweeper.now()
    days = (now.replace(day=1) - timedelta(days=2), now - timedelta(days=1), now, now + timedelta(days=1))
    after_month, _, after_tenant = begin.partition("#")
    for month in sorted({f"{day.year:04}-{day.month:02}" for day in days}):
        if month >= after_month:
            after = after_tenant if month == after_month else ""
            yield from ((month, tenant) for tenant in sweeper.store.registered(month, after))


def _found(sweeper: Sweeper, reminder: Reminder) -> str:
    """A hold that nobody has ended: by its reminder, which may know its cost, by its span, or as any lost call."""
    if item := sweeper.store.reminder(reminder.hold.id):
        return _resolved(sweeper, Reminder.of(item))
    span = sweeper.store.span(reminder.span_pk, reminder.hold.id)
    if "cost_nanousd" in span and not span.get("is_estimated", False):
        cost = int(span["cost_nanousd"])
        _teach(sweeper, reminder.hold, cost)
        ledger = sweeper.store.settle(reminder.tenant, reminder.month, reminder.hold, cost)
        _look(sweeper, reminder, ledger)
        _tell(sweeper, reminder, cost, "booked")
        return "booked"
    known = reminder if reminder.generation_id else reminder.known_by(span.get("generation_id"))
    return _resolved(sweeper, known)


def _true_cost(upstream: Upstream, generation_id: str | None) -> int | None:
    """Nano-dollars as OpenRouter has them on record; None while it has none."""
    if generation_id is None:
        return None
    try:
        status, body = upstream.get("/generation", urlencode({"id": generation_id}))
    except (NotSent, Lost):
        return None
    record: Any = object_of(body).get("data") if status == 200 else None
    return cost_of_generation(record) if isinstance(record, Mapping) else None
