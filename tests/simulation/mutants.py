"""python -m tests.simulation.mutants: ledgers that are wrong on purpose, each of which the same seeds must catch.

    mutant                      what it does wrong
    no-hold-condition           a repeated message counts twice; also for one kind of message each:
      reserves-twice, settles-twice, swaps-twice, corrects-twice
    no-room-condition           adds before it checks
    release-on-disconnect       a client that leaves gets its money back
    float-money                 dollars as floats on the way
    settles-into-today          a call is booked into the day in which it ends
    release-when-lost           what may have been billed is released
    settles-before-the-span     a crash in between loses the record
    releases-expired-holds      the sweep gives back what nobody knows the cost of
    no-version-condition        limits that were changed since are used
    no-cap-of-calls             more calls are in flight than may be
    no-cap-of-keys              an API key spends more than it may
    never-revokes               a key that was revoked goes on
    leaves-no-marks             a copy of a message that comes late holds again
    walks-nowhere               holds of functions that have died are left
    holds-nothing               a call is made for which nothing was written
    adds-to-rollups             spans are added to what an hour had, which is not summed anew
    marks-nothing               a change of a span that is long over is told to nobody

One that survives is a rule that nobody would miss, or a simulation that does not look.
"""

import argparse
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from farebox import fold as folding
from farebox import sweep as sweeping
from farebox.admission import Admission
from farebox.books import Books
from farebox.keys import ApiKey
from farebox.ledger import Hold, Ledger
from farebox.relay import Relay
from farebox.rollups import Rollup
from farebox.settlement import Outcome, Receipt, Settlement
from farebox.store import Store
from farebox.tally import Tally
from farebox.tenants import windows

from .world import run

_ALWAYS = "attribute_not_exists(nothing_has_this_name)"
Patches = tuple[tuple[object, str, object], ...]
SEEDS = 400
_update, _settle, _resolve_span = Store._update, Store.settle, Store.resolve_span
_end = Books.end
_put = folding._put


def _without(*words: str) -> Patches:
    """Updates of ledgers without the conditions that have one of these words in them."""

    def update(
        self: Store,
        tenant: str,
        month: str,
        expression: str,
        conditions: list[str],
        names: Any,
        values: Any,
        **more: Any,
    ) -> Ledger:
        kept = [each for each in conditions if not any(word in each for word in words)]
        used = set(re.findall(r":\w+", " ".join((expression, *kept))))
        given = {name: value for name, value in values.items() if name in used}
        return _update(self, tenant, month, expression, kept or [_ALWAYS], names, given, **more)

    return ((Store, "_update", update),)


def _close(self: Relay) -> None:
    """The client has left: so nothing was spent?"""
    if not self._is_ended and not self._track.is_settled:
        self._track.is_settled = True
        self._track.end(Settlement(Outcome.DECLINED, Receipt()), False)  # noqa: FBT003 - as the original
    self._is_ended = True
    self._track.answer.close()


def _float_settle(self: Store, tenant: str, month: str, hold: Hold, cost_nanousd: int, **more: Any) -> Ledger:
    change_usd = cost_nanousd / 1e9 - hold.amount_nanousd / 1e9
    return _settle(self, tenant, month, hold, hold.amount_nanousd + int(change_usd * 1e9), **more)


def _end_today(self: Books, admission: Admission, settlement: Settlement, deadline: float) -> Ledger:
    call = admission.call
    today = windows(self._now(), call.tenant.time_zone)
    moved = replace(admission, call=replace(call, windows=today), hold=replace(admission.hold, day=today.day))
    return _end(self, moved, settlement, deadline)


def _released(admission: Admission, settlement: Settlement) -> int:  # noqa: ARG001 - as the original
    return settlement.cost_nanousd or 0


def _ends_first(self: Books, admission: Admission, settlement: Settlement, deadline: float) -> Ledger:
    ledger = self.end(admission, settlement, deadline)
    self.record(admission, settlement, deadline)
    return ledger


def _resolve_at_nothing(
    self: Store, pk: str, sk: str, cost_nanousd: int, *, is_estimated: bool, known: Mapping[str, Any]
) -> tuple[int, bool]:
    return _resolve_span(self, pk, sk, 0 if is_estimated else cost_nanousd, is_estimated=is_estimated, known=known)


def _unheld(self: Store, tenant: str, month: str, *_more: Any) -> Any:
    """Says that there is room, and writes nothing."""
    return self.ledger(tenant, month)


def _added(run: Any, key: Any, fields: Any, before: Rollup) -> Rollup:
    """What was there before, and all there is once more."""
    tally = Tally.of(fields)
    if before.rev:
        tally.merge(Tally.of(before.fields))
    return _put(run, key, {**fields, **tally.item()}, before)


def _good(_key: ApiKey, _now: int) -> bool:
    return True


def _nothing(*_: Any) -> tuple[()]:
    return ()


MUTANTS: Mapping[str, Patches] = {
    "no-hold-condition": _without("#hold", "#old", "#new"),
    "reserves-twice": _without("attribute_not_exists(#hold)"),
    "settles-twice": _without("attribute_type(#hold"),
    "swaps-twice": _without("#old", "#new"),
    "corrects-twice": _without("#estimate"),
    "no-room-condition": _without("_most"),
    "release-on-disconnect": ((Relay, "close", _close),),
    "float-money": ((Store, "settle", _float_settle),),
    "settles-into-today": ((Books, "end", _end_today),),
    "release-when-lost": ((Books, "_cost", staticmethod(_released)),),
    "settles-before-the-span": ((Books, "settle", _ends_first),),
    "releases-expired-holds": ((Store, "resolve_span", _resolve_at_nothing),),
    "no-version-condition": _without("#version"),
    "no-cap-of-calls": _without("#count"),
    "no-cap-of-keys": _without(":key_most"),
    "never-revokes": ((ApiKey, "is_good", _good),),
    "leaves-no-marks": ((Store, "_repeat", _nothing),),
    "walks-nowhere": ((sweeping, "_walked", _nothing),),
    "holds-nothing": ((Store, "reserve", _unheld),),
    "adds-to-rollups": ((folding, "_put", _added),),
    "marks-nothing": ((Store, "mark_stale", _nothing),),
}


@contextmanager
def mutated(patches: Patches) -> Iterator[None]:
    """The program with these parts in the place of its own."""
    kept = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]
    for owner, name, part in patches:
        setattr(owner, name, part)
    try:
        yield
    finally:
        for owner, name, part in kept:
            setattr(owner, name, part)


def caught(name: str, seeds: int) -> tuple[int, str] | None:
    """The first seed that catches a mutant, and by what; None when it survives them all."""
    with mutated(MUTANTS[name]):
        for seed in range(1, seeds + 1):
            violation = run(seed).violation
            if violation is not None:
                return seed, violation
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"so many seeds must catch each (default {SEEDS})")
    options = parser.parse_args()
    survivors = 0
    for name in MUTANTS:
        began = time.perf_counter()
        found = caught(name, options.seeds)
        survivors += found is None
        said = "SURVIVES" if found is None else f"caught by seed {found[0]:<4} {found[1].splitlines()[0][:90]}"
        print(f"{name:<26} {time.perf_counter() - began:5.1f} s  {said}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
