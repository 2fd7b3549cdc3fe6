"""A request to a quote, what it may be clamped to, and the bounds that go upstream with it."""

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.chat import ChatRequest, parse
from farebox.errors import ModelNotPriced
from farebox.pricing import MAX_PRICE_MARGIN, Quote, Terms, bounds, clamp, has_own_price_cap, smallest
from farebox.rates import PricedModel, priced_model
from tests.catalogue_rows import MILLION, NANO, Row, asked, catalogues, endpoint, quote_of, requests, row, sent_for

# From a request to a quote.


def test_a_quote_by_hand() -> None:
    """69 bytes of body and 32 for one message at 2.5 USD a million, 100 tokens of output at 10, each 2 % dearer."""
    request = asked(max_tokens=100)
    tokens = len(request.text) + 32
    quoted = quote_of(request, priced_model(row({"request": "0.001"}), []))
    assert (quoted.prompt_tokens, quoted.output_tokens) == (tokens, 100)
    assert quoted.amount_nanousd == tokens * 2550 + 100 * 10_200 + 1_020_000


def test_a_prompt_is_never_longer_than_the_context() -> None:
    long = asked(messages=[{"role": "user", "content": "x" * 200_000}], max_tokens=1)
    assert quote_of(long, priced_model(row(), [])).prompt_tokens == 100_000


def test_a_picture_counts_as_the_whole_context_and_its_fee_by_the_piece() -> None:
    pictures = asked(messages=[{"role": "user", "content": [{"type": "image_url"}] * 3}], max_tokens=1)
    with_fee, without = (quote_of(pictures, priced_model(row(fee), [])) for fee in ({"image": "0.01"}, {}))
    assert with_fee.prompt_tokens == 100_000
    assert with_fee.amount_nanousd - without.amount_nanousd == 30_600_000


@pytest.mark.parametrize("key", ["audio", "image_token", "input_audio_cache"])
def test_pictures_and_sounds_are_quoted_at_their_own_rate_where_that_is_dearer(key: str) -> None:
    sound = asked(messages=[{"role": "user", "content": [{"type": "input_audio"}]}], max_tokens=16)
    text = asked(max_tokens=16)
    model = priced_model(row({key: "0.00004"}), [])
    assert quote_of(sound, model).prompt_nanousd >= 100_000 * 40_000
    assert quote_of(text, model).prompt_nanousd == quote_of(text, priced_model(row(), [])).prompt_nanousd


def test_a_prompt_that_was_cached_is_inside_the_quote_even_where_that_is_dearer() -> None:
    quoted = quote_of(asked(max_tokens=16), priced_model(row({"input_cache_read": "0.00004"}), []))
    assert quoted.prompt_nanousd >= quoted.prompt_tokens * 40_000


def test_a_prompt_that_is_written_to_a_cache_is_inside_the_quote() -> None:
    pricing = {"input_cache_write": "0.000004", "input_cache_write_1h": "0.000006"}
    for ttl, rate in (("5m", 4_000), ("1h", 6_000)):
        request = asked(max_tokens=16, cache_control={"type": "ephemeral", "ttl": ttl})
        quoted = quote_of(request, priced_model(row(pricing), []))
        assert quoted.prompt_nanousd == quoted.prompt_tokens * rate * MAX_PRICE_MARGIN


def test_the_long_context_price_is_in_the_quote_of_a_long_prompt() -> None:
    tier = {"overrides": [{"min_prompt_tokens": 50_000, "prompt": "0.000005", "completion": "0.00002"}]}
    long = asked(messages=[{"role": "user", "content": "x" * 60_000}], max_tokens=10)
    quoted = quote_of(long, priced_model(row(tier), []))
    assert quoted.amount_nanousd >= 60_000 * 5_000 + 10 * 20_000


@pytest.mark.parametrize(
    ("max_tokens", "chars", "output"),
    [
        pytest.param(100, 0, 100, id="asked"),
        pytest.param(9_000, 0, 8_000, id="asked-above-the-models-own-cap"),
        pytest.param(None, 0, 8_000, id="unasked"),
        pytest.param(None, 96_000, 8_000, id="unasked-and-the-prompts-likely-size-leaves-enough"),
        pytest.param(None, 285_000, 4_950, id="unasked-and-the-prompts-likely-size-leaves-less"),
        pytest.param(None, 600_000, 1_024, id="unasked-and-the-prompt-is-likely-too-long"),
    ],
)
def test_the_output_is_what_was_asked_at_most_what_the_model_can(
    max_tokens: int | None, chars: int, output: int
) -> None:
    request = asked(max_tokens=max_tokens, messages=[{"role": "user", "content": "x" * chars}])
    assert quote_of(request, priced_model(row(), [])).output_tokens == pytest.approx(output, abs=60)


