"""Budget states as a table: what is spent of a window decides, each change is told of once, and nothing goes back."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.ledger import MONTH, Hold, Ledger, Limits, No, reserve, settle
from farebox.reminders import KEPT_DAYS
from farebox.rules import Downgrade, Rules
from farebox.states import ORDER, Change, State, changes, is_degraded, shown, state
from farebox.tenants import Tenant

PERIOD, DAY = "2026-11", 23
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DOWN = Rules(downgrades=(Downgrade(("dear",), "cheap"),))
ACTIVE, WARNED, DEGRADED, STOPPED = State


def tenant(day: int, month: int | None = None, *, version: int = 1, rules: Rules = DOWN) -> Tenant:
    """With a month ten times the day, unless said."""
    return Tenant("acme", Limits(day, day * 10 if month is None else month, version), rules=rules)


def spent(amount: int, **states: str) -> Ledger:
    """Spent today; the states that were told of are given as day= and month=."""
    names = {"month": MONTH, "day": str(DAY)}
    return Ledger(amount, {DAY: amount}, {}, 1, {names[name]: mark for name, mark in states.items()})


def seen(who: Tenant, ledger: Ledger, refused: str | None = None) -> list[tuple[str, State, State]]:
    return [
        (each.window, each.old, each.new) for each in changes(who, PERIOD, DAY, ledger, refused=refused)
    ]  # fmt: skip


def marked(ledger: Ledger, *told: Change) -> Ledger:
    return replace(ledger, states={**ledger.states, **{change.window: change.mark for change in told}})


def told(who: Tenant, ledger: Ledger, refused: str | None = None) -> Ledger:
    """The ledger after everything was told."""
    return marked(ledger, *changes(who, PERIOD, DAY, ledger, refused=refused))


# The table.


@pytest.mark.parametrize(
    ("amount", "with_rules", "without"),
    [
        (0, ACTIVE, ACTIVE),
        (799, ACTIVE, ACTIVE),
        (800, WARNED, WARNED),
        (899, WARNED, WARNED),
        (900, DEGRADED, WARNED),
        (999, DEGRADED, WARNED),
        (1000, STOPPED, STOPPED),
        (5000, STOPPED, STOPPED),
    ],
)
def test_a_state_begins_exactly_at_its_threshold(amount: int, with_rules: State, without: State) -> None:
    assert state(tenant(1000), amount, 1000) is with_rules
    assert state(tenant(1000, rules=Rules()), amount, 1000) is without


@pytest.mark.parametrize("limit", [1, 3, 7, 999, 10**16 + 7])
def test_a_threshold_between_two_nanodollars_is_passed_by_the_upper_one(limit: int) -> None:
    rules = replace(DOWN, warn_at=Decimal("0.7"), degrade_at=Decimal("0.85"))
    for at, begun in ((70, WARNED), (85, DEGRADED), (100, STOPPED)):
        least = -(-limit * at // 100)
        assert ORDER.index(state(tenant(limit, rules=rules), least, limit)) >= ORDER.index(begun)
        assert ORDER.index(state(tenant(limit, rules=rules), least - 1, limit)) < ORDER.index(begun)


def test_a_threshold_of_one_is_passed_by_stopping_only() -> None:
    rules = replace(DOWN, warn_at=Decimal(1), degrade_at=Decimal(1))
    assert [state(tenant(10, rules=rules), amount, 10) for amount in (9, 10)] == [ACTIVE, STOPPED]


@pytest.mark.parametrize("rules", [Rules(), DOWN], ids=["without-rules", "with-rules"])
def test_a_window_of_nothing_is_stopped_from_the_beginning(rules: Rules) -> None:
    who = tenant(0, 1000, rules=rules)
    assert state(who, 0, 0) is STOPPED
    assert seen(who, Ledger()) == [("23", ACTIVE, STOPPED)]
    assert seen(who, told(who, Ledger())) == []


def test_money_that_is_only_held_says_nothing() -> None:
    who = tenant(1000)
    held = reserve(Ledger(), Hold("a", 1000, DAY, 0, 960, "dear"), who.limits)
    assert isinstance(held, Ledger)
    assert seen(who, held) == []
    assert shown(who, held, DAY) is ACTIVE
    assert seen(who, settle(held, held.holds["a"], 900)) == [("23", ACTIVE, DEGRADED)]


# Two windows.


def test_day_and_month_are_told_of_each_for_itself_the_month_first() -> None:
    who = tenant(1000, 1000)
    assert seen(who, spent(900)) == [(MONTH, ACTIVE, DEGRADED), ("23", ACTIVE, DEGRADED)]
    assert seen(who, spent(900, month="degraded@1")) == [("23", ACTIVE, DEGRADED)]
    assert seen(who, spent(900, day="degraded@1")) == [(MONTH, ACTIVE, DEGRADED)]
    assert seen(who, spent(900, day="degraded@1", month="degraded@1")) == []


def test_what_another_day_has_spent_counts_for_the_month_only() -> None:
    ledger = Ledger(950, {1: 950}, {}, 1)
    assert seen(tenant(1000, 1000), ledger) == [(MONTH, ACTIVE, DEGRADED)]


@pytest.mark.parametrize(
    ("day", "month", "fuller"),
    [(1000, 1000, WARNED), (1000, 850, DEGRADED), (850, 1000, DEGRADED), (800, 10**6, STOPPED), (10**6, 800, STOPPED)],
)
def test_the_fuller_window_is_shown_and_downgrades(day: int, month: int, fuller: State) -> None:
    who = tenant(day, month)
    assert shown(who, spent(800), DAY) is fuller
    assert is_degraded(who, spent(800), DAY) is (fuller in (DEGRADED, STOPPED))


# Stopped before the last nano-dollar.


@pytest.mark.parametrize("rules", [Rules(), DOWN], ids=["without-rules", "with-rules"])
@pytest.mark.parametrize(("amount", "stops"), [(0, False), (899, False), (900, True), (999, True), (1000, True)])
def test_a_refusal_for_money_stops_a_window_from_the_soft_cap_on(
    amount: int,
    stops: bool,  # noqa: FBT001 - a table's column
    rules: Rules,
) -> None:
    who = tenant(1000, rules=rules)
    after = told(who, spent(amount), refused="day")
    assert (shown(who, after, DAY) is STOPPED) is stops
    assert [window for window, _, new in seen(who, spent(amount), "day") if new is STOPPED] == ["23"] * stops


def test_a_refusal_stops_the_window_that_was_short_and_not_the_other() -> None:
    who = tenant(1000, 1000)
    assert seen(who, spent(950), "month") == [(MONTH, ACTIVE, STOPPED), ("23", ACTIVE, DEGRADED)]
    assert seen(who, spent(950), "day") == [(MONTH, ACTIVE, DEGRADED), ("23", ACTIVE, STOPPED)]


def test_a_window_that_was_stopped_early_stays_so_also_when_a_smaller_call_fits() -> None:
    who = tenant(1000)
    stopped = told(who, spent(900), refused="day")
    later = replace(stopped, committed_nanousd=950, committed_by_day={DAY: 950})
    assert seen(who, later) == []
    assert seen(who, later, "day") == []
    assert shown(who, later, DAY) is STOPPED
    assert seen(who, replace(later, committed_nanousd=1000, committed_by_day={DAY: 1000})) == []


# Limits that change.


@pytest.mark.parametrize(
    ("limit", "new"),
    [(950, STOPPED), (1000, DEGRADED), (1100, WARNED), (5000, ACTIVE), (1, STOPPED), (0, STOPPED)],
)
def test_other_limits_begin_anew_by_what_is_spent_also_after_an_early_stop(limit: int, new: State) -> None:
    stopped = told(tenant(1000), spent(950), refused="day")
    changed = tenant(limit, 10_000, version=2)
    assert seen(changed, stopped) == ([] if new is STOPPED else [("23", STOPPED, new)])
    assert shown(changed, stopped, DAY) is new


def test_a_lowered_limit_is_told_of_with_the_new_limit() -> None:
    warned = told(tenant(1000), spent(850))
    (change,) = changes(tenant(850, 10_000, version=2), PERIOD, DAY, warned)
    assert (change.old, change.new, change.limit_nanousd, change.version) == (WARNED, STOPPED, 850, 2)


def test_the_same_state_under_other_limits_is_not_told_of_again() -> None:
    assert seen(tenant(1001, 10_000, version=2), told(tenant(1000), spent(850))) == []


def test_a_state_that_is_entered_again_under_other_limits_is_another_event() -> None:
    low, high = tenant(1000), tenant(2000, version=2)
    (first,) = changes(low, PERIOD, DAY, spent(850))
    (raised,) = changes(high, PERIOD, DAY, marked(spent(850), first))
    (again,) = changes(high, PERIOD, DAY, marked(spent(1700), first, raised))
    assert [each.new for each in (first, raised, again)] == [WARNED, ACTIVE, WARNED]
    assert len({each.key for each in (first, raised, again)}) == 3


def test_who_knows_older_limits_than_the_ledger_tells_nothing_of_them() -> None:
    """A call that was admitted before the limits were raised, and ends after others have used the new ones."""
    raised = replace(spent(1000, day="active@2"), version=2)
    assert seen(tenant(1000, version=1), raised) == []
    assert seen(tenant(1000, version=1), replace(spent(1000), version=2)) == []
    assert seen(tenant(1000, version=2), raised) == [("23", ACTIVE, STOPPED)]


def test_limits_that_the_settings_raise_begin_anew_too() -> None:
    stopped = told(tenant(1000, version=0), replace(spent(1000), version=0))
    raised = tenant(5000, version=0)
    assert shown(raised, stopped, DAY) is ACTIVE
    assert {change.key for change in changes(tenant(1000, version=0), PERIOD, DAY, spent(1000))}.isdisjoint(
        change.key
        for change in changes(raised, PERIOD, DAY, replace(spent(5000), version=0, states={"23": "active@0"}))
    )


# What is kept.


def test_an_event_says_who_which_window_from_what_to_what_how_much_and_when() -> None:
    month, day = changes(tenant(1000, 1200), PERIOD, DAY, spent(1000))
    common = {
        "tenant": "acme",
        "from": "active",
        "spent_nanousd": 1000,
        "version": 1,
        "at": "2026-11-23T12:00:00Z",
        "ttl": int(NOW.timestamp()) + KEPT_DAYS * 86_400,
    }
    assert day.event(NOW) == {
        **common,
        "window": "day",
        "period": "2026-11-23",
        "to": "stopped",
        "limit_nanousd": 1000,
    }
    assert month.event(NOW) == {
        **common,
        "window": "month",
        "period": "2026-11",
        "to": "warned",
        "limit_nanousd": 1200,
    }


def test_a_day_of_one_digit_has_two_in_the_period() -> None:
    (change,) = changes(tenant(1000), PERIOD, 3, Ledger(1000, {3: 1000}, {}, 1))
    assert (change.window, change.period) == ("3", "2026-11-03")


def test_no_two_changes_have_the_same_key() -> None:
    keys = {
        change.key
        for name in ("acme", "zebra")
        for version in (1, 11)
        for amount in (800, 900, 1000)
        for day in (1, 11)
        for change in changes(
            replace(tenant(1000, 1000, version=version), name=name), PERIOD, day, Ledger(amount, {day: amount}, {}, 1)
        )
    }
    assert len(keys) == 2 * 2 * 3 * 3  # of the two days the month is the same


# Any sequence.

moves = st.lists(st.tuples(st.sampled_from(["spend", "spend", "refused"]), st.integers(0, 400)), max_size=20)


@given(moves, st.booleans(), st.integers(0, 1000), st.integers(0, 1500))
@settings(max_examples=300, deadline=None)
def test_under_the_same_limits_states_only_go_forward_and_each_is_entered_once(
    messages: list[tuple[str, int]],
    has_rules: bool,  # noqa: FBT001 - drawn
    day: int,
    month: int,
) -> None:
    who = tenant(day, month, rules=DOWN if has_rules else Rules())
    ledger, entered = Ledger(), list[str]()
    for number, (kind, amount) in enumerate(messages):
        before, refused = shown(who, ledger, DAY), None
        result = reserve(ledger, Hold(str(number), amount, DAY, 0, 960, "dear"), who.limits)
        if kind == "refused" or result is No.NO_ROOM:
            refused = "day" if number % 2 else "month"
        elif isinstance(result, Ledger):
            ledger = settle(result, result.holds[str(number)], amount)
        found = list(changes(who, PERIOD, DAY, ledger, refused=refused))
        assert all(ORDER.index(change.new) > ORDER.index(change.old) for change in found)
        entered += [change.key for change in found]
        ledger = marked(ledger, *found)
        assert list(changes(who, PERIOD, DAY, ledger)) == []
        assert ORDER.index(shown(who, ledger, DAY)) >= ORDER.index(before)
    assert len(set(entered)) == len(entered)
