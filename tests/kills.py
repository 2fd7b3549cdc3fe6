"""The kills: gateway processes die by SIGKILL while calls are in flight, and the books must still be right.

In rounds. Each has a table and an upstream of its own, two gateway processes, and clients whose calls are plain,
streaming, dropped, slow, lost, or go to a second model. At random moments a gateway is killed and started again on the
same store; at the end of the round both are killed, so every hold that is left is of a process that is dead. Then the
sweep runs with a clock that is ahead, and what is in the table is compared with the upstream's own bill: equal to the
nano-dollar but for spans that are marked as estimated, and never booked below the bill (verdict_of_kills.py).

    make kills       1,000 kills with 50 calls at once on DynamoDB Local
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from aws_lambda_powertools import Logger

from farebox.directory import Directory
from farebox.parts import upstream_of
from farebox.settings import settings_from
from farebox.store import Store
from farebox.sweep import Sweeper, sweep
from farebox.telemetry import Telemetry
from farebox.watch import Watch
from local.child import ROOT, connect
from local.dynamodb_local import dynamodb_local, unavailable
from local.simulator import Simulator, transport
from local.sockets import Server
from tests.overheard import require_no_secret
from tests.verdict_of_kills import Verdict, verdict

KILLS = 1000
AT_ONCE = 50
KILLS_A_ROUND = 25
"""A killed call's hold stays until the sweep, and a tenant may have 200."""
GATEWAYS = 2
KEY = "local-gateway-key"
BUDGETS_USD: Final = {**{f"rich-{number}": 1000 for number in range(7)}, "poor": 0.3}
OLDEST_S = 8.0
NO_MORE_THAN_S = 120

# Simulated time is faster: sim/slow waits 30 s in it, which is here longer than it takes to note a generation's id.
PACE = 0.06
DELAY_S = 4.0
"""Before each answer, in simulated time."""
READY_S = 4.0
"""Until a cost is on record: for some the first sweep comes too early, and estimates what the second one corrects."""

# What clients do: model, streamed or not, and whether the client goes away at the first event.
MIX: Final = (
    *itertools.product(("sim/cent", "sim/agent-cheap"), (True, False), (False,)),
    *itertools.product(("sim/cent", "sim/agent-cheap", "sim/stop-billing", "sim/slow"), (True,), (True,)),
    *itertools.product(("sim/slow", "sim/pad", "sim/usage-missing"), (True, False), (False,)),
    *itertools.product(("sim/cut", "sim/cut-early"), (True, False), (False,)),
    ("sim/502", False, False),  # goes on with another model
)
CHAIN = "sim/agent-cheap"


class Patience(Exception):
    """Something that takes seconds did not end in minutes."""


@dataclass(slots=True)
class Town:
    """The gateways of one round; `urls` has those that run. `whole` are ids of answers that clients have got whole."""

    store_url: str
    upstream_url: str
    table: str
    urls: dict[int, str] = field(default_factory=dict)
    processes: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)
    outputs: dict[int, asyncio.Task[str]] = field(default_factory=dict)
    in_flight: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    in_flight_at_kills: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    whole: list[str] = field(default_factory=list)
    is_over: bool = False

    async def start(self, number: int) -> None:
        """Start a gateway, and tell clients of it when it answers."""
        environment = {
            "PYTHONPATH": str(ROOT / "layers" / "farebox"),
            "PORT": "0",
            "OPENROUTER_BASE_URL": self.upstream_url,
            "OPENROUTER_API_KEY": "simulated",
            "FAREBOX_TABLE": self.table,
            "FALLBACK_MODEL_CHAIN": CHAIN,
            "TENANT_BUDGETS": json.dumps({name: {"daily": usd, "monthly": usd} for name, usd in BUDGETS_USD.items()}),
        }
        process = self.processes[number] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local.dev", "--store", self.store_url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        if process.stdout is None:
            raise RuntimeError("no pipe")
        printed = b""
        async for line in process.stdout:
            printed += line
            if line.startswith(b"Farebox is at "):
                self.outputs[number] = asyncio.create_task(_rest(printed, process.stdout))
                self.urls[number] = line.split()[3].decode()
                return
        raise RuntimeError(f"a gateway did not start: {printed.decode(errors='replace')}")

    async def kill(self, number: int) -> None:
        """SIGKILL, whatever it is doing. Raises Leak when it has printed a secret."""
        url, process = self.urls.pop(number), self.processes.pop(number)
        self.in_flight_at_kills.append(self.in_flight[url])
        process.kill()
        await process.wait()
        require_no_secret(await self.outputs.pop(number))


