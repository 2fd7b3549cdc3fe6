"""Catalogue rows to rates: the dearest that a call may meet.

/models shows one endpoint's price, and OpenRouter may serve a call from any endpoint that passes the filters, at base
prices or at those of an override. So the rates of a model are the dearest over its endpoints, and over those overrides
that a prompt of its size can reach.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .errors import ModelNotPriced
from .money import NANOUSD_PER_USD, decimal_of, product

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
        raise unpriced(name, "is a router, whose price depends on what it chooses")
    architecture = row.get("architecture")
    outputs = architecture.get("output_modalities") if isinstance(architecture, Mapping) else None
    if isinstance(outputs, list) and not set(map(str, outputs)) <= TEXT_ONLY:
        raise unpriced(name, "makes other output than text, whose price cannot be bounded")
    pricing = row.get("pricing")
    searches = _rate(name, pricing, "web_search") if isinstance(pricing, Mapping) else None
    if searches and any(word in name for word in ("search", "sonar", "research")):
        raise unpriced(name, "searches the web by itself, at a fee for each search")
    _tiers(name, row)


def unpriced(name: str, why: str) -> ModelNotPriced:
    return ModelNotPriced(f"{name} {why}, so no budget can be held for it", facts={"model": name})


def _largest(values: Iterable[object]) -> int | None:
    numbers = [decimal_of(value) for value in values]
    return max((int(number) for number in numbers if number is not None and number > 0), default=None)


def _tiers(name: str, source: Mapping[str, Any]) -> list[Tier]:
    """The base prices, and each override laid over them; one by the hour counts always, it may begin in a moment."""
    pricing = source.get("pricing")
    if not isinstance(pricing, Mapping):
        raise unpriced(name, "has no price in the catalogue")
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
        raise unpriced(name, "has no price in the catalogue")
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
        raise unpriced(name, f"has a {key} price in the catalogue that is not an amount")
    return product(usd, Decimal(NANOUSD_PER_USD))


def _dearest(rates: Sequence[Rates]) -> Rates:
    return Rates(*(max(getattr(r, field) for r in rates) for field in Rates.__slots__))