def lengthless(**fields: Any) -> PricedModel:
    return priced_model(row(context_length=None, **fields), [])


def test_without_a_context_length_the_bytes_are_the_bound() -> None:
    model = lengthless(top_provider={"max_completion_tokens": 500})
    assert quote_of(asked(), model).prompt_tokens == asked().prompt_tokens_max
    assert quote_of(asked(), model).output_tokens == 500


def test_without_a_context_length_pictures_cannot_be_bounded() -> None:
    pictures = asked(messages=[{"role": "user", "content": [{"type": "image_url"}]}], max_tokens=1)
    with pytest.raises(ModelNotPriced, match="acme/m1 has no context length"):
        quote_of(pictures, lengthless(top_provider=None))


def test_without_an_output_length_the_client_must_say_one() -> None:
    model = lengthless(top_provider=None)
    with pytest.raises(ModelNotPriced, match="send max_tokens"):
        quote_of(asked(), model)
    assert quote_of(asked(max_tokens=70), model).output_tokens == 70


@pytest.mark.parametrize(
    ("max_tokens", "affordable_tokens", "is_clamped"), [(100, 100, False), (100, 50, True), (None, 8_000, False),
                                                       (None, 100, True), (9_000, 8_000, True)]
)  # fmt: skip
def test_a_client_that_gets_less_than_it_asked_for_is_told(
    max_tokens: int | None,
    affordable_tokens: int,
    is_clamped: bool,  # noqa: FBT001 - a table's column
) -> None:
    full = quote_of(asked(max_tokens=max_tokens), priced_model(row(), []))
    affordable = replace(full, output_tokens=affordable_tokens).amount_nanousd
    offered = clamp(full, affordable, floor_tokens=16)
    assert offered is not None
    assert offered.output_tokens == affordable_tokens
    assert offered.is_clamped is is_clamped


def test_what_was_asked_is_enough_where_it_is_less_than_the_floor() -> None:
    full = quote_of(asked(max_tokens=5), priced_model(row(), []))
    assert smallest(full, floor_tokens=256) == full
    assert clamp(full, full.amount_nanousd - 1, floor_tokens=256) is None
    assert clamp(full, full.amount_nanousd, floor_tokens=256) == full


def test_fewer_tokens_than_providers_make_are_held_as_many_as_they_make() -> None:
    one, sixteen = (quote_of(asked(max_tokens=count), priced_model(row({"prompt": "0"}), [])) for count in (1, 16))
    assert one.amount_nanousd == sixteen.amount_nanousd
    assert sent_for(asked(max_tokens=1), one)["max_tokens"] == 1


def test_an_answer_that_reasons_is_not_clamped_to_its_reasoning() -> None:
    full = quote_of(asked(reasoning={"max_tokens": 2_000}), priced_model(row(), []))
    assert smallest(full, floor_tokens=256).output_tokens == 2_256
    assert clamp(full, replace(full, output_tokens=2_255).amount_nanousd, floor_tokens=256) is None
    assert clamp(full, replace(full, output_tokens=2_256).amount_nanousd, floor_tokens=256) is not None


def test_where_output_costs_nothing_there_is_nothing_to_clamp() -> None:
    full = quote_of(asked(), priced_model(row({"prompt": "0", "completion": "0"}), []))
    assert clamp(full, 0, floor_tokens=16) == full
    assert clamp(full, -1, floor_tokens=16) is None


# Several models, tiers, and tools that cost fees.


def model(prompt: str, completion: str, **fields: Any) -> PricedModel:
    return priced_model(row({"prompt": prompt, "completion": completion}, **fields), [])


