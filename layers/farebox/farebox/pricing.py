"""Catalogue rows to rates, a request to a quote, a quote clamped to what is affordable.

A quote is an upper bound that is true, because the same bound goes upstream:

    amount = prompt tokens x prompt rate + output tokens x completion rate + fee a request
             ^ bytes, context at most      ^ max_tokens, sent      ^ provider.max_price, sent

Rates are the dearest over the model's endpoints and their price overrides, since OpenRouter may serve a call from any
endpoint that passes the filters, and /models shows only one endpoint's price.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from .chat import ChatRequest
from .errors import ModelNotPriced
from .money import NANOUSD_PER_USD, ceil, decimal_of, floor, product

MAX_PRICE_MARGIN = Decimal("1.02")
"""provider.max_price is sent a little above the list price: exactly the list price was seen refused on 2026-07-30, and
1.7 % above it passed. The hold is made at the sent price, so the margin is inside the bound."""
MAX_PRICE_OF_FREE = Decimal("0.0001")
"""USD per million tokens sent as the cap for a free model: nothing that costs money is this cheap, and a cap of exactly
zero might be refused as equality is."""
NANOUSD_PER_TOKEN_BY_USD_PER_MILLION = Decimal(1000)
MIN_OUTPUT_TOKENS = 16
"""Some providers refuse fewer."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-dollars per token (`request`, `image`: each), the dearest of what may apply."""

    prompt: Decimal
    completion: Decimal
    media: Decimal
    cache_write: Decimal
    cache_write_long: Decimal
    request: Decimal
    image: Decimal


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A row of the catalogue. Token counts are None where the catalogue gives none."""

    id: str
    canonical_slug: str
    rates: Rates
    context_tokens: int | None
    output_tokens: int | None

    @property
    def is_free(self) -> bool:
        return not any(getattr(self.rates, field) for field in Rates.__slots__)


@dataclass(frozen=True, slots=True)
class Quote:
    """The most that a call can cost, and the bounds to send upstream so that it is the most."""

    model: str
    prompt_tokens: int
    output_tokens: int
    output_tokens_asked: int
    prompt_nanousd: Decimal
    completion_rate: Decimal
    max_price_prompt: Decimal
    max_price_completion: Decimal

    @property
    def amount_nanousd(self) -> int:
        """What is held, rounded up once."""
        return ceil(self.prompt_nanousd + product(self.completion_rate, Decimal(self.output_tokens)))

    @property
    def is_clamped(self) -> bool:
        """Whether the client gets less output than it asked for, or than the model could give when it did not say."""
        return self.output_tokens < self.output_tokens_asked


# The catalogue's rows.


def priced_model(row: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]) -> PricedModel:
    """A row of /models with the rows of /models/{id}/endpoints (none: the row stands alone). Raises ModelNotPriced."""
    name = str(row.get("id"))
    eligible = [endpoint for endpoint in endpoints if endpoint.get("service_tier") in (None, "default", "standard")]
    pricings = [pricing for source in (row, *eligible) if isinstance(pricing := source.get("pricing"), Mapping)]
    if not pricings:
        raise ModelNotPriced(f"the catalogue has no price for {name}", facts={"model": name})
    top = row.get("top_provider")
    limits = [*eligible] or [top if isinstance(top, Mapping) else {}]
    context = _largest(source.get("context_length") for source in (row, *limits))
    return PricedModel(
        id=name,
        canonical_slug=str(row.get("canonical_slug") or name),
        rates=_dearest([rates for pricing in pricings for rates in _rates_of(name, pricing)]),
        context_tokens=context,
        # An endpoint without a cap of its own can produce up to the whole context.
        output_tokens=_largest(limit.get("max_completion_tokens") or limit.get("context_length") for limit in limits)
        or context,
    )


def _largest(values: Iterable[object]) -> int | None:
    return max((value for value in values if isinstance(value, int) and value > 0), default=None)


def _rates_of(name: str, pricing: Mapping[str, Any]) -> list[Rates]:
    """The base prices, and each override laid over them: any of them may apply while the call runs."""
    overrides = pricing.get("overrides")
    layers = [{}, *(o for o in overrides if isinstance(o, Mapping))] if isinstance(overrides, list) else [{}]
    return [_rates(name, {**pricing, **layer}) for layer in layers]


def _rates(name: str, prices: Mapping[str, Any]) -> Rates:
    """`discount` is left out: the price without it is the upper bound."""
    prompt, completion = _rate(name, prices, "prompt"), _rate(name, prices, "completion")
    if (
        prompt is None
        or completion is None
        or (name.startswith("openrouter/") and prompt == 0 and name != "openrouter/free")
    ):
        raise ModelNotPriced(
            f"the price of {name} is not known in advance, so no budget can be held for it", facts={"model": name}
        )
    write = max(prompt, _extra(name, prices, "input_cache_write"))
    # Without a price of its own a one-hour write costs twice the prompt (Anthropic's rule, the dearest there is).
    long_write = max(write, _extra(name, prices, "input_cache_write_1h", absent=2 * prompt))
    return Rates(
        prompt=prompt,
        completion=max(completion, _extra(name, prices, "internal_reasoning")),
        media=max(prompt, *(_extra(name, prices, key) for key in ("audio", "image_token", "input_audio_cache"))),
        cache_write=write,
        cache_write_long=long_write,
        request=_extra(name, prices, "request"),
        image=_extra(name, prices, "image"),
    )


def _rate(name: str, prices: Mapping[str, Any], key: str) -> Decimal | None:
    """USD each, as the catalogue has it, to nano-dollars each; None when the key is absent."""
    if prices.get(key) is None:
        return None
    usd = decimal_of(prices[key])
    if usd is None or usd < 0:  # -1 is the router's "depends"
        raise ModelNotPriced(f"the catalogue's {key} price of {name} is not an amount", facts={"model": name})
    return product(usd, Decimal(NANOUSD_PER_USD))


def _extra(name: str, prices: Mapping[str, Any], key: str, *, absent: Decimal = Decimal(0)) -> Decimal:
    rate = _rate(name, prices, key)
    return absent if rate is None else rate


def _dearest(rates: Sequence[Rates]) -> Rates:
    return Rates(*(max(getattr(r, field) for r in rates) for field in Rates.__slots__))


# Quotes.


def quote(request: ChatRequest, model: PricedModel) -> Quote:
    """The upper bound of a request as it was asked. Raises ModelNotPriced where there is no bound."""
    prompt_tokens = _prompt_tokens(request, model)
    output_tokens = _output_tokens(request, model, prompt_tokens)
    max_prompt, max_completion = (_max_price(rate) for rate in (model.rates.prompt, model.rates.completion))
    # A free model holds nothing: what its tiny cap lets through is below a nano-dollar for ten tokens.
    margin = Decimal(0) if model.is_free else MAX_PRICE_MARGIN
    fees = model.rates.request + product(model.rates.image, Decimal(request.media_parts))
    return Quote(
        model=model.id,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_tokens_asked=request.max_tokens or output_tokens,
        prompt_nanousd=product(product(_prompt_rate(request, model.rates), margin), Decimal(prompt_tokens)) + fees,
        completion_rate=product(model.rates.completion, margin),
        max_price_prompt=max_prompt,
        max_price_completion=max_completion,
    )


def clamp(asked: Quote, affordable_nanousd: int, *, floor_tokens: int) -> Quote | None:
    """The quote with as much output as an amount pays for; None below `floor_tokens` (or what was asked, if less)."""
    if asked.amount_nanousd <= affordable_nanousd:
        return asked
    smallest = min(floor_tokens, asked.output_tokens)
    left = Decimal(affordable_nanousd) - asked.prompt_nanousd
    tokens = floor(left / asked.completion_rate) if asked.completion_rate > 0 else -1
    return replace(asked, output_tokens=tokens) if tokens >= smallest else None


def smallest(asked: Quote, *, floor_tokens: int) -> Quote:
    """The least that is worth calling for."""
    return replace(asked, output_tokens=min(floor_tokens, asked.output_tokens))


def _prompt_tokens(request: ChatRequest, model: PricedModel) -> int:
    """No model call has more prompt tokens than the context; media can have that many whatever their bytes."""
    if model.context_tokens is not None:
        return model.context_tokens if request.media_parts else min(request.prompt_tokens_max, model.context_tokens)
    if request.media_parts:
        raise ModelNotPriced(
            f"the catalogue gives no context length for {model.id}, so images and files cannot be bounded",
            facts={"model": model.id},
        )
    return request.prompt_tokens_max


def _output_tokens(request: ChatRequest, model: PricedModel, prompt_tokens: int) -> int:
    """What was asked, at most what the model can; unasked, what the model can and the context leaves beside the prompt.

    Prompt bounds are several times too high for plain text, so at least a quarter of the context is left to the output.
    """
    if request.max_tokens is not None:
        return min(request.max_tokens, model.output_tokens or request.max_tokens)
    if model.output_tokens is None:
        raise ModelNotPriced(
            f"the catalogue gives no output length for {model.id}: send max_tokens", facts={"model": model.id}
        )
    if model.context_tokens is None:
        return model.output_tokens
    return min(model.output_tokens, max(model.context_tokens - prompt_tokens, model.context_tokens // 4))


def _prompt_rate(request: ChatRequest, rates: Rates) -> Decimal:
    """Any prompt may be written to a cache (some models do it unasked), so the write rate is the bound."""
    write = rates.cache_write_long if request.has_long_cache_writes else rates.cache_write
    return max(write, rates.media) if request.media_parts else write


def _max_price(rate: Decimal) -> Decimal:
    usd_per_million = rate / NANOUSD_PER_TOKEN_BY_USD_PER_MILLION
    return max(product(usd_per_million, MAX_PRICE_MARGIN), MAX_PRICE_OF_FREE)


# What goes upstream.


def bounds(request: ChatRequest, quoted: Quote, provider: Mapping[str, Any]) -> dict[str, Any]:
    """The top-level members to set so that the quote holds: the output cap, and the price cap inside `provider`."""
    changes: dict[str, Any] = {
        "provider": {**provider, "max_price": _max_price_sent(quoted, provider.get("max_price"))}
    }
    if request.model != quoted.model:
        changes["model"] = quoted.model
    if request.max_tokens != quoted.output_tokens:
        names = [name for name in ("max_tokens", "max_completion_tokens") if _given(request, name)] or ["max_tokens"]
        changes.update((name, quoted.output_tokens) for name in names)
    return changes


def _given(request: ChatRequest, name: str) -> bool:
    return name in request.members and request.members[name].value is not None


def _max_price_sent(quoted: Quote, asked: object) -> dict[str, Any]:
    """Ours, or the client's where that is lower; the client's other keys (request, image, audio) stay."""
    sent: dict[str, Any] = dict(asked) if isinstance(asked, Mapping) else {}
    for name, ours in (("prompt", quoted.max_price_prompt), ("completion", quoted.max_price_completion)):
        theirs = decimal_of(sent.get(name))
        sent[name] = ours if theirs is None or theirs > ours else sent[name]
    return sent
