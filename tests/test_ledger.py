"""The books of one tenant's month: whatever comes in whatever order, they stay true."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.ledger import (
    MONTH,
    Ceilings,
    Estimate,
    Hold,
    Ledger,
    Limits,
    No,
    Shortage,
    correct,
    expired,
    lower,
    note,
    reserve,
    retry_after_s,
    settle,
    shortage,
    swap,
)

LIMITS = Limits(day_nanousd=100, month_nanousd=150, version=1)


def hold(amount: int, day: int = 1, id_: str = "a", at: int = 1000) -> Hold:
    return Hold(id_, amount, day, admitted_at=at, expires_at=at + 960, model="acme/m1")


def made(*holds: Hold, ledger: Ledger | None = None, limits: Limits = LIMITS) -> Ledger:
    """The ledger with holds made, each of which must fit."""
    books = Ledger() if ledger is None else ledger
    for each in holds:
        after = reserve(books, each, limits)
        assert isinstance(after, Ledger)
        books = after
    return books


# Any sequence of messages, against books kept the slow way.


@dataclass(frozen=True)
class Step:
    """A message: a new hold, also in the place of an old one, the end of an old one, or limits that change."""

    kind: str
    which: int
    amount: int
    day: int
    repeats: int


@dataclass
class Books:
    """Every entry that was ever made, summed anew for each question."""

    made: dict[str, Hold] = field(default_factory=dict)
    costs: dict[str, int] = field(default_factory=dict)

    def committed(self, day: int | None = None) -> int:
        entries = [self.costs.get(each.id, each.amount_nanousd) for each in self._of(day)]
        return sum(entries)

    def held(self, day: int | None = None) -> int:
        return sum(each.amount_nanousd for each in self._of(day) if each.id not in self.costs)

    def has_room(self, day: int, more: int, limits: Limits) -> bool:
        return more <= 0 or (
            self.committed(day) + more <= limits.day_nanousd and self.committed() + more <= limits.month_nanousd
        )

    def _of(self, day: int | None) -> list[Hold]:
        return [each for each in self.made.values() if day in (None, each.day)]


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["hold", "hold", "swap", "settle", "limits"]),
        which=st.integers(0, 20),
        amount=st.integers(0, 80),
        day=st.integers(1, 3),
        repeats=st.integers(1, 3),
    ),
    max_size=25,
)


def agrees(ledger: Ledger, books: Books) -> None:
    assert ledger.committed_nanousd == books.committed()
    assert ledger.held_nanousd == books.held()
    assert ledger.spent_nanousd == sum(books.costs.values())
    for day in range(1, 5):
        assert ledger.committed_on(day) == books.committed(day)
        assert ledger.held_on(day) == books.held(day)
        assert ledger.spent_on(day) == books.committed(day) - books.held(day)
    assert set(ledger.holds) == books.made.keys() - books.costs.keys()


def reserved(ledger: Ledger, books: Books, new: Hold, limits: Limits, repeats: int) -> Ledger:
    fits = books.has_room(new.day, new.amount_nanousd, limits)
    for _ in range(repeats):
        after = reserve(ledger, new, limits)
        ledger = after if isinstance(after, Ledger) else ledger
    assert isinstance(after, Ledger) is fits
    if fits:
        books.made[new.id] = new
    return ledger


def swapped(ledger: Ledger, books: Books, old: Hold, new: Hold, limits: Limits, repeats: int) -> Ledger:
    fits = old.id not in books.costs and books.has_room(old.day, new.amount_nanousd - old.amount_nanousd, limits)
    for _ in range(repeats):
        after = swap(ledger, old, new, limits)
        ledger = after if isinstance(after, Ledger) else ledger
    assert isinstance(after, Ledger) is fits
    if fits:
        books.costs[old.id] = 0
        books.made[new.id] = new
    return ledger


def settled(ledger: Ledger, books: Books, ended: Hold, cost: int, repeats: int) -> Ledger:
    for _ in range(repeats):
        ledger = settle(ledger, ended, cost)
    books.costs.setdefault(ended.id, cost)
    return ledger


@given(steps)
@settings(max_examples=400, deadline=None)
def test_after_any_messages_the_books_are_true_and_no_admission_passed_a_limit(messages: list[Step]) -> None:
    ledger, books, limits = Ledger(), Books(), LIMITS
    for number, step in enumerate(messages):
        before, name = ledger, f"h{number}"
        if step.kind == "limits":
            limits = Limits(step.amount * 2, step.amount * 3, limits.version + 1)
        elif step.kind == "hold":
            ledger = reserved(ledger, books, hold(step.amount, step.day, id_=name), limits, step.repeats)
        elif books.made:
            old = list(books.made.values())[step.which % len(books.made)]
            if step.kind == "swap":
                new = hold(step.amount, old.day, id_=name)
                ledger = swapped(ledger, books, old, new, limits, step.repeats)
            else:
                ledger = settled(ledger, books, old, min(step.amount, old.amount_nanousd), step.repeats)
        assert ledger.spent_nanousd >= before.spent_nanousd
        agrees(ledger, books)


# Reserve.


def test_day_and_month_are_charged_together() -> None:
    ledger = made(hold(60, day=1, id_="a"), hold(70, day=2, id_="b"))
    assert (ledger.committed_nanousd, ledger.committed_by_day) == (130, {1: 60, 2: 70})


@pytest.mark.parametrize(
    ("amount", "day", "fits"),
    [(40, 1, True), (41, 1, False), (90, 2, True), (91, 2, False), (0, 1, True)],
    ids=["fills-the-day", "above-the-day", "fills-the-month", "above-the-month", "nothing"],
)
def test_a_hold_must_fit_into_the_day_and_into_the_month(amount: int, day: int, fits: bool) -> None:  # noqa: FBT001 - a table's column
    before = made(hold(60, day=1))
    after = reserve(before, hold(amount, day, id_="b"), LIMITS)
    assert isinstance(after, Ledger) if fits else after is No.NO_ROOM


def test_a_hold_of_nothing_fits_into_a_window_that_is_spent_or_overrun() -> None:
    overrun = settle(made(hold(100)), hold(100), 500)
    assert overrun.room_nanousd(1, LIMITS) < 0
    assert isinstance(reserve(overrun, hold(0, id_="free"), LIMITS), Ledger)
    assert reserve(overrun, hold(1, id_="paid"), LIMITS) is No.NO_ROOM


def test_a_hold_that_is_repeated_is_the_same_hold_even_when_there_is_no_more_room() -> None:
    full = made(hold(100))
    assert reserve(full, hold(100), LIMITS) == full
    assert reserve(full, hold(100), replace(LIMITS, version=0)) == full


def test_limits_that_are_older_than_the_ledgers_are_not_used() -> None:
    ledger = made(hold(1), limits=replace(LIMITS, version=5))
    assert reserve(ledger, hold(1, id_="b"), replace(LIMITS, version=4)) is No.STALE_LIMITS
    assert made(hold(1, id_="b"), ledger=ledger, limits=replace(LIMITS, version=6)).version == 6


def test_a_refusal_leaves_the_ledger_as_it_was() -> None:
    before = made(hold(100))
    copy = replace(before, committed_by_day=dict(before.committed_by_day), holds=dict(before.holds))
    assert reserve(before, hold(1, id_="b"), LIMITS) is No.NO_ROOM
    assert before == copy


def test_a_step_makes_a_new_ledger_and_leaves_the_old_one() -> None:
    empty = Ledger()
    one = made(hold(10), ledger=empty)
    settle(one, hold(10), 5)
    assert empty == Ledger()
    assert one.holds == {"a": hold(10)}
    assert one.committed_by_day == {1: 10}


@pytest.mark.parametrize(
    ("day", "month", "fits"),
    [(60, 60, True), (59, 60, False), (60, 59, False), (-1, -1, False), (10**9, 10**9, True)],
    ids=["just-at-both", "day-below", "month-below", "never", "far-above"],
)
def test_a_ceiling_is_the_most_that_may_be_committed_before(day: int, month: int, fits: bool) -> None:  # noqa: FBT001 - a table's column
    before = made(hold(60))
    after = reserve(before, hold(40, id_="b"), LIMITS, Ceilings(day, month))
    assert isinstance(after, Ledger) if fits else after is No.NO_ROOM


def test_ceilings_never_make_room_that_the_limits_do_not_have() -> None:
    assert reserve(made(hold(60)), hold(41, id_="b"), LIMITS, Ceilings(10**9, 10**9)) is No.NO_ROOM


def test_a_hold_of_nothing_passes_every_ceiling() -> None:
    assert isinstance(reserve(Ledger(), hold(0), LIMITS, Ceilings(-1, -1)), Ledger)


def test_the_lower_of_two_ceilings_is_taken_window_by_window() -> None:
    assert lower(Ceilings(1, 5), Ceilings(3, 2)) == Ceilings(1, 2)
    assert lower(Ceilings(1, 5), None) == Ceilings(1, 5)
    assert LIMITS.ceilings(30) == Ceilings(70, 120)


def test_as_many_calls_as_may_be_are_in_flight_and_free_ones_count() -> None:
    two = replace(LIMITS, in_flight=2)
    full = made(hold(1, id_="a"), hold(0, id_="b"), limits=two)
    assert reserve(full, hold(0, id_="c"), two) is No.TOO_MANY
    assert reserve(full, hold(1, id_="a"), two) == full
    assert isinstance(reserve(settle(full, hold(1, id_="a"), 1), hold(1, id_="c"), two), Ledger)


def test_a_call_that_finds_neither_room_nor_a_place_is_told_of_the_room() -> None:
    full = made(hold(100))
    assert reserve(full, hold(1, id_="b"), replace(LIMITS, in_flight=1)) is No.NO_ROOM


# Swap.


@pytest.mark.parametrize(("amount", "fits"), [(0, True), (59, True), (60, True), (100, True), (101, False)], ids=str)
def test_one_hold_takes_the_place_of_another_if_the_difference_fits(amount: int, fits: bool) -> None:  # noqa: FBT001 - a table's column
    old, new = hold(60), hold(amount, id_="a-2")
    before = made(old)
    after = swap(before, old, new, LIMITS)
    if fits:
        assert after == Ledger(amount, {1: amount}, {"a-2": new}, 1)
    else:
        assert after is No.NO_ROOM
        assert before == made(old)


def test_a_swap_needs_no_place_among_the_calls_in_flight() -> None:
    assert isinstance(swap(made(hold(10)), hold(10), hold(20, id_="a-2"), replace(LIMITS, in_flight=1)), Ledger)


def test_a_swap_for_less_or_as_much_passes_also_where_nothing_is_left() -> None:
    lowered = replace(LIMITS, day_nanousd=5, month_nanousd=5)
    for amount, fits in ((59, True), (60, True), (61, False)):
        after = swap(made(hold(60)), hold(60), hold(amount, id_="a-2"), lowered)
        assert isinstance(after, Ledger) is fits


def test_a_hold_that_has_ended_is_not_swapped_and_one_that_was_swapped_is_not_settled() -> None:
    old, new = hold(60), hold(50, id_="a-2")
    assert swap(settle(made(old), old, 7), old, new, LIMITS) is No.NO_ROOM
    swapped = swap(made(old), old, new, LIMITS)
    assert isinstance(swapped, Ledger)
    assert settle(swapped, old, 60) is swapped
    assert swap(swapped, old, new, LIMITS) is swapped
    assert swap(settle(swapped, new, 7), old, new, LIMITS) is No.NO_ROOM


def test_a_swap_by_limits_that_are_older_than_the_ledgers_is_not_made() -> None:
    ledger = made(hold(60), limits=replace(LIMITS, version=5))
    assert swap(ledger, hold(60), hold(1, id_="a-2"), replace(LIMITS, version=4)) is No.STALE_LIMITS
    assert swap(ledger, hold(60), hold(1, id_="a-2"), replace(LIMITS, version=6)) == Ledger(
        1, {1: 1}, {"a-2": hold(1, id_="a-2")}, 6
    )


def test_marks_of_budget_states_outlive_every_step() -> None:
    states = {MONTH: "warned@1", "1": "degraded@1"}
    ledger: Ledger | No = reserve(Ledger(states=states), hold(60), LIMITS)
    assert isinstance(ledger, Ledger)
    swapped = swap(ledger, hold(60), hold(50, id_="a-2"), LIMITS)
    assert isinstance(swapped, Ledger)
    assert settle(swapped, hold(50, id_="a-2"), 5).states == states


def test_what_is_spent_in_a_window_is_found_by_its_name() -> None:
    ledger = books({1: 10, 12: 20}, {1: 5})
    assert [ledger.spent_in(window) for window in (MONTH, "1", "12", "2")] == [30, 10, 20, 0]


# Settle.


@pytest.mark.parametrize("cost", [0, 7, 10, 25], ids=["released", "spent", "spent-in-full", "overrun"])
def test_a_hold_ends_at_its_cost_whatever_it_is(cost: int) -> None:
    ended = settle(made(hold(10)), hold(10), cost)
    assert (ended.spent_nanousd, ended.held_nanousd, ended.holds) == (cost, 0, {})
    assert ended.committed_by_day == {1: cost}


def test_a_hold_ends_once() -> None:
    ended = settle(made(hold(10)), hold(10), 4)
    assert settle(ended, hold(10), 9) is ended
    assert settle(Ledger(), hold(10), 9) == Ledger()


def test_a_call_over_midnight_is_booked_on_the_day_that_admitted_it() -> None:
    evening, morning = hold(30, day=1, id_="evening"), hold(30, day=2, id_="morning")
    ledger = settle(settle(made(evening, morning), morning, 5), evening, 20)
    assert (ledger.spent_on(1), ledger.spent_on(2), ledger.spent_nanousd) == (20, 5, 25)
    assert ledger.committed_by_day == {1: 20, 2: 5}


# Estimates, and what is known of a call under way.


def test_an_estimate_is_noted_beside_the_books_and_any_other_cost_is_not() -> None:
    ledger = made(hold(10, day=1, id_="a"), hold(20, day=2, id_="b"))
    ledger = settle(settle(ledger, hold(10, day=1, id_="a"), 10, is_estimated=True), hold(20, day=2, id_="b"), 20)
    assert ledger.estimates == {"a": Estimate(10, 1)}
    assert (ledger.spent_nanousd, ledger.held_nanousd) == (30, 0)
    assert settle(ledger, hold(20, day=2, id_="b"), 20, is_estimated=True) is ledger


@given(estimate=st.integers(0, 100), truth=st.none() | st.integers(0, 300), again=st.none() | st.integers(0, 300))
def test_an_estimate_is_corrected_once_in_the_day_that_admitted_it(
    estimate: int, truth: int | None, again: int | None
) -> None:
    before = settle(made(hold(50, day=2, id_="b")), hold(50, day=2, id_="b"), 40)
    ledger = made(hold(estimate, day=1), ledger=before)
    ledger = correct(settle(ledger, hold(estimate, day=1), estimate, is_estimated=True), "a", truth)
    cost = estimate if truth is None else truth
    assert (ledger.spent_on(1), ledger.spent_on(2), ledger.spent_nanousd) == (cost, 40, cost + 40)
    assert ledger.estimates == {}
    assert correct(ledger, "a", again) is ledger


def test_what_was_never_estimated_is_not_corrected() -> None:
    ledger = made(hold(10))
    assert correct(ledger, "a", 5) is ledger
    assert correct(settle(ledger, hold(10), 7), "a", 5).spent_nanousd == 7


def test_an_id_is_noted_in_a_hold_that_is_there_and_moves_no_money() -> None:
    ledger = made(hold(10), hold(20, id_="b"))
    noted = note(ledger, "a", "gen-1")
    assert noted == replace(ledger, holds={**ledger.holds, "a": replace(hold(10), generation_id="gen-1")})
    assert note(noted, "c", "gen-2") is noted
    assert settle(noted, hold(10), 4) == settle(ledger, hold(10), 4)


def test_holds_are_expired_from_their_last_second_on_oldest_first() -> None:
    ledger = made(hold(1, id_="c", at=1002), hold(1, id_="b", at=1001), hold(1, id_="a", at=1000))
    seen = [[each.id for each in expired(ledger, now)] for now in (1959, 1960, 1961, 1962)]
    assert seen == [[], ["a"], ["a", "b"], ["a", "b", "c"]]


def test_room_is_what_both_windows_leave() -> None:
    ledger = made(hold(60, day=1))
    assert (ledger.room_nanousd(1, LIMITS), ledger.room_nanousd(2, LIMITS)) == (40, 90)
    assert ledger.room_nanousd(1, replace(LIMITS, day_nanousd=50)) == -10


# What a refusal says.


def books(spent: Mapping[int, int], held: Mapping[int, int]) -> Ledger:
    """A ledger with money spent and held on days."""
    roomy = Limits(10**9, 10**9, version=1)
    ledger = Ledger()
    for day, amount in spent.items():
        each = hold(amount, day, id_=f"spent-{day}")
        ledger = settle(made(each, ledger=ledger, limits=roomy), each, amount)
    return made(*(hold(amount, day, id_=f"held-{day}") for day, amount in held.items()), ledger=ledger, limits=roomy)


@pytest.mark.parametrize(
    ("spent", "held", "window", "is_held"),
    [
        pytest.param({1: 100}, {}, "day", False, id="day-spent"),
        pytest.param({2: 145}, {}, "month", False, id="month-spent"),
        pytest.param({1: 100, 2: 50}, {}, "month", False, id="both-spent"),
        pytest.param({1: 10}, {1: 85}, "day", True, id="day-held"),
        pytest.param({2: 10}, {2: 135}, "month", True, id="month-held"),
        pytest.param({1: 100}, {2: 45}, "day", False, id="day-spent-month-held"),
        pytest.param({2: 145}, {1: 1}, "month", False, id="month-spent-day-open"),
        pytest.param({}, {1: 95, 2: 50}, "month", True, id="both-held-month-as-tight"),
        pytest.param({}, {1: 97, 2: 48}, "day", True, id="both-held-day-tighter"),
        pytest.param({1: 90}, {1: 1}, "day", True, id="just-fits-once-the-call-has-ended"),
        pytest.param({1: 91}, {1: 1}, "day", False, id="just-does-not-fit-even-then"),
    ],
)
def test_a_refusal_names_the_window_that_is_short(
    spent: Mapping[int, int],
    held: Mapping[int, int],
    window: str,
    is_held: bool,  # noqa: FBT001 - a table's column
) -> None:
    ledger = books(spent, held)
    said = shortage(ledger, 1, LIMITS, needed_nanousd=10)
    assert (said.window, said.is_held) == (window, is_held)
    assert said == (
        Shortage("day", 100, ledger.spent_on(1), ledger.held_on(1), is_held)
        if window == "day"
        else Shortage("month", 150, ledger.spent_nanousd, ledger.held_nanousd, is_held)
    )


amounts_by_day = st.dictionaries(st.integers(1, 3), st.integers(1, 120), max_size=3)


@given(amounts_by_day, amounts_by_day, st.integers(1, 100))
@settings(max_examples=400, deadline=None)
def test_the_window_that_is_named_is_one_that_the_hold_does_not_fit_into(
    spent: dict[int, int], held: dict[int, int], needed: int
) -> None:
    ledger = books(spent, held)
    if isinstance(reserve(ledger, hold(needed, 1, id_="new"), LIMITS), Ledger):
        return
    said = shortage(ledger, 1, LIMITS, needed)
    assert said.spent_nanousd + said.held_nanousd + needed > said.limit_nanousd
    assert said.is_held is (said.spent_nanousd + needed <= said.limit_nanousd)
    fits_once_all_have_ended = (
        ledger.spent_on(1) + needed <= LIMITS.day_nanousd and ledger.spent_nanousd + needed <= LIMITS.month_nanousd
    )
    assert said.is_held is fits_once_all_have_ended


@pytest.mark.parametrize(
    ("admitted_at", "wait"),
    [([], 1), ([100], 1), ([98], 2), ([95, 90], 10), ([99, 93, 50], 7), ([0], 30), ([200], 1)],
    ids=["no-hold", "just-now", "two-seconds", "the-older-of-two", "the-middle", "at-most-30", "a-clock-ahead"],
)
def test_a_client_waits_as_long_again_as_the_median_call_has_run(admitted_at: list[int], wait: int) -> None:
    holds = [hold(1, id_=str(number), at=at) for number, at in enumerate(admitted_at)]
    assert retry_after_s(made(*holds), now=100) == wait
