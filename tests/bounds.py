"""The bound: random requests are quoted, sent with the quote's bounds, and billed by an upstream that bills the most.

The upstream (local/simulator.py) shares no code with the gateway. Of all endpoints that a request and its bounds let
through the dearest one serves it, and often the model generates as much as it is let. No bill may be above its quote.

How far above the bill a quote stands is shown for plain text: English, one model at a list price of today, max_tokens
exactly what the model then generates, sizes log-normal around a median. `chat` (800 bytes, 500 tokens of output) is
the one that is judged. A prompt is bounded by its bytes, about four to a token, so a long prompt with a short answer
(`document`) is held at several times its bill; that is shown too, and not judged.

    make bounds      100,000 requests
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from statistics import median

from farebox.candidates import candidate
from farebox.chat import ChatRequest, body_with, parse
from farebox.errors import Refusal
from farebox.pricing import bounds, clamp
from farebox.rules import Rules
from local.bill import Generation
from local.catalogue import catalogue
from local.sockets import HttpRequest, HttpResponse
from tests.worlds import DOWN, TEXTS, TIERS, Asked, World, random_request, random_world, text_of, world

REQUESTS_A_WORLD = 100
TRIES_A_REQUEST = 10
FLOOR_TOKENS = 256
MOST_OF_CHAT = 1.5
SHAPES = {"question": (200, 300), "chat": (800, 500), "history": (4_000, 500), "document": (20_000, 500)}
"""Bytes of English text in the prompt and tokens of output: medians."""
SPREAD = 0.6
PLAIN_MODELS = (
    "openai/gpt-4o-mini", "openai/gpt-4o", "anthropic/claude-sonnet-4.6", "google/gemini-2.5-flash",
    "meta-llama/llama-3.3-70b-instruct",
)  # fmt: skip
PROGRESS_EVERY = 10_000


@dataclass(frozen=True, slots=True)
class Served:
    """A call that was billed: what was held for it, and what was special about it."""

    amount_nanousd: int
    billed_nanousd: int
    kinds: frozenset[str]
    body: bytes

    @property
    def ratio(self) -> float:
        """How many times the bill is held."""
        return self.amount_nanousd / self.billed_nanousd if self.billed_nanousd else math.inf


@dataclass(slots=True)
class Result:
    """What came of many requests."""

    asked: int = 0
    served: int = 0
    free: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[Served] = field(default_factory=list)
    tightest: Served | None = None
    plain: dict[str, list[float]] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        return not self.wrong and self.served > 0 and median(self.plain["chat"]) <= MOST_OF_CHAT

    def count(self, found: Served | str) -> None:
        """One more request."""
        self.asked += 1
        if isinstance(found, str):
            self.refused[found] += 1
            return
        self.served += 1
        self.free += found.billed_nanousd == 0
        self.kinds.update(found.kinds)
        if found.billed_nanousd > found.amount_nanousd:
            self.wrong.append(found)
        if self.tightest is None or found.ratio < self.tightest.ratio:
            self.tightest = found

    def lines(self) -> Iterator[str]:
        """The figure."""
        yield f"{self.asked} requests, {self.served} served, {self.free} of them free"
        yield "refused (nothing was billed): " + _listed(self.refused)
        yield "served with: " + _listed(self.kinds)
        if self.tightest is not None:
            yield f"smallest quote: {self.tightest.ratio:.6f} times its bill ({', '.join(sorted(self.tightest.kinds))})"
        for shape, ratios in self.plain.items():
            size, output = SHAPES[shape]
            judged = f", must be at most {MOST_OF_CHAT}" if shape == "chat" else ""
            yield (
                f"plain text, {shape} ({size} bytes, {output} tokens of output): "
                f"median {median(ratios):.3f} times the bill of {len(ratios)}{judged}"
            )
        for wrong in self.wrong[:3]:
            kinds = ", ".join(sorted(wrong.kinds))
            body = wrong.body[:1500].decode(errors="replace")
            yield f"billed {wrong.billed_nanousd}, held {wrong.amount_nanousd} ({kinds}): {body}"
        yield f"{len(self.wrong)} bills above their quote: {'ok' if self.is_right else 'WRONG'}"


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counted.items())) or "none"


# One request through the gateway's own code and the upstream.


def send(place: World, asked: Asked, chance: Random) -> Served | str:
    """Quote it, clamp it now and then, call, and look at the bill; or why it was refused, and by whom."""
    text = text_of(asked, chance)
    try:
        request = parse(text)
        models = _replaced(request, place, chance) or request.models
        found = candidate(request, models, asked.rules, place.catalogue.model)
    except Refusal as refusal:
        return f"by us: {refusal.reason}"
    kinds = set(asked.kinds) | ({"another model"} if models != request.models else set())
    quoted = found.quote
    if chance.random() < 0.3:
        affordable = round(quoted.amount_nanousd * chance.uniform(0.2, 1))
        quoted = clamp(quoted, affordable, floor_tokens=FLOOR_TOKENS) or quoted
        kinds |= {"clamped"} if quoted is not found.quote else set()
    body = body_with(request, bounds(request, found.models, quoted))
    place.simulator.reset()
    response = _complete(place, body, asked.wants)
    if response.status != 200:
        return f"by upstream: {response.status}"
    (generation,) = place.simulator.generations
    kinds |= _seen(place, generation, found.name)
    return Served(quoted.amount_nanousd, generation.charge.billed_nanousd, frozenset(kinds), body)


def _replaced(request: ChatRequest, place: World, chance: Random) -> tuple[str, ...]:
    """Another model than the one asked for, as a downgrade or a fallback would have it."""
    return (chance.choice(place.names),) if request.models and chance.random() < 0.1 else ()


def _complete(place: World, body: bytes, wants: int | None) -> HttpResponse:
    headers = {"authorization": "Bearer simulated"} | ({} if wants is None else {"x-sim-output-tokens": str(wants)})
    response = place.simulator.handle(HttpRequest("POST", "/api/v1/chat/completions", tuple(headers.items()), body))
    close = getattr(response.body, "close", None)
    if close is not None:  # the answer itself is of no interest, and its bill is the same
        close()
    return response


def _seen(place: World, generation: Generation, name: str) -> set[str]:
    """What the bill tells, beside what was asked for."""
    tokens, endpoint = generation.tokens, place.endpoints[generation.provider]
    overrides = endpoint.pricing.get("overrides", ())
    assert isinstance(overrides, list | tuple)
    seen = {
        "cache writes": tokens.cache_write > 0,
        "cache writes for an hour": tokens.cache_write_1h > 0,
        "cache reads": tokens.cached > 0,
        "images": tokens.images > 0,
        "sounds": tokens.audio > 0,
        "reasoning": tokens.reasoning > 0,
        "a fee a request": Decimal(str(endpoint.pricing.get("request", 0))) > 0,
        "a fee an image": tokens.images > 0 and "image" in endpoint.pricing,
        "fees of tools billed": generation.charge.tool_usd > 0,
        "a discount": "discount" in endpoint.pricing,
        "an override by size": any(tokens.prompt > layer.get("min_prompt_tokens", math.inf) for layer in overrides),
        "an override by the hour": any("utc_start" in layer for layer in overrides),
        "an own key": generation.charge.is_byok,
        "a sibling -fast": generation.model.endswith("-fast"),
        "a sibling -pro": generation.model.endswith("-pro"),
        "a router": generation.router is not None and generation.router.startswith("openrouter/"),
        "another of several models": name == DOWN,
        "an alias": name.startswith("~"),
        "a canonical name": "-20260801" in name,
        **{f"the {tier} tier's endpoint": endpoint.service_tier == tier for tier in TIERS},
    }
    return {kind for kind, is_so in seen.items() if is_so}


# All of them.


def run(requests: int, seed: int) -> Iterator[Result]:
    """The same result again and again while it grows, until so many requests were served."""
    result = Result(plain={shape: [] for shape in SHAPES})
    number = 0
    while result.served < requests and result.asked < requests * TRIES_A_REQUEST:
        chance = Random(f"{seed}-{number}")  # noqa: S311 - not a secret
        place = random_world(chance)
        for _ in range(min(REQUESTS_A_WORLD, requests - result.served)):
            result.count(send(place, random_request(chance, place), chance))
        number += 1
        yield result
    chance = Random(seed)  # noqa: S311 - not a secret
    real = world({name: catalogue()[name] for name in PLAIN_MODELS})
    for shape in SHAPES:
        for _ in range(max(100, requests // 100)):
            result.plain[shape].append(_plain_ratio(real, shape, chance, result))
    yield result


def _plain_ratio(place: World, shape: str, chance: Random, result: Result) -> float:
    size, output = (max(1, round(each * chance.lognormvariate(0, SPREAD))) for each in SHAPES[shape])
    text, middle = TEXTS[0][:size], size // 3
    messages = [{"role": "system", "content": text[:middle]}, {"role": "user", "content": text[middle:]}]
    body = {"model": chance.choice(PLAIN_MODELS), "messages": messages, "max_tokens": output}
    asked = Asked(body, frozenset({"plain text"}), output, Rules())
    request = parse(text_of(asked, chance))
    found = candidate(request, request.models, asked.rules, place.catalogue.model)
    place.simulator.reset()
    sent = body_with(request, bounds(request, found.models, found.quote))
    response = _complete(place, sent, output)
    served = Served(found.quote.amount_nanousd, place.simulator.billed_nanousd, asked.kinds, sent)
    result.count(served if response.status == 200 else f"by upstream: {response.status}")
    return served.ratio


def main() -> None:
    """Quote and bill random requests and print the figure; exit 1 when a bill is above its quote."""
    parser = argparse.ArgumentParser(prog="python -m tests.bounds", description=main.__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="to be served (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same requests again (default: %(default)s)")
    options = parser.parse_args()
    told = 0
    result = Result()
    for result in run(options.requests, options.seed):
        if result.served >= told + PROGRESS_EVERY:
            told = result.served
            print(f"{told} served, {len(result.wrong)} bills above their quote", file=sys.stderr, flush=True)
    for line in result.lines():
        print(line)
    sys.exit(0 if result.is_right else 1)


if __name__ == "__main__":
    main()
