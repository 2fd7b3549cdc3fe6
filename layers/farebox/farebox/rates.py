"""Catalogue rows to rates: the dearest that a call may meet.

/models shows one endpoint's price, and OpenRouter may serve a call from any endpoint that passes the filters, at base
prices or at those of an override. So the rates of a model are the dearest over its endpoints, and over those overrides
that a prompt of its size can reach.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    web_search: Decimal

    @property
    def are_zero(self) -> bool:
        return not any(getattr(self, field) for field in Rates.__slots__ if field != "web_search")


DEFAULT_TIER = "default"


@dataclass(frozen=True, slots=True)
class Price:
    """Rates that apply to prompts of more than so many tokens, in one service tier."""

    above_prompt_tokens: int
    rates: Rates
    service_tier: str = DEFAULT_TIER


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model of the catalogue. Token counts are None where the catalogue gives none.

    `output_tokens` is the most that any endpoint can produce, `usual_output_tokens` what the first one does unasked.
    `also` are its other names: the canonical one, and what an alias stands for. `learnt_nanousd` is a fee for each
    request that is not in the catalogue, but was billed (fees.py).
    """

    id: str
    prices: tuple[Price, ...]
    context_tokens: int | None
    output_tokens: int | None
    usual_output_tokens: int | None
    also: frozenset[str] = frozenset()
    lengths_by_tier: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    learnt_nanousd: int = 0

    def lengths(self, service_tiers: frozenset[str]) -> tuple[int | None, int | None]:
        """Context and output in tokens, the most that an endpoint of the default tier or of an admitted one has."""
        admitted = [self.lengths_by_tier[tier] for tier in service_tiers if tier in self.lengths_by_tier]
        context, output = zip((self.context_tokens, self.output_tokens), *admitted, strict=True)
        return _largest(context), _largest(output)

    def rates(self, prompt_tokens: int, service_tiers: frozenset[str] = frozenset()) -> Rates:
        """The dearest that a prompt of at most this size can meet, in the default tier and those that are admitted."""
        admitted = service_tiers | {DEFAULT_TIER}
        return dearest([
            price.rates
            for price in self.prices
            if price.service_tier in admitted and price.above_prompt_tokens < prompt_tokens
        ])  # fmt: skip

    def sells(self, service_tiers: frozenset[str]) -> bool:
        """Whether any endpoint of these tiers has a price."""
        return any(price.service_tier in service_tiers for price in self.prices)


def priced_model(
    row: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]], *, name: str | None = None
) -> PricedModel:
    """A row of /models with the rows of /models/{id}/endpoints (none: the row stands alone). Raises ModelNotPriced.

    `name` is the one that it was asked for by, if that is not its id.

    An endpoint without a price of its own is left out: the cap that is sent keeps it from serving the call.
    """
    name = name or str(row.get("id"))
    prices = _prices(name, {**row, "service_tier": None})  # without a tier of its own: the model is sold by default
    priced = []
    for endpoint in endpoints:
        try:
            prices += _prices(name, endpoint)
            priced.append(endpoint)
        except ModelNotPriced:
            continue
    by_tier: dict[str, list[Mapping[str, Any]]] = {}
    for endpoint in priced:
        by_tier.setdefault(_service_tier(endpoint), []).append(endpoint)
    top = row.get("top_provider")
    default = by_tier.pop(DEFAULT_TIER, [top if isinstance(top, Mapping) else {}])
    context, largest = _lengths([row, *default], default)
    usual = _largest([top.get("max_completion_tokens")]) if isinstance(top, Mapping) else None
    return PricedModel(
        name,
        tuple(prices),
        context,
        largest or context,
        usual or largest or context,
        other_names(row),
        {tier: _lengths(sources, sources) for tier, sources in by_tier.items()},
    )


def _lengths(
    contexts: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]
) -> tuple[int | None, int | None]:
    """The longest context and output."""
    longest = (source.get("max_completion_tokens") or source.get("context_length") for source in outputs)
    return _largest(source.get("context_length") for source in contexts), _largest(longest)


