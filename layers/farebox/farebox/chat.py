"""A chat request: what Farebox reads of it, and how it sets single fields without touching the other bytes.

The body goes upstream byte for byte, except for top-level members that must be set (`max_tokens`, `provider`).
Key order and spacing stay: OpenRouter's response cache keys on them. Only what moves the price is read; everything
else is OpenRouter's to judge.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .body import Changes, Member, members_of, replaced, shown
from .errors import BodyTooLarge, Malformed, UnsupportedField
from .money import decimal_of, dumps, no_constant, number

MAX_BODY_BYTES = 6_000_000
"""Lambda takes 6 MB an invocation, the event around the body included."""
MAX_TOKENS_ASKED = 10_000_000
"""No model has a context this long; a larger `max_tokens` is a mistake, not a wish."""
MAX_MODEL_LENGTH = 200
TEMPLATE_TOKENS_PER_ENTRY = 32
"""Chat template overhead for each message and each tool: an engineering margin, providers do not document theirs."""
TOOL_PREAMBLE_TOKENS = 500
"""Hidden system prompt that providers add when a request has tools: a margin likewise."""

_TEXT_PARTS = frozenset({"text", "refusal", "reasoning", "thinking"})
_MEDIA_PARTS = frozenset({"image_url", "input_audio", "video_url", "input_video"})
"""Parts that are billed as prompt tokens and nothing else. A file is not: each of its pages may cost a fee."""
_RENDERED = ("tools", "functions", "response_format")
"""Members that a chat template may lay out over many lines."""
INDENT = 4
_REASONING_ROOM = 256
_MIN_REASONING = 1024
"""What providers take as the least budget for reasoning, which must be below max_tokens."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a quote needs to know. `text` is the body as received; sizes are in tokens, as an upper bound."""

    text: str
    members: Mapping[str, Member]
    model: str | None
    stream: bool
    max_tokens: int | None
    prompt_tokens_max: int
    prompt_tokens_likely: int
    media_parts: int
    has_long_cache_writes: bool
    min_output_tokens: int


def parse(body: bytes) -> ChatRequest:
    """Check a body and read what moves the price. Raises Malformed, UnsupportedField, BodyTooLarge."""
    try:
        return _parsed(body)
    except RecursionError:
        raise Malformed("the body is nested too deeply") from None


def _parsed(body: bytes) -> ChatRequest:
    text, members, nested = _decode(body)
    values = {name: member.value for name, member in members.items()}
    _refuse_what_cannot_be_bounded(values)
    messages = _messages(values.get("messages"))
    tools = _tools(values.get("tools"))
    overhead = TEMPLATE_TOKENS_PER_ENTRY * (len(messages) + len(tools)) + (TOOL_PREAMBLE_TOKENS if tools else 0)
    return ChatRequest(
        text=text,
        members=members,
        model=_model(values.get("model")),
        stream=_flag("stream", values.get("stream")),
        max_tokens=_max_tokens(values),
        prompt_tokens_max=_text_bytes(text, values) + _layout_bytes(values) + overhead,
        prompt_tokens_likely=len(text) // (3 if text.isascii() else 1) + overhead,
        media_parts=sum(_media_parts(message) for message in messages),
        has_long_cache_writes=nested.has_long_ttl,
        min_output_tokens=_min_output_tokens(values),
    )


def body_with(request: ChatRequest, changes: Changes) -> bytes:
    """The body with top-level members set: replaced in place, or added at the end; all else as received."""
    return replaced(request.text, request.members, changes).encode()


def max_price_of(request: ChatRequest) -> Mapping[str, Any]:
    """The client's own price cap, empty when there is none."""
    found = _provider(request).get("max_price")
    return found if isinstance(found, Mapping) else {}


def provider_with(request: ChatRequest, max_price: Mapping[str, Any]) -> str:
    """The body's `provider` with another price cap, and all else in it as received."""
    change = {"max_price": dumps(max_price)}
    if not _provider(request):
        return f'{{"max_price":{change["max_price"]}}}'
    member = request.members["provider"]
    text = request.text[member.start : member.end]
    return replaced(text, members_of(text, json.JSONDecoder(parse_float=number)), change)


def _provider(request: ChatRequest) -> Mapping[str, Any]:
    member = request.members.get("provider")
    return member.value if member is not None and member.value is not None else {}


