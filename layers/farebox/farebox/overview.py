"""All tenants that have called in a month, page by page, as whoever looks after the gateway reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from .ledger import Ledger
from .queries import TenantsQuery
from .settings import Settings
from .states import state
from .store import Store
from .tenants import Tenant, windows
from .usage import forecast_of, window_of, windows_of

COLUMNS = (
    "tenant", "month", "status", "state", "in_flight",
    "daily_limit_usd", "daily_spent_usd", "daily_held_usd", "daily_remaining_usd",
    "monthly_limit_usd", "monthly_spent_usd", "monthly_held_usd", "monthly_remaining_usd",
    "forecast_spent_usd", "forecast_limit_reached_on",
)  # fmt: skip
"""Of a tenant's object, with the names of objects in it before their fields'."""


@dataclass(frozen=True, slots=True)
class Page:
    """Tenants by name, and behind which name the next page is; None at the end."""

    month: str
    rows: Sequence[Mapping[str, Any]]
    next: str | None


def this_month(settings: Settings, now: datetime) -> str:
    """Of tenants without a zone of their own."""
    return windows(now, settings.farebox_time_zone).month


def page(store: Store, settings: Settings, query: TenantsQuery, now: datetime) -> Page:
    """One page. Raises StoreError."""
    month = query.month or this_month(settings, now)
    names = list(islice(store.registered(month, query.after), query.limit + 1))
    shown = names[: query.limit]
    accounts = store.accounts([settings.tenant(name) for name in shown], month)
    rows = [_row(tenant, month, ledger, now) for tenant, ledger in accounts]
    return Page(month, rows, shown[-1] if len(names) > query.limit else None)


def _row(configured: Tenant, month: str, ledger: Ledger, now: datetime) -> dict[str, Any]:
    """Of a month that is over, by the limit as it is now; there is no day in it that counts."""
    tenant, found = configured.at(now), configured.windows(now)
    who = {"tenant": tenant.name, "month": month, "status": tenant.status.value}
    if found.month == month:
        return {**who, **windows_of(tenant, found, ledger), "forecast": forecast_of(tenant, found, ledger, now)}
    spent, held, limit = ledger.spent_nanousd, ledger.held_nanousd, tenant.limits.month_nanousd
    return {
        **who,
        "state": state(tenant, spent, limit).value,
        "in_flight": len(ledger.holds),
        "daily": None,
        "monthly": window_of(limit, spent, held),
        "forecast": None,
    }
