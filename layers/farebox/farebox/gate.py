"""Wires the proxy's parts: at a cold start, in `make dev`, and in tests with a transport of their own."""

import secrets
import time
from collections.abc import Mapping

import httpx

from .admission import Desk
from .aws import dynamodb_client
from .catalogue import Catalogue
from .directory import Directory
from .parts import now, telemetry_of, upstream_of
from .proxy import Gate
from .settings import settings_from
from .store import Store
from .vault import with_secrets


def open_gate(environment: Mapping[str, str], transport: httpx.BaseTransport | None = None) -> Gate:
    """The gateway of an environment. Raises SettingsError."""
    settings = settings_from(with_secrets(environment))
    upstream = upstream_of(settings, transport)
    table = Store(dynamodb_client(), settings.farebox_table)
    return Gate(
        settings=settings,
        store=table,
        desk=Desk(table, Directory(table, settings), settings, now, new_hold_id),
        upstream=upstream,
        catalogue=Catalogue(upstream, settings.farebox_price_ttl_s, time.monotonic),
        telemetry=telemetry_of(settings),
        now=now,
    )


def new_hold_id() -> str:
    """Sorts by time of making; 40 random bits keep calls of the same millisecond apart."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)}"
