"""Where a call could go: what a tenant may use, what it costs there, and what stands in for it."""

from typing import Any

import httpx
import pytest

from farebox.candidates import candidate, require_known
from farebox.catalogue import Catalogue
from farebox.errors import (
    CatalogueUnavailable,
    Malformed,
    ModelNotAllowed,
    ModelNotPriced,
    Refusal,
    UnsupportedField,
)
from farebox.rates import PricedModel
from farebox.rules import Rules
from farebox.upstream import Upstream
from tests.catalogue_rows import M1, SHOP, SMALL, Row, Shop, asked, endpoint, found, named

ALLOWANCE = Rules(server_tools_nanousd=50_000_000)
CAPS = {"max_price": {"prompt": 2, "completion": 8}}


def refused(price: Shop = SHOP, rules: Rules = Rules(), **members: Any) -> Refusal:  # noqa: B008 - the same
    with pytest.raises(Refusal) as refusal:
        found(price, rules, **members)
    return refusal.value


# Lists of models.


@pytest.mark.parametrize(
    "allow", [("*",), ("acme/*",), ("acme/m1",), ("*/m?",), ("nobody", "acme/m1"), ("acme/m[12]",)]
)
def test_a_model_that_an_allow_list_fits_may_be_used(allow: tuple[str, ...]) -> None:
    assert found(rules=Rules(allow=allow)).models == ("acme/m1",)


@pytest.mark.parametrize("allow", [(), ("acme",), ("acme/m2",), ("m1",), ("ACME/*",), ("acme/m1:nitro",)])
def test_a_model_that_no_pattern_of_an_allow_list_fits_is_refused(allow: tuple[str, ...]) -> None:
    refusal = refused(rules=Rules(allow=allow))
    assert isinstance(refusal, ModelNotAllowed)
    assert refusal.message == "acme/m1 is not among the models that this tenant may use"
    assert refusal.facts == {"model": "acme/m1"}


@pytest.mark.parametrize("deny", [("acme/m1",), ("*",), ("acme/*",), ("x/y", "*m1")])
def test_a_deny_list_is_stronger_than_an_allow_list(deny: tuple[str, ...]) -> None:
    assert refused(rules=Rules(allow=("acme/m1",), deny=deny)).reason == "model_not_allowed"


@pytest.mark.parametrize("suffix", [":nitro", ":floor", ":exacto", ":online", ":nitro:floor", ":online:online"])
def test_a_suffix_is_no_way_around_a_list(suffix: str) -> None:
    rules = Rules(deny=("acme/m1",), server_tools_nanousd=10**9)
    assert refused(rules=rules, model=f"acme/m1{suffix}").reason == "model_not_allowed"
    rules = Rules(allow=("acme/m1",), server_tools_nanousd=10**9)
    assert found(rules=rules, model=f"acme/m1{suffix}").name == f"acme/m1{suffix}"


def test_a_suffix_itself_can_be_denied_or_allowed() -> None:
    assert refused(rules=Rules(deny=("*:nitro",)), model="acme/m1:nitro").reason == "model_not_allowed"
    assert found(rules=Rules(deny=("*:nitro",))).name == "acme/m1"
    assert found(rules=Rules(allow=("*:free",)), model="acme/m1:free").name == "acme/m1:free"
    assert refused(rules=Rules(allow=("*:free",))).reason == "model_not_allowed"


@pytest.mark.parametrize("denied", ["acme/m1", "acme/m1-20260801"])
@pytest.mark.parametrize("name", ["acme/m1", "acme/m1-20260801"])
def test_neither_of_a_models_two_names_gets_around_a_deny_list_that_has_the_other(name: str, denied: str) -> None:
    assert refused(rules=Rules(deny=(denied,)), model=name).reason == "model_not_allowed"


def test_an_alias_does_not_get_around_a_deny_list_that_has_its_target() -> None:
    shop = Shop(M1, named("~acme/latest", alias_target={"slug": "acme/m1", "name": "M1"}))
    assert refused(shop, Rules(deny=("acme/m1",)), model="~acme/latest").reason == "model_not_allowed"
    assert refused(shop, Rules(deny=("acme/m1",)), model="~acme/latest:floor").reason == "model_not_allowed"
    assert found(shop, model="~acme/latest").models == ("~acme/latest",)


