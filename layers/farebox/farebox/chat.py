"""A chat request: what Farebox reads of it, and how it sets single fields without touching the other bytes.

The body goes upstream byte for byte, except for top-level members that must be set (`max_tokens`, `provider`).
Key order and spacing stay: OpenRouter's response cache keys on them. Only what moves the price is read; everything
else is OpenRouter's to judge.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

from .errors import BodyTooLarge, Malformed, UnsupportedField
from .money import decimal_of

MAX_BODY_BYTES = 6_000_000
"""Lambda takes 6 MB an invocation, the event around the body included."""
MAX_TOKENS_ASKED = 10_000_000
"""No model has a context this long; a larger `max_tokens` is a mistake, not a wish."""
MAX_MODEL_LENGTH = 200
TEMPLATE_TOKENS_PER_ENTRY = 32
"""Chat template overhead for each message and each tool: an engineering margin, providers do not document theirs."""
TOOL_PREAMBLE_TOKENS = 500
"""Hidden system prompt that providers add when a request has tools: a margin likewise."""

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_TEXT_PARTS = frozenset({"text", "refusal", "reasoning", "thinking"})


@dataclass(frozen=True, slots=True)
class Member:
    """One top-level member of the body: where its value stands in the text, and the value."""

    start: int
    end: int
    value: Any


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a quote needs to know. `text` is the body as received; sizes are in tokens, as an upper bound."""

    text: str
    members: Mapping[str, Member]
    model: str | None
    stream: bool
    max_tokens: int | None
    prompt_tokens_max: int
    media_parts: int
    has_long_cache_writes: bool


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
    return ChatRequest(
        text=text,
        members=members,
        model=_model(values.get("model")),
        stream=_flag("stream", values.get("stream")),
        max_tokens=_max_tokens(values),
        prompt_tokens_max=_prompt_tokens_max(text, values, entries=len(messages) + len(tools), tools=bool(tools)),
        media_parts=sum(_media_parts(message) for message in messages),
        has_long_cache_writes=nested.has_long_ttl,
    )


def body_with(request: ChatRequest, changes: Mapping[str, Any]) -> bytes:
    """The body with top-level members set: replaced in place, or added at the end; all else as received."""
    text = request.text
    present = sorted(changes.keys() & request.members.keys(), key=lambda name: -request.members[name].start)
    for name in present:  # from the end, so that the places before stay where they are
        member = request.members[name]
        text = text[: member.start] + _dumps(changes[name]) + text[member.end :]
    added = "".join(
        f",{_dumps(name)}:{_dumps(value)}" for name, value in changes.items() if name not in request.members
    )
    if added:
        close = text.rindex("}")
        text = text[:close] + added + text[close:]
    return text.encode()


def provider_of(request: ChatRequest) -> dict[str, Any]:
    """The `provider` object of the body, empty when there is none."""
    member = request.members.get("provider")
    return dict(member.value) if member is not None and member.value is not None else {}


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=_plain_number)


def _plain_number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


# Decoding: one pass that checks, reads and remembers where each top-level value stands.


class _Nested:
    """Looks at every object of the body while it is decoded."""

    def __init__(self) -> None:
        self.has_long_ttl = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise Malformed(f"the key {_shown(_repeated(name for name, _ in pairs))} appears twice in one object")
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
    decoder = json.JSONDecoder(object_pairs_hook=nested, parse_float=Decimal, parse_constant=_refuse_constant)
    try:
        return text, _members(text, decoder), nested
    except ValueError as e:  # JSONDecodeError, and integers of more digits than Python takes
        raise Malformed(f"the body is not JSON: {e}") from None


def _members(text: str, decoder: json.JSONDecoder) -> dict[str, Member]:
    at = _skip(text, 0)
    if not text.startswith("{", at):
        decoder.decode(text)  # what is not even JSON is said so
        raise Malformed("the body must be a JSON object")
    members: dict[str, Member] = {}
    at = _skip(text, at + 1)
    if text.startswith("}", at):
        _nothing_after(text, at + 1)
        return members
    while True:
        name, at = _name(text, at, decoder)
        at = _expect(":", text, at)
        value, end = decoder.raw_decode(text, at)
        if name in members:
            raise Malformed(f"the key {_shown(name)} appears twice in one object")
        members[name] = Member(at, end, value)
        at = _skip(text, end)
        if text.startswith("}", at):
            _nothing_after(text, at + 1)
            return members
        at = _expect(",", text, at)


