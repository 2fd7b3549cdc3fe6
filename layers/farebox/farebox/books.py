"""The books of a call: for each attempt a span, and then the end of its hold.

The span comes first, so that a crash between the two leaves a hold whose span tells what it cost. Where the store fails
it is asked again for a while; then the hold stays until the sweep ends it, for which a reminder is left if at least
that can be written.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from . import spans
from .admission import TRIES, Admission, Desk, hold_for
from .candidates import Candidate
from .fees import lesson_of, taught, teach
from .ledger import Ledger, No, settle
from .offers import Shortfall, offer
from .outage import Outage
from .settlement import Outcome, Receipt, Settlement
from .store import Refused, Store, StoreError
from .telemetry import Telemetry
from .watch import Watch

PAUSES_S = (0.2, 0.4, 0.8, 1.6)
"""Before a write that was not answered is tried again. Every write here may be repeated: it happens once."""
INSIST_S = 6.0
"""No try begins later than this after the first, nor after the deadline: the client waits for its last bytes."""

T = TypeVar("T")


class Books:
    """Writes what became of attempts."""

    def __init__(
        self,
        store: Store,
        watch: Watch,
        telemetry: Telemetry,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        outage: Outage | None = None,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """Without an `outage` every call has a hold. Deadlines are moments of `monotonic`, `sleep` takes seconds."""
        self._store = store
        self._outage = outage or Outage(store, telemetry, 0)
        self._watch = watch
        self._telemetry = telemetry
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._pauses_s = pauses_s

    def settle(self, admission: Admission, settlement: Settlement, deadline: float) -> Ledger:
        """Record an attempt and end its hold; the ledger as it left it."""
        if not admission.is_held:
            self._outage.settle(admission, settlement)
            return admission.ledger
        is_recorded = self.record(admission, settlement, deadline)
        return self.end(admission, settlement, deadline) if is_recorded else admission.ledger

    def record(self, admission: Admission, settlement: Settlement, deadline: float) -> bool:
        """Write the span; of a lost attempt also the reminder by which its cost is found out.

        Whether anything of it is known to be written: if not, the hold is the only trace of the attempt.
        """
        latency_ms = int((self._now() - admission.call.at).total_seconds() * 1000)
        span = spans.span(admission, settlement, latency_ms=latency_ms)
        self._telemetry.call(span)
        try:
            self._insist(lambda: self._store.put_span(*spans.key(admission.hold), span), deadline)
            if self._cost(admission, settlement) is None:
                self._store.remind(admission.hold.id, spans.reminder(admission, settlement).item())
        except StoreError:
            self._telemetry.failure("not recorded", span)
            return self._remind(admission, settlement)
        return True

    def end(self, admission: Admission, settlement: Settlement, deadline: float) -> Ledger:
        """End the hold at the cost; a lost attempt keeps it. The ledger after it, or the last one known."""
        call, hold = admission.call, admission.hold
        cost = self._cost(admission, settlement)
        if cost is None:
            return admission.ledger
        if cost > hold.amount_nanousd:
            self._telemetry.overrun({
                "tenant": call.tenant.name,
                "hold": hold.id,
                "hold_nanousd": hold.amount_nanousd,
                "cost_nanousd": cost,
            })  # fmt: skip
        self._teach(admission, settlement)
        try:
            ledger = self._insist(
                lambda: self._store.settle(call.tenant.name, call.windows.month, hold, cost), deadline
            )
        except StoreError:
            self._telemetry.failure("not settled", {"tenant": call.tenant.name, "hold": hold.id})
            self._remind(admission, settlement)
            return admission.ledger
        self._watch.look(call.tenant, call.windows.month, hold.day, ledger)
        return ledger

    def note(self, admission: Admission, generation_id: str) -> None:
        """Put the id into the hold of a call that takes a while: should its function die, its cost can be found out."""
        call = admission.call
        with suppress(StoreError):
            self._store.note(call.tenant.name, call.windows.month, admission.hold.id, generation_id)

    def exchange(self, desk: Desk, admission: Admission, candidate: Candidate, deadline: float) -> Admission | None:
        """Give up a declined attempt's hold for one of another model, in one step; None where that does not fit.

        The old hold stays then, and is still to be ended. Raises StoreError with both ended, or reminders of them left.
        """
        call, ledger = admission.call, admission.ledger
        for _ in range(TRIES):
            left = settle(ledger, admission.hold, 0)
            found = offer(candidate, (), call.tenant, admission.hold.day, left, desk.thrift)
            if isinstance(found, Shortfall):
                return None
            hold = replace(hold_for(call, found, admission.attempt + 1), day=admission.hold.day)
            following = Admission(call, admission.attempt + 1, candidate, hold, found.quote, ledger)
            result = self._swapped(admission, following, deadline)
            if isinstance(result, Ledger):
                return replace(following, ledger=result)
            if result.why is not No.NO_ROOM or admission.hold.id not in result.ledger.holds:
                return None
            ledger = result.ledger
        return None

    def _swapped(self, old: Admission, new: Admission, deadline: float) -> Ledger | Refused:
        call = old.call
        try:
            return self._store.swap(call.tenant.name, call.windows.month, old.hold, new.hold, call.tenant.limits)
        except StoreError:
            # Which of them is there is not known, and nothing was sent for either. Without the old one a swap that is
            # still under way can make no new one.
            for either in (old, new):
                self.end(either, Settlement(Outcome.DECLINED, Receipt()), deadline)
            raise

    def _insist(self, write: Callable[[], T], deadline: float) -> T:
        until = min(deadline, self._monotonic() + INSIST_S)
        for pause_s in self._pauses_s:
            try:
                return write()
            except StoreError:
                if self._monotonic() + pause_s > until:
                    raise
            self._sleep(pause_s)
        return write()

    def _teach(self, admission: Admission, settlement: Settlement) -> None:
        """Before the hold ends: what a crash or the store prevents is left to the sweep, which teaches it, too."""
        hold, cost, fee = admission.hold, settlement.cost_nanousd, lesson_of(admission, settlement)
        if cost is None or fee is None:
            return
        names = taught(admission.candidate.models, settlement.receipt.model)
        try:
            teach(self._store, self._telemetry, self._now(), hold, cost, fee, names)
        except StoreError:
            self._telemetry.failure("not learnt", {"hold": hold.id, "fee_nanousd": fee})
            self._remind(admission, settlement)

    def _remind(self, admission: Admission, settlement: Settlement) -> bool:
        with suppress(StoreError):
            self._store.remind(admission.hold.id, spans.reminder(admission, settlement).item())
            return True
        return False

    @staticmethod
    def _cost(admission: Admission, settlement: Settlement) -> int | None:
        """A hold of nothing (a free model) keeps nothing: it ends, whatever became of the call."""
        cost = settlement.cost_nanousd
        return 0 if cost is None and admission.hold.amount_nanousd == 0 else cost
