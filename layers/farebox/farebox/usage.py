"""What a tenant has spent, holds and has left: one ledger item, as the owner reads it."""

from typing import Any

from .ledger import Ledger
from .money import usd_number
from .states import shown
from .tenants import Tenant, Windows, timestamp


def report(tenant: Tenant, windows: Windows, ledger: Ledger) -> dict[str, Any]:
    """The month so far, in US dollars. A day without calls is not listed."""
    return {
        "tenant": tenant.name,
        "month": windows.month,
        "time_zone": tenant.time_zone,
        **windows_of(tenant, windows, ledger),
        "days": [
            {
                "day": f"{windows.month}-{number:02}",
                "spent_usd": usd_number(ledger.spent_on(number)),
                "held_usd": usd_number(ledger.held_on(number)),
            }
            for number in sorted(ledger.committed_by_day)
        ],
    }


def windows_of(tenant: Tenant, windows: Windows, ledger: Ledger) -> dict[str, Any]:
    """Today and this month."""
    limits, day = tenant.limits, windows.day
    return {
        "state": shown(tenant, ledger, day).value,
        "in_flight": len(ledger.holds),
        "daily": {
            **_window(limits.day_nanousd, ledger.spent_on(day), ledger.held_on(day)),
            "resets_at": timestamp(windows.day_resets_at),
        },
        "monthly": {
            **_window(limits.month_nanousd, ledger.spent_nanousd, ledger.held_nanousd),
            "resets_at": timestamp(windows.month_resets_at),
        },
    }


def _window(limit: int, spent: int, held: int) -> dict[str, float]:
    return {
        "limit_usd": usd_number(limit),
        "spent_usd": usd_number(spent),
        "held_usd": usd_number(held),
        "remaining_usd": usd_number(limit - spent - held),
    }
