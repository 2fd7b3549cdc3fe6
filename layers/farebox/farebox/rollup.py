"""What runs on a schedule; now only the sweep. Wires its parts, as gate.py does the proxy's."""

from collections.abc import Mapping

import httpx

from .aws import dynamodb_client
from .directory import Directory
from .parts import now, telemetry_of, upstream_of
from .settings import settings_from
from .store import Store
from .sweep import Sweeper
from .vault import with_secrets
from .watch import Watch

NOBODY = "no client"


def open_sweeper(environment: Mapping[str, str], transport: httpx.BaseTransport | None = None) -> Sweeper:
    """The sweeper of an environment, which answers nobody and so needs no key of clients. Raises SettingsError."""
    no_clients = {"FAREBOX_GATEWAY_KEY": NOBODY, "FAREBOX_ADMIN_KEY": NOBODY}
    settings = settings_from({**no_clients, **with_secrets(environment)})
    store, telemetry = Store(dynamodb_client(), settings.farebox_table), telemetry_of(settings)
    return Sweeper(
        store=store,
        directory=Directory(store, settings),
        watch=Watch(store, telemetry, now),
        upstream=upstream_of(settings, transport),
        telemetry=telemetry,
        now=now,
    )
