"""An owner's change of a tenant: read, made (changes.py), stored and announced (office.py), and written into the log.

It is stored if nobody was faster, else it begins again; with the header If-Match it is made of that version or not at
all.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from . import changes
from .changes import is_gone
from .configs import Config
from .errors import Conflict, Malformed, NotFound, StaleVersion
from .office import NotAnnounced, Office, Overtaken
from .settings import Settings
from .telemetry import Telemetry
from .tenants import DEFAULT, Tenant, checked_name
from .trail import Trail

TRIES = 5
"""Of a change that somebody else was faster with."""
MIN_CHUNK = 100
"""Names read at once for a page, however few it has: some may be of tenants that are gone."""
_ETAGS = re.compile(r'\s*(?:W/)?"(\d{1,15})"\s*(?:,\s*(?:W/)?"(\d{1,15})"\s*)*')


@dataclass(frozen=True, slots=True)
class Clerk:
    """The parts that changes need."""

    settings: Settings
    office: Office
    trail: Trail
    telemetry: Telemetry
    now: Callable[[], datetime]
    random: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Visit:
    """Who wants something, in which request, and of which version if that matters (If-Match)."""

    clerk: Clerk
    who: str
    request_id: str
    if_match: str | None = None

    def requires(self, version: int) -> None:
        """Raises StaleVersion, Malformed."""
        if self.if_match is None or self.if_match.strip() == "*":
            return
        if not _ETAGS.fullmatch(self.if_match):
            raise Malformed('the header If-Match must be an ETag like "3"', facts={"field": "If-Match"})
        if str(version) not in re.findall(r"\d+", self.if_match):
            raise StaleVersion(f"the tenant is at version {version} by now; read it again", facts={"version": version})

    def tell(self, what: str, before: Config, after: Config, fields: Iterable[str] = (), **more: str) -> None:
        """The line in the log."""
        self.clerk.telemetry.changed(
            {
                "request_id": self.request_id,
                "who": self.who,
                "what": what,
                "tenant": after.name,
                "fields": sorted(fields),
                "version_before": before.version,
                "version": after.version,
                **more,
            }
        )


@dataclass(frozen=True, slots=True)
class Known:
    """A tenant: what is stored of it (None where it exists by default only), and what that comes to."""

    stored: Config | None
    config: Config


Change = Callable[[Config, Tenant, datetime], Config]


def seeds(settings: Settings) -> set[str]:
    """Tenants by the settings alone."""
    return {*settings.tenant_budgets, *({DEFAULT} if settings.auto_create_tenants else ())}


def known(clerk: Clerk, name: str) -> Known:
    """A tenant that was made, is seeded, or has called. Raises NotFound, InvalidTenant."""
    checked_name("the tenant in the path", name)
    at = clerk.now()
    stored = clerk.office.read(name)
    if stored is not None and not is_gone(stored, at):
        return Known(stored, stored)
    if stored is None and (name in seeds(clerk.settings) or clerk.office.has_called(name, recent_months(at))):
        return Known(None, Config(name, 0, created_at=int(at.timestamp())))
    raise NotFound(f"there is no tenant {name}", facts={"tenant": name})


def changed(visit: Visit, name: str, change: Change, what: str, fields: Iterable[str] = (), **more: str) -> Known:
    """A tenant after a change."""
    clerk, default = visit.clerk, visit.clerk.settings.tenant(name)
    for _ in range(TRIES):
        before = known(clerk, name)
        visit.requires(before.config.version)
        after = change(before.config, default, clerk.now())
        if after is before.config:
            return _announced_again(clerk, before, default)
        try:
            _write(visit, before, after, what, fields, **more)
        except Overtaken:
            continue
        return Known(after, after)
    raise Conflict(f"tenant {name} is being changed by others; try again", facts={"tenant": name})


def created(visit: Visit, name: str, wanted: Mapping[str, Any]) -> tuple[bool, Known]:
    """A tenant that is made, and whether it was made now: who repeats it finds it. Raises Conflict."""
    clerk, default = visit.clerk, visit.clerk.settings.tenant(name)
    for _ in range(TRIES):
        at = clerk.now()
        stored = clerk.office.read(name)
        base = stored or Config(name, 0)
        visit.requires(base.version)
        has_called = "time_zone" in wanted and clerk.office.has_called(name, recent_months(at))
        made = changes.created(base, wanted, default, at, has_called=has_called)
        if stored is not None and not is_gone(stored, at):
            if not changes.has_same_content(stored, made):
                raise Conflict(
                    f"tenant {name} exists, with other content; change it with PATCH",
                    facts={"tenant": name, "version": stored.version},
                )
            return False, _announced_again(clerk, Known(stored, stored), default)
        try:
            _write(visit, Known(stored, base), made, "tenant created", wanted)
        except Overtaken:
            continue
        return True, Known(made, made)
    raise Conflict(f"tenant {name} is being changed by others; try again", facts={"tenant": name})


def page(clerk: Clerk, after: str, limit: int) -> tuple[list[Known], str | None]:
    """Some tenants by name, behind a name; and the last of them, where there are more."""
    at, size = clerk.now(), max(limit + 1, MIN_CHUNK)
    names = clerk.office.names(after, recent_months(at), seeds(clerk.settings), size)
    found: list[Known] = []
    while len(found) <= limit and (chunk := list(islice(names, size))):
        configs = clerk.office.read_many([name for name, _ in chunk])
        for name, is_known in chunk:
            config = configs.get(name)
            if config is None and is_known:
                found.append(Known(None, Config(name, 0)))
            elif config is not None and not is_gone(config, at):
                found.append(Known(config, config))
    return found[:limit], found[limit - 1].config.name if len(found) > limit else None


def recent_months(at: datetime) -> list[str]:
    """This month, wherever a tenant is, and the one before."""
    moments = (at, at + timedelta(hours=14), at.replace(day=1) - timedelta(days=1))
    return list(dict.fromkeys(f"{moment:%Y-%m}" for moment in moments))


def _write(visit: Visit, before: Known, after: Config, what: str, fields: Iterable[str], **more: str) -> None:
    """Into the list of tenants, the table and the log. Raises Overtaken, and NotAnnounced for what is stored."""
    clerk, now = visit.clerk, visit.clerk.now()
    if before.stored is None or is_gone(before.stored, now):
        clerk.office.enrol(after.name)
    try:
        clerk.office.write(after, before.stored, clerk.settings.tenant(after.name), now)
    except NotAnnounced:
        visit.tell(what, before.config, after, fields, **more)
        raise
    visit.tell(what, before.config, after, fields, **more)


def _announced_again(clerk: Clerk, known: Known, default: Tenant) -> Known:
    """What is stored already was perhaps not announced, which is why it is repeated."""
    if known.stored is not None:
        clerk.office.announce(known.stored, default, clerk.now())
    return known
