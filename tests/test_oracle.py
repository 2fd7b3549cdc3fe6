"""store.py does to DynamoDB what ledger.py does to values: the same messages, the same answers, the same ledgers.

Months of a few holds that repeat and replace each other, under limits, ceilings and caps around what they need. The
seed of a failure is in its message.
"""

import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

from farebox import ledger as oracle
from farebox.ledger import Ceilings, Hold, KeyCap, Ledger, Limits, No
from farebox.store import Refused, Store
from tests.conftest import connected, new_table

MONTH = "2026-11"
PLENTY = 10**17
DAYS = (1, 9, 23, 31)
KEYS = (None, "k1", "k-2")


@dataclass(frozen=True, slots=True)
class Reserve:
    """Make this hold under these limits."""

    hold: Hold
    limits: Limits
    ceilings: Ceilings | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """Make a hold in the place of another, whether or not that is there."""

    old: Hold
    new: Hold
    limits: Limits


@dataclass(frozen=True, slots=True)
class Settle:
    """End this hold at this cost, whether or not there is one."""

    hold: Hold
    cost_nanousd: int
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Put an id into a hold, whether or not that is there."""

    hold_id: str
    generation_id: str


@dataclass(frozen=True, slots=True)
class Correct:
    """Put a cost in the place of an estimate, whether or not there is one."""

    hold_id: str
    cost_nanousd: int | None


Step = Reserve | Swap | Settle | Note | Correct


def expected(ledger: Ledger, step: Step) -> Ledger | Refused:
    """What the store must answer."""
    match step:
        case Reserve(hold, limits, ceilings):
            said = oracle.reserve(ledger, hold, limits, ceilings)
        case Swap(old, new, limits):
            said = oracle.swap(ledger, old, new, limits)
        case Settle(hold, cost, is_estimated):
            said = oracle.settle(ledger, hold, cost, is_estimated=is_estimated)
        case Note(hold_id, generation_id):
            said = oracle.note(ledger, hold_id, generation_id)
        case Correct(hold_id, correction):
            said = oracle.correct(ledger, hold_id, correction)
    return Refused(said, ledger) if isinstance(said, No) else said


def answer(store: Store, tenant: str, step: Step) -> Ledger | Refused:
    match step:
        case Reserve(hold, limits, ceilings):
            said = store.reserve(tenant, MONTH, hold, limits, ceilings)
        case Swap(old, new, limits):
            said = store.swap(tenant, MONTH, old, new, limits)
        case Settle(hold, cost, is_estimated):
            said = store.settle(tenant, MONTH, hold, cost, is_estimated=is_estimated)
        case Note(hold_id, generation_id):
            store.note(tenant, MONTH, hold_id, generation_id)
            said = store.ledger(tenant, MONTH)
        case Correct(hold_id, correction):
            said = store.correct(tenant, MONTH, hold_id, correction)
    return plain(said) if isinstance(said, Ledger) else replace(said, ledger=plain(said.ledger))


def plain(ledger: Ledger) -> Ledger:
    """Without the marks of holds whose reserve came twice: they keep copies away that these months do not have."""
    return replace(ledger, ended={})


def after(ledger: Ledger, step: Step) -> Ledger:
    said = expected(ledger, step)
    return said if isinstance(said, Ledger) else said.ledger


# Messages.


class Month:
    """Draws messages that are worth sending to the ledger as it is."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._unit = chance.choice([1, 10**15 + 1])
        self._version = 0
        self._named = 0
        self.ended: list[Hold] = []
        self.late: list[Swap | Settle | Correct] = []
        """May come again at any time: what they ended cannot be ended twice."""

    def step(self, ledger: Ledger) -> Step:
        holds = list(ledger.holds.values())
        if holds and self._chance.random() < 0.1:
            return Note(self._chance.choice([*holds, *self.ended]).id, f"gen-{self._chance.randint(1, 3)}")
        if (ledger.estimates or self.ended) and self._chance.random() < 0.1:
            return self._correct(ledger)
        return self._of_holds(ledger, holds, self._chance.random())

    def _of_holds(self, ledger: Ledger, holds: list[Hold], draw: float) -> Step:
        if self.late and draw < 0.15:
            return self._chance.choice(self.late)
        if holds and draw < 0.25:
            return Reserve(hold := self._chance.choice(holds), self._limits(ledger, hold, 0))
        if holds and draw < 0.45:
            return self._settle(self._chance.choice(holds))
        if holds and draw < 0.65:
            return self._swap(ledger, self._chance.choice([*holds, *self.ended]))
        hold = self._hold(self._chance.choice(DAYS), self._chance.choice(KEYS))
        limits = self._limits(ledger, hold, hold.amount_nanousd)
        return Reserve(hold, limits, self._ceilings(ledger, hold))

    def _hold(self, day: int, key: str | None) -> Hold:
        self._named += 1
        amount = self._unit * self._chance.randint(0, 5)
        return Hold(f"{self._named:x}", amount, day, self._named, self._named + 960, f"sim/{self._named}", key=key)

    def _swap(self, ledger: Ledger, old: Hold) -> Swap:
        new = self._hold(old.day, old.key)
        return Swap(old, new, self._limits(ledger, new, new.amount_nanousd - old.amount_nanousd))

    def _settle(self, hold: Hold) -> Settle:
        cost = hold.amount_nanousd * self._chance.choice([0, 1, 1, 1, 3]) + self._chance.choice([0, -1, 1])
        return Settle(hold, max(0, cost), self._chance.random() < 0.4)

    def _correct(self, ledger: Ledger) -> Correct:
        id_ = self._chance.choice([*ledger.estimates, *(hold.id for hold in self.ended[-1:])])
        return Correct(id_, self._chance.choice([None, 0, 1, self._unit * 7]))

    def _limits(self, ledger: Ledger, hold: Hold, more: int) -> Limits:
        self._version = max(0, self._version + self._chance.choice([0, 0, 0, 0, 1, -1]))
        in_flight = self._chance.choice([1, len(ledger.holds), len(ledger.holds) + 1, 200, 200])
        windows = (self._near(ledger.committed_on(hold.day) + more), self._near(ledger.committed_nanousd + more))
        cap = None
        if hold.key is not None and self._chance.random() < 0.7:
            cap = KeyCap(hold.key, self._near(ledger.committed_with(hold.key) + more))
        return Limits(*windows, self._version, max(1, in_flight), cap)

    def _ceilings(self, ledger: Ledger, hold: Hold) -> Ceilings | None:
        """Mostly what is just committed, or just not; sometimes below nothing."""
        if self._chance.random() < 0.5:
            return None
        before = [ledger.committed_on(hold.day), ledger.committed_nanousd]
        if hold.key is not None and self._chance.random() < 0.5:
            before.append(ledger.committed_with(hold.key))
        return Ceilings(*(most + self._chance.choice([0, 0, 1, -1, PLENTY, -PLENTY]) for most in before))

    def _near(self, exact: int) -> int:
        """Mostly what is just enough, or just not; sometimes nothing, or all the money there is."""
        return max(0, self._chance.choice([0, exact, exact, exact - 1, exact + 1, PLENTY, PLENTY]))


