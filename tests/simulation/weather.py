"""What goes wrong in a world, and how often: each seed has a weather of its own, from calm to storm."""

import random
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

ZONES = ("UTC", "Pacific/Chatham", "Australia/Lord_Howe", "America/Los_Angeles", "Asia/Kathmandu")
EDGES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("UTC", (2026, 11, 24, 0, 0)),
    ("UTC", (2026, 12, 1, 0, 0)),
    ("UTC", (2027, 1, 1, 0, 0)),
    ("UTC", (2028, 2, 29, 0, 0)),
    ("UTC", (2028, 3, 1, 0, 0)),
    ("Pacific/Chatham", (2026, 9, 27, 2, 45)),
    ("Pacific/Chatham", (2026, 9, 27, 0, 0)),
    ("Pacific/Chatham", (2027, 4, 4, 3, 45)),
    ("Pacific/Chatham", (2026, 10, 1, 0, 0)),
    ("Australia/Lord_Howe", (2026, 10, 4, 2, 0)),
    ("Australia/Lord_Howe", (2027, 4, 4, 2, 0)),
    ("Australia/Lord_Howe", (2027, 4, 5, 0, 0)),
    ("Australia/Lord_Howe", (2026, 11, 1, 0, 0)),
    ("America/Los_Angeles", (2026, 11, 1, 0, 0)),
    ("America/Los_Angeles", (2026, 11, 1, 2, 0)),
    ("America/Los_Angeles", (2026, 11, 2, 0, 0)),
    ("America/Los_Angeles", (2027, 3, 14, 2, 0)),
    ("America/Los_Angeles", (2027, 3, 15, 0, 0)),
    ("Asia/Kathmandu", (2026, 12, 1, 0, 0)),
    ("Asia/Kathmandu", (2026, 8, 17, 0, 0)),
)
"""Midnights, ends of months and years, and changes of the clock, by the wall clock of a zone."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Chances of one step: of a fault on the way to the store or upstream, of a crash, of a read that is out of date;
    and of a request to the store that no try of gets an answer."""

    store: float
    outage: float
    upstream: float
    crash: float
    stale: float

    @classmethod
    def of(cls, chance: random.Random) -> "Weather":
        return cls(
            store=chance.choice((0.0, 0.02, 0.1, 0.3)),
            outage=chance.choice((0.0, 0.0, 0.02, 0.1)),
            upstream=chance.choice((0.0, 0.0, 0.05, 0.2)),
            crash=chance.choice((0.0, 0.0, 0.002, 0.01, 0.03)),
            stale=chance.choice((0.0, 0.3)),
        )


CALM = Weather(0.0, 0.0, 0.0, 0.0, 0.0)
ROUGH = Weather(0.2, 0.0, 0.0, 0.0, 0.0)
"""When nobody calls any more, but the sweeps are not through."""


def edge(chance: random.Random) -> tuple[str, float, float]:
    """A zone, a moment in epoch seconds when something changes there, and one shortly before."""
    zone, wall = chance.choice(EDGES)
    year, month, day, hour, minute = wall
    changes_s = datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(zone)).timestamp()
    return zone, changes_s, changes_s - chance.uniform(0, 400)
