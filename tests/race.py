"""The race: many clients against one small budget, over sockets, with real processes.

The upstream (local/simulator.py) keeps a bill of its own. Two gateway processes share one store, so nothing that is
only in a process's memory can help. Clients obey Retry-After and give up when the budget is exhausted.

    make race        500 calls at 50 and at 200 at once, on the embedded store and on DynamoDB Local
"""

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from local.child import ROOT
from local.dynamodb_local import dynamodb_local, unavailable
from local.embedded_store import embedded_store
from tests.overheard import Overheard, require_no_secret

BUDGET_USD = "1.00"
BUDGET_NANOUSD = 10**9
CALLS = 500
STOP_S = 30
"""For a process to start, and to end."""
CASES = ("plain", "streaming", "dropped", "no max_tokens")
KEY = "local-gateway-key"
STORES: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "embedded": embedded_store,
    "dynamodb local": dynamodb_local,
}
SETTLED_TRIES = 600


@dataclass(frozen=True, slots=True)
class Town:
    """Running processes: one upstream, one store, gateways."""

    upstream: str
    gateways: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Nano-dollars as the upstream billed them and as the gateway booked them, and what the clients were told."""

    case: str
    at_once: int
    billed_nanousd: int
    booked_nanousd: int
    held_nanousd: int
    answers: Counter[str]

    @property
    def is_right(self) -> bool:
        """Whoever says no has spent it all; short answers to few calls on a slow machine may leave a rest."""
        is_used = self.billed_nanousd >= 0.95 * BUDGET_NANOUSD or set(self.answers) == {"200"}
        return (
            is_used
            and self.billed_nanousd <= BUDGET_NANOUSD
            and self.booked_nanousd == self.billed_nanousd
            and self.held_nanousd == 0
        )

    def __str__(self) -> str:
        verdict = "ok" if self.is_right else "WRONG"
        answers = ", ".join(f"{count} {what}" for what, count in sorted(self.answers.items()))
        return (
            f"{self.case:14} {self.at_once:4} at once  billed {self.billed_nanousd / 1e9:.9f}  "
            f"booked {self.booked_nanousd / 1e9:.9f} USD  {verdict}  ({answers})"
        )


@contextmanager
def town(store_url: str, tenants: list[str], *, gateways: int = 2, delay_s: float = 0.3) -> Iterator[Town]:
    """Start an upstream and gateways on a store, each a process that ends with the block."""
    budgets = {name: {"daily": BUDGET_USD, "monthly": 100} for name in tenants}
    with ExitStack() as parts:
        simulator = ["local.simulator", "--delay", str(delay_s), "--exit-on-eof"]
        upstream = parts.enter_context(_process(simulator, {}, starts_with="http"))
        environment = {
            "PORT": "0",
            "OPENROUTER_BASE_URL": upstream,
            "OPENROUTER_API_KEY": "simulated",
            "TENANT_BUDGETS": json.dumps(budgets),
        }
        gateway = ["local.dev", "--store", store_url]
        urls = [
            parts.enter_context(_process(gateway, environment, starts_with="Farebox is at ")) for _ in range(gateways)
        ]
        yield Town(upstream.removesuffix("/api/v1"), tuple(urls))


@contextmanager
def _process(command: list[str], environment: dict[str, str], *, starts_with: str) -> Iterator[str]:
    """A Python module as a process; the URL that it says it is at. Raises Leak when a gateway has printed a secret."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "layers" / "farebox"), **environment},
        text=True,
    )
    if process.stdout is None or process.stdin is None:
        raise RuntimeError("no pipes")
    overheard = Overheard(process.stdout)
    try:
        line = overheard.line(starts_with, STOP_S)
        yield next(word for word in line.split() if word.startswith("http"))
    finally:
        process.terminate()
        process.stdin.close()
        process.wait(STOP_S)
        printed = overheard.close(STOP_S)
    if command[0] == "local.dev":  # what the simulator prints is none of the gateway's
        require_no_secret(printed)