def test_an_alias_that_names_its_target_by_either_name_has_both() -> None:
    rows = [M1, named("~acme/latest", alias_target={"slug": "acme/m1-20260801", "name": "M1"})]
    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={"data": rows})))
    prices = Catalogue(Upstream("http://upstream/api/v1", "", client, lambda: 0.0), 1.0, lambda: 0.0)
    with client, pytest.raises(ModelNotAllowed):
        candidate(asked(), ("~acme/latest",), Rules(deny=("acme/m1",)), prices.model)


@pytest.mark.parametrize("rules", [Rules(deny=("acme/m2",)), Rules(allow=("acme/m1",))], ids=["deny", "allow"])
def test_each_of_several_models_must_be_allowed(rules: Rules) -> None:
    refusal = refused(rules=rules, models=["acme/m2", "acme/small"])
    assert refusal.facts == {"model": "acme/m2"}


def test_a_long_name_is_not_repeated_whole() -> None:
    refusal = refused(rules=Rules(allow=()), model="acme/" + "x" * 190)
    assert len(refusal.message) < 160


@pytest.mark.parametrize(
    ("sibling", "members"),
    [("-pro", {"reasoning": {"mode": "pro"}}), ("-fast", {"speed": "fast"}), ("-fast", {"service_tier": "ultrafast"})],
)
def test_a_sibling_that_is_denied_does_not_serve(sibling: str, members: Row) -> None:
    shop = Shop(M1, named(f"acme/m1{sibling}"))
    assert found(shop, **members).models == ("acme/m1",)
    assert refused(shop, Rules(deny=(f"*{sibling}",)), **members).facts == {"model": f"acme/m1{sibling}"}


@pytest.mark.parametrize(
    ("sibling", "members"), [("-pro", {"reasoning": {"mode": "pro"}}), ("-fast", {"speed": "fast"})]
)
def test_a_sibling_that_is_not_on_the_allow_list_does_not_serve(sibling: str, members: Row) -> None:
    shop = Shop(M1, named(f"acme/m1{sibling}"))
    assert refused(shop, Rules(allow=("acme/m1",)), **members).reason == "model_not_allowed"


def test_a_sibling_that_is_on_the_allow_list_by_any_of_its_names_serves() -> None:
    shop = Shop(M1, {**named("acme/m1-pro"), "canonical_slug": "acme/m1-pro-20260801"})
    for allow in (("acme/m1", "acme/m1-pro"), ("acme/m1", "*-pro-2026*")):
        assert found(shop, Rules(allow=allow), reasoning={"mode": "pro"}).name == "acme/m1"


def test_a_suffix_that_only_lets_faster_endpoints_in_does_not_need_the_sibling_to_be_allowed() -> None:
    shop = Shop(M1, named("acme/m1-fast"))
    assert found(shop, Rules(allow=("acme/m1",)), model="acme/m1:nitro").name == "acme/m1:nitro"


@pytest.mark.parametrize("name", ["acme/m1:floor:nitro", "acme/m1:nitro:floor", "acme/m1:floor"])
def test_a_suffix_that_is_denied_does_not_hide_among_others(name: str) -> None:
    assert refused(rules=Rules(deny=("*:floor",)), model=name).reason == "model_not_allowed"


# Siblings and tiers.


def dearest(price: Shop, **members: Any) -> int:
    """The prompt's rate, in nano-dollars a token."""
    return int(found(price, **members).quote.rates.prompt)


@pytest.mark.parametrize("members", [{"speed": "fast"}, {"service_tier": "priority"}, {"service_tier": "fast"},
                                     {"service_tier": "scale"}, {"model": "acme/m1:nitro"}], ids=str)  # fmt: skip
def test_a_faster_tier_is_held_at_the_price_of_the_sibling_that_serves_it(members: Row) -> None:
    shop = Shop(M1, named("acme/m1-fast", "0.000015"))
    assert dearest(shop) == 2_500
    assert dearest(shop, **members) == 15_000


@pytest.mark.parametrize("members", [{}, {"service_tier": "flex"}, {"service_tier": "auto"},
                                     {"model": "acme/m1:floor"}, {"speed": "standard"}], ids=str)  # fmt: skip
def test_other_tiers_are_not_held_at_the_fast_siblings_price(members: Row) -> None:
    assert dearest(Shop(M1, named("acme/m1-fast", "0.000015")), **members) == 2_500


def test_a_pro_mode_is_held_at_the_price_of_the_sibling_and_of_the_siblings_own() -> None:
    rows = M1, named("acme/m1-pro", "0.000005"), named("acme/m1-pro-fast", "0.00005")
    assert dearest(Shop(*rows), reasoning={"mode": "pro"}) == 5_000
    assert dearest(Shop(*rows), reasoning={"mode": "pro"}, speed="fast") == 50_000
    assert dearest(Shop(*rows, named("acme/m1-fast", "0.00006")), reasoning={"mode": "pro"}, speed="fast") == 60_000


