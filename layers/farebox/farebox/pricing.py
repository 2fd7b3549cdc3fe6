"""Catalogue rows to rates, a request to a quote, a quote clamped to what is affordable.

A quote is an upper bound that is true, because the same bound goes upstream:

    amount = prompt tokens x prompt rate + output tokens x completion rate + fees
             ^ bytes, context at most      ^ max_tokens, sent      ^ provider.max_price, sent

Rates are the dearest over the model's endpoints and those price overrides that a prompt of this size can reach, since
OpenRouter may serve a call from any endpoint that passes the filters, and /models shows only one endpoint's price.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from .body import Changes
from .chat import MAX_TOKENS_ASKED, ChatRequest, max_price_of, provider_with
from .errors import ModelNotPriced
from .money import NANOUSD_PER_USD, ceil, decimal_of, dumps, product, times, total

MAX_PRICE_MARGIN = Decimal("1.02")
"""provider.max_price is sent a little above the list price: exactly the list price was seen refused on 2026-07-30, and
1.7 % above it passed. The hold is made at the sent price, so the margin is inside the bound."""
MAX_PRICE_OF_FREE = Decimal("0.0001")
"""USD per million tokens sent as the cap for a free model: nothing that costs money is this cheap, and a cap of exactly
zero might be refused as equality is."""
NANOUSD_PER_USD_PER_MILLION = Decimal(1000)
MIN_OUTPUT_TOKENS = 16
"""Some providers generate (and bill) at least this many, whatever is asked."""
MIN_UNASKED_OUTPUT_TOKENS = 1024
"""Room for an answer to a prompt that may fill the context, when the client does not say how much it wants."""
FREE_ROUTER = "openrouter/free"
TEXT_ONLY = frozenset({"text"})


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

    @property
    def are_zero(self) -> bool:
        return not any(getattr(self, field) for field in Rates.__slots__)


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates that apply to prompts of more than so many tokens."""

    above_prompt_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model of the catalogue. Token counts are None where the catalogue gives none.

    `output_tokens` is the most that any endpoint can produce, `usual_output_tokens` what the first one does unasked.
    """

    id: str
    tiers: tuple[Tier, ...]
    context_tokens: int | None
    output_tokens: int | None
    usual_output_tokens: int | None

    def rates(self, prompt_tokens: int) -> Rates:
        """The dearest that a prompt of at most this size can meet."""
        return _dearest([tier.rates for tier in self.tiers if tier.above_prompt_tokens < prompt_tokens])


@dataclass(frozen=True, slots=True)
class Quote:
    """The most that a call can cost, and the bounds to send upstream so that it is the most."""

    model: str
    prompt_tokens: int
    output_tokens: int
    output_tokens_asked: int
    is_output_asked: bool
    min_output_tokens: int
    prompt_nanousd: Decimal
    completion_rate: Decimal
    max_price: Mapping[str, Decimal]

    @property
    def amount_nanousd(self) -> int:
        """What is held, rounded up once."""
        output_tokens = Decimal(max(self.output_tokens, MIN_OUTPUT_TOKENS))
        return ceil(total(self.prompt_nanousd, product(self.completion_rate, output_tokens)))

    @property
    def is_clamped(self) -> bool:
        """Whether the client gets less output than it asked for, or than the model would give unasked."""
        return self.output_tokens < self.output_tokens_asked


# The catalogue's rows.


def priced_model(row: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]) -> PricedModel:
    """A row of /models with the rows of /models/{id}/endpoints (none: the row stands alone). Raises ModelNotPriced.

    An endpoint without a price of its own is left out: the cap that is sent keeps it from serving the call.
    """
    name = str(row.get("id"))
    tiers = [*_tiers(name, row)]
    eligible = [endpoint for endpoint in endpoints if endpoint.get("service_tier") in (None, "default", "standard")]
    priced = []
    for endpoint in eligible:
        try:
            tiers += _tiers(name, endpoint)
            priced.append(endpoint)
        except ModelNotPriced:
            continue
    top = row.get("top_provider")
    limits: list[Mapping[str, Any]] = priced or [top if isinstance(top, Mapping) else {}]
    context = _largest(source.get("context_length") for source in (row, *limits))
    largest = _largest(limit.get("max_completion_tokens") or limit.get("context_length") for limit in limits) or context
    usual = _largest([top.get("max_completion_tokens")]) if isinstance(top, Mapping) else None
    return PricedModel(name, tuple(tiers), context, largest, usual or largest)


def require_priced(row: Mapping[str, Any]) -> None:
    """Refuse what cannot be bounded whatever its endpoints say. Raises ModelNotPriced."""
    name = str(row.get("id"))
    if name.startswith("openrouter/") and name != FREE_ROUTER:
        raise _unpriced(name, "is a router, whose price depends on what it chooses")
    architecture = row.get("architecture")
    outputs = architecture.get("output_modalities") if isinstance(architecture, Mapping) else None
    if isinstance(outputs, list) and not set(map(str, outputs)) <= TEXT_ONLY:
        raise _unpriced(name, "makes other output than text, whose price cannot be bounded")
    pricing = row.get("pricing")
    searches = _rate(name, pricing, "web_search") if isinstance(pricing, Mapping) else None
    if searches and any(word in name for word in ("search", "sonar", "research")):
        raise _unpriced(name, "searches the web by itself, at a fee for each search")
    _tiers(name, row)


def _unpriced(name: str, why: str) -> ModelNotPriced:
    return ModelNotPriced(f"{name} {why}, so no budget can be held for it", facts={"model": name})


def _largest(values: Iterable[object]) -> int | None:
    numbers = [decimal_of(value) for value in values]
    return max((int(number) for number in numbers if number is not None and number > 0), default=None)


def _tiers(name: str, source: Mapping[str, Any]) -> list[Tier]:
    """The base prices, and each override laid over them; one by the hour counts always, it may begin in a moment."""
    pricing = source.get("pricing")
    if not isinstance(pricing, Mapping):
        raise _unpriced(name, "has no price in the catalogue")
    overrides = pricing.get("overrides")
    layers = [layer for layer in overrides if isinstance(layer, Mapping)] if isinstance(overrides, list) else []
    return [
        Tier(_largest([layer.get("min_prompt_tokens")]) or 0, _rates(name, {**pricing, **layer}))
        for layer in ({}, *layers)
    ]


def _rates(name: str, prices: Mapping[str, Any]) -> Rates:
    """`discount` is left out: the price without it is the upper bound."""
    prompt, completion = _rate(name, prices, "prompt"), _rate(name, prices, "completion")
    if prompt is None or completion is None:
        raise _unpriced(name, "has no price in the catalogue")
    # Reading a cache is cheaper than the prompt wherever it was seen; nothing says that it must be.
    write = max(prompt, *(_extra(name, prices, key) for key in ("input_cache_write", "input_cache_read")))
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


def _extra(name: str, prices: Mapping[str, Any], key: str, *, absent: Decimal = Decimal(0)) -> Decimal:
    rate = _rate(name, prices, key)
    return absent if rate is None else rate


def _rate(name: str, prices: Mapping[str, Any], key: str) -> Decimal | None:
    """USD each, as the catalogue has it, to nano-dollars each; None when the key is absent."""
    if prices.get(key) is None:
        return None
    usd = decimal_of(prices[key])
    if usd is None or usd < 0:  # -1 is a router's "depends"
        raise _unpriced(name, f"has a {key} price in the catalogue that is not an amount")
    return product(usd, Decimal(NANOUSD_PER_USD))


def _dearest(rates: Sequence[Rates]) -> Rates:
    return Rates(*(max(getattr(r, field) for r in rates) for field in Rates.__slots__))


# Quotes.


def quote(request: ChatRequest, model: PricedModel) -> Quote:
    """The upper bound of a request as it was asked. Raises ModelNotPriced where there is no bound."""
    prompt_tokens = _prompt_tokens(request, model)
    output_tokens = _output_tokens(request, model)
    rates = model.rates(prompt_tokens)
    max_price = _max_price(rates)
    prompt_rate, completion_rate = (
        # A free model holds nothing: what its tiny cap lets through is below a nano-dollar for ten tokens.
        Decimal(0)
        if rates.are_zero
        else max(product(rate, MAX_PRICE_MARGIN), product(cap, NANOUSD_PER_USD_PER_MILLION))
        for rate, cap in (
            (_prompt_rate(request, rates), max_price["prompt"]),
            (rates.completion, max_price["completion"]),
        )
    )
    fees = product(MAX_PRICE_MARGIN, total(rates.request, product(rates.image, Decimal(request.media_parts))))
    return Quote(
        model=model.id,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_tokens_asked=request.max_tokens or output_tokens,
        is_output_asked=request.max_tokens is not None,
        min_output_tokens=request.min_output_tokens,
        prompt_nanousd=total(product(prompt_rate, Decimal(prompt_tokens)), fees),
        completion_rate=completion_rate,
        max_price=max_price,
    )


def clamp(asked: Quote, affordable_nanousd: int, *, floor_tokens: int) -> Quote | None:
    """The quote with as much output as an amount pays for; None below the least that is worth calling for."""
    if asked.amount_nanousd <= affordable_nanousd:
        return asked
    left = total(Decimal(affordable_nanousd), -asked.prompt_nanousd)
    tokens = times(left, asked.completion_rate) if asked.completion_rate > 0 else -1
    least = smallest(asked, floor_tokens=floor_tokens)
    return replace(asked, output_tokens=tokens) if tokens >= max(least.output_tokens, MIN_OUTPUT_TOKENS) else None


def smallest(asked: Quote, *, floor_tokens: int) -> Quote:
    """The least that is worth calling for: the floor, or room for the reasoning that was asked for."""
    return replace(asked, output_tokens=min(max(floor_tokens, asked.min_output_tokens), asked.output_tokens))


def shared(asked: Quote, share_nanousd: int, *, floor_tokens: int) -> Quote:
    """Without a wish of the client's, output for at most a share of the budget: one call shall not block all others."""
    if asked.is_output_asked or asked.completion_rate == 0:
        return asked
    tokens = times(Decimal(share_nanousd), asked.completion_rate)
    least = smallest(asked, floor_tokens=floor_tokens).output_tokens
    return replace(asked, output_tokens=min(asked.output_tokens, max(tokens, least)))


