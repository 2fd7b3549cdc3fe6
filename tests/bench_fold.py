"""python -m tests.bench_fold --spans 100000: how long it takes to sum the spans of a day, and how much memory.

Spans are put into a store by several processes; the fold runs in one of its own, once over all of them and once more,
when nothing may change. The store is a process beside it: it is not in the figures of memory and of the processor, but
in those of time, most of which it takes.
"""

import argparse
import json
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from aws_lambda_powertools import Logger

from farebox.aws import to_dynamodb
from farebox.fold import Folder, fold
from farebox.hours import hour_of
from farebox.rollups import Rollups
from farebox.spans import SHARDS, partition
from farebox.store import Store, create_table
from farebox.telemetry import Telemetry
from local.child import connect
from local.dynamodb_local import dynamodb_local
from local.embedded_store import embedded_store

TABLE = "bench"
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
STORES = {"embedded": embedded_store, "dynamodb-local": dynamodb_local}
CHUNK = 5_000
BATCH = 25
WRITERS = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_fold", description=__doc__)
    parser.add_argument("--spans", type=int, default=100_000, help="how many in one day (default 100000)")
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--features", type=int, default=20, help="of each tenant")
    parser.add_argument("--store", choices=STORES, action="append", help="default: each")
    options = parser.parse_args()
    for store in options.store or STORES:
        with ExitStack() as parts:
            url = parts.enter_context(STORES[store]())
            create_table(connect(url), TABLE)
            began = time.perf_counter()
            write = partial(write_spans, url, options.tenants, options.features)
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(WRITERS, context) as pool:
                cost = sum(pool.map(write, chunks(options.spans)))
            wrote = time.perf_counter() - began
            print(f"{store}: {options.spans} spans written in {wrote:.0f} s", flush=True)
            with ProcessPoolExecutor(1, context) as pool:
                found: dict[str, Any] = pool.submit(folded, url).result()
        print(f"{store}: {json.dumps(found)}", flush=True)
        if found["cost_nanousd"] != cost or found["written_again"] or found["spans"] != options.spans:
            print(f"{store}: WRONG: {cost} nano-dollars were spent, and a second run may change nothing")
            return 1
    return 0


def chunks(spans: int) -> list[range]:
    return [range(first, min(first + CHUNK, spans)) for first in range(0, spans, CHUNK)]


def write_spans(url: str, tenants: int, features: int, numbers: range) -> int:
    """As many as there are numbers, over a day; what they have cost."""
    client: Any = connect(url)
    chance = random.Random(numbers.start)  # noqa: S311 - sums, not secrets
    items = [span(chance, number, tenants, features) for number in numbers]
    for at in range(0, len(items), BATCH):
        requests = [{"PutRequest": {"Item": to_dynamodb(item)}} for item in items[at : at + BATCH]]
        left = {TABLE: requests}
        while left:
            left = client.batch_write_item(RequestItems=left).get("UnprocessedItems", {})
    return sum(item["cost_nanousd"] for item in items)


def span(chance: random.Random, number: int, tenants: int, features: int) -> Mapping[str, Any]:
    """With all that a real one has."""
    at = int(MIDNIGHT.timestamp()) + chance.randrange(86_400)
    return {
        "pk": partition(hour_of(at), number % SHARDS),
        "sk": f"{at * 1000:011x}{number:010x}",
        "tenant": f"tenant-{chance.randrange(tenants)}",
        "feature": f"feature-{chance.randrange(features)}",
        "month": "2026-11",
        "day": 23,
        "admitted_at": at,
        "request_id": f"{number:032x}",
        "call": f"{at * 1000:011x}{number:010x}",
        "attempt": 1,
        "model_asked": f"vendor/model-{number % 30}",
        "model": f"vendor/model-{number % 30}",
        "provider": f"Provider {number % 8}",
        "generation_id": f"gen-{number:020}",
        "outcome": "answered",
        "status": 200,
        "hold_nanousd": 90_000_000,
        "cost_nanousd": chance.randrange(50_000_000),
        "streamed": True,
        "latency_ms": 2500,
        "ttl": at + 400 * 86_400,
        "prompt_tokens": chance.randrange(4000),
        "completion_tokens": chance.randrange(1000),
    }


def folded(url: str) -> dict[str, Any]:
    """Two runs over the day, in a process that does nothing else."""
    client, ids = connect(url), iter(range(10**9))
    store, rollups, telemetry = Store(client, TABLE), Rollups(client, TABLE), Telemetry(Logger(level="ERROR"))
    folder = Folder(store, rollups, telemetry, lambda: MIDNIGHT + timedelta(hours=24), lambda: str(next(ids)))
    before_mb, used_before = peak_mb(), time.process_time()
    began = time.perf_counter()
    first = fold(folder, lambda: True)
    between, used = time.perf_counter(), time.process_time()
    again = fold(folder, lambda: True, since=f"{MIDNIGHT:%Y-%m-%dT%H}")
    ended = time.perf_counter()
    months = client.get_paginator("scan").paginate(
        TableName=TABLE,
        FilterExpression="begins_with(pk, :usage) AND sk = :month",
        ExpressionAttributeValues={":usage": {"S": "USAGE#"}, ":month": {"S": "M"}},
    )
    return {
        "spans": first["spans"],
        "seconds": round(between - began, 1),
        "processor_seconds": round(used - used_before, 1),
        "items_written": first["written"],
        "seconds_again": round(ended - between, 1),
        "written_again": again["written"],
        "memory_mb": peak_mb(),
        "memory_before_mb": before_mb,
        "cost_nanousd": sum(int(item["total"]["M"]["c"]["N"]) for page in months for item in page["Items"]),
    }


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