def test_a_pro_model_in_pro_mode_is_its_own_sibling() -> None:
    assert found(Shop(named("acme/m1-pro")), model="acme/m1-pro", reasoning={"mode": "pro"}).name == "acme/m1-pro"


@pytest.mark.parametrize("name", ["acme/m1-20260801", "~acme/latest"])
def test_a_sibling_is_found_whichever_name_the_model_was_asked_for_by(name: str) -> None:
    """Found by tests.bounds: a fast alias was held at its own price, and the target's sibling served it."""
    alias = named("~acme/latest", alias_target={"slug": "acme/m1", "name": "M1"})
    shop = Shop(M1, alias, named("acme/m1-fast", "0.000015"), named("acme/m1-pro", "0.000005"))
    assert dearest(shop, model=name, speed="fast") == 15_000
    assert dearest(shop, model=name, reasoning={"mode": "pro"}) == 5_000


@pytest.mark.parametrize("tier", ["priority", "fast", "ultrafast", "scale"])
def test_a_tier_that_was_asked_for_and_has_no_price_is_refused(tier: str) -> None:
    refusal = refused(service_tier=tier)
    assert (type(refusal), refusal.status) == (ModelNotPriced, 422)
    assert refusal.message.startswith(f"acme/m1 has no price for the service tier {tier}")


def test_a_tier_that_an_endpoint_sells_is_held_at_its_price() -> None:
    dear = endpoint({"prompt": "0.000009"}, service_tier="priority")
    assert dearest(Shop(M1, endpoints=[endpoint(), dear]), service_tier="ultrafast") == 9_000
    assert refused(Shop(M1, endpoints=[endpoint(service_tier="flex")]), speed="fast").status == 422


@pytest.mark.parametrize("members", [{"service_tier": "flex"}, {"model": "acme/m1:nitro"}, {"model": "acme/m1:floor"},
                                     {"provider": {"order": ["acme/priority"]}}], ids=str)  # fmt: skip
def test_a_tier_that_is_only_let_in_need_not_exist(members: Row) -> None:
    assert dearest(SHOP, **members) == 2_500


def test_a_provider_that_is_named_by_its_tier_lets_that_tier_in() -> None:
    shop = Shop(M1, endpoints=[endpoint(), endpoint({"prompt": "0.000009"}, service_tier="priority")])
    assert dearest(shop, provider={"only": ["acme/priority"]}) == 9_000


def test_a_pro_mode_without_a_sibling_is_refused() -> None:
    refusal = refused(reasoning={"mode": "pro"})
    assert refusal.reason == "model_not_priced"
    assert "acme/m1-pro" in refusal.message


def test_prices_that_cannot_be_asked_for_are_not_taken_for_a_sibling_that_does_not_exist() -> None:
    def down(name: str) -> PricedModel:
        if name.endswith("-fast"):
            raise CatalogueUnavailable("no prices")
        return SHOP(name)

    with pytest.raises(CatalogueUnavailable):
        candidate(asked(speed="fast"), ("acme/m1",), Rules(), down)


# Several models.


def test_of_several_models_the_dearest_of_each_rate_is_held() -> None:
    shop = Shop(named("a/1", "0.000001", "0.00009"), named("b/2", "0.000007", "0.00002"))
    both = found(shop, model="a/1", models=["b/2"])
    assert (both.models, both.name, both.circuit) == (("a/1", "b/2"), "a/1", "a/1")
    assert (int(both.quote.rates.prompt), int(both.quote.rates.completion)) == (7_000, 90_000)


def test_suffixes_and_siblings_of_all_models_count() -> None:
    shop = Shop(M1, SMALL, named("acme/small-fast", "0.00003"))
    assert dearest(shop, models=["acme/small:nitro"]) == 30_000
    assert found(shop, model="acme/m1:nitro:exacto").circuit == "acme/m1"


@pytest.mark.parametrize("models", [["acme/m2", "acme/unknown"], ["acme/unknown:floor"]])
def test_one_model_without_a_price_is_enough_to_refuse_them_all(models: list[str]) -> None:
    assert refused(models=models).reason == "model_not_priced"


# Routers.