def _prompt_tokens(request: ChatRequest, model: PricedModel) -> int:
    """No model call has more prompt tokens than the context; media can have that many whatever their bytes."""
    if model.context_tokens is not None:
        return model.context_tokens if request.media_parts else min(request.prompt_tokens_max, model.context_tokens)
    if request.media_parts:
        raise _unpriced(model.id, "has no context length in the catalogue to bound images with")
    return request.prompt_tokens_max


def _output_tokens(request: ChatRequest, model: PricedModel) -> int:
    """What was asked, at most what any endpoint can; unasked, what the first one gives, as far as the context allows.

    More than an endpoint's own cap would lose that endpoint, and more than the context leaves would be refused by all,
    so the unasked bound goes by the prompt's likely size. It is a wish, not a bound of money: what is sent is held.
    """
    if request.max_tokens is not None:
        return min(request.max_tokens, model.output_tokens or request.max_tokens)
    if model.usual_output_tokens is None:
        raise _unpriced(model.id, "has no output length in the catalogue: send max_tokens")
    if model.context_tokens is None:
        return model.usual_output_tokens
    left = model.context_tokens - request.prompt_tokens_likely
    return min(model.usual_output_tokens, max(left, MIN_UNASKED_OUTPUT_TOKENS))


def _prompt_rate(request: ChatRequest, rates: Rates) -> Decimal:
    """Any prompt may be written to a cache (some models do it unasked), so the write rate is the bound."""
    write = rates.cache_write_long if request.has_long_cache_writes else rates.cache_write
    return max(write, rates.media) if request.media_parts else write


