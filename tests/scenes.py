"""A gate and a sweeper on one table, one upstream and one clock that tests move; the simulator's bill is the truth."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest
from botocore.config import Config

from farebox.books import Books
from farebox.directory import Directory
from farebox.ledger import Estimate, Ledger
from farebox.rest import Response
from farebox.routes import answer
from farebox.spans import SHARDS
from farebox.store import Store
from farebox.sweep import Sweeper, sweep
from farebox.upstream import Upstream
from farebox.watch import Watch
from local.child import connect
from local.gateway import event_of
from local.simulator import Simulator, transport
from local.sockets import HttpRequest
from tests.conftest import GATEWAY_KEY, Answered, Door, MakeDoor, chat_body, connected

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOVEMBER = "2026-11"
READY_S = 10
"""So long after its end /generation knows a call."""
NOTHING = {"booked": 0, "estimated": 0, "corrected": 0, "waiting": 0}
BOOKED, ESTIMATED, CORRECTED, WAITING = ({**NOTHING, name: 1} for name in NOTHING)
ONE_TRY = Config(retries={"total_max_attempts": 1})


@dataclass
class Clock:
    """Moves when somebody sleeps; what is to be done later is done on the way."""

    at: datetime = START
    timers: dict[object, tuple[float, Callable[[], None]]] = field(default_factory=dict)

    def now(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        until = self.seconds() + seconds
        while due := [(when, key) for key, (when, _) in self.timers.items() if when <= until]:
            when, key = min(due, key=lambda each: each[0])
            _, do = self.timers.pop(key)
            self.at = datetime.fromtimestamp(max(when, self.seconds()), UTC)
            do()
        self.at = datetime.fromtimestamp(until, UTC)

    def later(self, seconds: float, do: Callable[[], None]) -> Callable[[], None]:
        key = object()
        self.timers[key] = (self.seconds() + seconds, do)
        return lambda: cast(None, self.timers.pop(key, None))


Handle = Callable[[httpx.Request], httpx.Response]


class Records(httpx.BaseTransport):
    """The simulator, whose /generation can be another."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = transport(simulator)
        self.asked: list[str] = []
        self.other: Handle | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/generation"):
            return self._simulator.handle_request(request)
        self.asked.append(request.url.params["id"])
        return self._simulator.handle_request(request) if self.other is None else self.other(request)


@dataclass(frozen=True, slots=True)
class Scene:
    """A gate and a sweeper."""

    clock: Clock
    simulator: Simulator
    records: Records
    door: Door
    sweeper: Sweeper
    store: Store

    @property
    def table(self) -> str:
        return self.door.gate.settings.farebox_table

    def call(self, model: str = "sim/usage-missing", *, tenant: str = "default", **fields: Any) -> Answered:
        """A call that has 80 seconds."""
        given = (("Authorization", f"Bearer {GATEWAY_KEY}"), ("X-Tenant-Id", tenant))
        body = chat_body(model=model, **{"stream": False, **fields})
        event = event_of(HttpRequest("POST", "/api/v1/chat/completions", given, body))
        answered = answer(self.door.gate, event, self.clock.seconds() + 80)
        assert isinstance(answered, Response)
        try:
            return Answered(answered.status, answered.headers, b"".join(answered.body))
        finally:
            answered.close()

    def sweep(self) -> dict[str, int]:
        return sweep(self.sweeper, lambda: True)

    def month(self, name: str = NOVEMBER, tenant: str = "default") -> Ledger:
        """Without the marks of holds that have ended."""
        return replace(self.store.ledger(tenant, name), ended={})

    @property
    def billed(self) -> int:
        return self.simulator.billed_nanousd

    @property
    def spans(self) -> list[dict[str, Any]]:
        """Of the first hour of the calls, oldest first."""
        found = [dict(span) for shard in range(SHARDS) for span in self.store.spans(f"SPANS#2026-11-23T12#{shard}")]
        return sorted(found, key=lambda span: str(span["sk"]))

    @property
    def reminders(self) -> list[dict[str, Any]]:
        return [dict(item) for item in self.store.reminders()]

    @property
    def all(self) -> object:
        """Everything in the table."""
        return self.month(), self.spans, self.reminders

    def has_ended(self, spent: int, *, is_estimated: bool = False) -> None:
        """Every call has: each hold once, at the cost in its span; what may be corrected is remembered, and no more."""
        ledger, spans = self.month(), self.spans
        assert sum(span["cost_nanousd"] for span in spans) == spent
        open_ones = {
            span["sk"]: Estimate(span["cost_nanousd"], 23)
            for span in spans
            if span["is_estimated"] and "generation_id" in span and "estimated_nanousd" not in span
        }
        assert ledger == Ledger(spent, {23: spent}, {}, 0, estimates=open_ones)
        assert {item["sk"] for item in self.reminders if "look_at" in item} == open_ones.keys()
        assert len(self.reminders) == len(open_ones)
        assert [(span["outcome"], span["is_estimated"]) for span in spans] == [("lost", is_estimated)] * len(spans)
        usage = self.door.usage()
        for window in ("daily", "monthly"):
            assert (round(usage[window]["spent_usd"] * 10**9), usage[window]["held_usd"]) == (spent, 0)


