"""A request to a quote, and a quote clamped to what is affordable.

A quote is an upper bound that is true, because the same bound goes upstream:

    amount = prompt tokens x prompt rate + output tokens x completion rate + fees
             ^ bytes, context at most      ^ max_tokens, sent      ^ provider.max_price, sent
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from .body import Changes
from .chat import MAX_TOKENS_ASKED, ChatRequest, max_price_of, provider_with, stop_with
from .money import ceil, decimal_of, dumps, product, times, total
from .policy import DEFAULT_WEB_RESULTS
from .rates import PricedModel, Rates, dearest, unpriced

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


WEB_SEARCH_NANOUSD = Decimal(15_000_000)
"""The dearest of OpenRouter's searches (Exa, deep reasoning), with ten results; native ones are in the catalogue."""
WEB_RESULT_NANOUSD = Decimal(1_000_000)
SEARCHES_A_TURN = 8
"""A margin: nothing bounds how many a model asks for at once, nor how many a native search makes of one."""
TURNS_WITH_SERVER_TOOLS = 2
"""The one that reaches the allowance, which is only seen when it has ended, and a last one without tools."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms models are called: tiers admitted beside the default one, and tools that cost fees.

    `web_results` is None without tools that cost fees; `allowance_nanousd` is what those may cost before OpenRouter
    ends their loop.
    """

    service_tiers: frozenset[str] = frozenset()
    web_results: int | None = None
    has_server_tools: bool = False
    allowance_nanousd: int = 0

    @property
    def turns(self) -> Decimal:
        """How often the model is called at most, beside what the allowance pays for."""
        return Decimal(TURNS_WITH_SERVER_TOOLS if self.has_server_tools else 1)


PLAIN = Terms()


@dataclass(frozen=True, slots=True)
class Quote:
    """The most that a call can cost, and the bounds to send upstream so that it is the most.

    `prompt_nanousd` and `completion_rate` (a token) are for all turns of the call; fees are inside the former.
    """

    model: str
    prompt_tokens: int
    output_tokens: int
    output_tokens_asked: int
    is_output_asked: bool
    min_output_tokens: int
    prompt_nanousd: Decimal
    completion_rate: Decimal
    max_price: Mapping[str, Decimal]
    rates: Rates
    has_tool_fees: bool = False
    stop_at_nanousd: int | None = None
    token_rates: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0))
    """Of prompt and completion, of one turn."""
    fees_nanousd: Decimal = Decimal(0)
    learnt_nanousd: int = 0
    """The fee of each turn that no catalogue announces (fees.py)."""

    @property
    def amount_nanousd(self) -> int:
        """What is held, rounded up once."""
        output_tokens = Decimal(max(self.output_tokens, MIN_OUTPUT_TOKENS))
        return ceil(total(self.prompt_nanousd, product(self.completion_rate, output_tokens)))

    def explained_nanousd(self, prompt_tokens: int, output_tokens: int) -> int:
        """The most that a call with so many tokens in all can have cost by what is announced."""
        prompt_rate, output_rate = self.token_rates
        output = product(output_rate, Decimal(max(output_tokens, MIN_OUTPUT_TOKENS)))
        return ceil(total(product(prompt_rate, Decimal(prompt_tokens)), output, self.fees_nanousd))

    @property
    def is_clamped(self) -> bool:
        """Whether the client gets less output than it asked for, or than the model would give unasked."""
        return self.output_tokens < self.output_tokens_asked


# Quotes.


def quote(request: ChatRequest, models: Sequence[PricedModel], terms: Terms = PLAIN) -> Quote:
    """The upper bound of a request as it was asked, whichever of the models serves it. Raises ModelNotPriced.

    One price cap is sent for all of them, so the dearest rate of each kind counts, whatever model it belongs to.
    """
    prompt_tokens = max(_prompt_tokens(request, model, terms) for model in models)
    output_tokens = _output_tokens(request, models, terms)
    rates = dearest([model.rates(prompt_tokens, terms.service_tiers) for model in models])
    max_price = _max_price(rates)
    learnt, fees = max(model.learnt_nanousd for model in models), _fees(request, rates, terms)
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
    return Quote(
        model=models[0].id,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_tokens_asked=request.max_tokens or output_tokens,
        is_output_asked=request.max_tokens is not None,
        min_output_tokens=request.min_output_tokens,
        prompt_nanousd=total(
            product(terms.turns, total(product(prompt_rate, Decimal(prompt_tokens)), Decimal(learnt))),
            fees,
        ),
        completion_rate=product(terms.turns, completion_rate),
        max_price=max_price,
        rates=rates,
        has_tool_fees=terms.web_results is not None,
        stop_at_nanousd=terms.allowance_nanousd if terms.has_server_tools else None,
        token_rates=(prompt_rate, completion_rate),
        fees_nanousd=fees,
        learnt_nanousd=learnt,
    )


