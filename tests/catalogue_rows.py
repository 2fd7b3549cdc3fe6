"""Rows of the catalogue and requests for tests of prices: by hand, and random ones."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from farebox.candidates import Candidate, candidate
from farebox.chat import ChatRequest, body_with, parse
from farebox.errors import ModelNotPriced
from farebox.pricing import PLAIN, Quote, Terms, bounds, quote
from farebox.rates import PricedModel, priced_model, require_priced
from farebox.rules import Rules

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


def quote_of(request: ChatRequest, *models: PricedModel, terms: Terms = PLAIN) -> Quote:
    """The quote of a request that any of the models may serve."""
    return quote(request, models, terms)


def sent_for(request: ChatRequest, quoted: Quote, models: Sequence[str] | None = None) -> Row:
    """The body as upstream gets it."""
    body = body_with(request, bounds(request, request.models if models is None else models, quoted))
    sent: Row = json.loads(body, parse_float=Decimal, parse_int=Decimal)
    return sent


def named(name: str, prompt: str = "0.0000025", completion: str = "0.00001", **fields: Any) -> Row:
    return row({"prompt": prompt, "completion": completion}, id=name, canonical_slug=name, **fields)


class Shop:
    """A price function over rows of the catalogue, by id and by canonical name."""

    def __init__(self, *rows: Row, endpoints: Sequence[Row] = ()) -> None:
        self._rows = {name: each for each in rows for name in (each["canonical_slug"], each["id"])}
        self._endpoints = endpoints
        self.asked: list[str] = []

    def __call__(self, name: str) -> PricedModel:
        self.asked.append(name)
        if name not in self._rows:
            raise ModelNotPriced(f"{name} is not in the catalogue")
        require_priced(self._rows[name])
        return priced_model(self._rows[name], self._endpoints, name=name)


M1, M2, SMALL, FREE = (
    row(),
    named("acme/m2", "0.00001", "0.00004"),
    named("acme/small", "0.0000001", "0.0000004"),
    named("acme/m1:free", "0", "0"),
)
SHOP = Shop(M1, M2, SMALL, FREE, named("other/free:free", "0", "0"))


def found(price: Shop = SHOP, rules: Rules = Rules(), **members: Any) -> Candidate:  # noqa: B008 - it is frozen
    request = asked(**members)
    return candidate(request, request.models, rules, price)


# Random ones.

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
