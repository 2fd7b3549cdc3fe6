"""A gate with a budget of 0.10 USD a day, on a clock that stands still, and other calls of the same tenant past it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from farebox.books import Books
from farebox.ledger import Hold, Ledger, Limits
from farebox.store import Store
from farebox.watch import Watch
from local.simulator import Simulator, transport
from tests.conftest import Answered, Door, MakeDoor, chat_body, connected

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MONTH, DAY = "2026-11", 23
USD = 10**9
AMPLE = Limits(10**16, 10**16, 0)
CENT_RATE = 10_200
"""Nano-dollars that a token of sim/cent is held at: 0.00001 USD and two percent, the price cap that is sent."""
DOWN = [{"from": ["sim/agent"], "to": "sim/cent"}, {"from": ["sim/cent"], "to": "sim/ok"}]


def cent(tokens: int = 3000, **fields: Any) -> dict[str, Any]:
    return {"model": "sim/cent", "max_tokens": tokens, "messages": [{"role": "user", "content": "Say hello"}], **fields}


def hold_of(tokens: int, body: dict[str, Any]) -> int:
    """What a call to sim/cent holds for so many tokens of output: a prompt token a byte, 32 a message."""
    return CENT_RATE * (len(chat_body(body)) + 32 + tokens)


class Upstream(httpx.BaseTransport):
    """The simulator; `before` is called when a chat call reaches it."""

    def __init__(self, simulator: Simulator) -> None:
        self._inner = transport(simulator)
        self.before: Callable[[], None] = lambda: None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/chat/completions"):
            self.before()
        return self._inner.handle_request(request)


@dataclass(frozen=True, slots=True)
class Bank:
    """A gate, what it is called with, and other calls of the same tenant past it. `naps` is how long it has waited."""

    door: Door
    store: Store
    simulator: Simulator
    upstream: Upstream
    naps: list[float] = field(default_factory=list)
    on_nap: list[Callable[[], None]] = field(default_factory=list)

    def chat(self, body: dict[str, Any] | None = None, **headers: str) -> Answered:
        return self.door.chat(body, headers)

    def quote(self, body: Any = None, **headers: str) -> Answered:
        return self.door.call("POST", "/api/v1/quote", chat_body(body), headers)

    def hold(self, nanousd: int, name: str = "rival", tenant: str = "default") -> Hold:
        hold = Hold(name, nanousd, DAY, int(NOW.timestamp()) - 7, int(NOW.timestamp()) + 960, "sim/cent")
        assert isinstance(self.store.reserve(tenant, MONTH, hold, AMPLE), Ledger)
        return hold

    def release(self, hold: Hold, nanousd: int = 0, tenant: str = "default") -> None:
        self.store.settle(tenant, MONTH, hold, nanousd)

    def spend(self, nanousd: int, name: str = "spender", tenant: str = "default") -> None:
        self.release(self.hold(nanousd, name, tenant), nanousd, tenant)

    @property
    def ledger(self) -> Ledger:
        return self.store.ledger("default", MONTH)

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The chat calls that came upstream."""
        return [json.loads(seen.body) for seen in self.simulator.seen if seen.target.endswith("/chat/completions")]

    @property
    def last(self) -> tuple[str, int]:
        return self.sent[-1]["model"], self.sent[-1]["max_tokens"]


MakeBank = Callable[..., Bank]


def bank_maker(make_door: MakeDoor, simulator: Simulator, store_url: str) -> MakeBank:
    """Banks on a store: rules of the tenant `default`, and of others, as dictionaries; settings as keywords."""

    def make(
        rules: dict[str, Any] | None = None,
        *,
        simulator: Simulator = simulator,
        tenants: Mapping[str, dict[str, Any]] | None = None,
        **settings: str,
    ) -> Bank:
        upstream = Upstream(simulator)
        plain = {"daily": "0.10", "monthly": 100}
        budgets = {name: {**plain, **own} for name, own in {"default": rules or {}, **(tenants or {})}.items()}
        door = make_door(store_url=store_url, upstream=upstream, TENANT_BUDGETS=json.dumps(budgets), **settings)
        store = Store(connected(store_url), door.gate.settings.farebox_table)
        gate = door.gate
        watch = Watch(gate.store, gate.telemetry, lambda: NOW)
        bank = Bank(door, store, simulator, upstream)

        def nap(seconds: float) -> None:
            bank.naps.append(seconds)
            for act in bank.on_nap:
                act()

        desk = replace(gate.desk, watch=watch, now=lambda: NOW, sleep=nap)
        books = Books(gate.store, watch, gate.telemetry, lambda: NOW, gate.monotonic, nap)
        return replace(bank, door=Door(replace(gate, desk=desk, books=books, now=lambda: NOW)))

    return make


def told(answered: Answered) -> dict[str, str]:
    """What the headers say was done to the call."""
    prefix = "X-Farebox-"
    names = ("Model", "Downgraded-From", "Max-Tokens", "Fallback-From")
    return {name: answered.headers[prefix + name] for name in names if prefix + name in answered.headers}