def test_of_several_models_the_dearest_of_each_rate_is_held_and_capped_and_the_first_one_names_the_quote() -> None:
    one, other = model("0.000001", "0.00009", id="acme/m1"), model("0.000007", "0.00002", id="acme/m2")
    both = quote_of(asked(max_tokens=100), one, other)
    assert both.rates.prompt == 7_000
    assert both.rates.completion == 90_000
    assert both.max_price == {"prompt": Decimal("7.14"), "completion": Decimal("91.8")}
    assert both.model == "acme/m1"
    assert both.amount_nanousd > max(quote_of(asked(max_tokens=100), each).amount_nanousd for each in (one, other))


@given(st.lists(catalogues.map(lambda both: priced_model(*both)), min_size=1, max_size=3), requests)
@settings(max_examples=25, deadline=None)
def test_several_models_are_held_at_least_at_what_the_dearest_would_be_for_that_much_output(
    models: list[PricedModel], request: ChatRequest
) -> None:
    together = quote_of(request, *models)
    for each in models:
        alone = replace(quote_of(request, each), output_tokens=together.output_tokens)
        assert together.amount_nanousd >= alone.amount_nanousd


def test_several_models_may_all_read_the_longest_context_and_unasked_write_what_each_of_them_can() -> None:
    short = model("0.000001", "0.000001", context_length=4_000, top_provider={"max_completion_tokens": 500})
    long = model("0.000001", "0.000001", context_length=50_000, top_provider={"max_completion_tokens": 9_000})
    pictures = [{"role": "user", "content": [{"type": "image_url"}]}]
    assert quote_of(asked(messages=pictures, max_tokens=1), short, long).prompt_tokens == 50_000
    assert quote_of(asked(), short, long).output_tokens == 500
    assert quote_of(asked(max_tokens=20_000), short, long).output_tokens == 9_000


def test_a_free_model_beside_a_paid_one_is_held_at_the_paid_ones_price() -> None:
    assert quote_of(asked(), model("0", "0"), model("0.000001", "0.000001")).amount_nanousd > 0


def test_a_tier_that_is_admitted_is_held_and_capped_at_its_own_price() -> None:
    dear = endpoint({"prompt": "0.000005", "completion": "0.00002"}, service_tier="priority")
    tiers = priced_model(row(), [endpoint(), dear])
    plain, fast = (
        quote_of(asked(max_tokens=100), tiers, terms=Terms(service_tiers=each))
        for each in (frozenset[str](), frozenset({"priority"}))
    )
    assert fast.amount_nanousd == 2 * plain.amount_nanousd
    assert fast.max_price["completion"] == 2 * plain.max_price["completion"]


SEARCH = 15_000_000


@pytest.mark.parametrize(
    ("pricing", "results", "fee"),
    [
        ({}, 1, SEARCH),
        ({}, 10, SEARCH),
        ({}, 12, SEARCH + 2_000_000),
        ({"web_search": "0.01"}, 10, SEARCH),
        ({"web_search": "0.04"}, 11, 41_000_000),
    ],
    ids=str,
)
def test_searches_are_held_eight_times_at_the_dearest_engines_fee_and_what_they_find_at_the_whole_context(
    pricing: Row, results: int, fee: int
) -> None:
    searching = priced_model(row(pricing), [])
    quoted = quote_of(asked(max_tokens=16), searching, terms=Terms(web_results=results, allowance_nanousd=7))
    assert quoted.prompt_tokens == 100_000
    assert quoted.prompt_nanousd == 100_000 * 2_550 + 8 * fee + 7
    assert quoted.stop_at_nanousd is None


def test_a_loop_of_server_tools_is_held_at_its_allowance_two_more_turns_and_the_searches_of_one() -> None:
    request = asked(max_tokens=100, stop_server_tools_when=[{"type": "step_count_is", "step_count": 3}])
    terms = Terms(web_results=10, has_server_tools=True, allowance_nanousd=50_000_000)
    quoted = quote_of(request, priced_model(row({"request": "0.001"}), []), terms=terms)
    turn = 100_000 * 2_550 + 100 * 10_200 + 1_020_000
    assert quoted.amount_nanousd == 50_000_000 + 2 * turn + 8 * SEARCH
    assert sent_for(request, quoted)["stop_server_tools_when"] == [
        {"type": "step_count_is", "step_count": 3},
        {"type": "max_cost", "max_cost_in_dollars": Decimal("0.05")},
    ]