async def _rest(printed: bytes, stream: asyncio.StreamReader) -> str:
    """All that a process prints, read at once: a full pipe would stop it."""
    return (printed + await stream.read()).decode(errors="replace")


@asynccontextmanager
async def _town(store_url: str, upstream_url: str, table: str) -> AsyncIterator[Town]:
    """A town whose processes end with the block."""
    town = Town(store_url, upstream_url, table)
    try:
        yield town
    finally:
        for process in town.processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


# Gateways and clients.


async def _killed(town: Town, kills: int, rng: random.Random) -> None:
    """Kill gateways at random moments, each started again, but the last ones of all together."""
    left = kills - GATEWAYS

    async def live(number: int) -> None:
        nonlocal left
        while True:
            await asyncio.wait_for(town.start(number), NO_MORE_THAN_S)
            await _aged(town, town.urls[number], rng)
            if left <= 0:
                return
            left -= 1
            await town.kill(number)

    async with asyncio.TaskGroup() as lives:
        for number in range(GATEWAYS):
            lives.create_task(live(number))
    town.is_over = True
    await asyncio.gather(*(town.kill(number) for number in list(town.urls)))


async def _aged(town: Town, url: str, rng: random.Random) -> None:
    """Until a gateway is to die: by the calls that it has ended, since how fast it is depends on the machine.

    Some have not even begun to work, some have the time to sweep and to note ids into holds.
    """
    calls, latest = rng.choice((0, rng.randint(1, 30), rng.randint(1, 60))), time.monotonic() + OLDEST_S
    while town.ended[url] < calls and time.monotonic() < latest:
        await asyncio.sleep(0.01)
    await asyncio.sleep(rng.uniform(0.0, 0.3))


async def _client(town: Town, http: httpx.AsyncClient, rng: random.Random) -> None:
    """One call after the other, at whichever gateway there is; what breaks is not tried again."""
    while not town.is_over:
        if not town.urls:
            await asyncio.sleep(0.05)
            continue
        url = rng.choice(list(town.urls.values()))
        town.in_flight[url] += 1
        try:
            what = await _call(town, http, url, rng)
        except httpx.TransportError:
            what = "broken"
        finally:
            town.in_flight[url] -= 1
            town.ended[url] += 1
        town.answers[what] += 1
        if what not in ("200", "dropped"):
            await asyncio.sleep(0.1)


async def _call(town: Town, http: httpx.AsyncClient, url: str, rng: random.Random) -> str:
    model, is_streamed, is_dropped = rng.choice(MIX)
    tenant = rng.choice(list(BUDGETS_USD))
    request: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Say hello"}]}
    request |= {"stream": is_streamed, **({"max_tokens": 1000} if rng.random() < 0.7 else {})}
    # OpenRouter's own header of attribution: it goes upstream, so that the bill says which tenant it is for.
    headers = {"Authorization": f"Bearer {KEY}", "X-Tenant-Id": tenant, "HTTP-Referer": tenant}
    body = b""
    async with http.stream("POST", f"{url}/chat/completions", json=request, headers=headers) as response:
        async for chunk in response.aiter_raw():
            body += chunk
            if is_dropped and response.status_code == 200 and b"data:" in body:
                return "dropped"
    if response.status_code == 200 and (id_ := _id_of_whole(body, is_streamed=is_streamed)) is not None:
        town.whole.append(id_)
    return str(response.status_code)


def _id_of_whole(body: bytes, *, is_streamed: bool) -> str | None:
    """The generation's id, if an answer came to its end."""
    if not is_streamed:
        said = json.loads(body)
        return said["id"] if said.get("choices") else None
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        return None
    return json.loads(events[0]).get("id") or None


# A round.


@dataclass(slots=True)
class Upstream:
    """The simulator with a clock that can be put forward, so that nobody waits for its records."""

    ahead_s: float = 0.0
    simulator: Simulator = field(init=False)

    def __post_init__(self) -> None:
        self.simulator = Simulator(
            delay_s=DELAY_S,
            generation_ready_s=READY_S,
            clock=lambda: time.time() + self.ahead_s,
            sleep=lambda seconds: time.sleep(seconds * PACE),
        )

    @contextmanager
    def served(self) -> Iterator[str]:
        """Behind a socket, for the time of the block; at its end every generation has ended.

        Nobody is accepted any more, and the threads of those that were end when their calls have.
        """
        before = set(threading.enumerate())
        server = Server(self.simulator.handle)
        try:
            yield f"{server.url}/api/v1"
        finally:
            server.close()
        for thread in set(threading.enumerate()) - before:
            if "process_request_thread" in thread.name:
                thread.join(NO_MORE_THAN_S)
                if thread.is_alive():
                    raise Patience("the upstream does not end")


