"""No bill is above its quote: by the catalogue's own words, and on the simulated upstream."""

from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from farebox.chat import ChatRequest, max_price_of
from farebox.pricing import MIN_OUTPUT_TOKENS, Quote, Terms, clamp
from farebox.rates import priced_model
from tests.bounds import run
from tests.catalogue_rows import MILLION, NANO, Row, catalogues, quote_of, requests, sent_for

# The quote and the bill: any endpoint below the cap may serve, at any of its prices, with any split of the tokens.


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
@settings(max_examples=100, deadline=None)
def test_no_endpoint_below_the_price_cap_can_bill_more_than_the_quote(data: st.DataObject) -> None:
    offered = data.draw(st.lists(catalogues, min_size=1, max_size=2))
    tiers = data.draw(st.frozensets(st.sampled_from(["priority", "flex"])))
    request = data.draw(requests)
    asked_for = quote_of(request, *(priced_model(*each) for each in offered), terms=Terms(service_tiers=tiers))
    affordable = data.draw(st.integers(0, asked_for.amount_nanousd + 10))
    quoted = clamp(asked_for, affordable, floor_tokens=16) or asked_for
    cap = sent_for(request, quoted)["provider"]["max_price"]
    own = max_price_of(request)
    assert all(cap[name] <= Decimal(price) for name, price in own.items())
    every = [each for model_row, endpoint_rows in offered for each in (model_row, *endpoint_rows)]
    serving = [each for each in every if each.get("service_tier") in (None, "default", *tiers)]
    pricing = data.draw(st.sampled_from(serving))["pricing"]
    assume(all(Fraction(pricing[name]) * MILLION <= Fraction(cap[name]) for name in ("prompt", "completion")))
    assert ceil(bill(data, request, quoted, pricing) * NANO) <= quoted.amount_nanousd


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_price_that_rose_up_to_the_cap_is_still_inside_the_quote(data: st.DataObject) -> None:
    model_row, endpoint_rows = data.draw(catalogues)
    request = data.draw(requests)
    quoted = quote_of(request, priced_model(model_row, endpoint_rows))
    cap = sent_for(request, quoted)["provider"]["max_price"]
    read, made = split(data, quoted.prompt_tokens, ["plain"])["plain"], quoted.output_tokens
    risen = read * Fraction(cap["prompt"]) / MILLION + made * Fraction(cap["completion"]) / MILLION
    assert ceil(risen * NANO) <= quoted.amount_nanousd


@given(catalogues, requests)
@settings(max_examples=60, deadline=None)
def test_the_quotes_tokens_cover_what_any_eligible_endpoint_can_read_and_are_what_it_may_write(
    catalogue: tuple[Row, list[Row]], request: ChatRequest
) -> None:
    model_row, endpoint_rows = catalogue
    quoted = quote_of(request, priced_model(model_row, endpoint_rows))
    for each in endpoint_rows:
        if each.get("service_tier") in (None, "default"):
            context = each["context_length"]
            assert quoted.prompt_tokens >= (context if request.media_parts else min(request.prompt_tokens_max, context))
    sent = sent_for(request, quoted)
    caps = [sent[name] for name in ("max_tokens", "max_completion_tokens") if sent.get(name) is not None]
    assert max(caps) == quoted.output_tokens


# The simulated upstream, with everything that moves a price at once.

OCCURS = (  # at least five times each
    "cache writes", "cache writes for an hour", "clamped", "several models", "images", "sounds", "a sibling -fast",
    "a sibling -pro", "a router", "an alias", "a canonical name", "another model", "fees of tools billed",
    "server tools", "web plugin", "suffix :nitro", "suffix :floor", "suffix :online", "the flex tier's endpoint",
    "the priority tier's endpoint", "an override by size", "a fee an image", "a fee a request",
)  # fmt: skip


def test_of_1500_random_calls_none_is_billed_above_its_quote_and_a_chat_is_held_at_one_and_a_half_times_its_bill(
    capsys: pytest.CaptureFixture[str],
) -> None:
    *_, result = run(1_500, seed=4)
    with capsys.disabled():
        print("", *result.lines(), sep="\n")  # noqa: T201 - figures worth seeing in every run
    assert not result.wrong
    assert result.is_right
    assert [kind for kind in OCCURS if result.kinds[kind] < 5] == []
