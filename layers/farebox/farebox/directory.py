"""Tenants as the store has them, kept in memory between calls.

Stale entries are harmless: a hold made with limits older than the ledger's version is refused, and the caller reads
again (ledger.py, STALE_LIMITS).
"""

from datetime import datetime

from .errors import UnknownTenant
from .ledger import Ledger
from .settings import Settings
from .store import Store
from .tenants import Tenant, Windows

MAX_KEPT = 10_000


class Directory:
    """Who a tenant is at a moment. Safe to share between threads: entries are replaced, never changed.

    With AUTO_CREATE_TENANTS a tenant that nobody has configured has the default budgets. Without it, `at` raises
    UnknownTenant.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._kept: dict[str, tuple[str, Tenant]] = {}
        self._registered: set[tuple[str, str]] = set()

    def at(self, name: str, now: datetime) -> tuple[Tenant, Windows]:
        """A tenant and its windows. A new month reads again, since its ledger does not know the newest version yet."""
        kept = self._kept.get(name)
        if kept is not None:
            month, tenant = kept
            found = tenant.windows(now)
            if found.month == month:
                return tenant.at(now), found
        tenant = self._read(name)
        found = tenant.windows(now)
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[name] = (found.month, tenant)
        return tenant.at(now), found

    def _read(self, name: str) -> Tenant:
        tenant = self._store.tenant(self._settings.tenant(name))
        if tenant is not None:
            return tenant
        if not (self._settings.auto_create_tenants or name in self._settings.tenant_budgets):
            raise UnknownTenant(
                f"there is no tenant {name}; create it first (POST /api/admin/tenants)", facts={"tenant": name}
            )
        return self._settings.tenant(name)

    def as_new_as(self, ledger: Ledger, name: str, now: datetime) -> tuple[Tenant, Windows]:
        """A tenant that is at least as new as the limits which a ledger has seen."""
        tenant, found = self.at(name, now)
        if ledger.is_ahead_of(tenant.limits):
            self.forget(name)
            return self.at(name, now)
        return tenant, found

    def register(self, name: str, month: str) -> None:
        """Note that the tenant's month may have holds, once an environment: expired ones are found by it."""
        if (name, month) not in self._registered:
            self._store.register(name, month)
            if len(self._registered) >= MAX_KEPT:
                self._registered.clear()
            self._registered.add((name, month))

    def forget(self, name: str) -> None:
        """Read again at the next call."""
        self._kept.pop(name, None)