def test_a_loop_of_server_tools_is_clamped_in_all_its_turns() -> None:
    terms = Terms(web_results=10, has_server_tools=True, allowance_nanousd=50_000_000)
    full = quote_of(asked(max_tokens=1_000), priced_model(row(), []), terms=terms)
    half = clamp(full, full.amount_nanousd - 500 * 2 * 10_200, floor_tokens=16)
    assert half is not None
    assert half.output_tokens == 500


# Clamped to what is affordable.


@given(catalogues.map(lambda both: priced_model(*both)), requests, st.data())
@settings(max_examples=100, deadline=None)
def test_a_clamped_quote_is_the_largest_that_is_affordable(
    model: PricedModel, request: ChatRequest, data: st.DataObject
) -> None:
    full = quote_of(request, model)
    affordable = data.draw(st.integers(-1, full.amount_nanousd + 2))
    floor_tokens = data.draw(st.integers(16, 1000))
    check_clamp(full, affordable, floor_tokens)


def check_clamp(full: Quote, affordable: int, floor_tokens: int) -> None:
    least = min(max(floor_tokens, full.min_output_tokens), full.output_tokens)
    clamped = clamp(full, affordable, floor_tokens=floor_tokens)
    if clamped is None:
        assert smallest(full, floor_tokens=floor_tokens).amount_nanousd > affordable
        return
    assert clamped.amount_nanousd <= affordable
    assert least <= clamped.output_tokens <= full.output_tokens
    assert clamped == replace(full, output_tokens=clamped.output_tokens)
    if clamped.output_tokens < full.output_tokens:
        one_more = replace(clamped, output_tokens=clamped.output_tokens + 1)
        assert one_more.amount_nanousd > affordable


@pytest.mark.parametrize("digits", [12, 28, 40])
def test_a_price_of_many_digits_is_not_rounded_to_what_is_affordable(digits: int) -> None:
    """The rate with the margin is a little above 3, so 300 nano-dollars do not pay for 100 tokens of it."""
    price = f"{(Decimal(3) / MAX_PRICE_MARGIN):.{digits}f}"
    up = Decimal(price) + Decimal(1).scaleb(-digits)
    model = priced_model(row({"prompt": "0", "completion": f"{up}e-9"}), [])
    check_clamp(quote_of(asked(max_tokens=1000), model), affordable=3 * 100, floor_tokens=16)


@pytest.mark.parametrize("digits", [12, 24, 40])
def test_a_price_of_many_digits_is_still_rounded_up(digits: int) -> None:
    price = "1." + "0" * (digits - 1) + "1"
    model = priced_model(row({"prompt": "0", "completion": f"{price}e-9", "request": "0.001"}), [])
    exact = 100 * Fraction(price) * Fraction(MAX_PRICE_MARGIN) + 10**6
    assert quote_of(asked(max_tokens=100), model).amount_nanousd >= ceil(exact)


@pytest.mark.parametrize("free", ["prompt", "completion"])
def test_what_is_free_beside_something_paid_is_held_at_the_cap_that_lets_it_through(free: str) -> None:
    long = asked(messages=[{"role": "user", "content": "x" * 50_000}], max_tokens=8_000)
    quoted = quote_of(long, priced_model(row({free: "0"}), []))
    cap = sent_for(long, quoted)["provider"]["max_price"]
    most = quoted.prompt_tokens * Fraction(cap["prompt"]) + quoted.output_tokens * Fraction(cap["completion"])
    assert ceil(most * NANO / MILLION) <= quoted.amount_nanousd


# What goes upstream never asks for more than the client did.


@given(catalogues.map(lambda both: priced_model(*both)), requests, st.data())
@example(
    priced_model(row(), []),
    asked(max_tokens=1000, max_completion_tokens=20),
    None,
).via("the smaller of two caps stays")
@settings(max_examples=100, deadline=None)
def test_the_clients_own_caps_are_never_raised(
    model: PricedModel, request: ChatRequest, data: st.DataObject | None
) -> None:
    full = quote_of(request, model)
    affordable = full.amount_nanousd // 2 if data is None else data.draw(st.integers(0, full.amount_nanousd))
    sent = sent_for(request, clamp(full, affordable, floor_tokens=16) or full)
    given_ = json.loads(request.text)
    for name in ("max_tokens", "max_completion_tokens"):
        if given_.get(name) is not None:
            assert sent[name] <= given_[name]
    theirs = (given_.get("provider") or {}).get("max_price", {})
    for name, price in theirs.items():
        assert sent["provider"]["max_price"][name] <= price