def _skip(text: str, at: int) -> int:
    match = _WHITESPACE.match(text, at)
    return match.end() if match else at


def _name(text: str, at: int, decoder: json.JSONDecoder) -> tuple[str, int]:
    if not text.startswith('"', at):
        raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
    name, end = decoder.raw_decode(text, at)
    return str(name), _skip(text, end)


def _expect(mark: str, text: str, at: int) -> int:
    if not text.startswith(mark, at):
        raise json.JSONDecodeError(f"Expecting '{mark}' delimiter", text, at)
    return _skip(text, at + 1)


def _nothing_after(text: str, at: int) -> None:
    if _skip(text, at) != len(text):
        raise json.JSONDecodeError("Extra data", text, _skip(text, at))


def _refuse_constant(name: str) -> NoReturn:
    raise Malformed(f"the body is not JSON: {name} is not a JSON number")


def _repeated(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _shown(name: str) -> str:
    return json.dumps(name if len(name) <= 60 else name[:60] + "…")


# What cannot be bounded yet is refused. Null means absent, everywhere.

_UNSUPPORTED = {
    "models": "a list of fallback models",
    "route": "routing between models",
    "preset": "a preset, which changes the request out of sight",
    "plugins": "plugins, which cost fees of their own",
    "web_search_options": "web search, which costs fees of its own",
    "speed": "a faster and dearer speed",
    "prompt": "a text completion; send messages",
}


def _refuse_what_cannot_be_bounded(values: Mapping[str, Any]) -> None:
    for name, what in _UNSUPPORTED.items():
        if values.get(name) not in (None, []):
            raise UnsupportedField(f"{name} is not supported: it asks for {what}", facts={"field": name})
    _allow("n", values.get("n"), {1}, "one choice a call")
    _allow("service_tier", values.get("service_tier"), {"auto", "default"}, "the default tier")
    _allow("modalities", values.get("modalities"), [["text"]], "text output")
    if isinstance(reasoning := values.get("reasoning"), Mapping):
        _allow("reasoning.mode", reasoning.get("mode"), {"standard", "default"}, "the model that was asked for")
    provider = values.get("provider")
    if provider is not None and not isinstance(provider, Mapping):
        raise Malformed("provider must be an object")
    max_price = (provider or {}).get("max_price")
    if max_price is not None and not isinstance(max_price, Mapping):
        raise Malformed("provider.max_price must be an object")
    for name, value in (max_price or {}).items():
        if value is not None and ((number := decimal_of(value)) is None or number < 0):
            raise Malformed(f"provider.max_price.{name} must be a number of US dollars, zero or more")


def _allow(name: str, value: Any, allowed: Iterable[Any], what: str) -> None:
    if value is None or (not isinstance(value, bool) and value in list(allowed)):
        return
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
    """How many images, files or sounds: few bytes, many tokens. Whatever is not known to be text counts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    replayed = [value for name in ("images", "audio") for value in _as_list(message.get(name))]
    return len(replayed) + sum(not isinstance(part, Mapping) or part.get("type") not in _TEXT_PARTS for part in parts)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _prompt_tokens_max(text: str, values: Mapping[str, Any], *, entries: int, tools: bool) -> int:
    """Bytes bound tokens: every tokenizer in use makes at most one token of a byte (byte-level BPE, byte fallback).

    JSON escapes only lengthen, so the body bounds its decoded text. Where a tokenizer normalises first (NFKC), some
    characters grow, up to elevenfold; so other text than ASCII is counted in that form too.
    """
    size = len(text.encode())
    if not text.isascii() or "\\u" in text:
        decoded = json.dumps(values, ensure_ascii=False, default=str)
        size = max(size, len(unicodedata.normalize("NFKC", decoded).encode(errors="surrogatepass")))
    return size + TEMPLATE_TOKENS_PER_ENTRY * entries + (TOOL_PREAMBLE_TOKENS if tools else 0)
