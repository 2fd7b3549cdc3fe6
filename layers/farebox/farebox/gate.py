"""Wires the parts: once at a Lambda's cold start, once in `make dev`, and in tests with a transport of their own."""

import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx
from aws_lambda_powertools import Logger

from .admission import Desk
from .aws import dynamodb_client
from .catalogue import Catalogue
from .directory import Directory
from .proxy import Gate
from .settings import settings_from
from .store import Store
from .telemetry import Telemetry
from .upstream import Upstream
from .vault import with_secrets

MAX_CONNECTIONS = 512
"""One Lambda environment has one call at a time; the local gateway has as many as its clients make."""


def open_gate(environment: Mapping[str, str], transport: httpx.BaseTransport | None = None) -> Gate:
    """The gateway of an environment. Raises SettingsError."""
    settings = settings_from(with_secrets(environment))
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    client = httpx.Client(transport=transport, limits=limits, follow_redirects=False)
    upstream = Upstream(settings.openrouter_base_url, settings.openrouter_api_key, client, time.monotonic)
    table = Store(dynamodb_client(), settings.farebox_table)
    return Gate(
        settings=settings,
        store=table,
        desk=Desk(table, Directory(table, settings), settings, _now, new_hold_id),
        upstream=upstream,
        catalogue=Catalogue(upstream, settings.farebox_price_ttl_s, time.monotonic),
        telemetry=Telemetry(Logger(service=settings.otel_service_name)),
        now=_now,
    )


def new_hold_id() -> str:
    """Sorts by time of making; 40 random bits keep calls of the same millisecond apart."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)}"


def _now() -> datetime:
    return datetime.now(UTC)
