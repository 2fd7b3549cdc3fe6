"""Reads a chat request as the simulated OpenRouter does: text to count, limits to obey, the endpoint to route to."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from local.bill import MILLION, rate
from local.catalogue import Endpoint, Model
from local.scenarios import Failure, Script

MEDIA_TOKENS = 1000  # what a picture or file of any size counts here
ACCOUNT_DEFAULT_MODEL = "sim/ok"


class Refused(Exception):
    """The request ends before dispatch; nothing is billed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Prompt:
    """The members of a chat request that the simulator obeys."""

    models: tuple[str, ...]
    messages: tuple[Mapping[str, object], ...]
    tools: str
    streamed: bool
    max_tokens: int | None
    service_tier: str | None
    provider: Mapping[str, object]


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
    named = [asked.get("model"), *(asked.get("models") or [])]
    limits = [_limit(asked, name) for name in ("max_tokens", "max_completion_tokens")]
    return Prompt(
        models=tuple(str(name) for name in named if name) or (ACCOUNT_DEFAULT_MODEL,),
        messages=tuple(messages),
        tools=json.dumps(asked["tools"], default=str) if asked.get("tools") else "",
        streamed=asked.get("stream") is True,
        max_tokens=max((limit for limit in limits if limit is not None), default=None),
        service_tier=asked.get("service_tier"),
        provider=asked.get("provider") or {},
    )


def count(prompt: Prompt, script: Script) -> int:
    """Prompt tokens: the decoded text by the script's measure, and the template around each message."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in _texts(prompt))
    media = sum(_media(message) for message in prompt.messages)
    overhead = script.tokens_per_message * len(prompt.messages)
    return -(-size // script.bytes_per_token) + overhead + media * MEDIA_TOKENS


def route(prompt: Prompt, model: Model, asked: str, prompt_tokens: int) -> Endpoint:
    """The dearest endpoint that passes all filters: the worst case for whoever pays."""
    tier = "priority" if asked.endswith(":nitro") or prompt.service_tier == "fast" else prompt.service_tier
    funnel = Funnel(model, model.endpoints)
    funnel.keep("Filter by Service Tier", [e for e in funnel.left if e.service_tier in (None, tier)])
    funnel.keep("Filter by Allowed Providers", [e for e in funnel.left if _allowed(e, prompt.provider)])
    funnel.keep("Filter by Max Tokens", [e for e in funnel.left if _long_enough(e, prompt.max_tokens)])
    caps = _caps(prompt.provider)
    funnel.keep("Filter by Max Price", [e for e in funnel.left if _below(e, caps)])
    fitting = [e for e in funnel.left if prompt_tokens + (prompt.max_tokens or 0) <= e.context_length]
    if not fitting:
        raise too_long(funnel.left[0].context_length, prompt_tokens, prompt.max_tokens or 0)
    return max(fitting, key=lambda e: (rate(e.pricing, "completion"), rate(e.pricing, "prompt")))


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


def _texts(prompt: Prompt) -> Iterator[str]:
    yield prompt.tools
    for message in prompt.messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (part["text"] for part in content if isinstance(part, dict) and "text" in part)
        if message.get("tool_calls"):
            yield json.dumps(message["tool_calls"], default=str)


def _media(message: Mapping[str, object]) -> int:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return sum(isinstance(part, dict) and "text" not in part for part in parts)


def _allowed(endpoint: Endpoint, provider: Mapping[str, object]) -> bool:
    only = _slugs(provider, "only") or (_slugs(provider, "order") if provider.get("allow_fallbacks") is False else [])
    names = {endpoint.tag, endpoint.tag.split("/")[0]}
    return (not only or bool(names & set(only))) and not names & set(_slugs(provider, "ignore"))


def _slugs(provider: Mapping[str, object], name: str) -> list[str]:
    value = provider.get(name)
    return [str(slug).lower() for slug in value] if isinstance(value, list) else []


def _long_enough(endpoint: Endpoint, max_tokens: int | None) -> bool:
    limit = endpoint.max_completion_tokens
    return limit is None or max_tokens is None or max_tokens <= limit


def _caps(provider: Mapping[str, object]) -> dict[str, Decimal]:
    asked = provider.get("max_price") or {}
    if not isinstance(asked, dict):
        raise bad("provider.max_price: expected object")
    try:
        return {name: Decimal(str(value)) for name, value in asked.items() if value is not None}
    except InvalidOperation:
        raise bad("provider.max_price: expected numbers") from None


def _below(endpoint: Endpoint, caps: Mapping[str, Decimal]) -> bool:
    """Strictly below, as seen on 2026-07-30; only a price of zero passes a cap of zero, which clients use for "free".

    Caps are USD per million tokens (`request`, `image`: USD each) and are compared with the list price, before
    overrides and discounts.
    """
    units = {"prompt": MILLION, "completion": MILLION, "request": Decimal(1), "image": Decimal(1)}
    prices = {name: rate(endpoint.pricing, name) * unit for name, unit in units.items()}
    return all(price < caps[name] or price == 0 for name, price in prices.items() if name in caps)
