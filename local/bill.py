"""What the simulated OpenRouter charges: prices from strings, exact arithmetic, integer nano-dollars.

It shares no code with the gateway on purpose: the gateway's books are compared with this bill.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

NANO = Decimal(1_000_000_000)
MILLION = Decimal(1_000_000)
NOTHING = Decimal(0)

Pricing = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Counts as in `usage`: cache writes are inside prompt, reasoning is inside completion."""

    prompt: int
    completion: int
    reasoning: int = 0
    cache_write: int = 0


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


UNBILLED = Charge(0, 0, NOTHING, NOTHING, NOTHING, is_byok=False)


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

    def record(self, generation: Generation) -> None:
        """Add one ended call."""
        with self._lock:
            self._generations[generation.id] = generation

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

    @property
    def billed_nanousd(self) -> int:
        """The bill."""
        return sum(generation.charge.billed_nanousd for generation in self.all())


def charge(pricing: Pricing, tokens: Tokens, *, tool_usd: Decimal = NOTHING, is_byok: bool = False) -> Charge:
    """Price one call; the total is rounded up to a nano-dollar once."""
    rates = effective(pricing, tokens.prompt)
    write = rate(rates, "input_cache_write") if "input_cache_write" in rates else rate(rates, "prompt")
    prompt = (tokens.prompt - tokens.cache_write) * rate(rates, "prompt") + tokens.cache_write * write
    completion = tokens.completion * rate(rates, "completion")
    upstream = nanousd(prompt + completion + rate(rates, "request"))
    tools = nanousd(tool_usd)
    return Charge(tools if is_byok else upstream + tools, upstream, prompt, completion, tool_usd, is_byok)


def effective(pricing: Pricing, prompt_tokens: int) -> dict[str, object]:
    """The rates for a prompt of this length: a later override wins, a missing key inherits, the discount is applied."""
    rates = dict(pricing)
    overrides = rates.pop("overrides", [])
    assert isinstance(overrides, list)  # noqa: S101 - for mypy: the catalogue is ours
    for override in overrides:
        if prompt_tokens > override.get("min_prompt_tokens", -1):
            rates.update(override)
    factor = 1 - Decimal(str(rates.pop("discount", 0)))
    return {name: str(Decimal(str(value)) * factor) for name, value in rates.items() if name != "min_prompt_tokens"}


def rate(pricing: Pricing, name: str) -> Decimal:
    """One rate in USD; what is not named costs nothing."""
    return Decimal(str(pricing.get(name, "0")))


def nanousd(usd: Decimal) -> int:
    """Whole nano-dollars, rounded up."""
    return int((usd * NANO).to_integral_value(rounding=ROUND_CEILING))


def usd(amount_nanousd: int) -> Decimal:
    """Dollars, exactly."""
    return Decimal(amount_nanousd) / NANO
