"""The command. See the package's docstring.

make adversary                                our gateway, started here
make adversary URL=http://... KEY=...         a Farebox that runs already (DEFAULT_DAILY_BUDGET=1, a fresh store)
make adversary TARGET=litellm URL=... KEY=... a LiteLLM proxy that runs already; KEY is its master key
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal

from tests.adversary import farebox, litellm, midnight, upstream
from tests.adversary.cases import CASES, MIDNIGHT, Case, named
from tests.adversary.money import nanousd
from tests.adversary.run import Size, run_all
from tests.adversary.targets import AnyGateway, CannotRun, Farebox, LiteLLM, Place, Target
from tests.adversary.verdicts import Result, Skipped

TARGETS: dict[str, Callable[[str, str], Target]] = {
    "farebox": Farebox,
    "litellm": LiteLLM,
    "any": AnyGateway,
}


def main() -> None:
    """Run the cases and print a line a case; exit 1 when a promise is broken, 2 when the target cannot be had."""
    options = _options()
    cases = list(named(options.case))
    size = Size(nanousd(options.budget), options.calls, tuple(options.at_once))
    wrong = 0
    try:
        with ExitStack() as parts:
            place = _place(parts, options, size)
            print(
                f"{place.target.name}: {size.calls} calls a case against {options.budget} USD, "
                f"the simulator at {place.upstream} as upstream",
                flush=True,
            )
            wrong = _print(place, cases, size, is_ours=options.target == "farebox" and not options.url)
    except CannotRun as e:
        print(f"{options.target}: not run: {e}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if wrong else 0)


def _print(place: Place, cases: list[Case], size: Size, *, is_ours: bool) -> int:
    """Each result as it comes; how many are wrong."""
    wrong = 0

    async def run() -> None:
        nonlocal wrong
        async for result in run_all(place, cases, size):
            print(f"  {result}", flush=True)
            wrong += isinstance(result, Result) and not result.is_right

    asyncio.run(run())
    for result in _midnight(place, cases, size, is_ours=is_ours):
        print(f"  {result}", flush=True)
        wrong += isinstance(result, Result) and not result.is_right
    return wrong


def _midnight(place: Place, cases: list[Case], size: Size, *, is_ours: bool) -> Iterator[Result | Skipped]:
    """Only where the suite starts the gateway can it choose when the day ends."""
    if MIDNIGHT not in cases:
        return
    if is_ours:
        yield midnight.run(place.upstream, size, size.at_once[0])
    else:
        yield Skipped(MIDNIGHT.name, "only a Farebox that the suite starts itself can be given another midnight")


def _place(parts: ExitStack, options: argparse.Namespace, size: Size) -> Place:
    """The target and its upstream. Raises CannotRun."""
    if options.url is not None:
        if not options.key:
            raise CannotRun("--url needs --key")
        if why := upstream.missing(options.upstream):
            raise CannotRun(why)
        return Place(TARGETS[options.target](options.url.rstrip("/"), options.key), options.upstream)
    root = parts.enter_context(upstream.simulator(options.delay))
    if options.target == "litellm":
        return parts.enter_context(litellm.started(root))
    if options.target == "any":
        raise CannotRun("--target any needs --url and --key")
    return parts.enter_context(farebox.started(root, size.cap_nanousd))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.adversary", description=main.__doc__)
    parser.add_argument("--url", help="the gateway's base URL, as clients have it (default: start one)")
    parser.add_argument("--key", help="its key; of LiteLLM the master key")
    parser.add_argument("--target", choices=TARGETS, default="farebox", help="what it is (default: %(default)s)")
    parser.add_argument(
        "--upstream",
        default=f"http://127.0.0.1:{upstream.PORT}",
        help="the simulator that the gateway at --url calls (default: %(default)s)",
    )
    parser.add_argument("--delay", type=float, default=upstream.DELAY_S, help="seconds upstream (default: %(default)s)")
    parser.add_argument("--budget", type=Decimal, default=Decimal("1.00"), help="USD a case (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=500, help="calls a case (default: %(default)s)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[50, 200], help="clients (default: 50 200)")
    parser.add_argument("--case", action="append", default=[], help="cases that begin so; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    options = parser.parse_args()
    if options.list:
        for case in CASES:
            print(f"{case.name:27} {case.attacks}")
        sys.exit(0)
    return options


if __name__ == "__main__":
    main()