async def race(place: Town, tenant: str, case: str, *, calls: int, at_once: int) -> Result:
    """One case to its end: every call is answered or its client has given up, and every hold has ended."""
    answers: Counter[str] = Counter()
    urls = itertools.cycle(place.gateways)
    queue = iter(range(calls))
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        await http.post(f"{place.upstream}/_sim/reset")

        async def client() -> None:
            for _ in queue:
                answers[await _until_decided(http, next(urls), tenant, case)] += 1

        await asyncio.gather(*(client() for _ in range(at_once)))
        usage = await _settled(http, place.gateways[0], tenant)
        bill = (await http.get(f"{place.upstream}/_sim/bill")).json()
    return Result(
        case,
        at_once,
        int(bill["total_nanousd"]),
        round(usage["daily"]["spent_usd"] * 1e9),
        round(usage["daily"]["held_usd"] * 1e9),
        answers,
    )


async def _until_decided(http: httpx.AsyncClient, url: str, tenant: str, case: str) -> str:
    while True:
        status, headers, body = await _call(http, url, tenant, case)
        if status != 429:
            return str(status)
        reason = json.loads(body)["error"]["metadata"]["reason"]
        if reason != "budget_held":
            return str(reason)
        await asyncio.sleep(float(headers["retry-after"]))


async def _call(http: httpx.AsyncClient, url: str, tenant: str, case: str) -> tuple[int, httpx.Headers, bytes]:
    request: dict[str, Any] = {"model": "sim/cent", "messages": [{"role": "user", "content": "Say hello"}]}
    if case != "no max_tokens":
        request["max_tokens"] = 1000
    if case in ("streaming", "dropped"):
        request["stream"] = True
    headers = {"Authorization": f"Bearer {KEY}", "X-Tenant-Id": tenant}
    async with http.stream("POST", f"{url}/chat/completions", json=request, headers=headers) as response:
        body = b""
        async for chunk in response.aiter_raw():
            body += chunk
            if case == "dropped" and response.status_code == 200 and b"data:" in body:
                break
    return response.status_code, response.headers, body


async def _settled(http: httpx.AsyncClient, url: str, tenant: str) -> dict[str, Any]:
    """The tenant's usage once no call is in flight any more: a dropped stream is drained after its client has gone."""
    usage: dict[str, Any] = {}
    for _ in range(SETTLED_TRIES):
        address = url.removesuffix("/v1") + f"/usage/{tenant}"
        usage = (await http.get(address, headers={"Authorization": f"Bearer {KEY}"})).json()
        if usage["daily"]["held_usd"] == 0:
            break
        await asyncio.sleep(0.05)
    return usage


def run(store: str, *, calls: int, at_once: tuple[int, ...]) -> Iterator[Result]:
    """All cases on one store."""
    cells = list(itertools.product(CASES, at_once))
    tenants = [f"race-{number}" for number in range(len(cells))]
    with STORES[store]() as store_url, town(store_url, tenants) as place:
        for (case, number), tenant in zip(cells, tenants, strict=True):
            yield asyncio.run(race(place, tenant, case, calls=calls, at_once=number))


def main() -> None:
    """Run the race and print a line a case; exit 1 when one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.race", description=main.__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help="calls a case (default: %(default)s)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[50, 200], help="clients (default: 50 200)")
    parser.add_argument("--store", choices=STORES, action="append", help="default: every one that this machine can run")
    options = parser.parse_args()
    wrong = 0
    print(f"{options.calls} calls of 0.01 USD against a daily budget of {BUDGET_USD} USD, two gateway processes")
    for store in options.store or STORES:
        if store == "dynamodb local" and (why := unavailable()):
            print(f"{store}: not run: {why}")
            continue
        print(f"{store}:")
        for result in run(store, calls=options.calls, at_once=tuple(options.at_once)):
            print(f"  {result}", flush=True)
            wrong += not result.is_right
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