def _fees(request: ChatRequest, rates: Rates, terms: Terms) -> Decimal:
    """Fees by the piece: of each turn, and of the tools."""
    a_turn = total(rates.request, product(rates.image, Decimal(request.media_parts)))
    fees = product(product(MAX_PRICE_MARGIN, a_turn), terms.turns)
    if terms.web_results is None:
        return fees
    results = max(0, terms.web_results - DEFAULT_WEB_RESULTS)
    search = total(max(WEB_SEARCH_NANOUSD, rates.web_search), product(WEB_RESULT_NANOUSD, Decimal(results)))
    return total(fees, product(search, Decimal(SEARCHES_A_TURN)), Decimal(terms.allowance_nanousd))


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


def _prompt_tokens(request: ChatRequest, model: PricedModel, terms: Terms) -> int:
    """No model call has more prompt tokens than the context; media and what tools find can have that many."""
    is_unbounded = request.media_parts > 0 or terms.web_results is not None
    context_tokens, _ = model.lengths(terms.service_tiers)
    if context_tokens is not None:
        return context_tokens if is_unbounded else min(request.prompt_tokens_max, context_tokens)
    if is_unbounded:
        raise unpriced(model.id, "has no context length in the catalogue to bound images, files and searches with")
    return request.prompt_tokens_max


def _output_tokens(request: ChatRequest, models: Sequence[PricedModel], terms: Terms) -> int:
    """What was asked, at most what any endpoint can; unasked, what all of the models give."""
    if request.max_tokens is not None:
        longest = [model.lengths(terms.service_tiers)[1] for model in models]
        return max(min(request.max_tokens, tokens or request.max_tokens) for tokens in longest)
    return min(_unasked_output_tokens(request, model) for model in models)


def _unasked_output_tokens(request: ChatRequest, model: PricedModel) -> int:
    """What the first endpoint gives, as far as the context allows.

    More than an endpoint's own cap would lose that endpoint, and more than the context leaves would be refused by all,
    so the unasked bound goes by the prompt's likely size. It is a wish, not a bound of money: what is sent is held.
    """
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
    """USD per million tokens for prompt and completion, USD each for the fees that are announced.

    One that was only learnt is in no row that a cap could be compared with.
    """
    caps = {
        name: max(product(rate.scaleb(-3), MAX_PRICE_MARGIN), MAX_PRICE_OF_FREE)
        for name, rate in (("prompt", rates.prompt), ("completion", rates.completion))
    }
    fees = (("request", rates.request), ("image", rates.image))
    return caps | {name: product(rate.scaleb(-9), MAX_PRICE_MARGIN) for name, rate in fees if rate > 0}


# What goes upstream.


def bounds(request: ChatRequest, models: Sequence[str], quoted: Quote) -> Changes:
    """The members to set so that the quote holds: the models, the output cap, and the price cap inside `provider`."""
    changes = {"provider": provider_with(request, _max_price_sent(request, quoted))}
    if request.models != tuple(models):
        changes["model"] = dumps(models[0])
        if "models" in request.members:
            changes["models"] = dumps(models)
    if request.max_tokens != quoted.output_tokens:
        names = [name for name in ("max_tokens", "max_completion_tokens") if _given(request, name)] or ["max_tokens"]
        changes.update(
            (name, dumps(min(quoted.output_tokens, _given(request, name) or MAX_TOKENS_ASKED))) for name in names
        )
    if quoted.stop_at_nanousd is not None:
        changes["stop_server_tools_when"] = stop_with(request, Decimal(quoted.stop_at_nanousd).scaleb(-9))
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