def months(chance: random.Random, length: int) -> Iterator[tuple[Step, Ledger]]:
    """Each message and the ledger before it; each is repeated at once now and then."""
    month, ledger = Month(chance), Ledger()
    for _ in range(length):
        step = month.step(ledger)
        for _ in range(chance.choice([1, 1, 2])):
            if isinstance(step, Reserve) and step.hold in month.ended:
                continue
            yield step, ledger
            followed = after(ledger, step)
            month.ended += [hold for id_, hold in ledger.holds.items() if id_ not in followed.holds]
            ledger = followed
        if isinstance(step, Swap | Settle | Correct):
            month.late.append(step)


def stays_true(before: Ledger, after: Ledger, step: Step, ever: dict[str, Hold]) -> None:
    """I1, I2 and I3 of the design: within limits, spent never falls, no hold comes back from its end."""
    if isinstance(step, Reserve | Swap) and after.committed_nanousd > before.committed_nanousd:
        hold, cap = step.hold if isinstance(step, Reserve) else step.new, step.limits.key_cap
        assert after.committed_on(hold.day) <= step.limits.day_nanousd
        assert after.committed_nanousd <= step.limits.month_nanousd
        assert cap is None or after.committed_with(cap.id) <= cap.month_nanousd
    if isinstance(step, Reserve) and step.ceilings is not None and after.committed_nanousd > before.committed_nanousd:
        assert before.committed_on(step.hold.day) <= step.ceilings.day_nanousd
        assert before.committed_nanousd <= step.ceilings.month_nanousd
        if step.hold.key is not None and step.ceilings.key_nanousd is not None:
            assert before.committed_with(step.hold.key) <= step.ceilings.key_nanousd
    if len(after.holds) > len(before.holds):
        assert isinstance(step, Reserve)
        assert len(after.holds) <= step.limits.in_flight
    if not isinstance(step, Correct):
        assert after.spent_nanousd >= before.spent_nanousd
        assert all(after.spent_on(day) >= before.spent_on(day) for day in DAYS)
        assert all(after.spent_with(key) >= before.spent_with(key) for key in KEYS if key is not None)
    assert all(after.spent_on(day) >= 0 for day in DAYS)
    assert after.estimates.keys().isdisjoint(after.holds)
    assert sum(after.committed_on(day) for day in DAYS) == after.committed_nanousd
    made = after.holds.keys() - before.holds.keys()
    assert made.isdisjoint(ever)
    ever.update(after.holds)
    assert after.estimates.keys() <= ever.keys()
    if before.version is not None:
        assert after.version is not None
        assert after.version >= before.version


