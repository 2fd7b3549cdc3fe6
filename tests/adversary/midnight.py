"""Midnight, whenever the suite runs: our gateway gets a time zone in which the day ends in some seconds.

Python looks for zones in PYTHONTZPATH, so a file made here is one. Each day has a cap of its own: what is billed must
be booked whole, into days of which none is above its cap.
"""

import asyncio
import struct
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx

from tests.adversary import upstream
from tests.adversary.cases import CENT, MIDNIGHT, Wave
from tests.adversary.clients import BUDGET, Told, until_decided
from tests.adversary.farebox import started
from tests.adversary.money import nanousd
from tests.adversary.run import Size, settled
from tests.adversary.targets import Farebox, Place, Purse
from tests.adversary.verdicts import Result

ZONE: Final = "Adversary/Midnight"
STARTS_S: Final = 6.0
"""For the gateway to be up before the day ends."""
AFTER_S: Final = 2.0


def offset(now: datetime, seconds: float) -> timedelta:
    """From UTC to a zone whose day ends in so many seconds, and no month with it."""
    midnight = now + timedelta(seconds=round(seconds))
    since = timedelta(hours=midnight.hour, minutes=midnight.minute, seconds=midnight.second)
    back = midnight - since
    return timedelta(days=1) - since if back.day == 1 else -since


def zone_file(shift: timedelta) -> bytes:
    """A TZif file of version 1 (RFC 9636) with one type of local time and no transition."""
    header = b"TZif" + b"\0" * 16 + struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    return header + struct.pack(">lbb", round(shift.total_seconds()), 0, 0) + b"ADV\0"


async def _calls(
    place: Place, purse: Purse, at_once: int, until_s: float
) -> tuple[list[Told], int, list[dict[str, float]]]:
    told: list[Told] = []
    loop = asyncio.get_running_loop()
    limits = httpx.Limits(max_connections=at_once + 2, max_keepalive_connections=at_once + 2)
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        await upstream.reset(http, place.upstream)

        async def client() -> None:
            while loop.time() < until_s:
                told.extend(
                    await until_decided(http, purse.door, "/chat/completions", Wave(CENT).body(), Wave(CENT).how)
                )
                if told[-1].what == BUDGET:
                    await asyncio.sleep(0.2)  # a client that tries again: after midnight there is money

        await asyncio.gather(*(client() for _ in range(at_once)))
        billed, _ = await settled(http, place, purse, 20, 1.0)
        assert isinstance(place.target, Farebox)
        usage = await place.target.usage(http, purse)
    days: list[dict[str, float]] = usage["days"]  # type: ignore[assignment]
    return told, billed, days


def run(upstream_root: str, size: Size, at_once: int) -> Result:
    """Calls without a pause from before midnight until after it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ZONE
        path.parent.mkdir()
        path.write_bytes(zone_file(offset(datetime.now(UTC), STARTS_S + AFTER_S)))
        ends = datetime.now(UTC) + timedelta(seconds=STARTS_S + AFTER_S)
        with started(upstream_root, size.cap_nanousd, {"PYTHONTZPATH": folder, "FAREBOX_TIME_ZONE": ZONE}) as place:
            return asyncio.run(_across(place, size, at_once, ends))


async def _across(place: Place, size: Size, at_once: int, ends: datetime) -> Result:
    async with httpx.AsyncClient(timeout=30) as http:
        purse = await place.target.purse(http, MIDNIGHT.name, size.cap_nanousd)
    left = (ends - datetime.now(UTC)).total_seconds()
    until = asyncio.get_running_loop().time() + left + AFTER_S
    told, billed, days = await _calls(place, purse, at_once, until)
    spent = [nanousd(day["spent_usd"]) for day in days]
    async with httpx.AsyncClient(timeout=30) as http:
        books = await place.target.books(http, purse)
    over = max([0, *(day - size.cap_nanousd for day in spent)])
    return Result(
        case=MIDNIGHT.name,
        at_once=at_once,
        cap_nanousd=2 * size.cap_nanousd - over,
        billed_nanousd=billed,
        books=books,
        told=Counter(each.what for each in told),
        first_billed_nanousd=billed,
        first_refused=0,
        refused=0,
        note=f"{left:.0f} s before it; days: " + ", ".join(f"{day['day']} {day['spent_usd']}" for day in days),
    )
