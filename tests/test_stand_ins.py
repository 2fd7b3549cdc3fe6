"""What stands in for a model: cheaper ones by the tenant's rules, and the chain for when it fails."""

from typing import Any

import pytest

from farebox.candidates import Candidate, Dropped, cheaper, fallbacks
from farebox.rates import PricedModel
from farebox.rules import Downgrade, Rules
from tests.catalogue_rows import M1, M2, SHOP, SMALL, Shop, asked, found, named


def names_of(results: list[Candidate | Dropped]) -> list[tuple[str, str]]:
    return [(each.name, each.refusal.message if isinstance(each, Dropped) else "") for each in results]


def downgraded(rules: Rules, price: Shop = SHOP, **members: Any) -> list[tuple[str, str]]:
    request = asked(**members)
    return names_of(list(cheaper(request, found(price, **members), rules, price)))


def behind(rules: Rules, price: Shop = SHOP, **members: Any) -> list[tuple[str, str]]:
    request = asked(**members)
    return names_of(list(fallbacks(request, found(price, **members), rules, price)))


def arrows(*pairs: tuple[str, str]) -> tuple[Downgrade, ...]:
    return tuple(Downgrade((source,), target) for source, target in pairs)


def test_downgrades_follow_the_rules_in_their_order_and_drop_what_would_not_be_cheaper() -> None:
    rules = Rules(downgrades=arrows(("acme/m1", "acme/m2"), ("acme/m2", "acme/small"), ("acme/small", "acme/none")))
    assert downgraded(rules) == [
        ("acme/m2", "acme/m2 would not be cheaper"),
        ("acme/small", ""),
        ("acme/none", "acme/none is not in the catalogue"),
    ]


def test_a_model_at_the_same_price_is_not_cheaper() -> None:
    shop = Shop(M1, named("acme/twin"))
    assert downgraded(Rules(downgrades=arrows(("*", "acme/twin"))), shop) == [
        ("acme/twin", "acme/twin would not be cheaper")
    ]


@pytest.mark.parametrize("name", ["acme/m1:nitro", "acme/m1:floor:exacto"])
def test_a_rule_for_a_model_is_one_for_it_with_a_suffix_too(name: str) -> None:
    assert downgraded(Rules(downgrades=arrows(("acme/m1", "acme/small"))), model=name) == [("acme/small", "")]


def test_a_rule_for_a_suffix_comes_before_one_for_the_model() -> None:
    rules = Rules(downgrades=arrows(("acme/m1", "acme/small"), ("acme/m2:nitro", "acme/m1")))
    assert downgraded(rules, model="acme/m2:nitro") == [("acme/m1", ""), ("acme/small", "")]


def test_what_the_lists_leave_out_does_not_stand_in() -> None:
    rules = Rules(deny=("acme/small",), downgrades=arrows(("*", "acme/small")), fallbacks=("acme/small", "acme/m2"))
    not_allowed = "acme/small is not among the models that this tenant may use"
    assert downgraded(rules) == [("acme/small", not_allowed)]
    assert behind(rules) == [("acme/small", not_allowed), ("acme/m2", "")]


def test_the_chain_is_gone_through_in_its_order_without_what_was_asked_for_and_may_be_dearer() -> None:
    rules = Rules(fallbacks=("acme/small", "acme/m1", "acme/none", "acme/m2"))
    assert behind(rules) == [("acme/small", ""), ("acme/none", "acme/none is not in the catalogue"), ("acme/m2", "")]
    assert behind(rules, models=["acme/m2"]) == [("acme/small", ""), ("acme/none", "acme/none is not in the catalogue")]


def test_a_free_model_never_gets_a_paid_fallback_or_downgrade() -> None:
    rules = Rules(downgrades=arrows(("*", "acme/small")), fallbacks=("acme/m1", "other/free:free"))
    costs = "costs money, and a free model was asked for"
    assert downgraded(rules, model="acme/m1:free") == [("acme/small", f"acme/small {costs}")]
    assert behind(rules, model="acme/m1:free") == [("acme/m1", f"acme/m1 {costs}"), ("other/free:free", "")]


def test_a_paid_model_may_get_a_free_one() -> None:
    rules = Rules(downgrades=arrows(("*", "other/free:free")), fallbacks=("other/free:free",))
    assert downgraded(rules) == behind(rules) == [("other/free:free", "")]


def test_what_was_asked_for_in_the_request_is_asked_of_what_stands_in_too() -> None:
    (dropped,) = downgraded(Rules(downgrades=arrows(("*", "acme/small"))), Shop(M1, SMALL, named("acme/m1-pro")),
                            reasoning={"mode": "pro"})  # fmt: skip
    assert dropped[0] == "acme/small"
    assert "acme/small-pro" in dropped[1]


def test_a_bug_is_not_taken_for_a_refusal() -> None:
    def broken(name: str) -> PricedModel:
        raise ZeroDivisionError(name)

    rules = Rules(fallbacks=("acme/m2",))
    with pytest.raises(ZeroDivisionError):
        list(fallbacks(asked(), found(), rules, broken))


def test_candidates_are_priced_only_when_they_are_needed() -> None:
    shop = Shop(M1, M2, SMALL)
    chain = fallbacks(asked(), found(shop), Rules(fallbacks=("acme/m2", "acme/small")), shop)
    next(chain)
    assert shop.asked == ["acme/m1", "acme/m2"]
