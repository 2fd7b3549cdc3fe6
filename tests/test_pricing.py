"""A quote is never below the bill, a clamp is never above what is affordable, and the same bounds are sent."""

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from farebox.chat import ChatRequest, body_with, max_price_of, parse
from farebox.errors import ModelNotPriced
from farebox.pricing import (
    MAX_PRICE_MARGIN,
    MAX_PRICE_OF_FREE,
    MIN_OUTPUT_TOKENS,
    Quote,
    bounds,
    clamp,
    has_own_price_cap,
    quote,
    shared,
    smallest,
)
from farebox.rates import PricedModel, priced_model, require_priced

NANO = 10**9
MILLION = 10**6
Row = dict[str, Any]


def asked(**members: Any) -> ChatRequest:
    return parse(json.dumps({"model": "acme/m1", "messages": [{"role": "user", "content": "hi"}], **members}).encode())


def row(pricing: Row | None = None, **fields: Any) -> Row:
    """A row of /models: 2.5 USD and 10 USD a million tokens."""
    return {
        "id": "acme/m1",
        "canonical_slug": "acme/m1-20260801",
        "context_length": 100_000,
        "pricing": {"prompt": "0.0000025", "completion": "0.00001", **(pricing or {})},
        "top_provider": {"context_length": 100_000, "max_completion_tokens": 8_000},
        **fields,
    }


def endpoint(pricing: Row | None = None, **fields: Any) -> Row:
    return {"context_length": 100_000, "max_completion_tokens": 8_000, "pricing": row(pricing)["pricing"], **fields}


def sent_for(request: ChatRequest, quoted: Quote) -> Row:
    """The body as upstream gets it."""
    body = body_with(request, bounds(request, quoted))
    sent: Row = json.loads(body, parse_float=Decimal, parse_int=Decimal)
    return sent


# The quote and the bill: any endpoint below the cap may serve, at any of its prices, with any split of the tokens.

prices = st.sampled_from(["0", "0.0000000375", "0.00000015", "0.0000025", "0.00001", "0.00007500001"]) | st.integers(
    0, 10**8
).map(lambda n: f"{n}e-12")
paid_prices = prices.filter(lambda price: Decimal(price) >= Decimal("1e-9"))
TOKEN_KEYS = ["audio", "image_token", "input_audio_cache", "input_cache_read", "input_cache_write",
              "input_cache_write_1h", "internal_reasoning"]  # fmt: skip


def some_of(required: list[str], optional: list[str]) -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries(dict.fromkeys(required, paid_prices), optional=dict.fromkeys(optional, prices))


overrides = st.lists(
    st.tuples(some_of([], ["prompt", "completion", *TOKEN_KEYS]), st.none() | st.integers(0, 6_000)).map(
        lambda both: {**both[0], **({} if both[1] is None else {"min_prompt_tokens": both[1]})}
    ),
    max_size=2,
)
pricings = st.tuples(some_of(["prompt", "completion"], [*TOKEN_KEYS, "request", "image"]), overrides).map(
    lambda both: {**both[0], **({"overrides": both[1]} if both[1] else {})}
)
lengths = st.integers(40, 300_000)
endpoints = st.fixed_dictionaries(
    {"pricing": pricings, "context_length": lengths, "max_completion_tokens": st.none() | lengths},
    optional={"service_tier": st.sampled_from([None, "default", "priority", "flex"])},
)
catalogues = st.tuples(
    st.builds(lambda pricing, top: row(pricing, top_provider=top), pricings, st.none() | endpoints),
    st.lists(endpoints, max_size=3),
)
requests = st.builds(
    lambda chars, media, ttl, members: asked(
        **{name: value for name, value in members.items() if value is not None},
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "x" * chars}, *[{"type": "image_url"}] * media]}
        ],
        cache_control={"type": "ephemeral", **({"ttl": ttl} if ttl else {})},
    ),
    st.integers(0, 5_000),
    st.integers(0, 3),
    st.sampled_from([None, "5m", "1h"]),
    st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.none() | st.integers(1, 400_000),
            "max_completion_tokens": st.none() | st.integers(1, 400_000),
            "provider": st.none()
            | st.fixed_dictionaries(
                {"max_price": st.dictionaries(st.sampled_from(["prompt", "completion", "image"]), st.integers(0, 40))}
            ),
        },
    ),
)


