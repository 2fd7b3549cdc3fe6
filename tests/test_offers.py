"""What is held for a call is chosen so that it fits, is worth having, and leaves something for others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import ceil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.candidates import Candidate
from farebox.ledger import Hold, Ledger, Limits, No, reserve
from farebox.offers import LEAST_SHARE, Offer, Shortfall, Thrift, first_offer, offer
from farebox.pricing import MIN_OUTPUT_TOKENS, Quote
from farebox.rates import Rates
from farebox.rules import Downgrade, Rules
from farebox.tenants import Tenant

DAY = 23
ZERO = Decimal(0)
NO_RATES = Rates(ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO)
THRIFT = Thrift(256, Decimal("0.25"))
DOWN = (Downgrade(("dear",), "cheap"),)


def candidate(
    name: str = "dear", *, tokens: int = 4000, rate: Decimal | int = 1000, prompt: Decimal | int = 0, least: int = 0
) -> Candidate:
    """Nano-dollars for the prompt, and for each token of the output."""
    quoted = Quote(name, 100, tokens, tokens, True, least, Decimal(prompt), Decimal(rate), {}, NO_RATES)  # noqa: FBT003
    return Candidate((name,), quoted)


def tenant(day: int, month: int | None = None, **rules: object) -> Tenant:
    return Tenant("t", Limits(day, day if month is None else month, 1), rules=replace(Rules(), **rules))  # type: ignore[arg-type]


def ledger(spent: int = 0, *holds: int) -> Ledger:
    committed = spent + sum(holds)
    made = {str(n): Hold(str(n), amount, DAY, 0, 960, "other") for n, amount in enumerate(holds)}
    return Ledger(committed, {DAY: committed}, made, 1)


def held(found: Offer | Shortfall) -> tuple[str, int]:
    assert isinstance(found, Offer)
    return found.candidate.name, found.quote.output_tokens


def smallest(found: Candidate, thrift: Thrift) -> int:
    """What the least useful answer costs, by the rule and not by the code."""
    quoted = found.quote
    tokens = min(quoted.output_tokens, max(thrift.floor_tokens, quoted.min_output_tokens))
    exact = quoted.prompt_nanousd + quoted.completion_rate * max(tokens, MIN_OUTPUT_TOKENS)
    return ceil(exact)


# The order.

DEAR, MIDDLE, CHEAP = candidate(), candidate("middle", rate=100), candidate("cheap", rate=10)
"""As asked 4,000,000, 400,000 and 40,000 nano-dollars; the smallest answers cost 256,000, 25,600 and 2,560."""


@pytest.mark.parametrize(
    ("room", "model", "tokens"),
    [
        pytest.param(16_000_000, "dear", 4000, id="as-asked-where-it-is-a-quarter-of-what-is-left"),
        pytest.param(15_999_999, "dear", 3999, id="clamped-to-a-quarter"),
        pytest.param(1_024_000, "dear", 256, id="clamped-to-the-floor"),
        pytest.param(1_023_999, "dear", 256, id="the-floor-although-it-is-more-than-a-quarter"),
        pytest.param(256_000, "dear", 256, id="the-floor-although-it-is-all-that-is-left"),
        pytest.param(255_999, "middle", 639, id="the-next-model-clamped"),
        pytest.param(25_600, "middle", 256, id="the-next-model-at-the-floor"),
        pytest.param(25_599, "cheap", 639, id="and-the-next-after-it"),
        pytest.param(2_560, "cheap", 256, id="at-its-floor"),
    ],
)
def test_first_as_asked_then_clamped_then_the_next_model(room: int, model: str, tokens: int) -> None:
    found = offer(DEAR, [MIDDLE, CHEAP], tenant(room), DAY, ledger(), THRIFT)
    assert held(found) == (model, tokens)
    assert isinstance(found, Offer)
    assert found.downgraded_from == (None if model == "dear" else "dear")


def test_the_next_model_is_as_asked_where_that_fits() -> None:
    short = candidate("middle", rate=10, tokens=4000)
    assert held(offer(DEAR, [short], tenant(255_999), DAY, ledger(), THRIFT)) == ("middle", 4000)


def test_with_less_than_any_smallest_answer_needs_nothing_is_offered() -> None:
    assert offer(DEAR, [MIDDLE, CHEAP], tenant(2_559), DAY, ledger(), THRIFT) == Shortfall(2_560, is_above_cap=False)


def test_from_the_soft_cap_on_cheaper_models_come_first_and_the_model_asked_for_last() -> None:
    before, after = ledger(90_000_000 - 1), ledger(90_000_000)
    who = tenant(100_000_000, downgrades=DOWN, degrade_at=Decimal("0.9"))
    assert held(offer(DEAR, [MIDDLE, CHEAP], who, DAY, before, THRIFT)) == ("dear", 2500)
    assert held(offer(DEAR, [MIDDLE, CHEAP], who, DAY, after, THRIFT)) == ("middle", 4000)
    dearer_prompt = candidate("middle", rate=100, prompt=20_000_000)
    assert held(offer(DEAR, [dearer_prompt], who, DAY, after, THRIFT)) == ("dear", 2500)


def test_money_that_is_only_held_degrades_nothing() -> None:
    who = tenant(100_000_000, downgrades=DOWN)
    assert held(offer(DEAR, [CHEAP], who, DAY, ledger(0, 95_000_000), THRIFT)) == ("dear", 1250)


def test_a_month_that_is_degraded_counts_on_a_fresh_day() -> None:
    spent = Ledger(90_000_000, {DAY - 1: 90_000_000}, {}, 1)
    who = tenant(50_000_000, 100_000_000, downgrades=DOWN)
    assert held(offer(DEAR, [CHEAP], who, DAY, spent, THRIFT)) == ("cheap", 4000)


# The cap of one request.


def test_the_cap_of_a_request_clamps_and_then_turns_to_cheaper_models_and_then_refuses() -> None:
    def capped(nanousd: int) -> Offer | Shortfall:
        return offer(DEAR, [CHEAP], tenant(10**12, request_nanousd=nanousd), DAY, ledger(), THRIFT)

    assert held(capped(4_000_000)) == ("dear", 4000)
    assert held(capped(3_999_999)) == ("dear", 3999)
    assert held(capped(256_000)) == ("dear", 256)
    assert held(capped(255_999)) == ("cheap", 4000)
    assert held(capped(2_560)) == ("cheap", 256)
    assert capped(2_559) == Shortfall(2_560, is_above_cap=True)


def test_a_shortfall_of_money_names_what_fits_the_cap() -> None:
    """The dear model would be cheaper than nothing, but the cap forbids it whatever is left."""
    who = tenant(1_000, request_nanousd=100_000)
    assert offer(DEAR, [CHEAP], who, DAY, ledger(), THRIFT) == Shortfall(2_560, is_above_cap=False)


# Sharing.


@pytest.mark.parametrize(("in_flight", "part"), [(0, 4), (3, 4), (4, 5), (5, 6), (8, 9), (9, 10), (10, 10), (150, 10)])
def test_a_hold_is_a_quarter_of_what_is_left_or_a_fair_share_but_not_less_than_a_tenth(
    in_flight: int, part: int
) -> None:
    many = candidate(tokens=10**9, rate=1)
    found = offer(many, [], tenant(10**8 + in_flight), DAY, ledger(0, *[1] * in_flight), THRIFT)
    assert held(found) == ("dear", 10**8 // part)
    assert LEAST_SHARE == 10


def test_twenty_calls_at_once_all_get_an_answer_where_four_times_the_floor_is_left_for_each() -> None:
    who, now = tenant(80 * 256_000), ledger()
    for number in range(20):
        found = offer(DEAR, [], who, DAY, now, THRIFT)
        assert isinstance(found, Offer)
        made = reserve(now, Hold(f"x{number}", found.quote.amount_nanousd, DAY, 0, 960, "dear"), who.limits)
        assert isinstance(made, Ledger)
        now = made


# Properties.

amounts = st.integers(0, 10**7)
candidates = st.builds(
    candidate,
    tokens=st.integers(1, 64_000),
    rate=st.sampled_from([0, Decimal("37.5"), Decimal("0.001"), 1, 600, 10_200])
    | st.integers(0, 10**7).map(lambda n: Decimal(n).scaleb(-3)),
    prompt=st.integers(0, 10**8).map(lambda n: Decimal(n).scaleb(-2)),
    least=st.sampled_from([0, 0, 0, 1280, 30_000]),
)
thrifts = st.builds(
    Thrift, st.sampled_from([16, 256, 1000]), st.sampled_from(list(map(Decimal, ("0.01", "0.25", "1"))))
)


@dataclass(frozen=True, slots=True)
class Case:
    """A call and the ledger that it meets. `loose` is held by others, and may be released."""

    asked: Candidate
    cheaper: Sequence[Candidate]
    who: Tenant
    spent: int
    holds: tuple[int, ...]
    thrift: Thrift

    @property
    def now(self) -> Ledger:
        return ledger(self.spent, *self.holds)

    @property
    def room(self) -> int:
        return max(0, self.now.room_nanousd(DAY, self.who.limits))

    @property
    def cap(self) -> float:
        return float("inf") if self.who.rules.request_nanousd is None else self.who.rules.request_nanousd

    @property
    def all(self) -> list[Candidate]:
        return [self.asked, *self.cheaper]

    def found(self) -> Offer | Shortfall:
        return offer(self.asked, self.cheaper, self.who, DAY, self.now, self.thrift)


rules = st.builds(
    Rules,
    request_nanousd=st.none() | amounts,
    degrade_at=st.sampled_from([Decimal("0.5"), Decimal("0.9"), Decimal(1)]),
    warn_at=st.just(Decimal("0.4")),
    downgrades=st.sampled_from([(), DOWN]),
)
rooms = st.integers(-1000, 10**6) | st.integers(0, 10**9)
"""What is left of a window: nothing, little, or more than most calls ask for."""


@st.composite
def made_cases(draw: st.DrawFn) -> Case:
    spent, holds = draw(amounts), tuple(draw(st.lists(st.integers(0, 10**6), max_size=12)))
    day, month = (max(0, spent + sum(holds) + draw(rooms)) for _ in range(2))
    who = Tenant("t", Limits(day, month, 1), rules=draw(rules))
    return Case(draw(candidates), draw(st.lists(candidates, max_size=2)), who, spent, holds, draw(thrifts))


cases = made_cases()


@given(cases)
@settings(max_examples=100, deadline=None)
def test_an_offer_is_never_above_what_is_left_nor_above_the_cap_nor_below_the_floor_and_leaves_the_rest(
    case: Case,
) -> None:
    found = case.found()
    if isinstance(found, Shortfall):
        return
    quoted, as_asked = found.quote, found.candidate.quote
    assert quoted.amount_nanousd <= min(case.room, case.cap)
    least = max(case.thrift.floor_tokens, as_asked.min_output_tokens)
    assert min(least, as_asked.output_tokens) <= quoted.output_tokens <= as_asked.output_tokens
    assert replace(quoted, output_tokens=as_asked.output_tokens) == as_asked
    hold = Hold("new", quoted.amount_nanousd, DAY, 0, 960, "x")
    assert isinstance(reserve(case.now, hold, case.who.limits, found.ceilings), Ledger)
    if quoted.amount_nanousd > smallest(found.candidate, case.thrift):
        assert quoted.amount_nanousd <= case.thrift.fraction * case.room
        assert quoted.amount_nanousd * min(len(case.holds) + 1, LEAST_SHARE) <= case.room


@given(cases)
@settings(max_examples=100, deadline=None)
@example(Case(candidate(rate=0, prompt=0), (), tenant(0), 10, (), THRIFT)).via("a free model where nothing is left")
def test_it_is_a_shortfall_if_and_only_if_no_candidates_smallest_answer_fits(case: Case) -> None:
    found = case.found()
    needed = [smallest(each, case.thrift) for each in case.all]
    assert isinstance(found, Shortfall) == all(amount > min(case.room, case.cap) for amount in needed)
    if isinstance(found, Shortfall):
        within = [amount for amount in needed if amount <= case.cap]
        assert found.is_above_cap == (not within)
        assert found.needed_nanousd == min(within or needed)


def rank(case: Case, found: Offer | Shortfall) -> tuple[int, int]:
    """How good: the earlier the candidate the better, then the more output."""
    if isinstance(found, Shortfall):
        return (-99, 0)
    is_degraded = bool(case.who.rules.downgrades) and _is_over(case)
    in_turn = [*case.cheaper, case.asked] if is_degraded else case.all
    return (-next(n for n, each in enumerate(in_turn) if each is found.candidate), found.quote.output_tokens)


def _is_over(case: Case) -> bool:
    limits = case.who.limits
    return any(case.spent >= limit * case.who.rules.degrade_at for limit in (limits.day_nanousd, limits.month_nanousd))


@given(cases, st.data())
@settings(max_examples=100, deadline=None)
def test_when_others_hold_less_nothing_gets_worse(case: Case, data: st.DataObject) -> None:
    less = tuple(data.draw(st.integers(0, amount)) for amount in case.holds)
    better = replace(case, holds=less)
    worse_turn = rank(case, case.found())
    assert rank(better, better.found()) >= worse_turn


@given(cases, st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_is_held_before_the_ledger_is_read_obeys_the_same_rules(case: Case, has_cheaper: bool) -> None:  # noqa: FBT001
    """It is refused where it might not; what the ledger then admits is within the cap and a part of what is left."""
    first = first_offer(case.asked, case.who, case.thrift, has_cheaper=has_cheaper)
    amount, least = first.quote.amount_nanousd, smallest(case.asked, case.thrift)
    assert first.candidate is case.asked
    assert amount >= least
    made = reserve(case.now, Hold("new", amount, DAY, 0, 960, "x"), case.who.limits, first.ceilings)
    if isinstance(made, No):
        return
    assert amount <= case.cap
    assert amount == 0 or amount <= case.room
    assert amount in (0, least) or amount <= case.thrift.fraction * case.room
    if has_cheaper and amount > 0:
        limits, at = case.who.limits, case.who.rules.degrade_at
        assert case.spent < limits.day_nanousd * at
        assert case.spent < limits.month_nanousd * at


@given(cases)
@settings(max_examples=100, deadline=None)
def test_a_free_model_is_offered_as_asked_whatever_is_left(case: Case) -> None:
    free = candidate("free", tokens=64_000, rate=0)
    assert held(offer(free, (), case.who, DAY, case.now, case.thrift)) == ("free", 64_000)
    first = first_offer(free, case.who, case.thrift, has_cheaper=False)
    assert isinstance(reserve(case.now, Hold("new", 0, DAY, 0, 960, "x"), case.who.limits, first.ceilings), Ledger)
