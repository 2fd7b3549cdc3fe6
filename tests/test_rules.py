"""A tenant's rules: read whole or refused in one sentence that says where, and written so that they are read again."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.money import dumps, loads_exact
from farebox.rules import MAX_IN_FLIGHT_ALLOWED, MAX_RULES, Downgrade, Rules, RulesError, downgrades, rules_of

DEFAULT = Rules()


def refusal(entry: dict[str, Any], default: Rules = DEFAULT) -> str:
    with pytest.raises(RulesError) as refused:
        rules_of(entry, default)
    return str(refused.value)


def chain(*arrows: tuple[str | list[str], str]) -> list[dict[str, Any]]:
    return [{"from": sources, "to": target} for sources, target in arrows]


# What is read.


@pytest.mark.parametrize(
    ("entry", "rules"),
    [
        ({}, Rules()),
        ({"per_request": Decimal("0.5")}, Rules(request_nanousd=500_000_000)),
        ({"per_request": "1e-9"}, Rules(request_nanousd=1)),
        ({"per_request": Decimal("1e-12")}, Rules(request_nanousd=1)),
        ({"per_request": 0}, Rules(request_nanousd=0)),
        ({"per_request": 10_000_000}, Rules(request_nanousd=10**16)),
        ({"in_flight": 1}, Rules(in_flight=1)),
        ({"in_flight": 2000}, Rules(in_flight=2000)),
        ({"warn_at": Decimal("0.9")}, Rules(warn_at=Decimal("0.9"))),
        ({"warn_at": "0.1", "degrade_at": 1}, Rules(warn_at=Decimal("0.1"), degrade_at=Decimal(1))),
        ({"server_tools": Decimal("0.05")}, Rules(server_tools_nanousd=50_000_000)),
        ({"media": False}, Rules(media=False)),
        ({"allow": ["openai/*", "*:free"], "deny": []}, Rules(allow=("openai/*", "*:free"))),
        ({"deny": ["*-pro"]}, Rules(deny=("*-pro",))),
        ({"allow": []}, Rules(allow=())),
        ({"fallback": ["a/b", "c/d"]}, Rules(fallbacks=("a/b", "c/d"))),
        ({"downgrade": chain((["a/*", "b/c"], "d/e"))}, Rules(downgrades=(Downgrade(("a/*", "b/c"), "d/e"),))),
        ({"downgrade": chain(("a/b", "d/e"))}, Rules(downgrades=(Downgrade(("a/b",), "d/e"),))),
    ],
    ids=str,
)
def test_a_rule_is_read_and_what_is_left_out_is_the_defaults(entry: dict[str, Any], rules: Rules) -> None:
    assert rules_of(entry, DEFAULT) == rules


def test_null_leaves_the_default_which_need_not_be_ours() -> None:
    default = Rules(request_nanousd=7, in_flight=3, allow=("x/*",), fallbacks=("x/y",), server_tools_nanousd=5)
    assert rules_of(dict.fromkeys(default.content()), default) == rules_of({}, default) == default


def test_an_empty_list_is_not_null_and_takes_a_default_away() -> None:
    default = Rules(deny=("x/*",), fallbacks=("x/y",), downgrades=(Downgrade(("a/b",), "c/d"),))
    assert rules_of({"deny": [], "fallback": [], "downgrade": []}, default) == Rules()


@pytest.mark.parametrize(("warn_at", "degrade_at"), [("0.5", "0.5"), ("0.5", "0.6")])
def test_a_warning_comes_before_the_downgrade_or_with_it(warn_at: str, degrade_at: str) -> None:
    rules = rules_of({"warn_at": warn_at, "degrade_at": degrade_at}, DEFAULT)
    assert (str(rules.warn_at), str(rules.degrade_at)) == (warn_at, degrade_at)


def test_every_model_that_is_named_is_told_once() -> None:
    rules = rules_of({"downgrade": chain(("a/*", "c/d"), ("e/*", "g/h")), "fallback": ["g/h", "x/y"]}, DEFAULT)
    assert rules.models() == ("c/d", "g/h", "x/y")


# What is refused, and where the sentence says it is.

USD = ": must be US dollars from 0 to 10,000,000, not "
FRACTION = ": must be above 0 and at most 1, like 0.8, not "
NAME = ": it must name a model with a string of 1 to 200 printable characters, not "
EXAMPLE = 'like {"from": ["openai/gpt-4o*"], "to": "openai/gpt-4o-mini"}'


@pytest.mark.parametrize("name", ["per_request", "server_tools"])
@pytest.mark.parametrize(
    "value",
    [-1, "-0.000000001", Decimal("10000000.01"), 10**30, "1e9999999", "NaN", "Infinity", True, "5 USD", [], {}, "",
     Decimal("Infinity"), 0.5],
    ids=repr,
)  # fmt: skip
def test_an_amount_is_us_dollars(name: str, value: Any) -> None:
    assert refusal({name: value}) == f"[{name}]{USD}{str(value)!r}"


@pytest.mark.parametrize("value", [0, 1, "true", [], 0.5], ids=repr)
def test_whether_media_may_be_sent_is_true_or_false(value: Any) -> None:
    assert refusal({"media": value}) == f"[media]: must be true or false, not {str(value)!r}"


@pytest.mark.parametrize("name", ["warn_at", "degrade_at"])
@pytest.mark.parametrize("value", [0, -1, "1.01", 80, "80%", "NaN", True, [], 0.8, {"day": 1}], ids=repr)
def test_a_threshold_is_a_part_of_a_window(name: str, value: Any) -> None:
    assert refusal({name: value}) == f"[{name}]{FRACTION}{str(value)!r}"


@pytest.mark.parametrize("value", [0, -1, MAX_IN_FLIGHT_ALLOWED + 1, 10**30, Decimal(5), "5", True, [5]], ids=repr)
def test_calls_in_flight_are_counted_in_whole_numbers(value: Any) -> None:
    assert refusal({"in_flight": value}) == f"[in_flight]: must be a whole number from 1 to 2000, not {str(value)!r}"


@pytest.mark.parametrize("name", ["allow", "deny", "fallback"])
@pytest.mark.parametrize(
    "value", ["openai/*", {"a": 1}, 5, True, ["a/b"] * (MAX_RULES + 1)], ids=lambda v: repr(v)[:20]
)
def test_models_are_named_in_a_list_that_is_not_endless(name: str, value: Any) -> None:
    assert refusal({name: value}) == f"[{name}]: must be a list of at most 50 names of models"


@pytest.mark.parametrize("value", ["", 5, None, ["a/b"], "a\nb", "x" * 201], ids=lambda v: repr(v)[:20])
def test_a_model_is_named_by_a_printable_string(value: Any) -> None:
    for name in ("allow", "deny", "fallback"):
        assert refusal({name: ["a/b", value]}) == f"[{name}]{NAME}{str(value)[:40]!r}"
    assert refusal({"downgrade": [{"from": ["a/b"], "to": value}]}) == f"[downgrade]{NAME}{str(value)[:40]!r}"
    assert refusal({"downgrade": [{"from": [value], "to": "a/b"}]}) == f"[downgrade]{NAME}{str(value)[:40]!r}"


@pytest.mark.parametrize("entry", [{"fallback": ["@preset/x"]}, {"deny": ["a/b@preset/x"]},
                                   {"downgrade": [{"from": "a/b", "to": "@preset/x"}]}], ids=str)  # fmt: skip
def test_a_preset_is_not_a_model(entry: dict[str, Any]) -> None:
    (name,) = entry
    sentence = refusal(entry)
    assert sentence.startswith(f"[{name}]: ")
    assert "preset" in sentence


@pytest.mark.parametrize("value", ["a/b", {"from": "a/b", "to": "c/d"}, 5, [{"from": "a/b", "to": "c/d"}] * 51],
                         ids=lambda v: repr(v)[:20])  # fmt: skip
def test_downgrades_are_a_list_of_rules_that_is_not_endless(value: Any) -> None:
    assert refusal({"downgrade": value}) == f"[downgrade]: must be a list of at most 50 objects {EXAMPLE}"


@pytest.mark.parametrize("rule", ["a/b", 5, None, {}, {"from": "a/b"}, {"to": "a/b"},
                                  {"from": "a/b", "to": "c/d", "when": "0.9"}], ids=str)  # fmt: skip
def test_a_downgrade_has_what_it_replaces_and_by_what_and_nothing_else(rule: Any) -> None:
    assert refusal({"downgrade": [rule]}) == f"[downgrade]: each must be an object {EXAMPLE}"


@pytest.mark.parametrize("name", ["downgrades", "Allow", "", "per_request_usd", "x" * 300])
def test_a_rule_that_does_not_exist_is_named_and_not_ignored(name: str) -> None:
    sentence = refusal({name: 1, "allow": ["*"]})
    assert sentence.startswith(f"[{name[:40]}]: only per_request, in_flight, ")
    assert len(sentence) < 200


@pytest.mark.parametrize(
    ("entry", "default"),
    [
        ({"warn_at": "0.95", "degrade_at": "0.9"}, DEFAULT),
        ({"warn_at": "0.91"}, DEFAULT),
        ({"degrade_at": "0.79"}, DEFAULT),
        ({"degrade_at": "0.4"}, Rules(warn_at=Decimal("0.5"))),
    ],
)
def test_a_warning_that_would_come_after_the_downgrade_is_refused(entry: dict[str, Any], default: Rules) -> None:
    assert "must not be above degrade_at" in refusal(entry, default)


# Circles.


@pytest.mark.parametrize(
    ("rules", "circle"),
    [
        (chain(("A", "B"), ("B", "A")), "B -> A -> B"),
        (chain(("A", "B"), ("B", "C"), ("C", "A")), "B -> C -> A -> B"),
        (chain(("x", "A"), ("A", "B"), ("B", "A")), "A -> B -> A"),
        (chain(("*", "A"), ("A", "B")), "A -> B -> A"),
        (chain(("A", "B"), ("*", "A")), "B -> A -> B"),
        (chain(("*", "A"), ("*", "B")), "A -> B -> A"),
        (chain(("a/*", "b/x"), ("b/*", "a/y")), "b/x -> a/y -> b/x"),
        (chain((["n/a", "[ab]/*"], "a/1"), (["a/?"], "b/2")), "a/1 -> b/2 -> a/1"),
    ],
    ids=str,
)
def test_rules_that_lead_in_a_circle_are_refused_when_they_are_made(rules: list[dict[str, Any]], circle: str) -> None:
    assert refusal({"downgrade": rules}) == f"[downgrade]: the rules lead in a circle: {circle}"


@pytest.mark.parametrize(
    ("rules", "model", "instead"),
    [
        ([], "A", ()),
        (chain(("A", "B")), "A", ("B",)),
        (chain(("A", "B")), "a", ()),
        (chain(("A", "B")), "B", ()),
        (chain(("A", "A")), "A", ()),
        (chain(("A", "B"), ("B", "C")), "A", ("B", "C")),
        (chain(("B", "C"), ("A", "B")), "A", ("B", "C")),
        (chain(("A", "B"), ("A", "C")), "A", ("B",)),
        (chain(("*", "B")), "A", ("B",)),
        (chain(("*", "B")), "B", ()),
        (chain((["A", "B", "C"], "C")), "B", ("C",)),
        (chain(("a/big*", "a/mid"), ("*", "z/small")), "a/big-2", ("a/mid", "z/small")),
        (chain(("a/big*", "a/mid"), ("*", "z/small")), "q/other", ("z/small",)),
    ],
    ids=str,
)
def test_the_first_rule_that_fits_decides_and_then_the_first_that_fits_its_target(
    rules: list[dict[str, Any]], model: str, instead: tuple[str, ...]
) -> None:
    assert downgrades(rules_of({"downgrade": rules}, DEFAULT).downgrades, model) == instead


names = st.sampled_from(["a/1", "a/2", "b/1", "b/2", "c"])
patterns = names | st.sampled_from(["*", "a/*", "b/?", "[ab]/1", "*1"])
arrows = st.lists(st.fixed_dictionaries({"from": st.lists(patterns, min_size=1, max_size=3), "to": names}), max_size=5)


@given(arrows, names)
def test_rules_that_are_taken_come_to_an_end_from_every_model_without_naming_one_twice(
    rules: list[dict[str, Any]], model: str
) -> None:
    try:
        taken = rules_of({"downgrade": rules}, DEFAULT).downgrades
    except RulesError:
        return
    found = downgrades(taken, model)
    assert len({model, *found}) == 1 + len(found)
    assert downgrades(taken, found[-1]) == () if found else True


@given(arrows, names)
def test_rules_that_are_refused_would_come_back_to_a_model_that_they_have_left(
    rules: list[dict[str, Any]], model: str
) -> None:
    """Whoever follows them from any target, without looking back, is still going after as many steps as there are."""
    taken = [Downgrade(tuple(rule["from"]), rule["to"]) for rule in rules]

    def is_endless(at: str) -> bool:
        for _ in range(len(taken) + 1):
            following = next((rule.target for rule in taken if rule.target != at and downgrades([rule], at)), None)
            if following is None:
                return False
            at = following
        return True

    try:
        rules_of({"downgrade": rules}, DEFAULT)
    except RulesError:
        assert any(is_endless(rule.target) for rule in taken)
    else:
        assert not is_endless(model)


# Written and read again, as the store does.

some_rules = st.builds(
    Rules,
    request_nanousd=st.none() | st.integers(0, 10**16),
    in_flight=st.integers(1, MAX_IN_FLIGHT_ALLOWED),
    warn_at=st.decimals("0.000001", "0.5", places=12),
    degrade_at=st.decimals("0.5", 1, places=12),
    allow=st.lists(patterns, max_size=3).map(tuple),
    deny=st.lists(patterns, max_size=3).map(tuple),
    downgrades=st.just((Downgrade(("a/*", "b"), "c/d"),)) | st.just(()),
    fallbacks=st.lists(names, max_size=3).map(tuple),
    server_tools_nanousd=st.integers(0, 10**16),
)


@given(some_rules)
def test_rules_that_are_written_are_read_again_as_they_were(rules: Rules) -> None:
    assert rules_of(loads_exact(dumps(rules.content())), Rules(allow=("other",), in_flight=7)) == rules


@given(st.dictionaries(st.sampled_from(["per_request", "warn_at", "degrade_at", "server_tools"]),
                       st.decimals(0, 1, allow_nan=False) | st.text("0123456789.eE-", max_size=50)))  # fmt: skip
def test_whatever_is_taken_can_be_written_and_read_again(entry: dict[str, Any]) -> None:
    try:
        rules = rules_of(entry, DEFAULT)
    except RulesError:
        return
    assert rules_of(loads_exact(dumps(rules.content())), DEFAULT) == rules


def test_a_threshold_of_more_digits_than_could_be_read_again_is_not_taken() -> None:
    digits = "0." + "7" * 41
    assert refusal({"warn_at": Decimal(digits)}) == f"[warn_at]{FRACTION}{digits[:40]!r}"
    assert rules_of({"warn_at": Decimal(digits[:-1])}, DEFAULT).warn_at == Decimal(digits[:-1])
