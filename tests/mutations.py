"""Damage for tests.fuzz: to bytes, to JSON where it has a structure, to streams line by line, to headers."""

import json
import re
from random import Random
from typing import Any


class Raw(str):
    """Text that stands in JSON as it is."""

    __slots__ = ()


NUMBERS = [
    0, 1, -1, 2**31, 2**53 + 1, 10**18, 10**30, -(10**18),
    *map(Raw, ("1e400", "1e-400", "-0", "-0.0", "0.1", "1E5", "1e14", "1e-9", "NaN", "-Infinity", "01", "1.", "0e999")),
    Raw("9" * 5000), Raw("0." + "1" * 900), Raw("1" + "0" * 300 + ".5"),
]  # fmt: skip
TEXTS = [
    "", " ", "\x00", "\ud800", "\udfff\ud800", "ﷺ" * 50, "🚋", "e\u0301", "\u202e", "a\r\nX-Injected: 1",
    "data: [DONE]",
    "a" * 3000, "\\u0000", "../..", "sim/ok", "sim/ok:online", "openai/gpt-4o-mini:nitro:floor", "acme/m0",
    "@preset/x", "openrouter/auto", "text", "file", "image_url", "1h", "0.5", "-1", "1e3", "__proto__",
    "LEDGER#2026-11",
]  # fmt: skip
NAMES = [
    "model", "models", "messages", "max_tokens", "max_completion_tokens", "stream", "provider", "max_price", "tools",
    "plugins", "reasoning", "service_tier", "n", "content", "role", "type", "usage", "cost", "is_byok", "cost_details",
    "upstream_inference_cost", "prompt_tokens", "error", "code", "metadata", "choices", "delta", "id", "pricing",
    "prompt", "completion", "overrides", "context_length", "endpoints", "data", "canonical_slug", "alias_target",
    "stop_server_tools_when", "web_search_options", "cache_control", "ttl", "top_provider", "architecture", "",
]  # fmt: skip


def odd(chance: Random) -> Any:
    """A value that somebody may not have thought of."""
    match chance.randrange(6):
        case 0:
            return chance.choice(NUMBERS)
        case 1:
            return chance.choice(TEXTS)
        case 2:
            depth = chance.choice((2, 50, 300, 900, 990, 5000))
            return Raw("[" * depth + "]" * depth) if chance.random() < 0.5 else Raw('{"a":' * depth + "1" + "}" * depth)
        case 3:
            return chance.choice(([], {}, [[]], [None], [{}], {"": ""}, [1, "a", None], [["text"]] * 3))
        case 4:
            return chance.choice((None, True, False))
        case _:
            return {chance.choice(NAMES): odd(chance)}


def text(chance: Random) -> str:
    """A text that somebody may not have thought of."""
    return chance.choice(TEXTS)


def json_changed(chance: Random, body: bytes, *, most: int = 4) -> bytes:
    """Some changes to a JSON value; what is none is changed as bytes."""
    try:
        value = json.loads(body)
        for _ in range(chance.randint(1, most)):
            value = _changed(chance, value)
        return _written(chance, value).encode(errors="surrogatepass")
    except (ValueError, RecursionError):  # not JSON, or nested deeply by an earlier change
        return bytes_changed(chance, body)


