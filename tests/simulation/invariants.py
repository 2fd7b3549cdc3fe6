"""What must be true: after every write of the table, before every call upstream, and at the end (design.md, part 11).

I1  what is committed after an admission is within the limits of the version that it was made by, the cap of its API
    key, too, which is good in that version
I2  spent never falls, apart from what was an estimate; held is never negative, nor spent
I3  every hold is made once and ends once, in the windows that admitted it; at the end none is left
I4  at the end the costs in the spans are what the ledgers have spent, by tenant, month and day; and what is on
    upstream's bill, to the nano-dollar, unless marked as estimated, and then at least that
I5  nothing above changes when a message is repeated
I6  nor when a process dies: after the sweeps it is all true
I7  nothing is sent upstream without a hold
I8  no call is booked or billed above its hold
I9  at the end every rollup is the sum of the spans it is of, and those of days and months are what the ledgers have
    spent, to the nano-dollar
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farebox.aws import from_dynamodb
from farebox.ledger import Hold, Ledger
from farebox.store import LOST, ledger_of
from farebox.tenants import Tenant
from local.bill import Generation
from tests.rollup_truth import expected, stored

from .expressions import Item
from .memory import Key
from .scheduler import Violation

EMPTY = Ledger()


@dataclass(slots=True)
class Held:
    """A hold from its making on. `cost_nanousd` is what it was ended at, and corrected to."""

    tenant: str
    month: str
    hold: Hold
    cost_nanousd: int | None = None


class Auditor:
    """Sees every write of the table and every call upstream. `fail` ends the run."""

    def __init__(self, fail: Callable[[BaseException], None], who: Callable[[], str]) -> None:
        self.tenants: dict[tuple[str, int], Tenant] = {}
        """By name and version."""
        self.holds: dict[str, Held] = {}
        self._fail = fail
        self._who = who
        self._ledgers: dict[Key, Ledger] = {}
        self._last_hold: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._billed_to: dict[str, str] = {}

    # While it runs.

    def wrote(self, key: Key, before: Item, after: Item) -> None:
        """After each write that changed something."""
        pk, sk = key
        try:
            if sk.startswith("LEDGER#"):
                self._ledger(key, after)
            elif pk.startswith("SPANS#"):
                self._span(from_dynamodb(before), from_dynamodb(after))
        except Violation as e:
            self._fail(e)
        except ValueError as e:
            self._fail(Violation(f"money is not a whole number: {e}"))

    def asks(self, request: Mapping[str, Any]) -> None:
        """Before a request to the table: who means to make a hold."""
        names = request.get("ExpressionAttributeNames", {})
        for name in ("#hold", "#new"):
            if f"SET {name} = :" in request.get("UpdateExpression", ""):
                self._owners.setdefault(names[name].removeprefix("h_"), self._who())

    def sends(self, who: str) -> None:
        """Before a call goes upstream."""
        held = self.holds.get(self._last_hold.get(who, ""))
        if held is None or held.cost_nanousd is not None:
            self._fail(Violation(f"I7: {who} sends a call for which nothing is held"))

    def bills(self, who: str, generation_id: str) -> None:
        """Upstream will bill what an actor has asked for."""
        self._billed_to.setdefault(generation_id, self._last_hold.get(who, ""))

    def _ledger(self, key: Key, item: Item) -> None:
        before, after = self._ledgers.get(key, EMPTY), ledger_of(from_dynamodb(item))
        self._ledgers[key] = after
        tenant, month = key[0].removeprefix("TENANT#"), key[1].removeprefix("LEDGER#")
        _require_sound(before, after, item)
        changes = _changes(before, after)
        made = [after.holds[id_] for id_ in after.holds.keys() - before.holds.keys()]
        ended = [before.holds[id_] for id_ in before.holds.keys() - after.holds.keys()]
        _require(len(made) <= 1 and len(ended) <= 1, "I3: one message changes several holds")
        for hold in made:
            _require(hold.id not in self.holds, f"I3: the hold {hold.id} is made a second time")
            self.holds[hold.id] = Held(tenant, month, hold)
            # A copy that comes late makes the hold for whoever has asked for it, and is asking again.
            self._last_hold[self._owners.setdefault(hold.id, self._who())] = hold.id
        for hold in ended:
            held = self.holds[hold.id]
            held.cost_nanousd = 0 if made else hold.amount_nanousd + sum(changes.values())
            _require(held.cost_nanousd >= 0, f"I3: the hold {hold.id} gives back more than it is")
            _require(set(changes) <= {hold.day}, f"I3: the hold {hold.id} of day {hold.day} ends in {changes}")
        if made:
            self._admitted(tenant, made[0], ended, changes, after)
        elif not ended:
            self._corrected(before, after, changes)

    def _admitted(
        self, tenant: str, hold: Hold, ended: Sequence[Hold], changes: Mapping[int, int], after: Ledger
    ) -> None:
        more = hold.amount_nanousd - sum(each.amount_nanousd for each in ended)
        _require(changes == ({hold.day: more} if more else {}), f"I3: a hold of {more} more changes {changes}")
        config = self.tenants.get((tenant, -1 if after.version is None else after.version))
        if config is None:
            raise Violation(f"I1: {tenant} is admitted by limits of version {after.version}, which nobody made")
        limits = config.limits
        key = None if hold.key is None else config.keys[hold.key]
        _require(key is None or key.revoked_at is None, f"I1: {hold} is made with a key that was revoked")
        if key is not None and key.month_nanousd is not None and more > 0:
            _require(after.committed_with(key.id) <= key.month_nanousd, f"I1: the key is above its cap: {after}")
        if more > 0:
            _require(after.committed_nanousd <= limits.month_nanousd, f"I1: the month is above its limit: {after}")
            _require(after.committed_on(hold.day) <= limits.day_nanousd, f"I1: the day is above its limit: {after}")
        _require(bool(ended) or len(after.holds) <= limits.in_flight, "I1: more calls are in flight than may be")

    def _corrected(self, before: Ledger, after: Ledger, changes: Mapping[int, int]) -> None:
        """Money that moves without a hold has the truth in the place of an estimate."""
        known = before.estimates.keys() - after.estimates.keys()
        if not changes:
            return
        _require(len(known) == 1, f"I3: {changes} is booked without a hold")
        (id_,) = known
        held = self.holds[id_]
        held.cost_nanousd = (held.cost_nanousd or 0) + sum(changes.values())

    def _span(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        cost = before.get("cost_nanousd")
        if cost is not None and not before.get("is_estimated"):
            _require(after.get("cost_nanousd") == cost, f"I2: a cost that was known is changed: {before} to {after}")

    # At the end.

    def finish(self, items: Mapping[Key, Item], bill: Iterable[Generation]) -> None:
        """When the sweeps are through. Raises Violation."""
        spans = {sk: from_dynamodb(item) for (pk, sk), item in items.items() if pk.startswith("SPANS#")}
        reminded = {sk for pk, sk in items if pk == LOST}
        left = [id_ for id_, held in self.holds.items() if held.cost_nanousd is None]
        _require(not left, f"I3: holds are left: {left}")
        _require(not reminded, f"I6: reminders are left: {reminded}")
        billed = self._billed(bill)
        for id_, held in self.holds.items():
            _require_true(held, spans.get(id_), billed[id_])
        _require(set(billed) <= set(self.holds), f"I7: billed without a hold: {set(billed) - set(self.holds)}")
        self._compare(spans)
        self._rolled_up(items)

    def _billed(self, bill: Iterable[Generation]) -> Counter[str]:
        billed: Counter[str] = Counter()
        for generation in bill:
            billed[self._billed_to[generation.id]] += generation.charge.billed_nanousd
        return billed

    def _compare(self, spans: Mapping[str, Mapping[str, Any]]) -> None:
        """Spans with ledgers, by tenant, month and day."""
        by_month, by_day = Counter[tuple[str, str]](), Counter[tuple[str, str, int]]()
        by_key = Counter[tuple[str, str, str]]()
        for span in spans.values():
            by_month[span["tenant"], span["month"]] += span.get("cost_nanousd", 0)
            by_key[span["tenant"], span["month"], span.get("key", "")] += span.get("cost_nanousd", 0)
            by_day[span["tenant"], span["month"], span["day"]] += span.get("cost_nanousd", 0)
        for (pk, sk), ledger in self._ledgers.items():
            tenant, month = pk.removeprefix("TENANT#"), sk.removeprefix("LEDGER#")
            spent = by_month.pop((tenant, month), 0)
            _require(ledger.spent_nanousd == spent, f"I4: {tenant} {month}: {ledger.spent_nanousd}, spans {spent}")
            for key in ledger.committed_by_key:
                spent = by_key[tenant, month, key]
                _require(ledger.spent_with(key) == spent, f"I4: {tenant} {month} {key}: {ledger}, spans {spent}")
            for day in ledger.committed_by_day:
                spent = by_day.pop((tenant, month, day), 0)
                _require(ledger.spent_on(day) == spent, f"I4: {tenant} {month} {day}: {ledger}, spans {spent}")
        _require(not +by_month and not +by_day, f"I4: spans without a ledger: {by_month} {by_day}")

    def _rolled_up(self, items: Mapping[Key, Item]) -> None:
        """Rollups with spans, and with ledgers."""
        wanted, found = expected(items.values()), stored(items.values())
        for key in sorted(wanted.keys() | found.keys()):
            _require(wanted.get(key) == found.get(key), f"I9: {key}: {found.get(key)}, spans say {wanted.get(key)}")
        for (pk, sk), ledger in self._ledgers.items():
            usage = f"USAGE#{pk.removeprefix('TENANT#')}#{sk.removeprefix('LEDGER#')}"
            spent = {"M": ledger.spent_nanousd} | {
                f"D#{day:02}": ledger.spent_on(day) for day in ledger.committed_by_day
            }
            for window, nanousd in spent.items():
                summed = found.get((usage, window), {}).get(("total", ""), {}).get("c", 0)
                _require(summed == nanousd, f"I9: {usage} {window}: {summed}, the ledger says {nanousd}")


def _require(is_true: object, sentence: str) -> None:
    if not is_true:
        raise Violation(sentence)


def _require_sound(before: Ledger, after: Ledger, item: Item) -> None:
    """What is true of a ledger by itself, and of its way from before."""
    by_day = after.committed_by_day
    _require(sum(by_day.values()) == after.committed_nanousd, f"I4: day and month differ: {after}")
    _require(after.held_nanousd + after.spent_nanousd == after.committed_nanousd, "committed is not spent + held")
    _require(all(hold.amount_nanousd >= 0 for hold in after.holds.values()), f"I2: held is negative: {after}")
    _require(after.spent_nanousd >= 0, f"I2: spent is negative: {after}")
    for day in by_day:
        _require(after.spent_on(day) >= 0, f"I2: spent is negative on day {day}: {after}")
        fallen = _certain_on(before, day) - _certain_on(after, day)
        _require(fallen <= 0, f"I2: spent falls on day {day} by {fallen}: {before} to {after}")
    _require((after.version or 0) >= (before.version or 0), "I1: the version falls")
    count = int(item["n"]["N"]) if "n" in item else 0
    _require(count == len(after.holds), f"I3: {count} holds are counted, {len(after.holds)} are there")
    for id_ in before.holds.keys() & after.holds.keys():
        _require(after.holds[id_].amount_nanousd == before.holds[id_].amount_nanousd, f"I3: the hold {id_} changes")


def _certain_on(ledger: Ledger, day: int) -> int:
    """Spent, without what is only an estimate and may be corrected."""
    estimated = sum(each.amount_nanousd for each in ledger.estimates.values() if each.day == day)
    return ledger.spent_on(day) - estimated


def _changes(before: Ledger, after: Ledger) -> dict[int, int]:
    days = before.committed_by_day.keys() | after.committed_by_day.keys()
    changes = {day: after.committed_on(day) - before.committed_on(day) for day in days}
    return {day: change for day, change in changes.items() if change}


def _require_true(held: Held, span: Mapping[str, Any] | None, billed: int) -> None:
    """A hold, its span and upstream's bill say the same."""
    hold, booked = held.hold, held.cost_nanousd or 0
    if span is None:
        _require(booked == billed == 0, f"I4: {hold} was booked at {booked}, billed {billed}, and has no span")
        return
    known = span.get("cost_nanousd", 0)
    _require(known == booked, f"I4: {hold} was booked at {booked}, its span says {known}")
    _require(span["month"] == held.month and span["day"] == hold.day, f"I4: the span of {hold} is of another day")
    if span.get("is_estimated"):
        _require(booked >= billed, f"I4: {hold} was estimated at {booked}, and is billed at {billed}")
    else:
        _require(booked == billed, f"I4: {hold} was booked at {booked}, and is billed at {billed}; {span}")
    _require(max(billed, booked) <= hold.amount_nanousd, f"I8: {hold} costs {booked}, billed {billed}")
