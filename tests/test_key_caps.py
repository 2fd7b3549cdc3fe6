"""The cap of an API key: one more window, which only calls with that key fill."""

from dataclasses import replace

from farebox.ledger import (
    Ceilings,
    Hold,
    KeyCap,
    Ledger,
    Limits,
    No,
    Shortage,
    correct,
    lower,
    reserve,
    settle,
    shortage,
    swap,
)
from farebox.store import Store
from tests.conftest import connected, new_table

MONTH = "2026-11"
LIMITS = Limits(day_nanousd=100, month_nanousd=150, version=1)
CAPPED = replace(LIMITS, key_cap=KeyCap("k1", 50))


def hold(amount: int, *, id_: str = "a", key: str | None = "k1", day: int = 1) -> Hold:
    return Hold(id_, amount, day, admitted_at=1000, expires_at=1960, model="acme/m1", key=key)


def made(*holds: Hold, limits: Limits = CAPPED) -> Ledger:
    books = Ledger()
    for each in holds:
        after = reserve(books, each, limits)
        assert isinstance(after, Ledger)
        books = after
    return books


def test_a_key_is_held_to_its_cap_to_the_nanodollar_on_all_days_together() -> None:
    before = made(hold(30), hold(19, id_="b", day=2))
    assert reserve(before, hold(2, id_="c", day=3), CAPPED) is No.NO_ROOM
    assert isinstance(reserve(before, hold(1, id_="c", day=3), CAPPED), Ledger)


def test_other_keys_and_calls_without_one_do_not_fill_it() -> None:
    before = made(hold(40, id_="b", key="k2"), hold(40, id_="c", key=None, day=2), limits=LIMITS)
    assert before.committed_with("k1") == 0
    assert isinstance(reserve(before, hold(50), CAPPED), Ledger)


def test_what_a_key_has_spent_counts_also_while_it_has_no_cap() -> None:
    spent = settle(made(hold(45), limits=LIMITS), hold(45), 45)
    assert reserve(spent, hold(6, id_="b"), CAPPED) is No.NO_ROOM


def test_the_tenants_windows_bind_whatever_a_key_may_spend() -> None:
    wide = replace(LIMITS, key_cap=KeyCap("k1", 10**9))
    assert reserve(Ledger(), hold(101), wide) is No.NO_ROOM


def test_a_settlement_a_swap_and_a_correction_move_the_keys_month_as_the_tenants() -> None:
    swapped = swap(made(hold(30)), hold(30), hold(40, id_="b"), CAPPED)
    assert isinstance(swapped, Ledger)
    assert (swapped.committed_with("k1"), swapped.held_with("k1"), swapped.spent_with("k1")) == (40, 40, 0)
    estimated = settle(swapped, hold(40, id_="b"), 40, is_estimated=True)
    assert (estimated.held_with("k1"), estimated.spent_with("k1")) == (0, 40)
    corrected = correct(estimated, "b", 7)
    assert (corrected.spent_with("k1"), corrected.spent_nanousd, corrected.spent_on(1)) == (7, 7, 7)


def test_a_swap_above_the_cap_is_refused_and_changes_nothing() -> None:
    assert swap(made(hold(30)), hold(30), hold(51, id_="b"), CAPPED) is No.NO_ROOM


def test_a_lowered_cap_leaves_less_than_nothing() -> None:
    assert made(hold(40)).room_nanousd(1, replace(CAPPED, key_cap=KeyCap("k1", 10))) == -30


def test_the_lower_ceiling_of_a_key_counts_and_none_is_no_ceiling() -> None:
    assert lower(Ceilings(5, 5, 3), Ceilings(5, 5, 2)).key_nanousd == 2
    assert lower(Ceilings(5, 5, None), Ceilings(5, 5, 2)).key_nanousd == 2
    assert lower(Ceilings(5, 5, 3), Ceilings(5, 5)).key_nanousd == 3
    assert CAPPED.least_nanousd == 50
    assert LIMITS.least_nanousd == 100


def test_a_refusal_names_the_key_only_where_the_tenant_has_enough() -> None:
    held = made(hold(45))
    assert shortage(held, 1, CAPPED, 10) == Shortage("key", 50, 0, 45, is_held=True)
    spent = settle(held, hold(45), 45)
    assert shortage(spent, 1, CAPPED, 10) == Shortage("key", 50, 45, 0, is_held=False)
    assert shortage(spent, 1, CAPPED, 60).window == "day"


def test_the_table_keeps_a_keys_month_through_every_step(store_url: str) -> None:
    store = Store(connected(store_url), new_table(store_url))
    store.reserve("acme", MONTH, hold(30), CAPPED)
    assert store.ledger("acme", MONTH) == made(hold(30))
    store.swap("acme", MONTH, hold(30), hold(40, id_="b"), CAPPED)
    refused = store.reserve("acme", MONTH, hold(11, id_="c"), CAPPED)
    assert not isinstance(refused, Ledger)
    assert refused.why is No.NO_ROOM
    store.settle("acme", MONTH, hold(40, id_="b"), 40, is_estimated=True)
    store.correct("acme", MONTH, "b", 7)
    store.book("acme", MONTH, hold(5, id_="d"), 5)
    ledger = store.ledger("acme", MONTH)
    assert (ledger.spent_with("k1"), ledger.spent_nanousd, ledger.committed_by_key) == (12, 12, {"k1": 12})
