"""What runs on a schedule, wired as gate.py does the proxy's: what the office has left undone, the sweep, and then the
fold of what that leaves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from .aws import dynamodb_client
from .directory import Directory
from .fold import Folder, fold
from .office import Office
from .parts import now, random_id, telemetry_of, upstream_of
from .rollups import Rollups
from .settings import Settings, settings_from
from .store import Store, StoreError
from .sweep import Sweeper, sweep
from .vault import with_secrets
from .watch import Watch

NOBODY = "no client"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run needs."""

    sweeper: Sweeper
    folder: Folder
    office: Office
    settings: Settings


def open_parts(environment: Mapping[str, str], transport: httpx.BaseTransport | None = None) -> Parts:
    """The parts of an environment, which answers nobody and so needs no key of clients. Raises SettingsError."""
    no_clients = {"FAREBOX_GATEWAY_KEY": NOBODY, "FAREBOX_ADMIN_KEY": NOBODY}
    known = {"AUTO_CREATE_TENANTS": "true"}  # whoever has holds is a tenant
    settings = settings_from({**no_clients, **with_secrets(environment), **known})
    client, telemetry = dynamodb_client(), telemetry_of(settings)
    store = Store(client, settings.farebox_table)
    sweeper = Sweeper(
        store=store,
        directory=Directory(store, settings),
        watch=Watch(store, telemetry, now),
        upstream=upstream_of(settings, transport),
        telemetry=telemetry,
        now=now,
    )
    rollups = Rollups(client, settings.farebox_table)
    folder = Folder(store, rollups, telemetry, now, random_id)
    return Parts(sweeper, folder, Office(client, settings.farebox_table), settings)


def run(
    parts: Parts, has_time_to_sweep: Callable[[], bool], has_time: Callable[[], bool], since: str | None = None
) -> dict[str, int]:
    """All of it, whatever became of a part; how many lost calls ended which way. Raises StoreError."""
    failed = _done(parts)
    try:
        counts = sweep(parts.sweeper, has_time_to_sweep)
    finally:
        fold(parts.folder, has_time, since)
    if failed is not None:
        raise failed
    return counts


def _done(parts: Parts) -> StoreError | None:
    """Changes of tenants that were not announced, and deleted ones whose time is over."""
    failed = None
    for errand in (parts.office.announce_pending, parts.office.purge_pending):
        try:
            errand(parts.settings.tenant, parts.folder.now())
        except StoreError as e:
            parts.folder.telemetry.failure("office", {})
            failed = e
    return failed
