"""Tells of changes of budget states, each once (states.py), after whatever moved the money."""

from collections.abc import Callable
from datetime import datetime

from .ledger import Ledger
from .states import changes
from .store import Store, StoreError
from .telemetry import Telemetry
from .tenants import Tenant


class Watch:
    """Needs a write only when a state has changed."""

    def __init__(self, store: Store, telemetry: Telemetry, now: Callable[[], datetime]) -> None:
        self._store = store
        self._telemetry = telemetry
        self._now = now

    def look(self, tenant: Tenant, month: str, day: int, ledger: Ledger, *, refused: str | None = None) -> None:
        """Compare a ledger with what was told. Where the store fails the next call tells it: the ledger has no mark."""
        for change in changes(tenant, month, day, ledger, refused=refused):
            event = change.event(self._now())
            try:
                if self._store.put_event(change.key, event):
                    self._telemetry.state(event)  # before the mark: should that fail, nobody else hears it is new
                self._store.mark_state(tenant.name, month, change.window, ledger.states.get(change.window), change.mark)
            except StoreError:
                self._telemetry.failure("not told", {"tenant": tenant.name, "to": change.new.value})
                return
