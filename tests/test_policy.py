"""What moves the price: each row of policy.py's table is read where it can be bounded, else refused by name.

Plugins, server tools and content have a file of their own, test_policy_fees.py.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.errors import Malformed, Refusal, UnsupportedField
from farebox.policy import MAX_MODELS, Extras, extras_of, model_name, models_of
from farebox.variants import FLEX, PRIORITY, SCALE, ULTRAFAST

PLAIN = Extras()


def refused(members: Mapping[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as found:
        extras_of(members)
    return found.value


# Tiers, speed and modes.


@pytest.mark.parametrize(
    ("members", "tiers", "required"),
    [
        ({}, set(), None),
        ({"service_tier": "auto"}, set(), None),
        ({"service_tier": "default"}, set(), None),
        ({"service_tier": "standard"}, set(), None),
        ({"service_tier": "flex"}, {FLEX}, None),
        ({"service_tier": "priority"}, {PRIORITY}, "priority"),
        ({"service_tier": "fast"}, {PRIORITY}, "fast"),
        ({"service_tier": "ultrafast"}, {ULTRAFAST, PRIORITY}, "ultrafast"),
        ({"service_tier": "scale"}, {SCALE, ULTRAFAST, PRIORITY, FLEX}, "scale"),
        ({"speed": "standard"}, set(), None),
        ({"speed": "fast"}, {PRIORITY}, "priority"),
        ({"speed": "standard", "service_tier": "priority"}, {PRIORITY}, "priority"),
    ],
)
def test_a_tier_says_whose_endpoints_may_serve_it_and_a_dearer_one_is_required(
    members: Mapping[str, Any], tiers: set[str], required: str | None
) -> None:
    assert extras_of(members) == Extras(service_tiers=frozenset(tiers), required_tier=required)


@pytest.mark.parametrize("tier", [None, "auto", "default", "flex", "priority", "fast", "ultrafast", "scale"])
def test_speed_and_tier_together_are_at_least_as_dear_as_either(tier: str | None) -> None:
    both = extras_of({"service_tier": tier, "speed": "fast"})
    assert both.service_tiers >= extras_of({"speed": "fast"}).service_tiers
    assert both.service_tiers >= extras_of({"service_tier": tier}).service_tiers - {FLEX}
    assert both.required_tier is not None


@pytest.mark.parametrize(
    "tier",
    ["Priority", "PRIORITY", " priority", "priority ", "pr\u0131ority", "", "batch", 1, True, False, [], ["flex"], {}],
)
def test_a_tier_in_any_other_spelling_is_refused(tier: object) -> None:
    error = refused({"service_tier": tier})
    assert isinstance(error, Malformed)
    assert error.message == (
        "service_tier must be one of auto, default, standard, flex, priority, fast, ultrafast, scale"
    )


@pytest.mark.parametrize("speed", ["Fast", "slow", "", "priority", 1, True, ["fast"], {}])
def test_speed_is_standard_or_fast(speed: object) -> None:
    error = refused({"speed": speed})
    assert (type(error), error.message) == (Malformed, "speed must be standard or fast")


@pytest.mark.parametrize(
    ("slugs", "tiers"),
    [
        (["openai", "deepinfra/turbo"], set()),
        (["openai/priority"], {PRIORITY}),
        (["OpenAI/PRIORITY"], {PRIORITY}),
        (["openai/priority/eu"], {PRIORITY}),
        (["openai / priority "], {PRIORITY}),
        (["google-vertex/flex", "openai/ultrafast"], {FLEX, ULTRAFAST, PRIORITY}),
        (["openai/fast"], {PRIORITY}),
    ],
)
@pytest.mark.parametrize("member", ["order", "only"])
def test_an_endpoint_named_by_its_tag_may_serve_in_its_tier(member: str, slugs: list[str], tiers: set[str]) -> None:
    assert extras_of({"provider": {member: slugs}}) == Extras(service_tiers=frozenset(tiers))


def test_tiers_of_order_of_only_and_of_the_request_are_added_up() -> None:
    members = {"provider": {"order": ["a/flex"], "only": ["b/ultrafast"]}, "service_tier": "priority"}
    assert extras_of(members).service_tiers == {FLEX, ULTRAFAST, PRIORITY}


def test_an_endpoint_that_is_to_be_left_out_admits_nothing() -> None:
    assert extras_of({"provider": {"ignore": ["openai/priority"]}}) == PLAIN


@pytest.mark.parametrize("mode", [None, "standard", "default"])
def test_a_plain_mode_of_reasoning_is_no_extra(mode: str | None) -> None:
    assert extras_of({"reasoning": {"mode": mode, "effort": "high"}}) == PLAIN


def test_pro_reasoning_is_seen() -> None:
    assert extras_of({"reasoning": {"mode": "pro"}}) == Extras(is_pro=True)


@pytest.mark.parametrize("mode", ["Pro", "PRO", "ultra", "", 1, True, ["pro"], {"pro": True}])
def test_a_mode_that_nobody_has_priced_is_refused(mode: object) -> None:
    error = refused({"reasoning": {"mode": mode}})
    assert (type(error), error.facts) == (UnsupportedField, {"field": "reasoning.mode"})


@pytest.mark.parametrize(
    ("members", "is_rerouted"),
    [
        ({}, False),
        ({"service_tier": "flex"}, False),
        ({"provider": {"only": ["openai/priority"]}}, False),
        ({"service_tier": "scale"}, True),
        ({"speed": "fast"}, True),
        ({"reasoning": {"mode": "pro"}}, True),
    ],
    ids=str,
)
def test_a_mode_or_a_dearer_tier_by_name_may_mean_another_model(members: Mapping[str, Any], is_rerouted: bool) -> None:  # noqa: FBT001
    assert extras_of(members).is_rerouted is is_rerouted


# Lists of models.


def test_a_list_of_models_is_read_in_its_order() -> None:
    assert models_of(["b/x:nitro", "a/y"]) == ("b/x:nitro", "a/y")
    assert models_of(None) == models_of([]) == ()
    assert len(models_of([f"a/{n}" for n in range(MAX_MODELS)])) == MAX_MODELS


@pytest.mark.parametrize(
    "models", ["a/b", {"a/b": 1}, 1, True, False, "", {}, [f"a/{n}" for n in range(MAX_MODELS + 1)]]
)
def test_models_are_a_list_and_not_a_long_one(models: object) -> None:
    with pytest.raises(Malformed, match=f"models must be a list of at most {MAX_MODELS} names"):
        models_of(models)


@pytest.mark.parametrize("name", ["", 7, None, True, ["a/b"], {"model": "a/b"}, "a\nb", "a\0", "x" * 201, "\ud800"])
def test_each_of_models_is_a_printable_name(name: object) -> None:
    with pytest.raises(Malformed, match="models must name a model with a string of 1 to 200 printable characters"):
        models_of(["a/b", name])


@pytest.mark.parametrize("name", ["@preset/x", "a/b@preset/x", "a/b:nitro@preset/x", "@preset/", "x@preset/y:online"])
def test_a_preset_is_refused_wherever_a_model_is_named(name: str) -> None:
    for look, field in ((lambda: models_of(["a/b", name]), "models"), (lambda: model_name("model", name), "model")):
        with pytest.raises(UnsupportedField, match="preset, which changes the request out of sight") as found:
            look()
        assert found.value.facts == {"field": field}


# What cannot be bounded at all.

UNSUPPORTED = {
    "preset": "cheap",
    "deferred_tools": {"search": {}},
    "prediction": {"type": "content", "content": "x"},
    "audio": {"voice": "alloy"},
    "image_config": {"aspect_ratio": "1:1"},
    "prompt": "Once upon",
    "extra_body": {"service_tier": "priority"},
    "fallbacks": [{"model": "a/dear"}],
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_bounded_is_refused_by_name(name: str) -> None:
    for value in (UNSUPPORTED[name], "", False, 0, {}):
        error = refused({name: value})
        assert (type(error), error.facts) == (UnsupportedField, {"field": name})
        assert error.message.startswith(f"{name} is not supported: it asks for ")


@pytest.mark.parametrize(
    ("name", "allowed", "refusals"),
    [
        ("n", [1], [2, 0, -1, True, "1", 1.5, [1], {}]),
        ("best_of", [1], [2, 0, True, "1", [1]]),
        ("modalities", [["text"]], [["text", "image"], ["audio"], ["Text"], [], "text", {"text": True}, True]),
        ("route", ["fallback", "sort"], ["Fallback", "", True, ["fallback"], {"by": "price"}]),
    ],
)
def test_what_is_bounded_for_some_values_only_is_refused_for_all_others(
    name: str, allowed: list[Any], refusals: list[Any]
) -> None:
    for value in allowed:
        assert extras_of({name: value}) == PLAIN
    for value in refusals:
        error = refused({name: value})
        assert (type(error), error.facts) == (UnsupportedField, {"field": name})
        assert error.message.startswith(f"{name} is supported only for ")


NAMES = [
    *UNSUPPORTED, "n", "best_of", "modalities", "route", "models", "service_tier", "speed", "reasoning", "provider",
    "plugins", "tools", "tool_choice", "web_search_options",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_null_means_absent(name: str) -> None:
    assert extras_of({name: None}) == PLAIN


def test_null_means_absent_inside_too() -> None:
    inside = {
        "provider": {"options": None, "max_price": {"prompt": None}, "order": None, "only": None, "zdr": None},
        "reasoning": {"mode": None, "effort": None},
        "plugins": [{"id": "response-healing", "enabled": None}],
    }
    assert extras_of(inside) == PLAIN


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["function", "web", "pro", "fast"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["id", "type", "mode", "enabled", "pdf", "engine", "max_results", "parameters", "only"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=3))
def test_whatever_stands_in_a_field_it_is_read_or_refused(members: dict[str, Any]) -> None:
    found: object
    try:
        found = extras_of(members)
    except Refusal as error:
        found = error
    assert isinstance(found, Extras | Malformed | UnsupportedField)


# The provider object.


@pytest.mark.parametrize("name", ["options", "new_option", "Order", "ONLY", "max_price ", "service_tier", "x" * 1000])
def test_a_preference_that_nobody_has_looked_at_is_refused(name: str) -> None:
    error = refused({"provider": {name: {"a": 1}, "sort": "price"}})
    assert (type(error), error.facts) == (UnsupportedField, {"field": "provider"})
    assert error.message == f"provider.{name[:60]} is not supported: it may change the price"


@pytest.mark.parametrize("name", ["order", "only"])
@pytest.mark.parametrize(
    "value", ["openai", {"openai": 1}, [{"slug": "openai/priority"}], [["openai"]], [None], 1, True]
)
def test_providers_are_named_by_strings(name: str, value: object) -> None:
    error = refused({"provider": {name: value}})
    assert (type(error), error.message) == (Malformed, f"provider.{name} must be a list of providers' names")


def test_preferences_among_endpoints_below_the_price_cap_are_taken() -> None:
    provider = {
        "order": ["a"], "only": [], "ignore": ["b"], "allow_fallbacks": False, "require_parameters": True, "zdr": True,
        "data_collection": "deny", "enforce_distillable_text": True, "quantizations": ["fp8"],
        "sort": {"by": "throughput", "partition": "none"}, "preferred_min_throughput": {"p50": 10},
        "preferred_max_latency": 3, "max_price": {"prompt": "1", "completion": 2, "request": 0, "audio": 1},
    }  # fmt: skip
    assert extras_of({"provider": provider}) == PLAIN


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        ("openai", "provider must be an object"),
        ([], "provider must be an object"),
        (False, "provider must be an object"),
        ({"max_price": 1}, "provider.max_price must be an object"),
        ({"max_price": []}, "provider.max_price must be an object"),
        ({"max_price": {"prompt": -1}}, "provider.max_price.prompt must be a number of US dollars, zero or more"),
        ({"max_price": {"request": "0x1"}}, "provider.max_price.request must be a number of US dollars, zero or more"),
        ({"max_price": {"image": True}}, "provider.max_price.image must be a number of US dollars, zero or more"),
    ],
    ids=str,
)
def test_a_provider_of_the_wrong_shape_is_told_which(provider: object, says: str) -> None:
    error = refused({"provider": provider})
    assert (type(error), error.message) == (Malformed, says)