# Decoding: one pass that checks, reads and remembers where each top-level value stands.


class _Nested:
    """Looks at every object of the body while it is decoded."""

    def __init__(self) -> None:
        self.has_long_ttl = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise Malformed(f"the key {shown(_repeated(name for name, _ in pairs))} appears twice in one object")
        # "5m" is the short one; 1h and 12h writes cost more, and so may what comes next.
        self.has_long_ttl = self.has_long_ttl or ("ttl" in found and found["ttl"] != "5m")
        return found


def _decode(body: bytes) -> tuple[str, dict[str, Member], _Nested]:
    if len(body) >= MAX_BODY_BYTES:
        raise BodyTooLarge(f"the body has {len(body)} bytes; it must be below {MAX_BODY_BYTES}")
    try:
        text = body.decode()
    except UnicodeDecodeError as e:
        raise Malformed(f"the body is not UTF-8 (byte {e.start})") from None
    if not text.strip():
        raise Malformed("the body is empty; it must be a JSON object with model and messages")
    nested = _Nested()
    decoder = json.JSONDecoder(object_pairs_hook=nested, parse_float=number, parse_constant=no_constant)
    try:
        return text, members_of(text, decoder), nested
    except ValueError as e:  # JSONDecodeError, and integers of more digits than Python takes
        raise Malformed(f"the body is not JSON: {e}") from None


