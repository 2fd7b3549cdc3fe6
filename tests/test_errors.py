"""Every refusal has a status, a reason of its own, and a place in the drawn tree."""

import inspect
import re
from http import HTTPStatus

import pytest

from farebox import errors
from farebox.errors import BudgetExhausted, BudgetHeld, CatalogueUnavailable, Malformed, Refusal, StoreUnavailable

REFUSALS = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, Refusal) and found is not Refusal
]
OUTAGES = {StoreUnavailable: 503, CatalogueUnavailable: 502}
DRAWN = {
    name: (int(status), reason)
    for name, status, reason in re.findall(r"[├└]── (\w+) +(\d{3}) +(\w+)", errors.__doc__ or "")
}


def test_the_drawn_tree_is_the_real_one() -> None:
    assert {refusal.__name__: (refusal.status, refusal.reason) for refusal in REFUSALS} == DRAWN


def test_no_two_refusals_have_the_same_reason() -> None:
    reasons = [refusal.reason for refusal in REFUSALS]
    assert sorted(set(reasons)) == sorted(reasons)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.__name__)
def test_a_decision_of_ours_is_a_4xx_and_only_an_outage_is_a_5xx(refusal: type[Refusal]) -> None:
    HTTPStatus(refusal.status)
    if refusal in OUTAGES:
        assert refusal.status == OUTAGES[refusal]
    else:
        assert 400 <= refusal.status < 500


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.__name__)
def test_every_refusal_says_in_one_sentence_what_it_is(refusal: type[Refusal]) -> None:
    assert refusal.__doc__
    assert refusal.__doc__ != Refusal.__doc__
    assert refusal.__doc__.count("\n") == 0
    assert refusal.type.endswith(("_error", "_quota"))


def test_a_spent_window_and_a_held_one_are_told_apart_by_reason_and_type() -> None:
    assert BudgetExhausted.status == BudgetHeld.status == 429
    assert BudgetExhausted.reason != BudgetHeld.reason
    assert BudgetExhausted.type != BudgetHeld.type


def test_a_refusal_carries_its_sentence_facts_and_headers() -> None:
    refusal = BudgetHeld("the day is held", facts={"limit_usd": 1.0}, headers={"Retry-After": "3"})
    assert str(refusal) == refusal.message == "the day is held"
    assert refusal.facts == {"limit_usd": 1.0}
    assert refusal.headers == {"Retry-After": "3"}


def test_facts_and_headers_are_the_refusals_own() -> None:
    facts: dict[str, errors.Fact] = {"field": "n"}
    refusal = Malformed("n", facts=facts)
    facts["field"] = "changed"
    assert refusal.facts == {"field": "n"}
    assert Malformed("x").facts == {}
    assert Malformed("x").headers == {}
