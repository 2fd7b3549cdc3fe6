"""Tenants: names, limits, and the windows that a moment falls into.

A window is a calendar day or month in the tenant's time zone, so days of 23 and 25 hours are right by themselves and no
job resets anything: the window is part of the ledger's key and attribute names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

from .errors import InvalidTenant
from .keys import ApiKey
from .ledger import KeyCap, Limits
from .rules import Rules

DEFAULT = "default"
"""The tenant and the feature of a request that names none."""
MAX_NAME_LENGTH = 64
DEFAULT_RULES = Rules()
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}")


class Status(Enum):
    """Only an active tenant's calls are admitted."""

    ACTIVE = "active"
    DISABLED = "disabled"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Raise:
    """Higher budgets for a while; None leaves one as it is. `until` in epoch seconds."""

    day_nanousd: int | None
    month_nanousd: int | None
    until: int


@dataclass(frozen=True, slots=True)
class Move:
    """Another time zone from the beginning of a month on, like 2026-12."""

    zone: str
    month: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who pays, how much at most, and by which rules."""

    name: str
    limits: Limits
    time_zone: str = "UTC"
    rules: Rules = DEFAULT_RULES
    move: Move | None = None
    raised: Raise | None = None
    status: Status = Status.ACTIVE
    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    fault: str | None = None
    """Why nothing is admitted: its rules cannot be read."""

    def at(self, now: datetime) -> "Tenant":
        """As it is at a moment: with budgets that are raised, in the zone that counts."""
        if self.raised is None and self.move is None:
            return self
        has_moved = self.move is not None and windows(now, self.time_zone).month >= self.move.month
        zone = self.move.zone if self.move is not None and has_moved else self.time_zone
        return replace(self, limits=self._limits(now.timestamp()), time_zone=zone)

    def windows(self, now: datetime) -> "Windows":
        """Of an aware moment.

        A move is made when both zones have reached its month; between the one and the other is the month's first day,
        which is long then. So no day comes twice.
        """
        found = windows(now, self.time_zone)
        if self.move is None or found.month < self.move.month:
            return found
        there = windows(now, self.move.zone)
        return there if there.month >= self.move.month else windows(there.month_resets_at, self.move.zone)

    def with_key(self, key: ApiKey) -> "Tenant":
        """For a call with this key."""
        if key.month_nanousd is None:
            return self
        return replace(self, limits=replace(self.limits, key_cap=KeyCap(key.counter, key.month_nanousd, key.id)))

    def _limits(self, now: float) -> Limits:
        raised = self.raised
        if raised is None or now >= raised.until:
            return self.limits
        return replace(
            self.limits,
            day_nanousd=_higher(self.limits.day_nanousd, raised.day_nanousd),
            month_nanousd=_higher(self.limits.month_nanousd, raised.month_nanousd),
        )


def _higher(limit: int, raised: int | None) -> int:
    """A budget of 0 closes, also while it is raised."""
    return limit if raised is None or limit == 0 else max(limit, raised)


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