def test_the_store_answers_and_books_as_the_ledger_says_after_every_message(store_url: str) -> None:
    seed = secrets.randbelow(2**32)
    chance = random.Random(seed)  # noqa: S311 - amounts, not secrets
    client, table = connected(store_url), new_table(store_url)
    store = Store(client, table)
    for number in range(8):
        tenant, ever = f"tenant-{number}", dict[str, Hold]()
        for step, before in months(chance, length=40):
            why = f"seed {seed}: {step} on {before}"
            assert answer(store, tenant, step) == expected(before, step), why
            booked = plain(store.ledger(tenant, MONTH))
            assert booked == after(before, step), why
            stays_true(before, booked, step, ever)
        key = {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": f"LEDGER#{MONTH}"}}
        item = client.get_item(TableName=table, Key=key, ConsistentRead=True)["Item"]
        assert int(item["n"]["N"]) == len(booked.holds)


def test_the_ledger_keeps_what_hundreds_of_months_ask_of_it_and_repeating_a_message_changes_nothing() -> None:
    seed = secrets.randbelow(2**32)
    chance = random.Random(seed)  # noqa: S311 - amounts, not secrets
    met = set[object]()
    for _ in range(400):
        ever = dict[str, Hold]()
        for step, before in months(chance, length=30):
            followed = after(before, step)
            stays_true(before, followed, step, ever)
            said = expected(before, step)
            assert after(followed, step) == followed, f"seed {seed}: {step} on {before}"
            met.add((type(step), said.why if isinstance(said, Refused) else said is before))
    assert met == {
        (Reserve, False),
        (Reserve, True),
        *((Reserve, no) for no in No),
        (Swap, False),
        (Swap, True),
        (Swap, No.NO_ROOM),
        (Swap, No.STALE_LIMITS),
        (Settle, False),
        (Settle, True),
        (Note, False),
        (Note, True),
        (Correct, False),
        (Correct, True),
    }


def test_a_swap_in_a_month_that_has_no_ledger_makes_none(store: Store) -> None:
    old = Hold("a", 5, 23, 0, 960, "sim/ok")
    said = store.swap("acme", MONTH, old, replace(old, id="a-2"), Limits(PLENTY, PLENTY, 0))
    assert said == Refused(No.NO_ROOM, Ledger())
    assert store.ledger("acme", MONTH) == Ledger()