def prices_now(data: st.DataObject, pricing: Row, prompt_tokens: int) -> dict[str, Fraction]:
    """The base prices with whichever overrides match just now; a later one wins."""
    found = {**pricing, "overrides": None}
    for layer in pricing.get("overrides", []):
        if prompt_tokens > layer.get("min_prompt_tokens", 0) and data.draw(st.booleans()):
            found.update(layer)
    return {name: Fraction(price) for name, price in found.items() if price is not None}


def split(data: st.DataObject, total: int, kinds: list[str]) -> dict[str, int]:
    """Tokens of each kind, together at most the total."""
    used: dict[str, int] = {}
    for kind in data.draw(st.permutations(kinds)):
        used[kind] = data.draw(st.integers(0, total) | st.just(total))
        total -= used[kind]
    return used


def bill(data: st.DataObject, request: ChatRequest, quoted: Quote, pricing: Row) -> Fraction:
    """What OpenRouter charges in USD, worked out from the catalogue's own words."""
    kinds = ["plain", "cached", "written"]
    kinds += ["written for long"] * request.has_long_cache_writes
    kinds += ["sound", "cached sound", "pictures"] * bool(request.media_parts)
    read = split(data, quoted.prompt_tokens, kinds)
    made = split(data, max(quoted.output_tokens, MIN_OUTPUT_TOKENS), ["text", "thinking"])
    price = prices_now(data, pricing, sum(read.values()))
    base, output = price["prompt"], price["completion"]
    written = price.get("input_cache_write", base)
    rate = {
        "plain": base,
        "cached": price.get("input_cache_read", base),
        "written": written,
        "written for long": price.get("input_cache_write_1h", max(written, 2 * base)),
        "sound": price.get("audio", base),
        "cached sound": price.get("input_audio_cache", base),
        "pictures": price.get("image_token", base),
        "text": output,
        "thinking": price.get("internal_reasoning", output),
    }
    tokens = sum((count * rate[kind] for kind, count in (read | made).items()), Fraction(0))
    return tokens + price.get("request", 0) + price.get("image", 0) * request.media_parts


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_endpoint_below_the_price_cap_can_bill_more_than_the_quote(data: st.DataObject) -> None:
    model_row, endpoint_rows = data.draw(catalogues)
    request = data.draw(requests)
    asked_for = quote(request, priced_model(model_row, endpoint_rows))
    affordable = data.draw(st.integers(0, asked_for.amount_nanousd + 10))
    quoted = clamp(asked_for, affordable, floor_tokens=16) or asked_for
    cap = sent_for(request, quoted)["provider"]["max_price"]
    own = max_price_of(request)
    assert all(cap[name] <= Decimal(price) for name, price in own.items())
    serving = [each for each in (model_row, *endpoint_rows) if each.get("service_tier") in (None, "default")]
    pricing = data.draw(st.sampled_from(serving))["pricing"]
    assume(all(Fraction(pricing[name]) * MILLION <= Fraction(cap[name]) for name in ("prompt", "completion")))
    assert ceil(bill(data, request, quoted, pricing) * NANO) <= quoted.amount_nanousd


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_price_that_rose_up_to_the_cap_is_still_inside_the_quote(data: st.DataObject) -> None:
    model_row, endpoint_rows = data.draw(catalogues)
    request = data.draw(requests)
    quoted = quote(request, priced_model(model_row, endpoint_rows))
    cap = sent_for(request, quoted)["provider"]["max_price"]
    read, made = split(data, quoted.prompt_tokens, ["plain"])["plain"], quoted.output_tokens
    risen = read * Fraction(cap["prompt"]) / MILLION + made * Fraction(cap["completion"]) / MILLION
    assert ceil(risen * NANO) <= quoted.amount_nanousd


