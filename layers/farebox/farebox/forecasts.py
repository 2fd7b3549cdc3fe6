"""What a month will come to if it goes on as in its last days. Says what it is made of, and nothing on the first day.

    what is spent so far  +  days that are left, also the rest of today  x  the mean of the last seven full days

Only days of this month count, of which a day without calls is one of nothing; early in a month they are fewer than
seven. Money that is only held is not spent yet.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from .ledger import Ledger
from .tenants import Tenant, Windows

MAX_DAYS = 7
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Forecast:
    """`limit_reached_on` is the day on which the month's limit, as it is now, is spent at this rate, if it ever is."""

    spent_nanousd: int
    mean_day_nanousd: int
    of_days: int
    limit_reached_on: date | None


def forecast(tenant: Tenant, windows: Windows, ledger: Ledger, now: datetime) -> Forecast | None:
    """Of the month's end; None before there was a full day. Fractions are dropped."""
    full_days = range(max(1, windows.day - MAX_DAYS), windows.day)
    if not full_days:
        return None
    seen, of_days = sum(ledger.spent_on(day) for day in full_days), len(full_days)
    left_s = int((windows.month_resets_at - now).total_seconds())
    return Forecast(
        spent_nanousd=ledger.spent_nanousd + seen * left_s // (of_days * _DAY_S),
        mean_day_nanousd=seen // of_days,
        of_days=of_days,
        limit_reached_on=_reached_on(tenant, windows, ledger, now, seen=seen, of_days=of_days),
    )


def _reached_on(
    tenant: Tenant, windows: Windows, ledger: Ledger, now: datetime, *, seen: int, of_days: int
) -> date | None:
    room = tenant.limits.month_nanousd - ledger.spent_nanousd
    if room <= 0:
        return date.fromisoformat(f"{windows.month}-{windows.day:02}")
    left_s = (windows.month_resets_at - now).total_seconds()
    if seen * left_s <= room * of_days * _DAY_S:
        return None
    seconds = room * of_days * _DAY_S // seen
    return (now + timedelta(seconds=seconds)).astimezone(ZoneInfo(tenant.time_zone)).date()
