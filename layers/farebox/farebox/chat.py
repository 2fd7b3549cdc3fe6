"""A chat request: what Farebox reads of it, and how it sets single fields without touching the other bytes.

The body goes upstream byte for byte, except for top-level members that must be set (`max_tokens`, `provider`).
Key order and spacing stay: OpenRouter's response cache keys on them. Only what moves the price is read; everything
else is OpenRouter's to judge.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .body import Changes, Member, members_of, replaced, shown
from .errors import BodyTooLarge, Malformed
from .money import dumps, no_constant, number
from .policy import Extras, extras_of, media_parts, model_name, models_of

MAX_BODY_BYTES = 6_000_000
"""Lambda takes 6 MB an invocation, the event around the body included."""
MAX_TOKENS_ASKED = 10_000_000
"""No model has a context this long; a larger `max_tokens` is a mistake, not a wish."""
TEMPLATE_TOKENS_PER_ENTRY = 32
"""Chat template overhead for each message and each tool: an engineering margin, providers do not document theirs."""
TOOL_PREAMBLE_TOKENS = 500
"""Hidden system prompt that providers add when a request has tools: a margin likewise."""

_RENDERED = ("tools", "functions", "response_format")
"""Members that a chat template may lay out over many lines."""
INDENT = 4
_SHORT_RETENTION = (None, "in_memory", "in-memory")
_REASONING_ROOM = 256
_MIN_REASONING = 1024
"""What providers take as the least budget for reasoning, which must be below max_tokens."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a quote needs to know. `text` is the body as received; sizes are in tokens, as an upper bound.

    `models` are tried in turn by OpenRouter; there are none when the client named none.
    """

    text: str
    members: Mapping[str, Member]
    models: tuple[str, ...]
    extras: Extras
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
    extras = extras_of(values)
    stop = values.get("stop_server_tools_when")
    if stop is not None and not isinstance(stop, list):
        raise Malformed("stop_server_tools_when must be a list")
    messages = _messages(values.get("messages"))
    tools = _tools(values.get("tools"))
    overhead = TEMPLATE_TOKENS_PER_ENTRY * (len(messages) + len(tools)) + (TOOL_PREAMBLE_TOKENS if tools else 0)
    return ChatRequest(
        text=text,
        members=members,
        models=_models(values),
        extras=extras,
        stream=_flag("stream", values.get("stream")),
        max_tokens=_max_tokens(values),
        prompt_tokens_max=_text_bytes(text, values) + _layout_bytes(values) + overhead,
        prompt_tokens_likely=len(text) // (3 if text.isascii() else 1) + overhead,
        media_parts=sum(media_parts(message, extras) for message in messages),
        has_long_cache_writes=nested.has_long_ttl or values.get("prompt_cache_retention") not in _SHORT_RETENTION,
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


def stop_with(request: ChatRequest, max_cost_usd: Decimal) -> str:
    """The body's conditions for ending a loop of server tools, and one more: a cost. Any of them ends it."""
    member = request.members.get("stop_server_tools_when")
    given = request.text[member.start : member.end].strip() if member is not None and member.value else "[]"
    ours = dumps({"type": "max_cost", "max_cost_in_dollars": max_cost_usd})
    return f"{given[:-1].rstrip()}{'' if given[1:-1].strip() == '' else ','}{ours}]"


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
        # 1h and 12h writes cost more than these, and so may what comes next.
        self.has_long_ttl = self.has_long_ttl or (found.get("ttl") not in (None, "5m", "30m"))
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


# Reading.


def _models(values: Mapping[str, Any]) -> tuple[str, ...]:
    """`model` is tried first, then `models`; each once."""
    first = () if values.get("model") is None else (model_name("model", values["model"]),)
    return tuple(dict.fromkeys((*first, *models_of(values.get("models")))))


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
    return _objects("tools", value)


def _objects(name: str, values: list[Any]) -> list[Mapping[str, Any]]:
    for index, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise Malformed(f"{name}[{index}] must be an object")
    return values


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
    return max(size, *(len(form.encode(errors="surrogatepass")) for form in forms)) + _escaped_bytes(values)


def _escaped_bytes(values: Mapping[str, Any]) -> int:
    """What schemas grow by when a template writes other scripts as escapes, as Python does unless told otherwise."""
    rendered = [values[name] for name in _RENDERED if name in values]
    return (
        len(json.dumps(rendered, default=str)) - len(json.dumps(rendered, ensure_ascii=False, default=str))
        if rendered
        else 0
    )


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