@given(catalogues, requests)
@settings(max_examples=100, deadline=None)
def test_the_quotes_tokens_cover_what_any_eligible_endpoint_can_read_and_are_what_it_may_write(
    catalogue: tuple[Row, list[Row]], request: ChatRequest
) -> None:
    model_row, endpoint_rows = catalogue
    quoted = quote(request, priced_model(model_row, endpoint_rows))
    for each in endpoint_rows:
        if each.get("service_tier") in (None, "default"):
            context = each["context_length"]
            assert quoted.prompt_tokens >= (context if request.media_parts else min(request.prompt_tokens_max, context))
    sent = sent_for(request, quoted)
    caps = [sent[name] for name in ("max_tokens", "max_completion_tokens") if sent.get(name) is not None]
    assert max(caps) == quoted.output_tokens


@given(catalogues.map(lambda both: priced_model(*both)), requests, st.data())
@settings(max_examples=150, deadline=None)
def test_a_clamped_quote_is_the_largest_that_is_affordable(
    model: PricedModel, request: ChatRequest, data: st.DataObject
) -> None:
    full = quote(request, model)
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
    check_clamp(quote(asked(max_tokens=1000), model), affordable=3 * 100, floor_tokens=16)


@pytest.mark.parametrize("digits", [12, 24, 40])
def test_a_price_of_many_digits_is_still_rounded_up(digits: int) -> None:
    price = "1." + "0" * (digits - 1) + "1"
    model = priced_model(row({"prompt": "0", "completion": f"{price}e-9", "request": "0.001"}), [])
    exact = 100 * Fraction(price) * Fraction(MAX_PRICE_MARGIN) + 10**6
    assert quote(asked(max_tokens=100), model).amount_nanousd >= ceil(exact)


@pytest.mark.parametrize("free", ["prompt", "completion"])
def test_what_is_free_beside_something_paid_is_held_at_the_cap_that_lets_it_through(free: str) -> None:
    long = asked(messages=[{"role": "user", "content": "x" * 50_000}], max_tokens=8_000)
    quoted = quote(long, priced_model(row({free: "0"}), []))
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
@settings(max_examples=200, deadline=None)
def test_the_clients_own_caps_are_never_raised(
    model: PricedModel, request: ChatRequest, data: st.DataObject | None
) -> None:
    full = quote(request, model)
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
    changes = bounds(request, quote(request, priced_model(row(), [])))
    assert changes.keys() == {"provider"}
    assert json.loads(changes["provider"], parse_float=Decimal) == {"only": ["deepinfra"], "max_price": sent}


def test_a_client_that_names_no_cap_is_given_one() -> None:
    request = asked(max_tokens=None)
    assert sent_for(request, quote(request, priced_model(row(), [])))["max_tokens"] == 8_000


def test_the_cap_is_sent_under_the_name_that_the_client_used() -> None:
    request = asked(max_completion_tokens=20_000)
    sent = sent_for(request, quote(request, priced_model(row(), [])))
    assert (sent.get("max_completion_tokens"), sent.get("max_tokens")) == (8_000, None)


def test_another_model_than_the_one_asked_for_is_named_upstream() -> None:
    request = asked(model="acme/m1-20260801", max_tokens=1)
    assert sent_for(request, quote(request, priced_model(row(), [])))["model"] == "acme/m1"
    assert "model" not in bounds(asked(), quote(asked(), priced_model(row(), [])))


def test_the_price_cap_is_a_little_above_the_list_price_since_equality_was_seen_refused() -> None:
    quoted = quote(asked(), priced_model(row(), []))
    assert Decimal("2.5") < quoted.max_price["prompt"] <= Decimal("2.55")
    assert Decimal(10) < quoted.max_price["completion"] <= Decimal("10.2")


def test_a_fee_is_capped_too_and_one_that_is_not_there_is_not_named() -> None:
    assert quote(asked(), priced_model(row(), [])).max_price.keys() == {"prompt", "completion"}
    fees = quote(asked(), priced_model(row({"request": "0.001", "image": "0.01"}), [])).max_price
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
    assert has_own_price_cap(request, quote(request, priced_model(row(), []))) is is_own