OpenScene = Callable[..., Scene]


def open_scene(make_door: MakeDoor) -> OpenScene:
    """For fixtures: opens a scene on the store with this URL; `tries` is how often its requests are sent at most."""

    def opened(
        store_url: str, *, past: str | None = None, tries: int = 3, at: datetime = START, **settings: str
    ) -> Scene:
        """`past` is the URL by which the test itself looks into the table."""
        clock = Clock(at)
        simulator = Simulator(clock=clock.seconds, sleep=clock.sleep, generation_ready_s=READY_S)
        records = Records(simulator)
        gate = make_door(store_url=store_url, upstream=records, **settings).gate
        table = gate.settings.farebox_table
        store = gate.store if tries == 3 else Store(connect(store_url, ONE_TRY), table)
        client = httpx.Client(transport=records)
        upstream = Upstream(gate.settings.openrouter_base_url, gate.settings.openrouter_api_key, client, clock.seconds)
        watch = Watch(store, gate.telemetry, clock.now)
        desk = replace(gate.desk, store=store, now=clock.now, sleep=clock.sleep, watch=watch)
        gate = replace(
            gate,
            store=store,
            now=clock.now,
            monotonic=clock.seconds,
            later=clock.later,
            desk=desk,
            books=Books(store, watch, gate.telemetry, clock.now, clock.seconds, clock.sleep, gate.outage),
            upstream=upstream,
        )
        directory = Directory(store, gate.settings)
        sweeper = Sweeper(store, directory, watch, upstream, gate.telemetry, clock.now)
        return Scene(clock, simulator, records, Door(gate), sweeper, Store(connected(past or store_url), table))

    return opened


# What /generation may say.


def answering(status: int, content: object) -> Handle:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda _request: httpx.Response(status, content=body)


def raising(error: Exception) -> Handle:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    return fail


def record_of(**fields: Any) -> Handle:
    """A record of /generation."""
    return answering(200, {"data": {"id": "gen-1", "is_byok": False, "upstream_inference_cost": 0, **fields}})


UNKNOWN = answering(404, {"error": {"code": 404, "message": "Generation not found"}})


# A process that dies.


class Killed(BaseException):
    """The process is gone."""


class Mortal:
    """A DynamoDB client whose process dies before or after its n-th request (0 is the first), and asks nothing more."""

    def __init__(self, client: Any, number: int, *, after: bool) -> None:
        self._client, self._number, self._after = client, number, after
        self.seen = 0

    def __getattr__(self, name: str) -> Any:
        if name == "get_paginator":
            return lambda _operation: self
        method = getattr(self._client, name)
        return lambda **fields: self._mortal(lambda: method(**fields))

    def paginate(self, **fields: Any) -> Iterator[Any]:
        yield self._mortal(lambda: self._client.query(**fields))

    def _mortal(self, request: Callable[[], Any]) -> Any:
        number, self.seen = self.seen, self.seen + 1
        if number > self._number >= 0 or (number == self._number and not self._after):
            raise Killed
        try:
            return request()
        finally:
            if number == self._number:
                raise Killed


def mortal(scene: Scene, store_url: str, number: int, *, after: bool) -> Store:
    """The scene's table for a process that dies at its n-th request."""
    return Store(cast(Any, Mortal(connected(store_url), number, after=after)), scene.table)


def dying(scene: Scene, store_url: str, number: int, *, after: bool) -> Scene:
    """The gate of a new process that ends with its n-th request to the store."""
    gate, store = scene.door.gate, mortal(scene, store_url, number, after=after)
    books = Books(store, gate.desk.watch, gate.telemetry, gate.now, gate.monotonic, gate.desk.sleep, gate.outage)
    desk = replace(gate.desk, store=store, directory=Directory(store, gate.settings))
    return replace(scene, door=Door(replace(gate, store=store, books=books, desk=desk)))


def killed(scene: Scene, store_url: str, number: int, *, after: bool) -> None:
    """A sweep that dies at its n-th request."""
    with pytest.raises(Killed):
        sweep(replace(scene.sweeper, store=mortal(scene, store_url, number, after=after)), lambda: True)


def requests_of_a_sweep(scene: Scene, store_url: str) -> int:
    """How many a whole one has."""
    client = Mortal(connected(store_url), -1, after=False)
    sweep(replace(scene.sweeper, store=Store(cast(Any, client), scene.table)), lambda: True)
    return client.seen
