"""Parts that the gate and the rollup both have."""

import secrets
import time
from datetime import UTC, datetime

import httpx
from aws_lambda_powertools import Logger

from .settings import Settings
from .telemetry import Telemetry
from .upstream import Upstream

MAX_CONNECTIONS = 512
"""One Lambda environment has one call at a time; the local gateway has as many as its clients make."""


def upstream_of(settings: Settings, transport: httpx.BaseTransport | None) -> Upstream:
    """OpenRouter, with connections kept alive between calls."""
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    client = httpx.Client(transport=transport, limits=limits, follow_redirects=False)
    return Upstream(settings.openrouter_base_url, settings.openrouter_api_key, client, time.monotonic)


def telemetry_of(settings: Settings) -> Telemetry:
    """Powertools' logger under the name of the service."""
    return Telemetry(Logger(service=settings.otel_service_name))


def random_id() -> str:
    """No two are the same."""
    return secrets.token_hex(8)


def now() -> datetime:
    """The clock of the shell."""
    return datetime.now(UTC)
