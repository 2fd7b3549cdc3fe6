"""Tenants: names, limits, and the windows that a moment falls into.

A window is a calendar day or month in the tenant's time zone, so days of 23 and 25 hours are right by themselves and no
job resets anything: the window is part of the ledger's key and attribute names.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from .errors import InvalidTenant
from .ledger import Limits
from .rules import Rules

DEFAULT = "default"
"""The tenant and the feature of a request that names none."""
MAX_NAME_LENGTH = 64
DEFAULT_RULES = Rules()
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}")


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who pays, how much at most, and by which rules."""

    name: str
    limits: Limits
    time_zone: str = "UTC"
    rules: Rules = DEFAULT_RULES


@dataclass(frozen=True, slots=True)
class Windows:
    """The day and the month that a call is admitted in. Resets are UTC."""

    month: str
    day: int
    day_resets_at: datetime
    month_resets_at: datetime

    def resets_at(self, window: str) -> datetime:
        return self.day_resets_at if window == "day" else self.month_resets_at


def checked_name(what: str, name: str) -> str:
    """A name as it may stand in keys, logs and metrics. Raises InvalidTenant."""
    if not _NAME.fullmatch(name):
        raise InvalidTenant(
            f"{what} must be 1 to {MAX_NAME_LENGTH} letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit"
        )
    return name


def windows(now: datetime, time_zone: str) -> Windows:
    """The windows of an aware moment."""
    zone = ZoneInfo(time_zone)
    local = now.astimezone(zone)
    midnight = datetime(local.year, local.month, local.day)  # noqa: DTZ001 - wall-clock arithmetic, the zone comes last
    next_month = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    return Windows(
        month=f"{local.year:04}-{local.month:02}",
        day=local.day,
        day_resets_at=_in_utc(midnight + timedelta(days=1), zone),
        month_resets_at=_in_utc(next_month, zone),
    )


def _in_utc(wall: datetime, zone: ZoneInfo) -> datetime:
    return wall.replace(tzinfo=zone).astimezone(UTC)


def timestamp(moment: datetime) -> str:
    """2026-11-24T00:00:00Z"""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
