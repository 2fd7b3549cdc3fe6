"""What the simulated OpenRouter charges: prices from strings, exact arithmetic, integer nano-dollars.

It shares no code with the gateway on purpose: the gateway's books are compared with this bill.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

NANO = Decimal(1_000_000_000)
MILLION = Decimal(1_000_000)
NOTHING = Decimal(0)
NOT_RATES = frozenset({"overrides", "min_prompt_tokens", "utc_start", "utc_end", "utc_days"})

Pricing = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Counts as in `usage`: reasoning is inside completion, and all others are inside prompt.

    `images` is a number of pictures and not of tokens: each has a price beside that of its tokens.
    """

    prompt: int
    completion: int
    reasoning: int = 0
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio: int = 0
    image: int = 0
    images: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """One turn of a model in USD, exactly."""

    prompt_usd: Decimal
    completion_usd: Decimal
    request_usd: Decimal

    @property
    def usd(self) -> Decimal:
        """The whole turn."""
        return self.prompt_usd + self.completion_usd + self.request_usd


@dataclass(frozen=True, slots=True)
class Charge:
    """The amounts of one call; `cost` is what OpenRouter takes, `upstream` what the provider takes."""

    cost_nanousd: int
    upstream_nanousd: int
    prompt_usd: Decimal
    completion_usd: Decimal
    tool_usd: Decimal
    is_byok: bool

    @property
    def billed_nanousd(self) -> int:
        """All the money that the call costs: with an own key the provider's invoice comes on top."""
        return self.cost_nanousd + (self.upstream_nanousd if self.is_byok else 0)


@dataclass(frozen=True, slots=True)
class Generation:
    """One dispatched call, as it ended."""

    id: str
    model: str
    provider: str
    router: str | None
    api_key_suffix: str
    created_s: float
    ended_s: float
    streamed: bool
    finish_reason: str | None
    tokens: Tokens
    charge: Charge
    cancelled: bool
    user_agent: str | None
    http_referer: str | None


class Books:
    """Every generation, once; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generations: dict[str, Generation] = {}
        self._billed_nanousd = 0

    def record(self, generation: Generation) -> None:
        """Add one ended call."""
        with self._lock:
            self._generations[generation.id] = generation
            self._billed_nanousd += generation.charge.billed_nanousd

    def find(self, generation_id: str) -> Generation | None:
        """The call with this id, if it has ended."""
        with self._lock:
            return self._generations.get(generation_id)

    def all(self) -> tuple[Generation, ...]:
        """All ended calls in the order in which they ended."""
        with self._lock:
            return tuple(self._generations.values())

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._generations.clear()
            self._billed_nanousd = 0

    @property
    def billed_nanousd(self) -> int:
        """The bill."""
        return self._billed_nanousd


def total(turns: Sequence[Tokens]) -> Tokens:
    """The sums, as `usage` reports the turns of an agent loop."""
    return Tokens(*(sum(getattr(turn, name) for turn in turns) for name in Tokens.__slots__))


def price(pricing: Pricing, tokens: Tokens) -> Price:
    """Price the leaves of one turn: what has no rate of its own is prompt, an hour of cache costs twice the prompt.

    Reasoning costs as much as other output or more: the catalogue's 0 for it means "not priced separately".
    """
    rates = effective(pricing, tokens.prompt)
    base, output = rates.get("prompt", NOTHING), rates.get("completion", NOTHING)
    special = (
        (tokens.cached, rates.get("input_cache_read", base)),
        (tokens.cache_write, rates.get("input_cache_write", base)),
        (tokens.cache_write_1h, rates.get("input_cache_write_1h", 2 * base)),
        (tokens.audio, rates.get("audio", base)),
        (tokens.image, rates.get("image_token", base)),
    )
    plain = tokens.prompt - sum(count for count, _ in special)
    prompt = plain * base + sum(count * each for count, each in special if count)
    reasoning = min(tokens.reasoning, tokens.completion)
    thought = max(output, rates.get("internal_reasoning", NOTHING))
    completion = (tokens.completion - reasoning) * output + reasoning * thought
    request = rates.get("request", NOTHING) + tokens.images * rates.get("image", NOTHING)
    return Price(prompt, completion, request)


def charge(turns: Iterable[Price], *, tool_usd: Decimal = NOTHING, times: int = 1, is_byok: bool = False) -> Charge:
    """Charge for one call of any number of turns; the total is rounded up to a nano-dollar once.

    `times` is how often a router had the same done by others: that is in the cost, but not in what upstream shows.
    """
    turns = tuple(turns)
    upstream = sum((turn.usd for turn in turns), NOTHING)
    return Charge(
        cost_nanousd=nanousd(tool_usd if is_byok else upstream * times + tool_usd),
        upstream_nanousd=nanousd(upstream),
        prompt_usd=sum((turn.prompt_usd for turn in turns), NOTHING),
        completion_usd=sum((turn.completion_usd for turn in turns), NOTHING),
        tool_usd=tool_usd,
        is_byok=is_byok,
    )


def effective(pricing: Pricing, prompt_tokens: int) -> dict[str, Decimal]:
    """The rates for a prompt of this length: a later override wins, a missing key inherits, the discount is applied.

    An override by the hour counts where it makes the call dearer, whatever the time is.
    """
    rates = _rates(pricing)
    overrides = pricing.get("overrides", ())
    assert isinstance(overrides, Sequence)  # noqa: S101 - for mypy: the catalogue is ours
    for override in overrides:
        if prompt_tokens > override.get("min_prompt_tokens", -1):
            by_the_hour = any(name.startswith("utc_") for name in override)
            changed = _rates(override)
            rates |= {n: max(r, rates.get(n, NOTHING)) for n, r in changed.items()} if by_the_hour else changed
    discount = rates.pop("discount", None)
    return rates if discount is None else {name: rate * (1 - discount) for name, rate in rates.items()}


def rate(pricing: Pricing, name: str) -> Decimal:
    """One list price in USD; what is not named costs nothing."""
    return _decimal(str(pricing.get(name, "0")))


def nanousd(usd: Decimal) -> int:
    """Whole nano-dollars, rounded up."""
    return int((usd * NANO).to_integral_value(rounding=ROUND_CEILING))


def usd(amount_nanousd: int) -> Decimal:
    """Dollars, exactly."""
    return Decimal(amount_nanousd) / NANO


def _rates(prices: Pricing) -> dict[str, Decimal]:
    return {name: _decimal(str(value)) for name, value in prices.items() if name not in NOT_RATES}


@lru_cache(maxsize=10_000)
def _decimal(text: str) -> Decimal:
    return Decimal(text)
