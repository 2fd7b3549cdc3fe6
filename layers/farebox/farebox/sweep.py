"""Calls whose cost was not known when they ended: the true cost is asked for, and their holds end.

    /generation knows the cost            booked at it
    it does not (yet), the hold is young  tried again in the next run: the record may take minutes
    it does not, the hold has expired     booked at the full hold, marked as estimated: what may have been spent is
                                          never released

Each step may be repeated, by a run after a crash or by two runs at once: the span's cost is written once, the hold ends
once, and only then the reminder goes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from .directory import Directory
from .reminders import Reminder
from .settlement import cost_of_generation, object_of
from .store import Store, StoreError
from .telemetry import Telemetry
from .upstream import Lost, NotSent, Upstream
from .watch import Watch


@dataclass(frozen=True, slots=True)
class Sweeper:
    """The parts that a sweep needs."""

    store: Store
    directory: Directory
    watch: Watch
    upstream: Upstream
    telemetry: Telemetry
    now: Callable[[], datetime]


def sweep(sweeper: Sweeper, has_time: Callable[[], bool]) -> dict[str, int]:
    """Resolve what can be resolved, oldest first, while there is time; how many ended which way.

    A call that the store fails for does not keep the others waiting; its error is raised at the end, so that the run
    counts as failed. Raises StoreError.
    """
    counts = {"booked": 0, "estimated": 0, "waiting": 0}
    failed: StoreError | None = None
    for item in sweeper.store.reminders():
        if not has_time():
            break
        try:
            counts[_resolve(sweeper, Reminder.of(item))] += 1
        except StoreError as e:
            sweeper.telemetry.failure("not resolved", {"hold": item["sk"]})
            failed = e
    if failed is not None:
        raise failed
    return counts


def _resolve(sweeper: Sweeper, reminder: Reminder) -> str:
    hold = reminder.hold
    found = reminder.cost_nanousd
    if found is None:
        found = _true_cost(sweeper.upstream, reminder.generation_id)
    if found is None and sweeper.now().timestamp() < hold.expires_at:
        return "waiting"
    # A run before this one may have written the cost and then died: its word stands.
    cost, is_estimated = sweeper.store.resolve_span(
        reminder.span_pk,
        hold.id,
        hold.amount_nanousd if found is None else found,
        is_estimated=found is None,
        known=reminder.span(),
    )
    ledger = sweeper.store.settle(reminder.tenant, reminder.month, hold, cost)
    tenant, _ = sweeper.directory.at(reminder.tenant, sweeper.now())
    if ledger.is_ahead_of(tenant.limits):
        sweeper.directory.forget(reminder.tenant)  # its limits were changed since a warm sweep has read them
        tenant, _ = sweeper.directory.at(reminder.tenant, sweeper.now())
    sweeper.watch.look(tenant, reminder.month, hold.day, ledger)
    outcome = "estimated" if is_estimated else "booked"
    facts = {"tenant": reminder.tenant, "hold": hold.id, "hold_nanousd": hold.amount_nanousd, "cost_nanousd": cost}
    sweeper.telemetry.resolved({**facts, "outcome": outcome})
    if cost > hold.amount_nanousd:
        sweeper.telemetry.overrun(facts)
    sweeper.store.forget(hold.id)
    return outcome


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