def _max_price(rates: Rates) -> dict[str, Decimal]:
    """USD per million tokens for prompt and completion, USD each for the fees that there are."""
    caps = {
        name: max(product(rate.scaleb(-3), MAX_PRICE_MARGIN), MAX_PRICE_OF_FREE)
        for name, rate in (("prompt", rates.prompt), ("completion", rates.completion))
    }
    fees = (("request", rates.request), ("image", rates.image))
    return caps | {name: product(rate.scaleb(-9), MAX_PRICE_MARGIN) for name, rate in fees if rate > 0}


# What goes upstream.


def bounds(request: ChatRequest, quoted: Quote) -> Changes:
    """The members to set so that the quote holds: the output cap, and the price cap inside `provider`."""
    changes = {"provider": provider_with(request, _max_price_sent(request, quoted))}
    if request.model != quoted.model:
        changes["model"] = dumps(quoted.model)
    if request.max_tokens != quoted.output_tokens:
        names = [name for name in ("max_tokens", "max_completion_tokens") if _given(request, name)] or ["max_tokens"]
        changes.update(
            (name, dumps(min(quoted.output_tokens, _given(request, name) or MAX_TOKENS_ASKED))) for name in names
        )
    return changes


def has_own_price_cap(request: ChatRequest, quoted: Quote) -> bool:
    """Whether the client's price cap, not ours, may be why nobody serves the call."""
    sent = _max_price_sent(request, quoted)
    return any(sent.get(name) != cap for name, cap in quoted.max_price.items())


def _given(request: ChatRequest, name: str) -> int | None:
    return request.members[name].value if name in request.members else None


def _max_price_sent(request: ChatRequest, quoted: Quote) -> dict[str, Any]:
    """Ours, or the client's where that is lower, always in our spelling; the client's caps on other things stay."""
    theirs = {name: decimal_of(value) for name, value in max_price_of(request).items()}
    sent = {name: cap for name, cap in theirs.items() if cap is not None}
    for name, ours in quoted.max_price.items():
        sent[name] = min(ours, sent.get(name, ours))
    return sent
