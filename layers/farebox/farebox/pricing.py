"""A request to a quote, and a quote clamped to what is affordable.

A quote is an upper bound that is true, because the same bound goes upstream:

    amount = prompt tokens x prompt rate + output tokens x completion rate + fees
             ^ bytes, context at most      ^ max_tokens, sent      ^ provider.max_price, sent
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from .body import Changes
from .chat import MAX_TOKENS_ASKED, ChatRequest, max_price_of, provider_with
from .money import ceil, decimal_of, dumps, product, times, total
from .rates import PricedModel, Rates, unpriced

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
        raise unpriced(model.id, "has no context length in the catalogue to bound images with")
    return request.prompt_tokens_max


def _output_tokens(request: ChatRequest, model: PricedModel) -> int:
    """What was asked, at most what any endpoint can; unasked, what the first one gives, as far as the context allows.

    More than an endpoint's own cap would lose that endpoint, and more than the context leaves would be refused by all,
    so the unasked bound goes by the prompt's likely size. It is a wish, not a bound of money: what is sent is held.
    """
    if request.max_tokens is not None:
        return min(request.max_tokens, model.output_tokens or request.max_tokens)
    if model.usual_output_tokens is None:
        raise unpriced(model.id, "has no output length in the catalogue: send max_tokens")
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