# From the catalogue's rows to rates.


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


@pytest.mark.parametrize("tier", ["priority", "flex", "ultrafast"])
def test_an_endpoint_of_a_tier_that_is_opt_in_does_not_serve_and_does_not_count(tier: str) -> None:
    opt_in = endpoint({"prompt": "1"}, service_tier=tier, context_length=10**9, max_completion_tokens=10**9)
    assert priced_model(row(), [endpoint(), opt_in]) == priced_model(row(), [endpoint()])


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
    quoted = quote(asked(model=name), model)
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


# From a request to a quote.


def test_a_quote_by_hand() -> None:
    """69 bytes of body and 32 for one message at 2.5 USD a million, 100 tokens of output at 10, each 2 % dearer."""
    request = asked(max_tokens=100)
    tokens = len(request.text) + 32
    quoted = quote(request, priced_model(row({"request": "0.001"}), []))
    assert (quoted.prompt_tokens, quoted.output_tokens) == (tokens, 100)
    assert quoted.amount_nanousd == tokens * 2550 + 100 * 10_200 + 1_020_000


def test_a_prompt_is_never_longer_than_the_context() -> None:
    long = asked(messages=[{"role": "user", "content": "x" * 200_000}], max_tokens=1)
    assert quote(long, priced_model(row(), [])).prompt_tokens == 100_000


def test_a_picture_counts_as_the_whole_context_and_its_fee_by_the_piece() -> None:
    pictures = asked(messages=[{"role": "user", "content": [{"type": "image_url"}] * 3}], max_tokens=1)
    with_fee, without = (quote(pictures, priced_model(row(fee), [])) for fee in ({"image": "0.01"}, {}))
    assert with_fee.prompt_tokens == 100_000
    assert with_fee.amount_nanousd - without.amount_nanousd == 30_600_000


@pytest.mark.parametrize("key", ["audio", "image_token", "input_audio_cache"])
def test_pictures_and_sounds_are_quoted_at_their_own_rate_where_that_is_dearer(key: str) -> None:
    sound = asked(messages=[{"role": "user", "content": [{"type": "input_audio"}]}], max_tokens=16)
    text = asked(max_tokens=16)
    model = priced_model(row({key: "0.00004"}), [])
    assert quote(sound, model).prompt_nanousd >= 100_000 * 40_000
    assert quote(text, model).prompt_nanousd == quote(text, priced_model(row(), [])).prompt_nanousd


def test_a_prompt_that_was_cached_is_inside_the_quote_even_where_that_is_dearer() -> None:
    quoted = quote(asked(max_tokens=16), priced_model(row({"input_cache_read": "0.00004"}), []))
    assert quoted.prompt_nanousd >= quoted.prompt_tokens * 40_000


def test_a_prompt_that_is_written_to_a_cache_is_inside_the_quote() -> None:
    pricing = {"input_cache_write": "0.000004", "input_cache_write_1h": "0.000006"}
    for ttl, rate in (("5m", 4_000), ("1h", 6_000)):
        request = asked(max_tokens=16, cache_control={"type": "ephemeral", "ttl": ttl})
        quoted = quote(request, priced_model(row(pricing), []))
        assert quoted.prompt_nanousd == quoted.prompt_tokens * rate * MAX_PRICE_MARGIN


def test_the_long_context_price_is_in_the_quote_of_a_long_prompt() -> None:
    tier = {"overrides": [{"min_prompt_tokens": 50_000, "prompt": "0.000005", "completion": "0.00002"}]}
    long = asked(messages=[{"role": "user", "content": "x" * 60_000}], max_tokens=10)
    quoted = quote(long, priced_model(row(tier), []))
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
    assert quote(request, priced_model(row(), [])).output_tokens == pytest.approx(output, abs=60)


def lengthless(**fields: Any) -> PricedModel:
    return priced_model(row(context_length=None, **fields), [])


def test_without_a_context_length_the_bytes_are_the_bound() -> None:
    model = lengthless(top_provider={"max_completion_tokens": 500})
    assert quote(asked(), model).prompt_tokens == asked().prompt_tokens_max
    assert quote(asked(), model).output_tokens == 500


