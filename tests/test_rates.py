"""From the catalogue's rows to rates: the dearest that a call may meet, or none at all."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from farebox.errors import ModelNotPriced
from farebox.pricing import MAX_PRICE_OF_FREE
from farebox.rates import priced_model, require_priced, router
from tests.catalogue_rows import NANO, Row, asked, endpoint, quote_of, row, sent_for


def rates(model_row: Row, endpoint_rows: list[Row], *, prompt_tokens: int = 10**6) -> Any:
    return priced_model(model_row, endpoint_rows).rates(prompt_tokens)


@pytest.mark.parametrize(
    ("pricing", "rate", "nanousd"),
    [
        ({}, "prompt", "2500"),
        ({}, "completion", "10000"),
        ({}, "cache_write", "2500"),
        ({}, "cache_write_long", "5000"),
        ({}, "media", "2500"),
        ({}, "request", "0"),
        ({"input_cache_write": "0.000003125"}, "cache_write", "3125"),
        ({"input_cache_write": "0.000001"}, "cache_write", "2500"),
        ({"input_cache_write": "0.000006"}, "cache_write_long", "6000"),
        ({"input_cache_write_1h": "0.000004"}, "cache_write_long", "4000"),
        ({"internal_reasoning": "0.00002"}, "completion", "20000"),
        ({"audio": "0.00004"}, "media", "40000"),
        ({"image_token": "0.00005"}, "media", "50000"),
        ({"input_audio_cache": "0.00006"}, "media", "60000"),
        ({"request": "0.005"}, "request", "5000000"),
        ({"image": "0.01"}, "image", "10000000"),
        ({"discount": 0.5}, "prompt", "2500"),
        ({"overrides": [{"min_prompt_tokens": 200_000, "prompt": "0.000005"}]}, "prompt", "5000"),
        ({"overrides": [{"min_prompt_tokens": 200_000, "prompt": "0.000005"}]}, "cache_write_long", "10000"),
        (
            {"overrides": [{"utc_start": 800, "completion": "0.00003"}, {"completion": "0.00002"}]},
            "completion",
            "30000",
        ),
        ({"overrides": [{"prompt": "0.000001"}]}, "prompt", "2500"),
        ({"overrides": None}, "prompt", "2500"),
        ({"overrides": ["odd"]}, "prompt", "2500"),
        ({"prompt": 0.0000025, "completion": None, "overrides": [{"completion": "1"}]}, None, None),
    ],
    ids=str,
)
def test_a_rate_is_the_dearest_of_what_may_apply(pricing: Row, rate: str | None, nanousd: str | None) -> None:
    if rate is None or nanousd is None:
        with pytest.raises(ModelNotPriced):
            rates(row(pricing), [])
    else:
        assert getattr(rates(row(pricing), []), rate) == Decimal(nanousd)


def test_the_dearest_endpoint_gives_each_rate() -> None:
    dear_prompt, dear_completion = endpoint({"prompt": "0.000017"}), endpoint({"completion": "0.00009"})
    found = rates(row(), [endpoint(), dear_prompt, dear_completion])
    assert (found.prompt, found.completion) == (17_000, 90_000)


@pytest.mark.parametrize("tier", ["priority", "flex", "ultrafast", "scale"])
def test_an_endpoint_of_a_tier_counts_where_that_tier_is_admitted_and_nowhere_else(tier: str) -> None:
    model = priced_model(row(), [endpoint(), endpoint({"prompt": "1"}, service_tier=tier)])
    plain = priced_model(row(), [endpoint()])
    assert model.rates(10**6) == model.rates(10**6, frozenset({"other"})) == plain.rates(10**6)
    assert model.rates(10**6, frozenset({tier})).prompt == NANO
    assert model.sells(frozenset({tier}))
    assert not plain.sells(frozenset({tier}))


def test_an_endpoint_of_a_cheaper_tier_does_not_make_a_call_cheaper_since_others_may_serve_it() -> None:
    flex = endpoint({"prompt": "0.0000001", "completion": "0.0000001"}, service_tier="flex")
    model = priced_model(row(), [endpoint(), flex])
    assert model.rates(10**6, frozenset({"flex"})) == model.rates(10**6)


@pytest.mark.parametrize(("said", "tier"), [(None, "default"), ("default", "default"), ("standard", "default"),
                                           ("fast", "priority"), ("priority", "priority")])  # fmt: skip
def test_a_tier_has_one_name_here_whatever_a_provider_calls_it(said: str | None, tier: str) -> None:
    model = priced_model(row(), [endpoint({"prompt": "1"}, service_tier=said)])
    assert model.rates(1, frozenset({tier})).prompt == NANO
    assert model.sells(frozenset({tier}))


@pytest.mark.parametrize("tier", ["priority", "flex", "ultrafast"])
def test_an_endpoint_of_a_tier_that_is_not_admitted_does_not_lengthen_what_is_sent_and_held(tier: str) -> None:
    opt_in = endpoint(service_tier=tier, context_length=10**6, max_completion_tokens=64_000)
    quoted = quote_of(asked(max_tokens=64_000), priced_model(row(), [endpoint(), opt_in]))
    assert quoted.output_tokens == 8_000


@pytest.mark.parametrize(("prompt_tokens", "nanousd"), [(1, 2500), (200_000, 2500), (200_001, 5000)])
def test_a_long_context_price_is_met_only_by_a_prompt_that_is_longer(prompt_tokens: int, nanousd: int) -> None:
    tier = {"overrides": [{"min_prompt_tokens": 200_000, "prompt": "0.000005"}]}
    assert rates(row(tier), [], prompt_tokens=prompt_tokens).prompt == nanousd


def test_a_price_for_an_hour_is_met_by_any_prompt() -> None:
    assert rates(row({"overrides": [{"utc_start": 800, "prompt": "0.000005"}]}), [], prompt_tokens=1).prompt == 5000


@pytest.mark.parametrize("pricing", [None, {}, {"prompt": "1"}, {"prompt": "-1", "completion": "-1"}])
def test_an_endpoint_without_a_price_counts_for_nothing_since_the_cap_keeps_it_away(pricing: Row | None) -> None:
    unpriced = {"context_length": 10**9, "max_completion_tokens": 10**9, "pricing": pricing}
    assert priced_model(row(), [endpoint(), unpriced]) == priced_model(row(), [endpoint()])


def test_numbers_and_strings_are_prices() -> None:
    as_numbers = {"prompt": Decimal("0.0000025"), "completion": Decimal("0.00001")}
    assert rates(row(as_numbers), []) == rates(row(), [])


UNPRICED = [
    pytest.param({"id": "acme/m1"}, id="no-pricing"),
    pytest.param({"id": "acme/m1", "pricing": "free"}, id="pricing-of-another-shape"),
    pytest.param(row({"prompt": None}), id="no-prompt-price"),
    pytest.param(row({"completion": None}), id="no-completion-price"),
    pytest.param(row({"prompt": "-1", "completion": "-1"}), id="router"),
    pytest.param(row({"completion": "-1"}), id="half-a-router"),
    pytest.param(row({"request": "-1"}), id="negative-fee"),
    pytest.param(row({"prompt": "free"}), id="word"),
    pytest.param(row({"prompt": "NaN"}), id="nan"),
    pytest.param(row({"prompt": 0.1}), id="float"),
    pytest.param(row({"prompt": "1e9999999"}), id="beyond-all-numbers"),
    pytest.param(row({"overrides": [{"prompt": "-1"}]}), id="negative-override"),
]


@pytest.mark.parametrize(
    "refuse", [require_priced, lambda model_row: priced_model(model_row, [])], ids=["row", "model"]
)
@pytest.mark.parametrize("model_row", UNPRICED)
def test_a_model_whose_price_is_not_known_in_advance_is_refused(
    refuse: Callable[[Row], object], model_row: Row
) -> None:
    with pytest.raises(ModelNotPriced) as refused:
        refuse(model_row)
    assert refused.value.facts == {"model": model_row["id"]}
    assert model_row["id"] in refused.value.message


def outputs(*modalities: str) -> Row:
    return {"architecture": {"output_modalities": list(modalities)}}


@pytest.mark.parametrize(
    ("model_row", "says"),
    [
        pytest.param(row(id="openrouter/auto"), "is a router", id="router-with-a-price"),
        pytest.param(row({"prompt": "0", "completion": "0"}, id="openrouter/auto"), "is a router", id="router-at-zero"),
        pytest.param(row(**outputs("image", "text")), "makes other output than text", id="images"),
        pytest.param(row(**outputs("audio")), "makes other output than text", id="sounds"),
        pytest.param(row({"web_search": "0.005"}, id="acme/sonar"), "searches the web", id="sonar"),
        pytest.param(row({"web_search": "0.01"}, id="acme/m1-search-preview"), "searches the web", id="search"),
        pytest.param(row({"web_search": "-1"}), "web_search price", id="search-at-no-price"),
    ],
)
def test_a_model_with_costs_beside_its_tokens_is_refused_whatever_its_endpoints_say(model_row: Row, says: str) -> None:
    with pytest.raises(ModelNotPriced, match=says):
        require_priced(model_row)


@pytest.mark.parametrize(
    "model_row",
    [
        pytest.param(row(), id="plain"),
        pytest.param(row(**outputs("text")), id="text"),
        pytest.param(row(architecture=None), id="no-architecture"),
        pytest.param(row(architecture={"output_modalities": None}), id="no-modalities"),
        pytest.param(row({"web_search": "0.01"}), id="a-search-that-must-be-asked-for"),
        pytest.param(row({"web_search": "0"}, id="acme/sonar"), id="a-search-that-costs-nothing"),
        pytest.param(row({"prompt": "0", "completion": "0"}, id="openrouter/free"), id="the-free-router"),
    ],
)
def test_a_model_whose_tokens_are_its_cost_is_taken(model_row: Row) -> None:
    require_priced(model_row)


@pytest.mark.parametrize("name", ["acme/m1:free", "openrouter/free"])
def test_a_free_model_is_quoted_at_nothing_and_nothing_that_costs_money_may_serve_it(name: str) -> None:
    model = priced_model(row({"prompt": "0", "completion": "0"}, id=name), [])
    quoted = quote_of(asked(model=name), model)
    assert model.rates(10**6).are_zero
    assert quoted.amount_nanousd == 0
    assert sent_for(asked(model=name), quoted)["provider"]["max_price"] == {
        "prompt": MAX_PRICE_OF_FREE,
        "completion": MAX_PRICE_OF_FREE,
    }


@pytest.mark.parametrize(
    "pricing", [{"completion": "1e-9"}, {"request": "1e-9"}, {"image": "1"}, {"input_cache_write": "1e-9"}]
)
def test_a_model_with_any_price_is_not_free(pricing: Row) -> None:
    assert not rates(row({"prompt": "0", "completion": "0", **pricing}), []).are_zero


def test_a_free_row_with_a_paid_endpoint_is_not_free() -> None:
    assert not rates(row({"prompt": "0", "completion": "0"}), [endpoint()]).are_zero


@pytest.mark.parametrize(
    ("fields", "endpoint_rows", "context", "output", "usual"),
    [
        ({}, [], 100_000, 8_000, 8_000),
        ({"top_provider": None}, [], 100_000, 100_000, 100_000),
        ({"top_provider": {"max_completion_tokens": None, "context_length": 90_000}}, [], 100_000, 90_000, 90_000),
        ({"top_provider": None, "context_length": None}, [], None, None, None),
        ({"context_length": "100000", "top_provider": {}}, [], 100_000, 100_000, 100_000),
        ({"context_length": "long", "top_provider": {}}, [], None, None, None),
        ({"context_length": 0, "top_provider": {"max_completion_tokens": -1}}, [], None, None, None),
        ({}, [endpoint(max_completion_tokens=9_000, context_length=200_000)], 200_000, 9_000, 8_000),
        ({}, [endpoint(max_completion_tokens=None, context_length=50_000), endpoint()], 100_000, 50_000, 8_000),
        ({"context_length": None}, [endpoint(max_completion_tokens=None)], 100_000, 100_000, 8_000),
        ({"top_provider": None}, [endpoint(max_completion_tokens=9_000)], 100_000, 9_000, 9_000),
    ],
)
def test_lengths_are_the_largest_that_may_serve(
    fields: Row, endpoint_rows: list[Row], context: int | None, output: int | None, usual: int | None
) -> None:
    model = priced_model(row(**fields), endpoint_rows)
    assert (model.context_tokens, model.output_tokens, model.usual_output_tokens) == (context, output, usual)


# Names, and routers.


@pytest.mark.parametrize(
    ("fields", "also"),
    [
        ({}, {"acme/m1", "acme/m1-20260801"}),
        ({"canonical_slug": None}, {"acme/m1"}),
        ({"alias_target": {"slug": "acme/m2", "name": "M2"}}, {"acme/m1", "acme/m1-20260801", "acme/m2"}),
        ({"alias_target": "acme/m2"}, {"acme/m1", "acme/m1-20260801"}),
    ],
    ids=["plain", "no canonical slug", "an alias", "an alias of another shape"],
)
def test_a_model_knows_its_other_names_by_whichever_it_was_asked_for(fields: Row, also: set[str]) -> None:
    model = priced_model(row(**fields), [], name="acme/m1-20260801")
    assert model.id == "acme/m1-20260801"
    assert model.also == also


def test_a_router_costs_what_the_clients_own_caps_let_it_cost() -> None:
    model = router("openrouter/auto", {"prompt": 2, "completion": "8.5"}, 500)
    found = model.rates(1)
    assert {found.prompt, found.media} == {Decimal(2_000)}
    assert found.completion == 8_500
    assert found.cache_write == 2_500
    assert found.cache_write_long == 4_000
    assert (model.output_tokens, model.context_tokens, model.usual_output_tokens) == (500, None, None)


@pytest.mark.parametrize(("fee", "nanousd"), [({}, 1), ({"request": "0.002"}, 2_000_000), ({"request": 0}, 0)])
def test_a_fee_for_each_request_is_kept_from_a_router_unless_the_client_has_a_cap_for_it(
    fee: Row, nanousd: int
) -> None:
    assert router("openrouter/auto", {"prompt": 1, "completion": 1, **fee}, 1).rates(1).request == nanousd


@pytest.mark.parametrize(
    "max_price", [{}, {"prompt": 1}, {"completion": 1}, {"prompt": 1, "completion": None}], ids=str
)
def test_a_router_without_caps_of_the_clients_has_no_price(max_price: Row) -> None:
    with pytest.raises(ModelNotPriced, match=r"send provider\.max_price with prompt and completion"):
        router("openrouter/auto", max_price, 1)


@pytest.mark.parametrize("name", ["openrouter/fusion", "openrouter/bodybuilder", "acme/m1"])
def test_a_router_that_calls_many_models_has_no_price_whatever_the_caps(name: str) -> None:
    with pytest.raises(ModelNotPriced, match="depends on what it chooses"):
        router(name, {"prompt": 1, "completion": 1}, 1)