def _changed(chance: Random, value: Any) -> Any:
    """A change somewhere below, more often far down."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(list(value))
        return {**value, name: _changed(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [*value[:at], _changed(chance, value[at]), *value[at + 1 :]]
    if isinstance(value, dict):
        return _object_changed(chance, value)
    if isinstance(value, list):
        return chance.choice((lambda: [*value, odd(chance)], lambda: value * chance.choice((0, 2, 30))))()
    return odd(chance)


def _object_changed(chance: Random, value: dict[str, Any]) -> dict[str, Any]:
    match chance.randrange(4):
        case 0 if value:
            return {name: each for name, each in value.items() if name != chance.choice(list(value))}
        case 1 if value:
            name = chance.choice(list(value))
            return {chance.choice(NAMES) if other == name else other: each for other, each in value.items()}
        case _:
            return {**value, chance.choice(NAMES): odd(chance)}


def _written(chance: Random, value: Any) -> str:
    """JSON, with a key twice now and then, in ASCII or not."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        members = [(name, _written(chance, each)) for name, each in value.items()]
        if members and chance.random() < 0.01:
            members.append((chance.choice(members)[0], _written(chance, odd(chance))))
        return "{" + ",".join(f"{_written(chance, name)}:{each}" for name, each in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(chance, each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=chance.random() < 0.5)


def bytes_changed(chance: Random, body: bytes) -> bytes:
    """One to three changes that know nothing of the structure."""
    for _ in range(chance.randint(1, 3)):
        at, to = sorted(chance.randrange(len(body) + 1) for _ in range(2))
        match chance.randrange(6):
            case 0 if body:
                at = min(at, len(body) - 1)
                body = body[:at] + bytes((body[at] ^ (1 << chance.randrange(8)),)) + body[at + 1 :]
            case 1:
                body = body[:at]
            case 2:
                body = body[:at] + body[to:]
            case 3:
                body = body[:to] + body[at:to][:1000] + body[to:]
            case 4:
                body = body[:at] + bytes(chance.getrandbits(8) for _ in range(chance.randint(1, 9))) + body[at:]
            case _:
                odd_bytes = (
                    b"\xef\xbb\xbf",
                    b"\x00",
                    b"\xff",
                    b"\xed\xa0\x80",
                    b"\r",
                    b"\n\n",
                    b'"',
                    b"}",
                    b"\\",
                    b":",
                )
                body = body[:at] + chance.choice(odd_bytes) + body[at:]
    return body


def stream_changed(chance: Random, body: bytes) -> bytes:
    """Events of a stream changed, left out, repeated, swapped, or parted by other line ends."""
    lines = body.split(b"\n")
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(lines))
        match chance.randrange(6):
            case 0 | 5 if any(line.startswith(b"data: {") for line in lines):
                at = chance.choice([n for n, line in enumerate(lines) if line.startswith(b"data: {")])
                lines[at] = b"data: " + json_changed(chance, lines[at][6:])
            case 0 | 1:
                at = next((n for n, line in enumerate(lines) if line.startswith(b"data: {")), at)
                lines[at] = lines[at].replace(b",", b",\ndata:", 1)  # an event of several lines
            case 2:
                lines.insert(
                    at, chance.choice((b"", b": comment", b"data:", b"event: x", b"data: [DONE]", b"data: {}"))
                )
            case 3:
                lines[at : at + 1] = [lines[at]] * chance.choice((0 if len(lines) > 1 else 1, 2))
            case _:
                other = chance.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
    return chance.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(lines)


def cost_changed(chance: Random, body: bytes) -> bytes:
    """What an answer says that it has cost, which is one value of many."""
    return re.sub(rb'"cost":[0-9.e-]+', f'"cost":{chance.choice(NUMBERS)}'.encode(), body)


def chunks_of(chance: Random, body: bytes) -> list[bytes]:
    """Cut anywhere, also into empty pieces."""
    if len(body) < 3000 and chance.random() < 0.05:
        return [body[at : at + 1] for at in range(len(body))]
    places = sorted(chance.randrange(len(body) + 1) for _ in range(chance.choice((0, 1, 3, 10))))
    if chance.random() < 0.3:  # between the two characters of a line end, and beside others
        places = sorted(
            {*places, *(at + 1 for at, byte in enumerate(body) if byte in b"\r\n" and chance.random() < 0.5)}
        )
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


def header_value(chance: Random) -> str:
    """What nobody should send as one."""
    if chance.random() < 0.5:
        return chance.choice(TEXTS)
    return chance.choice((
        "a\nb", "a\r b", "\x7f", "é", "a;b=\"c\"", "a, b", "a" * 9000, "%2e%2e%2f", "..%2f", "a%00b", "%ff", "[",
    "//[::1",
        "t1", "T1", "t1#LEDGER", "t1 ", " t1", "?a=b", "9" * 30, "5", "-5", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT",
    ))  # fmt: skip
