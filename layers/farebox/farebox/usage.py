"""What a tenant has spent, holds and has left: one ledger item, as the owner reads it."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from .forecasts import forecast
from .keys import shown as shown_key
from .ledger import Ledger
from .money import usd_number
from .states import shown
from .tenants import Status, Tenant, Windows, timestamp


def report(tenant: Tenant, windows: Windows, ledger: Ledger, now: datetime) -> dict[str, Any]:
    """The month so far, in US dollars. A day without calls is not listed."""
    return {
        "tenant": tenant.name,
        "month": windows.month,
        "time_zone": tenant.time_zone,
        **_changes(tenant, windows, now),
        **windows_of(tenant, windows, ledger),
        "forecast": forecast_of(tenant, windows, ledger, now),
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
            **window_of(limits.day_nanousd, ledger.spent_on(day), ledger.held_on(day)),
            "resets_at": timestamp(windows.day_resets_at),
        },
        "monthly": {
            **window_of(limits.month_nanousd, ledger.spent_nanousd, ledger.held_nanousd),
            "resets_at": timestamp(windows.month_resets_at),
        },
    }


def forecast_of(tenant: Tenant, windows: Windows, ledger: Ledger, now: datetime) -> dict[str, Any] | None:
    """Of the month's end; None before there was a full day."""
    found = forecast(tenant, windows, ledger, now)
    if found is None:
        return None
    return {
        "spent_usd": usd_number(found.spent_nanousd),
        "mean_day_usd": usd_number(found.mean_day_nanousd),
        "of_days": found.of_days,
        "limit_reached_on": found.limit_reached_on and str(found.limit_reached_on),
    }


def _changes(tenant: Tenant, windows: Windows, now: datetime) -> dict[str, str]:
    """What is not as usual: a closed tenant, a raise that counts, another time zone to come."""
    found = {}
    if tenant.status is not Status.ACTIVE:
        found["status"] = tenant.status.value
    if tenant.raised is not None and now.timestamp() < tenant.raised.until:
        found["raised_until"] = _moment(tenant.raised.until)
    if tenant.move is not None and windows.month < tenant.move.month:
        found |= {"time_zone_next": tenant.move.zone, "time_zone_from": f"{tenant.move.month}-01"}
    return found


def key_report(tenant: Tenant, windows: Windows, ledger: Ledger, key: str | None, now: datetime) -> dict[str, Any]:
    """OpenRouter's `GET /key`: of a tenant's key, or of the tenant where an application called with the gateway's.

    `usage` is this month's, and the week's as far as it lies in this month: older ledgers are not read. A key's day and
    week are not kept: what is said is at most the tenant's, and at most the key's month.
    """
    found = None if key is None else tenant.keys[key]
    limits = tenant.limits if found is None else tenant.with_key(found).limits
    limit = limits.month_nanousd if limits.key_cap is None else limits.key_cap.month_nanousd
    spent = ledger.spent_nanousd if found is None else ledger.spent_with(found.counter)
    weekday = now.astimezone(ZoneInfo(tenant.time_zone)).weekday()
    week = range(max(1, windows.day - weekday), windows.day + 1)
    no_byok = dict.fromkeys(("byok_usage", "byok_usage_daily", "byok_usage_weekly", "byok_usage_monthly"), 0)
    return {
        "label": f"tenant {tenant.name}" if found is None else shown_key(tenant.name, found.id),
        "limit": usd_number(limit),
        "limit_remaining": usd_number(max(0, ledger.room_nanousd(windows.day, limits))),
        "limit_reset": "monthly",
        "usage": usd_number(spent),
        "usage_daily": usd_number(min(spent, ledger.spent_on(windows.day))),
        "usage_weekly": usd_number(min(spent, sum(ledger.spent_on(day) for day in week))),
        "usage_monthly": usd_number(spent),
        **no_byok,
        "include_byok_in_limit": True,
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "expires_at": None if found is None or found.expires_at is None else _moment(found.expires_at),
        "rate_limit": {"requests": -1, "interval": "10s", "note": "deprecated"},
    }


def _moment(seconds: int) -> str:
    return timestamp(datetime.fromtimestamp(seconds, UTC))


def window_of(limit: int, spent: int, held: int) -> dict[str, float]:
    return {
        "limit_usd": usd_number(limit),
        "spent_usd": usd_number(spent),
        "held_usd": usd_number(held),
        "remaining_usd": usd_number(limit - spent - held),
    }