async def _lived(town_of: tuple[str, str, str], kills: int, at_once: int, seed: str) -> Town:
    """Clients and kills, until the last gateway is dead and the last client has heard of it."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=at_once)
    async with _town(*town_of) as town, httpx.AsyncClient(timeout=60, limits=limits) as http:
        async with asyncio.TaskGroup() as tasks:
            for number in range(at_once):
                rng = random.Random(f"{seed} client {number}")  # noqa: S311 - repeatable
                tasks.create_task(_client(town, http, rng))
            tasks.create_task(_killed(town, kills, random.Random(f"{seed} kills")))  # noqa: S311
        return town


def swept(store: Store, simulator: Simulator, ahead: timedelta) -> Counter[str]:
    """Sweep with a clock that is ahead, twice at once as it may happen, until there is nothing left to do."""
    settings = settings_from({
        "FAREBOX_GATEWAY_KEY": KEY,
        "FAREBOX_ADMIN_KEY": "local-admin-key",
        "OPENROUTER_API_KEY": "simulated",
        "OPENROUTER_BASE_URL": "http://simulated/api/v1",
    })  # fmt: skip
    telemetry = Telemetry(Logger(service="kills", level="CRITICAL"))

    def now() -> datetime:
        return datetime.now(UTC) + ahead

    def one() -> None:
        sweeper = Sweeper(
            store=store,
            directory=Directory(store, settings),
            watch=Watch(store, telemetry, now),
            upstream=upstream_of(settings, transport(simulator)),
            telemetry=telemetry,
            now=now,
        )
        counts.append(Counter(sweep(sweeper, lambda: True)))

    total: Counter[str] = Counter()
    while True:
        counts: list[Counter[str]] = []
        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(counts) < len(threads):
            raise RuntimeError("a sweep has failed")
        done = sum(counts, Counter[str]())
        total += done
        if not done["booked"] + done["estimated"] + done["corrected"]:
            return total


def run(store_url: str, *, kills: int, at_once: int, seed: str) -> Iterator[Verdict]:
    """All kills, a verdict a round."""
    client = connect(store_url)
    rounds = max(1, round(kills / KILLS_A_ROUND))
    for number in range(rounds):
        mine = kills * (number + 1) // rounds - kills * number // rounds
        table, upstream = f"kills-{number}-{time.time_ns()}", Upstream()
        with upstream.served() as upstream_url:
            place = (store_url, upstream_url, table)
            town = asyncio.run(_lived(place, mine, at_once, f"{seed} round {number}"))
        store = Store(client, table)
        # Longer than a hold lives: nobody whose hold is swept now is alive. Some records are not ready yet.
        swept(store, upstream.simulator, timedelta(minutes=20))
        # All records are ready, and estimates of calls that upstream knows are corrected.
        upstream.ahead_s = 3600
        swept(store, upstream.simulator, timedelta(hours=2))
        pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        items = [item for page in pages for item in page["Items"]]
        client.delete_table(TableName=table)
        yield verdict(
            items,
            upstream.simulator.generations,
            whole=town.whole,
            limits={name: round(usd * 10**9) for name, usd in BUDGETS_USD.items()},
            kills=town.in_flight_at_kills,
            answers=town.answers,
        )


def _kills(text: str) -> int:
    if not text.isdigit() or int(text) < GATEWAYS:
        raise argparse.ArgumentTypeError(f"must be at least {GATEWAYS}: the last ones die together")
    return int(text)


def main() -> None:
    """Kill gateways in the middle of calls, sweep, compare the books with the upstream's bill; exit 1 when wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=main.__doc__)
    parser.add_argument("--kills", type=_kills, default=KILLS, help="how many (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="calls in flight (default: %(default)s)")
    parser.add_argument("--seed", default="1", help="of moments and of calls (default: %(default)s)")
    options = parser.parse_args()
    if why := unavailable():
        sys.exit(f"not run: {why}")
    print(
        f"{options.kills} SIGKILLs, {options.at_once} clients, {GATEWAYS} gateway processes, seed {options.seed}",
        flush=True,
    )
    total, began = Verdict(), time.monotonic()
    with dynamodb_local() as store_url:
        for part in run(store_url, kills=options.kills, at_once=options.at_once, seed=options.seed):
            total += part
            print(f"  {total.progress}  after {time.monotonic() - began:.0f} s", flush=True)
            for sentence in part.wrong:
                print(f"    WRONG: {sentence}", flush=True)
    print(total)
    sys.exit(1 if total.wrong else 0)


if __name__ == "__main__":
    main()
