"""Reads a chat request as the simulated OpenRouter does: text to count, limits to obey, models and endpoints to try.

What a request may say about the price, beside its models and limits, is in four tables: `SERVICE_TIERS` with `SPEEDS`,
`ADMITTED` (the suffixes of a slug) and `PDF_PAGE_USD`; local/calls.py has what a search costs.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from local.bill import MILLION, NOTHING, rate
from local.catalogue import POOL, Endpoint, Model, find, split
from local.scenarios import Failure, Script

ACCOUNT_DEFAULT_MODEL = "sim/ok"
STANDARD: Final = frozenset({None, "default", "standard"})
SERVICE_TIERS: Final[Mapping[str, frozenset[str]]] = {  # the endpoints that serve the call beside the standard ones
    "auto": frozenset(),
    "default": frozenset(),
    "flex": frozenset({"flex"}),
    "priority": frozenset({"priority"}),
    "fast": frozenset({"priority"}),
    "ultrafast": frozenset({"priority", "ultrafast"}),
    "scale": frozenset({"flex", "priority", "ultrafast", "scale"}),
}
SPEEDS: Final[Mapping[str, str | None]] = {"fast": "priority", "standard": None}
ADMITTED: Final[Mapping[str, str]] = {":nitro": "priority", ":floor": "flex"}
FASTER: Final = frozenset({"priority", "fast"})
PDF_PAGES: Final = 30  # of a file of any size
PDF_PAGE_USD: Final[Mapping[str, Decimal]] = {
    "mistral-ocr": Decimal("0.002"),
    "cloudflare-ai": NOTHING,
    "pdf-text": NOTHING,
    "native": NOTHING,
}


class Refused(Exception):
    """The request ends before dispatch; nothing is billed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Media:
    """How many parts of a prompt are not text."""

    images: int = 0
    sounds: int = 0
    files: int = 0
    others: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """The members of a chat request that the simulator obeys."""

    models: tuple[str, ...]
    messages: tuple[Mapping[str, object], ...]
    media: Media
    tools: str
    server_tools: tuple[Mapping[str, object], ...]
    stops: tuple[tuple[str, Decimal], ...]
    web: Mapping[str, object] | None
    pdf_page_usd: Decimal
    streamed: bool
    max_tokens: int | None
    service_tier: str
    is_pro: bool
    caches_long: bool
    provider: Mapping[str, object]

    @property
    def pdf_usd(self) -> Decimal:
        """The fee for reading the files."""
        return self.media.files * PDF_PAGES * self.pdf_page_usd

    @property
    def caps(self) -> dict[str, Decimal]:
        """provider.max_price."""
        asked = _object(self.provider, "max_price")
        try:
            caps = {name: Decimal(str(value)) for name, value in asked.items() if value is not None}
        except InvalidOperation:
            raise bad("provider.max_price: expected numbers") from None
        if any(cap.is_nan() for cap in caps.values()):
            raise bad("provider.max_price: expected numbers")
        return caps


def read(body: bytes) -> Prompt:
    """Parse a request body, or refuse it with 400."""
    try:
        asked = json.loads(body, parse_float=Decimal)
    except ValueError:
        raise bad("Invalid JSON in request body") from None
    if not isinstance(asked, dict):
        raise bad("Expected object, received something else")
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise bad('Input required: specify "prompt" or "messages"')
    models = asked.get("models") or []
    if not isinstance(models, list):
        raise bad("models: expected array")
    named = [asked.get("model"), *models]
    limits = [_limit(asked, name) for name in ("max_tokens", "max_completion_tokens")]
    tools, plugins = asked.get("tools"), _plugins(asked)
    return Prompt(
        models=tuple(str(name) for name in named if name) or (ACCOUNT_DEFAULT_MODEL,),
        messages=tuple(messages),
        media=_media(messages),
        tools=json.dumps(tools, default=str) if tools else "",
        server_tools=tuple(_server_tools(tools)),
        stops=tuple(_stops(asked)),
        web=plugins.get("web"),
        pdf_page_usd=_pdf_page_usd(plugins.get("file-parser", {})),
        streamed=asked.get("stream") is True,
        max_tokens=max((limit for limit in limits if limit is not None), default=None),
        service_tier=_service_tier(asked),
        is_pro=_object(asked, "reasoning").get("mode") == "pro",
        caches_long=any(ttl not in (None, "5m") for ttl in _ttls(asked)),
        provider=_object(asked, "provider"),
    )


def serving(models: Mapping[str, Model], prompt: Prompt, slug: str) -> tuple[Model, list[Model]]:
    """The model that a slug names, and those that may answer for it: the target of an alias, a sibling, a pool."""
    asked = find(models, slug)
    if asked is None:
        raise bad(f"{slug} is not a valid model ID")
    pool = POOL if asked.routes_to and prompt.caps else (asked.target or asked.id,)
    found = [_sibling(models, prompt, model) for model in map(models.get, pool) if model is not None]
    if not found:
        raise bad(f"{slug} is not a valid model ID")
    return asked, found


