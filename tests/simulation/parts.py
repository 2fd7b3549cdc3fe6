"""Gates and sweepers as their functions wire them at a cold start, on the line and the road of a world."""

import random
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import httpx
from aws_lambda_powertools import Logger

from farebox.admission import Desk
from farebox.books import Books
from farebox.breaker import Breakers
from farebox.catalogue import Catalogue
from farebox.directory import Directory
from farebox.fold import Folder
from farebox.gate import Gate
from farebox.outage import Outage
from farebox.rollups import Rollups
from farebox.settings import Settings, settings_from
from farebox.store import Store
from farebox.sweep import Sweeper
from farebox.telemetry import Telemetry
from farebox.upstream import Upstream
from farebox.watch import Watch

from .line import Line
from .road import Road
from .scheduler import Scheduler, Violation

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEY = "local-gateway-key"
TABLE = "t"
SKEW_S = 2.0
"""No two machines have quite the same time."""


class Recorder(Telemetry):
    """Logs nothing. A bug is a failure of the run, and so are overruns and what is told twice."""

    def __init__(self, fail: Callable[[BaseException], None], note: Callable[[str], None]) -> None:
        super().__init__(_logger())
        self._fail = fail
        self._note = note
        self._told: set[tuple[Any, ...]] = set()

    def call(self, fields: Mapping[str, Any]) -> None:
        pass

    def refusal(self, fields: Mapping[str, Any]) -> None:
        self._note(f"refused: {fields['reason']}")

    def resolved(self, fields: Mapping[str, Any]) -> None:
        self._note(f"resolved: {dict(fields)}")

    def state(self, fields: Mapping[str, Any]) -> None:
        told = tuple(fields[name] for name in ("tenant", "window", "period", "to", "version"))
        if told in self._told:
            self._fail(Violation(f"I5: a change of state is told twice: {dict(fields)}"))
        self._told.add(told)

    def circuit(self, fields: Mapping[str, Any]) -> None:
        self._note(f"circuit: {dict(fields)}")

    def dropped(self, fields: Mapping[str, Any]) -> None:
        pass

    def overrun(self, fields: Mapping[str, Any]) -> None:
        self._fail(Violation(f"I8: an overrun: {dict(fields)}"))

    def hour(self, fields: Mapping[str, Any]) -> None:
        pass

    def folded(self, fields: Mapping[str, Any]) -> None:
        self._note(f"folded: {dict(fields)}")

    def skipped(self, fields: Mapping[str, Any]) -> None:
        self._fail(Violation(f"I9: a span cannot be read: {dict(fields)}"))

    def failure(self, what: str, fields: Mapping[str, Any]) -> None:  # noqa: ARG002 - as the original
        self._note(f"failure: {what}")
        if what == "bug":
            self._fail(Violation(f"a bug: {traceback.format_exc()}"))


@dataclass
class Parts:
    """What all functions of a world are made of."""

    line: Line
    road: Road
    telemetry: Telemetry
    settings: Settings
    scheduler: Scheduler
    chance: random.Random
    ids: int = field(default=0)

    @property
    def client(self) -> "DynamoDBClient":
        return cast("DynamoDBClient", self.line)

    def gate(self) -> Gate:
        """A function's cold start."""
        store, settings, seconds = Store(self.client, TABLE), self.settings, self._clock()

        def now() -> datetime:
            return datetime.fromtimestamp(seconds(), UTC)

        watch, upstream = Watch(store, self.telemetry, now), self._upstream()
        directory, outage = Directory(store, settings), Outage(store, self.telemetry, 0)
        return Gate(
            settings=settings,
            store=store,
            rollups=Rollups(self.client, TABLE),
            desk=Desk(store, directory, watch, settings, now, self._new_hold_id, self.scheduler.sleep),
            books=Books(store, watch, self.telemetry, now, self.monotonic, self.scheduler.sleep, outage),
            outage=outage,
            upstream=upstream,
            catalogue=Catalogue(upstream, settings.farebox_price_ttl_s, self.monotonic, store.fee),
            breakers=Breakers(self.client, TABLE, self.telemetry.circuit, now=seconds),
            telemetry=self.telemetry,
            now=now,
            monotonic=self.monotonic,
            later=self.scheduler.later,
        )

    def sweeper(self) -> Sweeper:
        """The cold start of the other function."""
        store, seconds = Store(self.client, TABLE), self._clock()

        def now() -> datetime:
            return datetime.fromtimestamp(seconds(), UTC)

        watch, directory = Watch(store, self.telemetry, now), Directory(store, self.settings)
        return Sweeper(store, directory, watch, self._upstream(), self.telemetry, now, self._new_hold_id)

    def folder(self) -> Folder:
        """The other half of it."""
        seconds = self._clock()

        def now() -> datetime:
            return datetime.fromtimestamp(seconds(), UTC)

        rollups = Rollups(self.client, TABLE)
        return Folder(Store(self.client, TABLE), rollups, self.telemetry, now, self._new_hold_id)

    def monotonic(self) -> float:
        return self.scheduler.now_s

    def _clock(self) -> Callable[[], float]:
        skew_s = self.chance.uniform(-SKEW_S, SKEW_S)
        return lambda: self.scheduler.now_s + skew_s

    def _upstream(self) -> Upstream:
        client = httpx.Client(transport=self.road, trust_env=False)
        return Upstream("http://simulator/api/v1", "simulated", client, self.monotonic)

    def _new_hold_id(self) -> str:
        self.ids += 1
        return f"{int(self.scheduler.now_s * 1000):011x}{self.ids:010x}"


@cache
def settings_for(price_ttl_s: int, attempt_timeout_s: int, deadline_s: int) -> Settings:
    """Reading settings takes longer than making a world."""
    return settings_from(
        {
            "FAREBOX_GATEWAY_KEY": KEY,
            "FAREBOX_ADMIN_KEY": "local-admin-key",
            "FAREBOX_TABLE": TABLE,
            "FAREBOX_PRICE_TTL_S": str(price_ttl_s),
            "FAREBOX_ATTEMPT_TIMEOUT_S": str(attempt_timeout_s),
            "FAREBOX_CALL_DEADLINE_S": str(deadline_s),
        }
    )


@cache
def _logger() -> Logger:
    """Never written to."""
    return Logger(service="simulation")