def _repeated(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


# What cannot be bounded yet is refused. Null means absent, everywhere.

_UNSUPPORTED = {
    "models": "a list of fallback models",
    "route": "routing between models",
    "preset": "a preset, which changes the request out of sight",
    "plugins": "plugins, which cost fees of their own",
    "web_search_options": "web search, which costs fees of its own",
    "deferred_tools": "tools that the router runs, which cost fees of their own",
    "speed": "a faster and dearer speed",
    "prediction": "predicted output, whose rejected tokens are billed too",
    "audio": "spoken output",
    "image_config": "images as output",
    "prompt": "a text completion; send messages",
}
_PROVIDER = frozenset({
    "order", "only", "ignore", "allow_fallbacks", "require_parameters", "data_collection", "zdr",
    "enforce_distillable_text", "quantizations", "sort", "preferred_min_throughput", "preferred_max_latency",
    "max_price",
})  # fmt: skip
"""Routing among endpoints that the price cap lets through. Not `options`: they may ask for a dearer tier."""
_TIERS = frozenset({"priority", "flex", "fast", "ultrafast", "scale"})


def _refuse_what_cannot_be_bounded(values: Mapping[str, Any]) -> None:
    for name, what in _UNSUPPORTED.items():
        if values.get(name) not in (None, []):
            raise UnsupportedField(f"{name} is not supported: it asks for {what}", facts={"field": name})
    _allow("n", values.get("n"), [1], "one choice a call")
    _allow("service_tier", values.get("service_tier"), ["auto", "default"], "the default tier")
    _allow("modalities", values.get("modalities"), [["text"]], "text output")
    if isinstance(reasoning := values.get("reasoning"), Mapping):
        _allow("reasoning.mode", reasoning.get("mode"), ["standard", "default"], "the model that was asked for")
    provider = values.get("provider")
    if provider is not None:
        _check_provider(provider)


def _check_provider(provider: Any) -> None:
    if not isinstance(provider, Mapping):
        raise Malformed("provider must be an object")
    for name in provider.keys() - _PROVIDER:
        raise UnsupportedField(
            f"provider.{name[:60]} is not supported: it may change the price", facts={"field": "provider"}
        )
    for name in ("order", "only"):
        chosen = provider.get(name)
        if isinstance(chosen, list) and any(str(slug).lower().rpartition("/")[2] in _TIERS for slug in chosen):
            raise UnsupportedField(
                f"provider.{name} is supported only for the default tier", facts={"field": "provider"}
            )
    max_price = provider.get("max_price")
    if max_price is not None and not isinstance(max_price, Mapping):
        raise Malformed("provider.max_price must be an object")
    for name, value in (max_price or {}).items():
        if value is not None and ((usd := decimal_of(value)) is None or usd < 0):
            raise Malformed(f"provider.max_price.{name[:60]} must be a number of US dollars, zero or more")


def _allow(name: str, value: Any, allowed: list[Any], what: str) -> None:
    if value is not None and (isinstance(value, bool) or value not in allowed):
        raise UnsupportedField(f"{name} is supported only for {what}", facts={"field": name})


# Reading.


def _model(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > MAX_MODEL_LENGTH or not value.isprintable():
        raise Malformed(f"model must be the name of a model, a string of 1 to {MAX_MODEL_LENGTH} printable characters")
    return value


def _flag(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise Malformed(f"{name} must be true or false")


def _max_tokens(values: Mapping[str, Any]) -> int | None:
    """The larger of both fields: what upstream does with two different ones is not documented."""
    asked = [
        _tokens(name, values[name]) for name in ("max_tokens", "max_completion_tokens") if values.get(name) is not None
    ]
    return max(asked, default=None)


def _tokens(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < MAX_TOKENS_ASKED:
        raise Malformed(f"{name} must be a whole number from 1 to {MAX_TOKENS_ASKED - 1}")
    return value


def _messages(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise Malformed("messages must be a list with at least one message")
    return _objects("messages", value)


def _tools(value: Any) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed("tools must be a list")
    tools = _objects("tools", value)
    for tool in tools:
        if tool.get("type") != "function":
            raise UnsupportedField(
                "tools are supported only with type function: server tools cost fees and call the model again",
                facts={"field": "tools"},
            )
    return tools


def _objects(name: str, values: list[Any]) -> list[Mapping[str, Any]]:
    for index, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise Malformed(f"{name}[{index}] must be an object")
    return values


def _media_parts(message: Mapping[str, Any]) -> int:
    """How many images and sounds: few bytes, many tokens."""
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise Malformed("a message's content must be text or a list of parts")
    kinds = [_kind(part) for part in content] if isinstance(content, list) else []
    for kind in kinds:
        if kind not in _TEXT_PARTS | _MEDIA_PARTS:
            raise UnsupportedField(
                f"content of type {shown(kind)} is not supported: its cost cannot be bounded",
                facts={"field": "messages"},
            )
    replayed = [value for name in ("images", "audio") for value in _as_list(message.get(name))]
    return len(replayed) + sum(kind in _MEDIA_PARTS for kind in kinds)


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise Malformed("each part of a message's content must be an object with a type")
    return kind


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _min_output_tokens(values: Mapping[str, Any]) -> int:
    """Below this an answer has room for its reasoning only; providers refuse that, or bill it for nothing."""
    reasoning = values.get("reasoning")
    asked = reasoning if isinstance(reasoning, Mapping) else {}
    budget = asked.get("max_tokens")
    if isinstance(budget, int) and not isinstance(budget, bool):
        return budget + _REASONING_ROOM
    effort = asked.get("effort") or values.get("reasoning_effort")
    is_on = asked.get("enabled") is True or effort not in (None, "none")
    return _MIN_REASONING + _REASONING_ROOM if is_on else 0


def _text_bytes(text: str, values: Mapping[str, Any]) -> int:
    """Bytes bound tokens: every tokenizer in use makes at most one token of a byte (byte-level BPE, byte fallback).

    JSON escapes only lengthen, so the body bounds its decoded text. Where a tokenizer normalises first, some
    characters grow, up to elevenfold; so other text than ASCII is counted in those forms too.
    """
    size = len(text.encode())
    if text.isascii() and "\\u" not in text:
        return size
    decoded = json.dumps(values, ensure_ascii=False, default=str)
    forms = (unicodedata.normalize(form, decoded) for form in ("NFC", "NFKC"))
    return max(size, *(len(form.encode(errors="surrogatepass")) for form in forms))


def _layout_bytes(values: Mapping[str, Any]) -> int:
    """What schemas grow by when a template indents them, as Llama's does by four: line breaks and spaces."""
    grown = 0
    levels = [(values[name], 0) for name in _RENDERED if name in values]
    while levels:
        value, depth = levels.pop()
        if isinstance(value, Mapping | list) and value:
            grown += len(value) * (_line(depth + 1) + 1) + _line(depth)  # each entry, a space after its colon, the end
            levels += [(inner, depth + 1) for inner in (value.values() if isinstance(value, Mapping) else value)]
    return grown


def _line(depth: int) -> int:
    return 1 + INDENT * depth
