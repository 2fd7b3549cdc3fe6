"""A coding agent's pattern: call after call with max_tokens 32,000, of which answers use about 400, on a small budget.

What must be held is far above what is spent, so a careful gateway may say no long before the money is gone. This counts
how much was really spent when it first says no. Then clients obey Retry-After until the budget is exhausted, and the
gateway's books are compared with the upstream's bill.

    make agents      one client and 20 at once, on the embedded store and on DynamoDB Local
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import httpx

from local.dynamodb_local import unavailable
from tests.race import KEY, STORES, Town, _process, _settled

BUDGET_USD = Decimal(5)
MAX_TOKENS = 32_000
PROMPT_BYTES = {"sim/agent": 300, "sim/agent-cheap": 2000}
MODES = ("plain", "streaming")
HELD_TRIES = 60
"""Refusals in a row, each at least a second, after which something holds the money for ever."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered call. `is_cut`: the model wanted to say more (finish_reason length)."""

    sent_s: float
    generation_id: str
    is_clamped: bool
    is_cut: bool


@dataclass(frozen=True, slots=True)
class No:
    """The first refusal: how many were answered before, what it says was spent, what the usage says just after."""

    at_s: float
    answered: int
    reason: str
    spent_nanousd: int
    usage_nanousd: int


@dataclass(slots=True)
class Log:
    """What the clients of one cell saw, in the order in which they saw it."""

    answers: list[Answer] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)
    first: No | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One cell; nano-dollars as the upstream billed them and as the gateway booked them.

    `begun_nanousd` is what the calls sent before the first refusal cost in the end, those then in flight included.
    """

    model: str
    mode: str
    at_once: int
    budget_nanousd: int
    log: Log
    begun_nanousd: int
    billed_nanousd: int
    booked_nanousd: int
    held_nanousd: int

    @property
    def least_percent(self) -> int:
        return 95 if self.at_once == 1 else 90

    @property
    def is_used_enough(self) -> bool:
        """Whether the first refusal came late enough, by what it says itself."""
        first = self.log.first
        return first is not None and 100 * first.spent_nanousd >= self.least_percent * self.budget_nanousd

    @property
    def is_booked(self) -> bool:
        """Whether the budget held, the books are the bill, and every client was told so and nothing else."""
        return (
            self.billed_nanousd <= self.budget_nanousd
            and self.booked_nanousd == self.billed_nanousd
            and self.held_nanousd == 0
            and self.log.told["budget_exhausted"] == self.at_once
            and self.log.told.keys() <= {"200", "budget_held", "budget_exhausted"}
        )

    @property
    def is_right(self) -> bool:
        return self.is_used_enough and self.is_booked

    def __str__(self) -> str:
        verdict = "ok" if self.is_right else "WRONG"
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.log.told.items()))
        return (
            f"{self.model:15} {self.mode:9} {self.at_once:3} at once  first no {self._first()}  "
            f"billed {self.billed_nanousd / 1e9:.9f}  booked {self.booked_nanousd / 1e9:.9f} USD  {verdict}  "
            f"({told}; {_clamps(self.log.answers)})"
        )

    def _first(self) -> str:
        if (first := self.log.first) is None:
            return "never"
        spent, usage, begun = (
            f"{100 * amount / self.budget_nanousd:.1f} %"
            for amount in (first.spent_nanousd, first.usage_nanousd, self.begun_nanousd)
        )
        return (
            f"at {spent} spent (of {self.least_percent}; usage {usage}, with calls in flight {begun}; {first.reason}, "
            f"{first.answered} answered, {_clamps(self.log.answers[: first.answered])})"
        )


def _clamps(answers: Sequence[Answer]) -> str:
    clamped = [answer for answer in answers if answer.is_clamped]
    return f"{len(clamped)} clamped, {sum(answer.is_cut for answer in clamped)} cut by that"


@contextmanager
def town(store_url: str, tenants: Sequence[str], *, budget_usd: Decimal, delay_s: float) -> Iterator[Town]:
    """An upstream and two gateways on a store, as the race has them, with a budget of our own."""
    with ExitStack() as parts:
        simulator = ["local.simulator", "--delay", str(delay_s), "--exit-on-eof"]
        upstream = parts.enter_context(_process(simulator, {}, starts_with="http"))
        environment = {
            "PORT": "0",
            "OPENROUTER_BASE_URL": upstream,
            "OPENROUTER_API_KEY": "simulated",
            "TENANT_BUDGETS": json.dumps({name: {"daily": str(budget_usd), "monthly": 100} for name in tenants}),
        }
        gateway = ["local.dev", "--store", store_url]
        urls = [parts.enter_context(_process(gateway, environment, starts_with="Farebox is at ")) for _ in range(2)]
        yield Town(upstream.removesuffix("/api/v1"), tuple(urls))


@dataclass(frozen=True, slots=True)
class Agents:
    """Clients of one tenant, each making one call after the other."""

    http: httpx.AsyncClient
    urls: Iterator[str]
    tenant: str
    model: str
    mode: str
    log: Log

    async def until_exhausted(self) -> None:
        """One client: it goes on until the budget says that it is exhausted, or something else is wrong."""
        held = 0
        while held < HELD_TRIES:
            url, sent_s = next(self.urls), time.monotonic()
            status, headers, body = await self._call(url)
            if status == 200:
                held = 0
                self.log.told["200"] += 1
                self.log.answers.append(self._answer(sent_s, headers, body))
                continue
            facts = _facts(body)
            reason = str(facts.get("reason", status))
            self.log.told[reason] += 1
            await self._note_the_first(url, reason, facts)
            if reason != "budget_held":
                return
            held += 1
            await asyncio.sleep(float(headers["retry-after"]))
        self.log.told["held for ever"] += 1

    async def _call(self, url: str) -> tuple[int, httpx.Headers, bytes]:
        request = {
            "model": self.model,
            "max_tokens": MAX_TOKENS,
            "stream": self.mode == "streaming",
            "messages": [{"role": "user", "content": ("Fix the test. " * 200)[: PROMPT_BYTES[self.model]]}],
        }
        headers = {"Authorization": f"Bearer {KEY}", "X-Tenant-Id": self.tenant}
        response = await self.http.post(f"{url}/chat/completions", json=request, headers=headers)
        return response.status_code, response.headers, response.content

    def _answer(self, sent_s: float, headers: httpx.Headers, body: bytes) -> Answer:
        is_clamped = "x-farebox-max-tokens" in headers
        return Answer(sent_s, headers["x-generation-id"], is_clamped, "length" in _finish_reasons(self.mode, body))

    async def _note_the_first(self, url: str, reason: str, facts: dict[str, Any]) -> None:
        if self.log.first is not None:
            return
        first = self.log.first = No(time.monotonic(), len(self.log.answers), reason, 0, 0)  # before others get to run
        address = url.removesuffix("/v1") + f"/usage/{self.tenant}"
        usage = (await self.http.get(address, headers={"Authorization": f"Bearer {KEY}"})).json()["daily"]["spent_usd"]
        spent = facts.get("spent_usd", usage)
        self.log.first = replace(first, spent_nanousd=_nanousd(spent), usage_nanousd=_nanousd(usage))


def _facts(body: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(body)["error"]["metadata"]
    return facts


def _finish_reasons(mode: str, body: bytes) -> set[str | None]:
    lines = body.splitlines() if mode == "streaming" else [b"data: " + body]
    events = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: {")]
    return {choice["finish_reason"] for event in events for choice in json.loads(event)["choices"]}


def _nanousd(usd: float) -> int:
    return round(usd * 1e9)


async def spend(place: Town, tenant: str, *, model: str, mode: str, at_once: int, budget_usd: Decimal) -> Result:
    """One cell to its end: every client was told that the budget is exhausted, and every hold has ended."""
    log = Log()
    limits = httpx.Limits(max_connections=at_once + 1, max_keepalive_connections=at_once + 1)
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        await http.post(f"{place.upstream}/_sim/reset")
        agents = Agents(http, itertools.cycle(place.gateways), tenant, model, mode, log)
        await asyncio.gather(*(agents.until_exhausted() for _ in range(at_once)))
        usage = (await _settled(http, place.gateways[0], tenant))["daily"]
        bill = (await http.get(f"{place.upstream}/_sim/bill")).json()
        lines = (await http.get(f"{place.upstream}/_sim/generations")).json()
    costs = {line["id"]: int(line["cost_nanousd"]) for line in lines}
    refused_s = log.first.at_s if log.first else float("inf")
    return Result(
        model=model,
        mode=mode,
        at_once=at_once,
        budget_nanousd=int(budget_usd * 10**9),
        log=log,
        begun_nanousd=sum(costs[answer.generation_id] for answer in log.answers if answer.sent_s < refused_s),
        billed_nanousd=int(bill["total_nanousd"]),
        booked_nanousd=_nanousd(usage["spent_usd"]),
        held_nanousd=_nanousd(usage["held_usd"]),
    )


def run(
    store: str,
    *,
    models: Sequence[str] = tuple(PROMPT_BYTES),
    modes: Sequence[str] = MODES,
    at_once: Sequence[int] = (1, 20),
    budget_usd: Decimal = BUDGET_USD,
) -> Iterator[Result]:
    """All cells on one store. Where calls shall overlap, upstream takes its time."""
    cells = list(itertools.product(models, modes))
    with STORES[store]() as store_url:
        for number in at_once:
            tenants = [f"agents-{number}-{cell}" for cell in range(len(cells))]
            delay_s = 0.0 if number == 1 else 0.3
            with town(store_url, tenants, budget_usd=budget_usd, delay_s=delay_s) as place:
                for (model, mode), tenant in zip(cells, tenants, strict=True):
                    cell = spend(place, tenant, model=model, mode=mode, at_once=number, budget_usd=budget_usd)
                    yield asyncio.run(cell)


def main() -> None:
    """Run the agents and print a line a cell; exit 1 when one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.agents", description=main.__doc__)
    parser.add_argument("--budget", type=Decimal, default=BUDGET_USD, help="USD a day a cell (default: %(default)s)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 20], help="clients (default: 1 20)")
    parser.add_argument("--model", choices=PROMPT_BYTES, action="append", help="default: both")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: both")
    parser.add_argument("--store", choices=STORES, action="append", help="default: every one that this machine can run")
    options = parser.parse_args()
    wrong = 0
    print(
        f"calls with max_tokens {MAX_TOKENS:,} until a daily budget of {options.budget} USD is exhausted, two gateways"
    )
    for store in options.store or STORES:
        if store == "dynamodb local" and (why := unavailable()):
            print(f"{store}: not run: {why}")
            continue
        print(f"{store}:")
        for result in run(
            store,
            models=options.model or tuple(PROMPT_BYTES),
            modes=options.mode or MODES,
            at_once=options.at_once,
            budget_usd=options.budget,
        ):
            print(f"  {result}", flush=True)
            wrong += not result.is_right
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