def other_names(row: Mapping[str, Any]) -> frozenset[str]:
    """All names in a row of /models: the id, the canonical one, and what an alias stands for."""
    target = row.get("alias_target")
    names = (row.get("id"), row.get("canonical_slug"), target.get("slug") if isinstance(target, Mapping) else None)
    return frozenset(name for name in names if isinstance(name, str))


ROUTERS = frozenset({"openrouter/auto", "openrouter/auto-beta", "openrouter/pareto-code"})
"""They send a call to one model, without a fee, and provider.max_price filters what they choose from. Not fusion, which
calls many."""
MAX_ROUTER_PROMPT_TOKENS = 100_000
"""Above it some models charge dearer overrides, and a price cap may be compared with their base prices."""
_CACHE_WRITE_FACTOR = Decimal("1.25")
_LONG_CACHE_WRITE_FACTOR = Decimal(2)
"""The dearest seen, of Anthropic, OpenAI and Alibaba."""
_NO_REQUEST_FEE = Decimal(1)
"""Nano-dollars: a cap below any fee for a request, and above none."""


def router(name: str, max_price: Mapping[str, Any], output_tokens: int | None) -> PricedModel:
    """A router at the caps that the client gave, which bound whatever it chooses. Raises ModelNotPriced."""
    if name not in ROUTERS:
        raise unpriced(name, "is a router, whose price depends on what it chooses")
    prompt, completion = (decimal_of(max_price.get(kind)) for kind in ("prompt", "completion"))
    if prompt is None or completion is None:
        raise ModelNotPriced(
            f"{name} is a router, whose price depends on what it chooses: send provider.max_price with prompt and "
            "completion (USD a million tokens), and it may choose what is below",
            facts={"model": name},
        )
    request = decimal_of(max_price.get("request"))
    rate = product(prompt, Decimal(1000))
    return PricedModel(
        name,
        (
            Price(
                0,
                Rates(
                    prompt=rate,
                    completion=product(completion, Decimal(1000)),
                    media=rate,
                    cache_write=product(rate, _CACHE_WRITE_FACTOR),
                    cache_write_long=product(rate, _LONG_CACHE_WRITE_FACTOR),
                    request=_NO_REQUEST_FEE if request is None else product(request, Decimal(NANOUSD_PER_USD)),
                    image=Decimal(0),
                    web_search=Decimal(0),
                ),
            ),
        ),
        context_tokens=None,
        output_tokens=output_tokens,
        usual_output_tokens=None,
    )


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
    _prices(name, row)


def unpriced(name: str, why: str) -> ModelNotPriced:
    return ModelNotPriced(f"{name} {why}, so no budget can be held for it", facts={"model": name})


def _largest(values: Iterable[object]) -> int | None:
    numbers = [decimal_of(value) for value in values]
    return max((int(number) for number in numbers if number is not None and number >= 1), default=None)


def _prices(name: str, source: Mapping[str, Any]) -> list[Price]:
    """The base prices, and each override laid over them; one by the hour counts always, it may begin in a moment."""
    pricing = source.get("pricing")
    if not isinstance(pricing, Mapping):
        raise unpriced(name, "has no price in the catalogue")
    overrides = pricing.get("overrides")
    layers = [layer for layer in overrides if isinstance(layer, Mapping)] if isinstance(overrides, list) else []
    return [
        Price(
            _largest([layer.get("min_prompt_tokens")]) or 0, _rates(name, {**pricing, **layer}), _service_tier(source)
        )
        for layer in ({}, *layers)
    ]


def _service_tier(source: Mapping[str, Any]) -> str:
    tier = source.get("service_tier")
    return DEFAULT_TIER if tier in (None, "standard") else "priority" if tier == "fast" else str(tier)


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
        web_search=_extra(name, prices, "web_search"),
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


def dearest(rates: Sequence[Rates]) -> Rates:
    """The dearest of each kind."""
    return Rates(*(max(getattr(r, field) for r in rates) for field in Rates.__slots__))