@pytest.mark.parametrize(
    "provider", [None, {}, {"max_price": {"prompt": 1}}, {"max_price": {"completion": 1}}], ids=str
)
def test_a_router_is_taken_only_with_a_price_cap_of_the_clients(provider: Row | None) -> None:
    refusal = refused(model="openrouter/auto", max_tokens=100, provider=provider)
    assert refusal.status == 422
    assert "provider.max_price" in refusal.message
    quoted = found(model="openrouter/auto", max_tokens=100, provider=CAPS).quote
    assert (int(quoted.rates.prompt), int(quoted.rates.completion), quoted.output_tokens) == (2_000, 8_000, 100)


def test_a_router_needs_max_tokens_and_a_prompt_that_can_be_bounded() -> None:
    assert "send max_tokens" in refused(model="openrouter/auto", provider=CAPS).message
    pictures = [{"role": "user", "content": [{"type": "image_url"}]}]
    long = [{"role": "user", "content": "x" * 100_000}]
    for messages, says in ((pictures, "no context length"), (long, "only up to 100000 bytes")):
        assert says in refused(model="openrouter/auto", provider=CAPS, max_tokens=9, messages=messages).message


@pytest.mark.parametrize("rules", [Rules(deny=("x/y",)), Rules(allow=("openrouter/*",))], ids=["deny", "allow"])
def test_a_router_may_choose_what_a_list_forbids_so_a_list_forbids_it(rules: Rules) -> None:
    refusal = refused(rules=rules, model="openrouter/auto", max_tokens=100, provider=CAPS)
    assert "may choose a model that is not allowed" in refusal.message
    anything = Rules(allow=("x/*", "*"))
    assert found(rules=anything, model="openrouter/auto", max_tokens=9, provider=CAPS).name == "openrouter/auto"


def test_a_router_that_calls_many_models_is_refused_whatever_the_cap() -> None:
    shop = Shop(named("openrouter/fusion"))
    assert refused(shop, model="openrouter/fusion", max_tokens=9, provider=CAPS).reason == "model_not_priced"


# Tools that cost fees.


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"tools": [{"type": "openrouter:web_search"}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "openrouter:datetime"}]}, "tools"),
        ({"web_search_options": {}}, "plugins"),
        ({"model": "acme/m1:online"}, "plugins"),
        ({"models": ["acme/m2:online"]}, "plugins"),
    ],
    ids=str,
)
def test_tools_that_cost_fees_are_refused_without_an_allowance_and_held_with_one(members: Row, field: str) -> None:
    refusal = refused(**members)
    assert isinstance(refusal, UnsupportedField)
    assert refusal.facts == {"field": field}
    assert "FAREBOX_SERVER_TOOLS_USD" in refusal.message
    quoted = found(rules=ALLOWANCE, **members).quote
    assert quoted.amount_nanousd >= 50_000_000 + 15_000_000
    assert quoted.stop_at_nanousd == (50_000_000 if field == "tools" else None)


def test_an_allowance_is_not_held_where_no_tools_are_asked_for() -> None:
    assert found(rules=ALLOWANCE).quote == found().quote
    own = [{"type": "function", "function": {"name": "x"}}]
    assert found(rules=ALLOWANCE, tools=own).quote == found(tools=own).quote


def test_a_search_of_more_results_is_held_at_more_also_beside_a_suffix() -> None:
    plugins = [{"id": "web", "max_results": 30}]
    plain = found(rules=ALLOWANCE, model="acme/m1:online").quote.amount_nanousd
    assert found(rules=ALLOWANCE, model="acme/m1:online", plugins=plugins).quote.amount_nanousd >= plain + 20_000_000


# Names in settings and rules.


@pytest.mark.parametrize("name", ["acme/m1", "acme/m1:nitro", "acme/m1-20260801", "acme/m1:free", "openrouter/auto"])
def test_a_name_that_can_be_called_can_be_configured(name: str) -> None:
    require_known(name, SHOP)


@pytest.mark.parametrize("name", ["acme/none", "acme/none:floor", "openrouter/fusion", "acme/*"])
def test_a_name_without_a_price_is_refused_where_it_is_configured(name: str) -> None:
    with pytest.raises(ModelNotPriced):
        require_known(name, SHOP)


@pytest.mark.parametrize("name", ["@preset/cheap", "acme/m1@preset/cheap"])
def test_a_preset_is_refused_before_it_is_a_candidate(name: str) -> None:
    for members in ({"model": name}, {"models": [name]}):
        with pytest.raises((UnsupportedField, Malformed)):
            asked(**members)
