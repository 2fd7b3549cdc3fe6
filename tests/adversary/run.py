"""One case to its end: a fresh budget, the waves, the rest of the money, then silence until the books are settled."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from tests.adversary import upstream
from tests.adversary.cases import CENT, Case, Wave
from tests.adversary.clients import BUDGET, Behaviour, Door, Told, until_decided
from tests.adversary.targets import CannotRun, Place, Purse
from tests.adversary.verdicts import Books, Result, Skipped

POLL_S = 0.25
DRAINERS = 10
CENT_NANOUSD = 10**7


@dataclass(frozen=True, slots=True)
class Size:
    """How big a run is."""

    cap_nanousd: int
    calls: int
    at_once: tuple[int, ...]
    quiet_s: float = 1.0
    """So long the bill must stand still."""


async def run_all(place: Place, cases: Iterable[Case], size: Size) -> AsyncIterator[Result | Skipped]:
    """Every case, races with every number of clients."""
    for case in cases:
        if not case.waves:
            continue  # midnight.py
        for at_once in _at_once(case, size):
            yield await run(place, case, size, at_once)


def _at_once(case: Case, size: Size) -> tuple[int, ...]:
    if case.is_in_turn:
        return (1,)
    return size.at_once if case.scales else size.at_once[:1]


async def run(place: Place, case: Case, size: Size, at_once: int) -> Result | Skipped:
    """One case with so many clients at once."""
    async with _client(at_once) as http:
        try:
            purse = await place.target.purse(http, case.name, size.cap_nanousd)
        except CannotRun as e:
            return Skipped(case.name, str(e))
        await upstream.reset(http, place.upstream)
        told = [outcome for wave in case.waves for outcome in await _wave(http, purse.door, wave, size, at_once)]
        await asyncio.sleep(case.waits_s)
        first_billed, _ = await settled(http, place, purse, case.patience_s, size.quiet_s)
        drained = await _drain(http, purse.door, size) if case.drains and first_billed < size.cap_nanousd else []
        billed, books = (
            await settled(http, place, purse, case.patience_s, size.quiet_s) if drained else (first_billed, None)
        )
        books = books or await place.target.books(http, purse)
        billed = max(billed, await upstream.billed_nanousd(http, place.upstream))
    return Result(
        case=case.name,
        at_once=at_once,
        cap_nanousd=size.cap_nanousd,
        billed_nanousd=billed,
        books=books,
        told=Counter(each.what for each in told),
        first_billed_nanousd=first_billed,
        first_refused=_refused(told),
        refused=_refused(told) + _refused(drained),
        tolerance_nanousd=place.target.tolerance_nanousd,
        is_unknowable=case.is_unknowable,
        note=_note(case, told, first_billed, drained),
    )


def _refused(told: Iterable[Told]) -> int:
    return sum(each.what == BUDGET for each in told)


def _note(case: Case, told: list[Told], first_billed: int, drained: list[Told]) -> str:
    said = next((each.detail for each in told if each.what not in ("200", BUDGET) and each.detail), "")
    parts = [f'"{said}"'] if said else []
    if case.drains:
        rest = Counter(each.what for each in drained)
        parts.append(
            f"{first_billed / 1e9:.6f} in the case, then plain: " + ", ".join(f"{n} {what}" for what, n in rest.items())
        )
    return "; ".join(parts)


@asynccontextmanager
async def _client(at_once: int) -> AsyncIterator[httpx.AsyncClient]:
    most = 2 * at_once + DRAINERS
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        yield http


async def _wave(http: httpx.AsyncClient, door: Door, wave: Wave, size: Size, at_once: int) -> list[Told]:
    told: list[Told] = []
    queue = iter(range(max(4, round(size.calls * wave.share / wave.copies))))

    async def client() -> None:
        for _ in queue:
            copies = (until_decided(http, door, wave.path, wave.body(), wave.how) for _ in range(wave.copies))
            for outcomes in await asyncio.gather(*copies):
                told.extend(outcomes)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return told


async def _drain(http: httpx.AsyncClient, door: Door, size: Size) -> list[Told]:
    """Spend what is left with plain calls, until the budget says no to each client."""
    told: list[Told] = []
    queue = iter(range(2 * size.cap_nanousd // CENT_NANOUSD))

    async def client() -> None:
        for _ in queue:
            told.extend(await until_decided(http, door, "/chat/completions", Wave(CENT).body(), Behaviour()))
            if told[-1].what == BUDGET:
                return

    await asyncio.gather(*(client() for _ in range(DRAINERS)))
    return told


async def settled(
    http: httpx.AsyncClient, place: Place, purse: Purse, patience_s: float, quiet_s: float
) -> tuple[int, Books]:
    """Bill and books, once they agree and stand still, nothing is held, or patience is at its end."""
    started = since = time.monotonic()
    billed, books = await upstream.billed_nanousd(http, place.upstream), await place.target.books(http, purse)
    while time.monotonic() - started < patience_s:
        await asyncio.sleep(POLL_S)
        now_billed, books = await upstream.billed_nanousd(http, place.upstream), await place.target.books(http, purse)
        if now_billed != billed:
            billed, since = now_billed, time.monotonic()
        elif time.monotonic() - since >= quiet_s and _agree(billed, books, place.target.tolerance_nanousd):
            break
    return billed, books


def _agree(billed: int, books: Books, tolerance: int) -> bool:
    spent = books.spent_nanousd
    return not books.held_nanousd and (spent is None or abs(spent - billed) <= tolerance)
