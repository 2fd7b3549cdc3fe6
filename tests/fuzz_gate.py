"""A gate for tests.fuzz: a table in memory, an upstream in-process, and a clock that only a case moves."""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

import httpx
from aws_lambda_powertools import Logger

from farebox.admission import Desk
from farebox.books import Books
from farebox.breaker import Breakers
from farebox.catalogue import Catalogue
from farebox.directory import Directory
from farebox.gate import Gate
from farebox.outage import Outage
from farebox.rest import Response
from farebox.rollups import Rollups
from farebox.routes import answer
from farebox.settings import Settings, settings_from
from farebox.store import Store
from farebox.telemetry import Telemetry
from farebox.upstream import Upstream
from farebox.watch import Watch
from local.gateway import event_of
from local.in_process import InProcess
from local.simulator import Simulator
from local.sockets import HttpRequest, HttpResponse
from tests.simulation.memory import Memory

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEY = "local-gateway-key"
TABLE = "t"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MONTH = "2026-11"
CHAT = "/api/v1/chat/completions"


class Violation(Exception):
    """What must never happen has happened."""


def require(is_true: object, sentence: str) -> None:
    if not is_true:
        raise Violation(sentence)


@dataclass(slots=True)
class Upstreams:
    """What answers instead of OpenRouter: a simulator, or what `chat` and `prices` make of its answers."""

    simulator: Simulator
    chat: Callable[[HttpRequest], HttpResponse] | None = None
    prices: Callable[[bytes], bytes] | None = None
    received: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    def handle(self, request: HttpRequest) -> HttpResponse:
        if request.target.endswith("/chat/completions"):
            self.sent.append(request.body)
            self.received = []
            response = (self.chat or self.simulator.handle)(request)
            return HttpResponse(response.status, response.headers, Seen(response, self.received))
        response = self.simulator.handle(request)
        if self.prices is None:
            return response
        return HttpResponse(response.status, (), (self.prices(b"".join(response.body)),))


class Wire(InProcess):
    """Headers in any bytes, which stand percent-encoded in an HttpResponse."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        response.headers = httpx.Headers([(name, unquote_to_bytes(value)) for name, value in response.headers.raw])
        return response


class Seen(Iterator[bytes]):
    """A body on its way to the gateway, kept."""

    def __init__(self, response: HttpResponse, received: list[bytes]) -> None:
        self._response = response
        self._chunks = iter(response.body)
        self._received = received

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self._received.append(chunk)
        return chunk

    def close(self) -> None:
        close = getattr(self._response.body, "close", None)
        if close is not None:
            close()


@dataclass(slots=True)
class Place:
    """A gate on a table in memory."""

    gate: Gate
    upstreams: Upstreams
    memory: Memory
    failures: list[str]

    def call(self, request: HttpRequest, *, reads: int | None = None) -> tuple[Response, bytes]:
        """A request, of whose answer a client reads so many chunks; its headers and body can be sent."""
        response = answer(self.gate, event_of(request), float("inf"))
        body = b""
        try:
            for number, chunk in enumerate(response.body):
                body += chunk
                if number + 1 == reads:
                    break
        finally:
            response.close()
        require(not self.failures, "\n".join(self.failures))
        for name, value in response.headers.items():
            require(value.isascii() and value.isprintable(), f"the header {name} cannot be sent: {value!r}")
        if response.status >= 400 and reads is None:
            require(json.loads(body)["error"]["metadata"]["reason"], "an error without a reason")
        return response, body

    def holds(self, tenant: str) -> Mapping[str, int]:
        ledger = self.gate.store.ledger(tenant, MONTH)
        require(ledger.committed_nanousd >= sum(hold.amount_nanousd for hold in ledger.holds.values()), "spent below 0")
        require(ledger.committed_nanousd == sum(ledger.committed_by_day.values()), "the day and the month differ")
        return {id_: hold.amount_nanousd for id_, hold in ledger.holds.items()}

    def committed(self, tenant: str) -> int:
        return self.gate.store.ledger(tenant, MONTH).committed_nanousd


@cache
def settings_with(chain: str) -> Settings:
    """Budgets that no request exhausts: here it is not money that refuses."""
    names = ("DEFAULT_DAILY_BUDGET", "DEFAULT_MONTHLY_BUDGET")
    return settings_from({
        "FAREBOX_GATEWAY_KEY": KEY, "FAREBOX_ADMIN_KEY": "local-admin-key", "FAREBOX_TABLE": TABLE,
        "FALLBACK_MODEL_CHAIN": chain, "FAREBOX_SERVER_TOOLS_USD": "0.2", **dict.fromkeys(names, "10000000"),
    })  # fmt: skip


def place_of(upstreams: Upstreams, *, chain: str = "", may_overrun: bool = False, step_s: float = 0.0) -> Place:
    """A cold start. The clock goes on by a step each time that it is looked at.

    An upstream that says anything may also say that it has billed more than was held.
    """
    settings, memory, failures = settings_with(chain), Memory(), list[str]()
    telemetry = (Silent if may_overrun else Strict)(failures)
    client = cast("DynamoDBClient", memory)
    store, chance = Store(client, TABLE), Random(0)  # noqa: S311 - not a secret
    watch, directory = Watch(store, telemetry, lambda: NOW), Directory(store, settings)
    seconds = count(0.0, step_s)
    http = httpx.Client(transport=Wire(upstreams.handle), trust_env=False)
    outage = Outage(store, telemetry, 0)
    upstream = Upstream("http://simulator/api/v1", "simulated", http, lambda: 0.0)
    gate = Gate(
        settings=settings,
        store=store,
        rollups=Rollups(client, TABLE),
        desk=Desk(
            store, directory, watch, settings, lambda: NOW, lambda: f"{chance.getrandbits(80):020x}", lambda _: None
        ),
        books=Books(store, watch, telemetry, lambda: NOW, lambda: 0.0, lambda _: None, outage),
        upstream=upstream,
        catalogue=Catalogue(upstream, 1.0, lambda: 0.0, store.fee),
        breakers=Breakers(client, TABLE, telemetry.circuit, now=lambda: 1e9),
        telemetry=telemetry,
        outage=outage,
        now=lambda: NOW,
        monotonic=lambda: next(seconds),
        later=lambda _seconds, _do: lambda: None,
    )
    return Place(gate, upstreams, memory, failures)


class Strict(Telemetry):
    """Logs nothing. The table in memory never fails, so nothing of ours may fail at all."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__(_logger())
        self.failures = failures

    def overrun(self, fields: Mapping[str, Any]) -> None:
        self.failures.append(f"an overrun: {dict(fields)}")

    def failure(self, what: str, fields: Mapping[str, Any]) -> None:  # noqa: ARG002 - as the original
        self.failures.append(f"{what}: {traceback.format_exc()}")


class Silent(Strict):
    """Overruns are what the upstream of this drive is there for."""

    def overrun(self, fields: Mapping[str, Any]) -> None:
        pass


@cache
def _logger() -> Logger:
    """It has a level at which nothing is written."""
    return Logger(service="fuzz", level="CRITICAL")
