"""python -m tests.simulation --seeds 200 --first 1: a world for each seed; one that fails is printed, step by step."""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from .world import Result, briefly

CHUNK = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds (default 200)")
    parser.add_argument("--first", type=int, default=1, help="the first one's seed (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a processor)")
    parser.add_argument("--trace", action="store_true", help="print the steps also where all is well")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failing seed")
    options = parser.parse_args()
    began, totals = time.perf_counter(), Counter[str]()
    seeds = range(options.first, options.first + options.seeds)
    for result in _results(seeds, options.jobs, traces=options.trace):
        _count(totals, result)
        if options.trace or result.violation:
            print("\n".join(result.story()), flush=True)
        if result.violation:
            again = f"python -m tests.simulation --first {result.seed} --seeds 1"
            print(f"seed {result.seed}: {result.violation}\nagain: {again}", flush=True)
            if not options.keep_going:
                break
    took = time.perf_counter() - began
    print(f"{totals['seeds']} seeds in {took:.1f} s ({totals['seeds'] / took:.1f} a second); {totals['failed']} failed")
    print(", ".join(f"{name}: {count}" for name, count in sorted(totals.items())))
    return 1 if totals["failed"] else 0


def _results(seeds: Iterable[int], jobs: int, *, traces: bool) -> Iterator[Result]:
    """In the order of the seeds."""
    one = partial(briefly, traces=traces)
    if jobs == 1:
        yield from map(one, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(one, seeds, chunksize=CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def _count(totals: Counter[str], result: Result) -> None:
    totals["seeds"] += 1
    totals["failed"] += result.violation is not None
    totals["steps"] += result.steps
    totals["crashes"] += result.crashes
    for status in result.statuses:
        totals[f"calls answered {status}"] += 1


if __name__ == "__main__":
    sys.exit(main())
