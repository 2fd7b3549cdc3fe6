"""Plans a dispatched call before its first byte: who serves it, how much will be generated, and what that costs.

A call is one turn of a model, or several in an agent loop, when `tools` has tools that OpenRouter runs itself. Then the
model uses one in each step until a stop condition or the limit of steps ends that, and says its last words without
tools. Media, and what tools and searches find, are cut to fit into the context; text that does not fit was refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from local.answers import Call
from local.bill import NOTHING, Charge, Tokens, charge, price, rate, total
from local.catalogue import Endpoint, Model
from local.prompts import Prompt, Refused, bad, count, route, whole_number
from local.scenarios import GENERATES_NOTHING, HALVED, INSURED, Script
from local.sockets import HttpRequest

MAX_STEPS: Final = 30
RESULT_TOKENS: Final = 8000  # what a search or a tool adds to the prompt
INCLUDED_RESULTS: Final = 10
EXTRA_RESULT_USD: Final = Decimal("0.001")
SEARCH_USD: Final = Decimal("0.007")
ENGINE_USD: Final[Mapping[str, Decimal]] = {"exa-deep": Decimal("0.012"), "exa-deep-reasoning": Decimal("0.015")}
NATIVE: Final = (None, "auto", "native")
TOOL_USD: Final[Mapping[str, Decimal]] = {"openrouter:web_fetch": Decimal("0.001"), "openrouter:datetime": NOTHING}

Wants = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Offer:
    """A model at one of its endpoints."""

    model: Model
    endpoint: Endpoint
    text_tokens: int


@dataclass(frozen=True, slots=True)
class Work:
    """What serving the call by this offer would be."""

    offer: Offer
    turns: tuple[Tokens, ...]
    searches: int
    charge: Charge
    finish_reason: str

    @property
    def dearness(self) -> tuple[int, Decimal, Decimal]:
        """Offers are compared by what the call costs; the prices decide between those that cost nothing."""
        pricing = self.offer.endpoint.pricing
        return self.charge.billed_nanousd, rate(pricing, "completion"), rate(pricing, "prompt")


def offers(prompt: Prompt, models: Iterable[Model], slug: str) -> list[Offer]:
    """All endpoints of all models that would serve the call, or the refusal of the last model."""
    found: list[Offer] = []
    refused: Refused | None = None
    for model in models:
        text_tokens = count(prompt, model.script)
        try:
            found += [Offer(model, endpoint, text_tokens) for endpoint in route(prompt, model, slug, text_tokens)]
        except Refused as refusal:
            refused = refusal
    if refused is not None and not found:
        raise refused
    return found


def plan(
    request: HttpRequest,
    prompt: Prompt,
    offered: Sequence[Offer],
    *,
    asked: Model,
    is_online: bool,
    now: float,
    characters: str,
    luck: float,
    delay_s: float,
) -> Call:
    """Everything about the answer, decided in advance; the dearest offer serves: the worst case for whoever pays."""
    header = request.header("x-sim-output-tokens")
    forced = None if header is None else whole_number(header)
    web = prompt.web if prompt.web is not None or not is_online else {}
    works = [
        _work(prompt, offer, _wants(offer.model.script, luck, forced), web, asked.bills_times) for offer in offered
    ]
    work = works[0] if len(works) == 1 else max(works, key=lambda each: each.dearness)
    model = work.offer.model
    return Call(
        id=f"gen-{int(now)}-{characters}",
        created_s=now,
        model=model.canonical_slug if model.script.reports_canonical else model.id,
        router=asked.id if asked.routes_to else None,
        endpoint=work.offer.endpoint,
        script=model.script,
        streamed=prompt.streamed,
        tokens=work.turns[0] if len(work.turns) == 1 else total(work.turns),
        turns=len(work.turns),
        searches=work.searches,
        charge=work.charge,
        bills_times=asked.bills_times,
        finish_reason=work.finish_reason,
        wait_s=delay_s + model.script.silence_s + whole_number(request.header("x-sim-delay-ms") or "0") / 1000,
        api_key_suffix=(request.header("authorization") or "").removeprefix("Bearer ")[-4:],
        user_agent=request.header("user-agent"),
        http_referer=request.header("http-referer"),
    )


def charge_for(script: Script, endpoint: Endpoint, turns: Iterable[Tokens], fees_usd: Decimal, times: int) -> Charge:
    """The price of these turns. Of a call that ended in an error before or without an answer only the fees are due."""
    prices = [] if script.fault in INSURED else [price(endpoint.pricing, tokens) for tokens in turns]
    return charge(prices, tool_usd=fees_usd, times=times, is_byok=bool(script.is_byok))


def search_usd(options: Mapping[str, Any], endpoint: Endpoint) -> Decimal:
    """The fee of one web search, with all results that were asked for."""
    engine, results = options.get("engine"), options.get("max_results") or 0
    if isinstance(results, bool) or not isinstance(results, int):
        raise bad("max_results: expected integer")
    native = rate(endpoint.pricing, "web_search") if engine in NATIVE else NOTHING
    extra = max(0, results - INCLUDED_RESULTS) * EXTRA_RESULT_USD
    return max(ENGINE_USD.get(str(engine), SEARCH_USD), native) + extra


def _work(prompt: Prompt, offer: Offer, wants: Wants, web: Mapping[str, Any] | None, times: int) -> Work:
    script, endpoint = offer.model.script, offer.endpoint
    step_usd = max((_tool_usd(tool, endpoint) for tool in prompt.server_tools), default=NOTHING)
    search = NOTHING if web is None else search_usd(web, endpoint)
    fees = prompt.pdf_usd + script.searches * SEARCH_USD + search
    turns = tuple(_turns(prompt, offer, wants, lookups=int(web is not None), spent_usd=fees, step_usd=step_usd))
    steps = len(turns) - 1
    charged = charge_for(script, endpoint, turns, fees + steps * step_usd, times)
    looks_up = any(tool.get("type") not in TOOL_USD for tool in prompt.server_tools)
    searches = script.searches + (web is not None) + steps * looks_up
    return Work(offer, turns, searches, charged, _finish_reason(prompt, offer, wants, turns[-1]))


def _turns(
    prompt: Prompt, offer: Offer, wants: Wants, *, lookups: int, spent_usd: Decimal, step_usd: Decimal
) -> Iterator[Tokens]:
    """One turn; or the steps with tools, each over what the ones before it have found, and a last turn without."""
    for step in range(1, MAX_STEPS + 1 if prompt.server_tools else 1):
        turn = _turn(prompt, offer, wants, lookups * RESULT_TOKENS)
        yield turn
        lookups += 1
        spent_usd += price(offer.endpoint.pricing, turn).usd + step_usd
        reached = {"max_cost": spent_usd, "step_count_is": Decimal(step)}
        if any(reached[kind] >= limit for kind, limit in prompt.stops):
            break
    yield _turn(prompt, offer, wants, lookups * RESULT_TOKENS)


def _tool_usd(tool: Mapping[str, Any], endpoint: Endpoint) -> Decimal:
    """What one use of a server tool costs; what is not known costs as much as a search."""
    fee = TOOL_USD.get(str(tool.get("type")))
    options = tool.get("parameters")
    return search_usd(options if isinstance(options, dict) else {}, endpoint) if fee is None else fee


def _turn(prompt: Prompt, offer: Offer, wants: Wants, results: int) -> Tokens:
    """Text is whole; pictures, sounds and the rest get what the text and the output leave of the context."""
    script, context, media = offer.model.script, offer.endpoint.context_length, prompt.media
    images, sounds = media.images * script.tokens_per_image, media.sounds * script.tokens_per_media
    rest = (media.files + media.others) * script.tokens_per_media + results
    sized = min(offer.text_tokens + images + sounds + rest, context)
    completion = min(wants(sized), _limit(prompt, offer))
    left = context - offer.text_tokens - completion
    image = min(images, left)
    audio = min(sounds, left - image)
    tokens = offer.text_tokens + image + audio + min(rest, left - image - audio)
    return _tokens(prompt, script, tokens, completion, audio=audio, image=image)


def _tokens(prompt: Prompt, script: Script, tokens: int, completion: int, *, audio: int, image: int) -> Tokens:
    if script.fault in GENERATES_NOTHING:
        completion = 0
    if script.fault in HALVED:
        completion //= 2
    plain = tokens - audio - image
    cached = plain // 2 if script.cache_reads else 0
    written = plain - cached if script.cache_writes else 0
    return Tokens(
        tokens,
        completion,
        reasoning=script.reasons(completion),
        cached=cached,
        cache_write=0 if prompt.caches_long else written,
        cache_write_1h=written if prompt.caches_long else 0,
        audio=audio,
        image=image,
        images=prompt.media.images,
    )


def _limit(prompt: Prompt, offer: Offer) -> int:
    """The most that the model may generate: the request's limit, the endpoint's, or what is left of the context."""
    room = offer.endpoint.context_length - offer.text_tokens
    limits = (prompt.max_tokens, offer.endpoint.max_completion_tokens, room)
    return min(limit for limit in limits if limit is not None)


def _finish_reason(prompt: Prompt, offer: Offer, wants: Wants, last: Tokens) -> str:
    script = offer.model.script
    if script.fault in HALVED:
        return "error"
    if wants(last.prompt) > _limit(prompt, offer):
        return "length"
    return "tool_calls" if script.calls_tool else "stop"


def _wants(script: Script, luck: float, forced: int | None) -> Wants:
    if forced is not None:
        return lambda _prompt_tokens: forced
    if script.varies is not None:
        varied = script.varies(luck)
        return lambda _prompt_tokens: varied
    return script.wants