def test_without_a_context_length_pictures_cannot_be_bounded() -> None:
    pictures = asked(messages=[{"role": "user", "content": [{"type": "image_url"}]}], max_tokens=1)
    with pytest.raises(ModelNotPriced, match="acme/m1 has no context length"):
        quote(pictures, lengthless(top_provider=None))


def test_without_an_output_length_the_client_must_say_one() -> None:
    model = lengthless(top_provider=None)
    with pytest.raises(ModelNotPriced, match="send max_tokens"):
        quote(asked(), model)
    assert quote(asked(max_tokens=70), model).output_tokens == 70


@pytest.mark.parametrize(
    ("max_tokens", "affordable_tokens", "is_clamped"), [(100, 100, False), (100, 50, True), (None, 8_000, False),
                                                       (None, 100, True), (9_000, 8_000, True)]
)  # fmt: skip
def test_a_client_that_gets_less_than_it_asked_for_is_told(
    max_tokens: int | None,
    affordable_tokens: int,
    is_clamped: bool,  # noqa: FBT001 - a table's column
) -> None:
    full = quote(asked(max_tokens=max_tokens), priced_model(row(), []))
    affordable = replace(full, output_tokens=affordable_tokens).amount_nanousd
    offered = clamp(full, affordable, floor_tokens=16)
    assert offered is not None
    assert offered.output_tokens == affordable_tokens
    assert offered.is_clamped is is_clamped


def test_what_was_asked_is_enough_where_it_is_less_than_the_floor() -> None:
    full = quote(asked(max_tokens=5), priced_model(row(), []))
    assert smallest(full, floor_tokens=256) == full
    assert clamp(full, full.amount_nanousd - 1, floor_tokens=256) is None
    assert clamp(full, full.amount_nanousd, floor_tokens=256) == full


def test_fewer_tokens_than_providers_make_are_held_as_many_as_they_make() -> None:
    one, sixteen = (quote(asked(max_tokens=count), priced_model(row({"prompt": "0"}), [])) for count in (1, 16))
    assert one.amount_nanousd == sixteen.amount_nanousd
    assert sent_for(asked(max_tokens=1), one)["max_tokens"] == 1


def test_an_answer_that_reasons_is_not_clamped_to_its_reasoning() -> None:
    full = quote(asked(reasoning={"max_tokens": 2_000}), priced_model(row(), []))
    assert smallest(full, floor_tokens=256).output_tokens == 2_256
    assert clamp(full, replace(full, output_tokens=2_255).amount_nanousd, floor_tokens=256) is None
    assert clamp(full, replace(full, output_tokens=2_256).amount_nanousd, floor_tokens=256) is not None


def test_where_output_costs_nothing_there_is_nothing_to_clamp() -> None:
    full = quote(asked(), priced_model(row({"prompt": "0", "completion": "0"}), []))
    assert clamp(full, 0, floor_tokens=16) == shared(full, 0, floor_tokens=16) == full
    assert clamp(full, -1, floor_tokens=16) is None


@given(catalogues.map(lambda both: priced_model(*both)), requests, st.integers(0, 10**12), st.integers(16, 1000))
@settings(max_examples=80, deadline=None)
def test_only_output_that_nobody_asked_for_is_cut_to_a_share_of_the_budget_and_never_below_the_floor(
    model: PricedModel, request: ChatRequest, share: int, floor_tokens: int
) -> None:
    full = quote(request, model)
    found = shared(full, share, floor_tokens=floor_tokens)
    assert found == replace(full, output_tokens=found.output_tokens)
    if request.max_tokens is not None:
        assert found == full
        return
    if found.output_tokens < full.output_tokens:
        assert found.output_tokens >= min(floor_tokens, full.output_tokens)
        assert (found.output_tokens + 1) * full.completion_rate > share
    least = smallest(full, floor_tokens=floor_tokens).output_tokens
    assert found.output_tokens <= least or found.output_tokens * full.completion_rate <= share