def _sibling(models: Mapping[str, Model], prompt: Prompt, model: Model) -> Model:
    """Pro has no fallback; ultrafast falls back to priority, which some models have as a model of its own."""
    if prompt.is_pro and not model.id.endswith("-pro"):
        pro = models.get(f"{model.id}-pro")
        if pro is None:
            raise Refused(Failure(404, f"No endpoints found for {model.id}-pro."))
        model = pro
    tier = prompt.service_tier
    if tier == "ultrafast" and all(endpoint.service_tier != tier for endpoint in model.endpoints):
        tier = "priority"
    return models.get(f"{model.id}-fast", model) if tier in FASTER else model


def count(prompt: Prompt, script: Script) -> int:
    """Prompt tokens of the decoded text by the script's measure, and the template around each message."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in _texts(prompt))
    return -(-size // script.bytes_per_token) + script.tokens_per_message * len(prompt.messages)


def route(prompt: Prompt, model: Model, asked: str, prompt_tokens: int) -> list[Endpoint]:
    """The endpoints that pass all filters; the dearest of them will serve the call."""
    funnel = Funnel(model, model.endpoints)
    funnel.keep("Filter by Service Tier", _in_tier(prompt, asked, funnel.left))
    funnel.keep("Filter by Allowed Providers", [e for e in funnel.left if _allowed(e, prompt.provider)])
    funnel.keep("Filter by Max Tokens", [e for e in funnel.left if _long_enough(e, prompt.max_tokens)])
    caps = prompt.caps
    funnel.keep("Filter by Max Price", [e for e in funnel.left if _below(e, caps)])
    fitting = [e for e in funnel.left if prompt_tokens + (prompt.max_tokens or 1) <= e.context_length]
    if not fitting:
        raise too_long(funnel.left[0].context_length, prompt_tokens, prompt.max_tokens or 0)
    return fitting


class Funnel:
    """The routing steps, which a refusal reports."""

    MESSAGES = {  # noqa: RUF012 - never changed
        "Filter by Max Price": "No endpoints found that satisfy the max price for this request",
        "Filter by Allowed Providers": "No allowed providers are available for the selected model.",
    }

    def __init__(self, model: Model, endpoints: tuple[Endpoint, ...]) -> None:
        self._model = model
        self.left: list[Endpoint] = list(endpoints)
        self._steps: list[object] = [["Initial Endpoints", len(endpoints)]]

    def keep(self, step: str, endpoints: list[Endpoint]) -> None:
        """Go on with these endpoints, or refuse with 404 naming the step that left none."""
        self.left = endpoints
        self._steps.append([step, len(endpoints)])
        if not endpoints:
            message = self.MESSAGES.get(step, f"No endpoints found for {self._model.id}.")
            metadata = {"failed_routing_step": step, "routing_funnel": self._steps}
            raise Refused(Failure(404, message, metadata))


def bad(message: str, **metadata: object) -> Refused:
    """A 400."""
    return Refused(Failure(400, message, metadata))


def too_long(context_length: int, prompt_tokens: int, max_tokens: int) -> Refused:
    """The 400 for a context that does not fit."""
    return bad(
        f"This endpoint's maximum context length is {context_length} tokens. However, you requested about "
        f"{prompt_tokens + max_tokens} tokens ({prompt_tokens} of text input, {max_tokens} in the output). "
        "Please reduce the length of either one.",
        error_type="context_length_exceeded",
    )


def whole_number(text: str) -> int:
    """A number from a header or a query."""
    if not (text.isascii() and text.isdigit()):
        raise bad(f"expected a whole number, received {text!r}")
    return int(text)


def _limit(asked: Mapping[str, object], name: str) -> int | None:
    value = asked.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise bad(f"{name}: expected a positive integer")
    return value


def _object(asked: Mapping[str, object], name: str) -> Mapping[str, Any]:
    value = asked.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(f"{name}: expected object")
    return value


def _objects(asked: Mapping[str, object], name: str) -> list[Mapping[str, Any]]:
    value = asked.get(name) or []
    if not isinstance(value, list) or not all(isinstance(member, dict) for member in value):
        raise bad(f"{name}: expected a list of objects")
    return value


def _server_tools(tools: object) -> Iterator[Mapping[str, Any]]:
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and str(tool.get("type")).startswith("openrouter:"):
            yield tool


def _plugins(asked: Mapping[str, object]) -> dict[str, Mapping[str, Any]]:
    return {str(each.get("id")): each for each in _objects(asked, "plugins") if each.get("enabled") is not False}


def _pdf_page_usd(parser: Mapping[str, Any]) -> Decimal:
    engine = str(_object(parser, "pdf").get("engine") or "mistral-ocr")
    if engine not in PDF_PAGE_USD:
        raise bad(f"plugins: unknown pdf engine {engine}")
    return PDF_PAGE_USD[engine]


def _service_tier(asked: Mapping[str, object]) -> str:
    """`speed` stands above `service_tier`: it can only be dearer."""
    tier, speed = str(asked.get("service_tier") or "auto"), str(asked.get("speed") or "standard")
    if tier not in SERVICE_TIERS or speed not in SPEEDS:
        raise bad(f"Invalid option: service_tier {tier}, speed {speed}")
    return SPEEDS[speed] or tier


def _stops(asked: Mapping[str, object]) -> Iterator[tuple[str, Decimal]]:
    limits = {"max_cost": "max_cost_in_dollars", "step_count_is": "step_count"}
    for condition in _objects(asked, "stop_server_tools_when"):
        kind = str(condition.get("type"))
        if kind in limits:
            limit = condition.get(limits[kind])
            if isinstance(limit, bool) or not isinstance(limit, int | Decimal):
                raise bad(f"stop_server_tools_when: {limits[kind]}: expected number")
            yield kind, Decimal(limit)


def _ttls(asked: object) -> Iterator[object]:
    """The ttl of every cache_control, wherever it is."""
    left = [asked]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += each.values()
            control = each.get("cache_control")
            if isinstance(control, dict):
                yield control.get("ttl")
        elif isinstance(each, list):
            left += each


def _texts(prompt: Prompt) -> Iterator[str]:
    yield prompt.tools
    for message in prompt.messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
        if message.get("tool_calls"):
            yield json.dumps(message["tool_calls"], default=str)


def _media(messages: Iterable[Mapping[str, object]]) -> Media:
    kinds = [kind for message in messages for kind in _kinds(message)]
    images, sounds, files = (kinds.count(kind) for kind in ("image_url", "input_audio", "file"))
    return Media(images, sounds, files, len(kinds) - images - sounds - files)


def _kinds(message: Mapping[str, object]) -> Iterator[object]:
    content = message.get("content")
    if isinstance(content, list):
        yield from (part.get("type") for part in content if isinstance(part, dict) and "text" not in part)
    images = message.get("images")
    yield from ("image_url" for _ in (images if isinstance(images, list) else []))


def _in_tier(prompt: Prompt, asked: str, endpoints: list[Endpoint]) -> list[Endpoint]:
    """Standard endpoints, those of the tier, and those that a suffix or a tag admits; flex stays in flex."""
    admitted = SERVICE_TIERS[prompt.service_tier] | {
        ADMITTED[suffix] for suffix in split(asked)[1] if suffix in ADMITTED
    }
    tags = {*_slugs(prompt.provider, "order"), *_slugs(prompt.provider, "only")}
    special = [e for e in endpoints if e.service_tier in admitted or (e.service_tier and e.tag in tags)]
    if prompt.service_tier == "flex" and any(e.service_tier == "flex" for e in special):
        return special
    return [e for e in endpoints if e.service_tier in STANDARD or e in special]


def _allowed(endpoint: Endpoint, provider: Mapping[str, object]) -> bool:
    """A tier's endpoint is ignored only by its own tag, and admitted by the provider's too."""
    only = _slugs(provider, "only") or (_slugs(provider, "order") if provider.get("allow_fallbacks") is False else [])
    names = {endpoint.tag, endpoint.tag.split("/")[0]}
    ignored = {endpoint.tag} if endpoint.service_tier not in STANDARD else names
    return (not only or bool(names & set(only))) and not ignored & set(_slugs(provider, "ignore"))


def _slugs(provider: Mapping[str, object], name: str) -> list[str]:
    value = provider.get(name)
    return [str(slug).lower() for slug in value] if isinstance(value, list) else []


def _long_enough(endpoint: Endpoint, max_tokens: int | None) -> bool:
    limit = endpoint.max_completion_tokens
    return limit is None or max_tokens is None or max_tokens <= limit


def _below(endpoint: Endpoint, caps: Mapping[str, Decimal]) -> bool:
    """Strictly below, as seen on 2026-07-30; only a price of zero passes a cap of zero, which clients use for "free".

    Caps are USD per million tokens (`request`, `image`: USD each) and are compared with the list price, before
    overrides and discounts, and a tier's endpoint with its own list price.
    """
    units = {"prompt": MILLION, "completion": MILLION, "request": Decimal(1), "image": Decimal(1)}
    prices = {name: rate(endpoint.pricing, name) * unit for name, unit in units.items() if name in caps}
    return all(price < caps[name] or price == 0 for name, price in prices.items())