@pytest.mark.parametrize(
    ("theirs", "sent"),
    [
        ({}, {"prompt": Decimal("2.55"), "completion": Decimal("10.2")}),
        ({"prompt": 1, "completion": "3"}, {"prompt": 1, "completion": 3}),
        ({"prompt": 99, "completion": None}, {"prompt": Decimal("2.55"), "completion": Decimal("10.2")}),
        ({"image": 0.5, "prompt": 0}, {"image": Decimal("0.5"), "prompt": 0, "completion": Decimal("10.2")}),
    ],
    ids=str,
)
def test_the_lower_price_cap_is_sent_and_the_clients_other_preferences_stay(theirs: Row, sent: Row) -> None:
    request = asked(max_tokens=100, provider={"only": ["deepinfra"], "max_price": theirs})
    changes = bounds(request, request.models, quote_of(request, priced_model(row(), [])))
    assert changes.keys() == {"provider"}
    assert json.loads(changes["provider"], parse_float=Decimal) == {"only": ["deepinfra"], "max_price": sent}


def test_a_client_that_names_no_cap_is_given_one() -> None:
    request = asked(max_tokens=None)
    assert sent_for(request, quote_of(request, priced_model(row(), [])))["max_tokens"] == 8_000


def test_the_cap_is_sent_under_the_name_that_the_client_used() -> None:
    request = asked(max_completion_tokens=20_000)
    sent = sent_for(request, quote_of(request, priced_model(row(), [])))
    assert (sent.get("max_completion_tokens"), sent.get("max_tokens")) == (8_000, None)


def test_another_model_than_the_one_asked_for_is_named_upstream() -> None:
    request = asked(models=["acme/m2"])
    quoted = quote_of(request, priced_model(row(), []))
    assert "model" not in bounds(request, ["acme/m1", "acme/m2"], quoted)
    sent = sent_for(request, quoted, ["acme/m3", "acme/m4"])
    assert (sent["model"], sent["models"]) == ("acme/m3", ["acme/m3", "acme/m4"])
    assert "models" not in sent_for(asked(), quoted, ["acme/m3"])


def test_a_request_that_names_no_model_is_given_one() -> None:
    request = parse(b'{"messages":[{"role":"user"}]}')
    assert sent_for(request, quote_of(request, priced_model(row(), [])), ["acme/m1"])["model"] == "acme/m1"


def test_one_model_in_place_of_several_leaves_none_of_them_behind_it() -> None:
    request = asked(models=["acme/m1", "acme/m2"])
    assert sent_for(request, quote_of(request, priced_model(row(), [])), ["acme/m1"])["models"] == ["acme/m1"]


def test_the_price_cap_is_a_little_above_the_list_price_since_equality_was_seen_refused() -> None:
    quoted = quote_of(asked(), priced_model(row(), []))
    assert Decimal("2.5") < quoted.max_price["prompt"] <= Decimal("2.55")
    assert Decimal(10) < quoted.max_price["completion"] <= Decimal("10.2")


def test_a_fee_is_capped_too_and_one_that_is_not_there_is_not_named() -> None:
    assert quote_of(asked(), priced_model(row(), [])).max_price.keys() == {"prompt", "completion"}
    fees = quote_of(asked(), priced_model(row({"request": "0.001", "image": "0.01"}), [])).max_price
    assert (fees["request"], fees["image"]) == (Decimal("0.00102"), Decimal("0.0102"))


@pytest.mark.parametrize(
    ("theirs", "is_own"),
    [(None, False), ({}, False), ({"prompt": 1}, True), ({"completion": "10.1"}, True), ({"prompt": 99}, False),
     ({"prompt": Decimal("2.55")}, False), ({"audio": 1}, False)],
    ids=str,
)  # fmt: skip
def test_it_is_known_whose_price_cap_may_keep_everybody_from_serving_a_call(
    theirs: Row | None,
    is_own: bool,  # noqa: FBT001 - a table's column
) -> None:
    cap = json.dumps(theirs, default=float)
    request = parse(f'{{"messages":[{{"role":"user"}}],"provider":{{"max_price":{cap}}}}}'.encode())
    assert has_own_price_cap(request, quote_of(request, priced_model(row(), []))) is is_own
