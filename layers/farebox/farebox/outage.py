"""While the ledger cannot be reached: nothing is admitted, or, where it is allowed, a little.

FAREBOX_FAIL_OPEN_USD is what one environment may let through in one outage (0 by default: fail closed). Such a call is
bounded as any other, and its bound counts against that amount until it is booked. It is held nowhere; what it cost is
journalled (one log line, `journal`, with all that its booking needs) and booked when the ledger answers again, once: a
mark in the ledger has its id. An environment that ends before that leaves the journal's lines.
"""

import itertools
import threading
from dataclasses import dataclass

from . import spans
from .admission import Admission, Call, Desk, hold_for
from .candidates import Candidate
from .ledger import Ledger
from .offers import first_offer, within_cap
from .settlement import Settlement
from .store import Store, StoreError
from .telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Entry:
    """A call to book. `cost_nanousd` is its bound where its cost is not known, and it counts as estimated then."""

    admission: Admission
    settlement: Settlement
    cost_nanousd: int


class Outage:
    """One environment's allowance for the time without a ledger, and the calls that it let through."""

    def __init__(self, store: Store, telemetry: Telemetry, allowance_nanousd: int) -> None:
        self._store = store
        self._telemetry = telemetry
        self._allowance_nanousd = allowance_nanousd
        self._under_way: dict[str, int] = {}
        self._journal: dict[str, Entry] = {}
        self._marks = itertools.count()
        self._lock = threading.Lock()

    def admit(self, desk: Desk, call: Call, asked: Candidate) -> Admission | None:
        """A call without a hold, if its bound is within what is left of the allowance and within the tenant's cap."""
        if self._allowance_nanousd == 0:
            return None  # fail closed, also for a free model: its call would be counted nowhere
        found = first_offer(asked, call.tenant, desk.thrift, has_cheaper=False)
        hold = hold_for(call, found, 1)
        with self._lock:
            most = min(self._left(), call.tenant.limits.least_nanousd)  # a budget of 0 stays closed
            if hold.amount_nanousd > within_cap(most, call.tenant.rules):
                return None
            self._under_way[hold.id] = hold.amount_nanousd
        return Admission(call, 1, asked, hold, found.quote, Ledger(), is_held=False)

    def settle(self, admission: Admission, settlement: Settlement) -> None:
        """Journal what a call has cost, and book it as soon as that can be done."""
        hold, cost = admission.hold, settlement.cost_nanousd
        entry = Entry(admission, settlement, hold.amount_nanousd if cost is None else cost)
        span = spans.span(admission, settlement, latency_ms=0)
        self._telemetry.journal({**span, "hold": hold.id, "booked_nanousd": entry.cost_nanousd})
        with self._lock:
            self._under_way.pop(hold.id, None)
            self._journal[hold.id] = entry
        self.book()

    def book(self) -> None:
        """Book what is journalled, as far as the ledger answers."""
        for hold_id, entry in list(self._journal.items()):
            try:
                self._book(entry)
            except StoreError:
                return
            with self._lock:
                self._journal.pop(hold_id, None)

    def _left(self) -> int:
        used = sum(self._under_way.values()) + sum(entry.cost_nanousd for entry in self._journal.values())
        return self._allowance_nanousd - used

    def _book(self, entry: Entry) -> None:
        admission, call = entry.admission, entry.admission.call
        span = spans.span(admission, entry.settlement, latency_ms=0)
        if entry.settlement.cost_nanousd is None:
            span |= {"cost_nanousd": entry.cost_nanousd, "is_estimated": True}
        pk, sk = spans.key(admission.hold)
        # This may be long after the call, when rollups are through with its hour. No two of these marks are the same.
        self._store.mark_stale(spans.hour_in(pk), f"{sk}#{next(self._marks)}")
        self._store.put_span(pk, sk, span)
        self._store.book(call.tenant.name, call.windows.month, admission.hold, entry.cost_nanousd)
