"""The proxy's parts: opened at a cold start, in `make dev`, and in tests with a transport of their own."""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx

from .admission import Desk
from .aws import dynamodb_client
from .books import Books
from .breaker import Breakers
from .catalogue import Catalogue
from .directory import Directory
from .money import nanousd_ceil
from .outage import Outage
from .parts import now, telemetry_of, upstream_of
from .rollups import Rollups
from .settings import Settings, settings_from
from .store import Store
from .telemetry import Telemetry
from .upstream import Upstream
from .vault import with_secrets
from .watch import Watch


@dataclass(frozen=True, slots=True)
class Gate:
    """The parts of the shell, built once at cold start."""

    settings: Settings
    store: Store
    rollups: Rollups
    desk: Desk
    books: Books
    outage: Outage
    upstream: Upstream
    catalogue: Catalogue
    breakers: Breakers
    telemetry: Telemetry
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    later: Callable[[float, Callable[[], None]], Callable[[], None]]
    """Does something after some seconds, beside the call; returns how to call it off."""


def open_gate(environment: Mapping[str, str], transport: httpx.BaseTransport | None = None) -> Gate:
    """The gateway of an environment. Raises SettingsError."""
    settings = settings_from(with_secrets(environment))
    upstream = upstream_of(settings, transport)
    telemetry = telemetry_of(settings)
    client = dynamodb_client()
    table = Store(client, settings.farebox_table)
    watch = Watch(table, telemetry, now)
    outage = Outage(table, telemetry, nanousd_ceil(settings.farebox_fail_open_usd))
    return Gate(
        settings=settings,
        store=table,
        rollups=Rollups(client, settings.farebox_table),
        desk=Desk(table, Directory(table, settings), watch, settings, now, new_hold_id, time.sleep),
        books=Books(table, watch, telemetry, now, time.monotonic, time.sleep, outage),
        outage=outage,
        upstream=upstream,
        catalogue=Catalogue(upstream, settings.farebox_price_ttl_s, time.monotonic, table.fee),
        breakers=Breakers(client, settings.farebox_table, telemetry.circuit),
        telemetry=telemetry,
        now=now,
        monotonic=time.monotonic,
        later=later,
    )


def later(seconds: float, do: Callable[[], None]) -> Callable[[], None]:
    """In a thread of its own, which ends with the process."""
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()
    return timer.cancel


def new_hold_id() -> str:
    """Sorts by time of making; 40 random bits keep calls of the same millisecond apart."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)}"
