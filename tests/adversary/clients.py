"""How clients behave. One call is one `Told`; what a client does next depends on its manners."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final

import httpx

BUDGET: Final = "refused by budget"
BUSY: Final = "still busy"
GONE: Final = "client gone"
TIMED_OUT: Final = "client timed out"
BROKEN: Final = "connection broke"
BUDGET_STATUSES: Final = frozenset({400, 402, 403, 422, 429})
LONGEST_WAIT_S: Final = 5.0
PATIENT_TRIES: Final = 30
STORM_TRIES: Final = 5


class Manners(Enum):
    """What a client does after an answer that is not a 200."""

    POLITE = auto()
    """Waits as Retry-After says; takes any other no for an answer."""
    STORM = auto()
    """Repeats at once after whatever is not a 200: errors, refusals, its own time-out."""
    ONCE = auto()
    """Takes what it gets."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One kind of client. `leaves_after` is bytes of a 200's body; `timeout_s` is for the whole call."""

    manners: Manners = Manners.POLITE
    timeout_s: float = 120.0
    leaves_after: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """How one call ended for its client."""

    what: str
    retry_after_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Door:
    """Where calls go, and with which headers."""

    url: str
    headers: Mapping[str, str]


async def until_decided(
    http: httpx.AsyncClient, door: Door, path: str, body: Mapping[str, Any], how: Behaviour
) -> list[Told]:
    """Everything that a client was told until it has its answer or gives up; the last one is what it ends with."""
    told: list[Told] = []
    tries = {Manners.POLITE: PATIENT_TRIES, Manners.STORM: STORM_TRIES, Manners.ONCE: 1}[how.manners]
    for _ in range(tries):
        told.append(await call(http, door, path, body, how))
        last = told[-1]
        if last.what == "200" or (how.manners is Manners.POLITE and last.retry_after_s is None):
            break
        if how.manners is Manners.POLITE and last.retry_after_s is not None:
            await asyncio.sleep(min(last.retry_after_s, LONGEST_WAIT_S))
    last = told[-1]
    if last.retry_after_s is not None:
        told[-1] = replace(last, what=BUDGET if last.what == "busy: budget" else BUSY)
    return told


async def call(http: httpx.AsyncClient, door: Door, path: str, body: Mapping[str, Any], how: Behaviour) -> Told:
    """One call."""
    try:
        async with asyncio.timeout(how.timeout_s):
            return await _call(http, door, path, body, how.leaves_after)
    except TimeoutError:
        return Told(TIMED_OUT)
    except httpx.HTTPError as error:
        return Told(BROKEN, detail=type(error).__name__)


async def _call(
    http: httpx.AsyncClient, door: Door, path: str, body: Mapping[str, Any], leaves_after: int | None
) -> Told:
    async with http.stream("POST", f"{door.url}{path}", json=body, headers=dict(door.headers)) as response:
        got = b""
        async for chunk in response.aiter_raw():
            got += chunk
            if leaves_after is not None and response.status_code == 200 and len(got) > leaves_after and b"data:" in got:
                return Told(GONE)
    return _told(response, got)


def _told(response: httpx.Response, body: bytes) -> Told:
    status = response.status_code
    if status == 200:
        return Told("200")
    is_budget = status in BUDGET_STATUSES and b"budget" in body.lower()
    wait = response.headers.get("retry-after", "")
    if status == 429 and wait.replace(".", "", 1).isdigit():
        return Told("busy: budget" if is_budget else "busy", float(wait), _detail(body))
    return Told(BUDGET if is_budget else str(status), None, _detail(body))


def _detail(body: bytes) -> str:
    """The first words of an error, for whoever reads the log."""
    try:
        error = json.loads(body)["error"]
        return " ".join(str(error["message"]).split())[:160]
    except (ValueError, KeyError, TypeError):
        return " ".join(body[:160].decode(errors="replace").split())
