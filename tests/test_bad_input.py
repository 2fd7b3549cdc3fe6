"""Bad input gets a clear 4xx with a message that says what to change; nothing is sent upstream and nothing stays held.

The table below is the list of messages. A row is a name, what is sent, and what comes back.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from farebox.rest import Response
from farebox.routes import answer
from local.child import connect
from local.gateway import event_of
from local.simulator import Simulator
from local.sockets import HttpRequest
from tests.conftest import DEADLINE, GATEWAY_KEY, Answered, Door, MakeDoor, chat_body

CHAT = "/api/v1/chat/completions"
KEY = ("Authorization", f"Bearer {GATEWAY_KEY}")
HELLO = b'"messages":[{"role":"user","content":"hi"}]'
MALFORMED, UNSUPPORTED, NOT_PRICED = (400, "malformed"), (400, "unsupported_field"), (422, "model_not_priced")
BAD_NAME, NO_KEY = (400, "invalid_tenant"), (401, "unauthenticated")


@dataclass(frozen=True, slots=True)
class Row:
    """What is sent and what comes back; `message` is a regular expression for the whole message."""

    name: str
    status: int
    reason: str
    message: str
    body: bytes = field(repr=False, default=b"")
    headers: tuple[tuple[str, str], ...] = (KEY,)
    method: str = "POST"
    target: str = CHAT
    event: Mapping[str, Any] = field(default_factory=dict)


def raw(name: str, answer: tuple[int, str], message: str, body: bytes) -> Row:
    """A body as bytes."""
    return Row(name, *answer, message, body)


def fields(name: str, answer: tuple[int, str], message: str, **members: Any) -> Row:
    """A good request with members laid over it."""
    return Row(name, *answer, message, chat_body(**members))


def headers(name: str, answer: tuple[int, str], message: str, *given: tuple[str, str]) -> Row:
    """A good body with these headers."""
    return Row(name, *answer, message, chat_body(), given)


def member(text: bytes) -> bytes:
    """A good request with one more member, spelled by the test."""
    return b'{"model":"sim/ok",' + HELLO + b"," + text + b"}"


NOT_JSON = r"the body is not JSON: "
EMPTY = r"the body is empty; it must be a JSON object with model and messages"
NOT_OBJECT = r"the body must be a JSON object"
NESTED = r"the body is nested too deeply"
NO_MESSAGES = r"messages must be a list with at least one message"
MODEL = r" must name a model with a string of 1 to 200 printable characters"
PRESET = r" is not supported with a preset, which changes the request out of sight"
MODELS = r"models must be a list of at most 20 names"
TIER = r"service_tier must be one of auto, default, standard, flex, priority, fast, ultrafast, scale"
ALLOWANCE = r"web search and server tools are not allowed: they cost fees that only an allowance bounds .*"
FILES = r"files are supported only with an engine that costs no fee a page: .*"
RESULTS = r"max_results of a web search must be a whole number from 1 to 100"
WHOLE = r" must be a whole number from 1 to 9999999"
PRICE = r" must be a number of US dollars, zero or more"
NAME = r" must be 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit"
NO_PRICE = r" is not in the catalogue of models, so it has no price"
KEY_FORM = r"the header Authorization must read: Bearer <key>"
KEY_ABSENT = r"the header Authorization is missing; send: Authorization: Bearer <key>"
KEY_WRONG = r"the key is not one of this gateway's"
DEEP = 100_000
OTHER_TOOLS: list[object] = [
    "openrouter:shell", "openrouter:fusion", "web_search_preview", "Function", "", None, 1, ["function"],
]  # fmt: skip
NO_TIERS: list[object] = ["Priority", "priority ", "batch", "", 1, True, ["default"], {}]
NO_PLUGINS: list[object] = ["web", None, {}, {"id": 1}, {"id": ["web"]}, []]

BODIES = [
    raw("not JSON", MALFORMED, NOT_JSON + r"Expecting value: line 1 column 1 \(char 0\)", b"hello"),
    raw("a form", MALFORMED, NOT_JSON + r"Expecting value.*", b"model=sim/ok&messages=hi"),
    raw("empty", MALFORMED, EMPTY, b""),
    raw("only white space", MALFORMED, EMPTY, b" \r\n\t "),
    raw("a list", MALFORMED, NOT_OBJECT, b'[{"model":"sim/ok"}]'),
    raw("a string", MALFORMED, NOT_OBJECT, b'"sim/ok"'),
    raw("a number", MALFORMED, NOT_OBJECT, b"42"),
    raw("null", MALFORMED, NOT_OBJECT, b"null"),
    raw("true", MALFORMED, NOT_OBJECT, b"true"),
    raw("no members", MALFORMED, NO_MESSAGES, b"{}"),
    raw("not UTF-8", MALFORMED, r"the body is not UTF-8 \(byte 9\)", b'{"user":"\xff",' + HELLO + b"}"),
    raw("Latin-1", MALFORMED, r"the body is not UTF-8 \(byte \d+\)", member('"user":"Käse"'.encode("latin-1"))),
    raw("a surrogate in UTF-8", MALFORMED, r"the body is not UTF-8 \(byte \d+\)", member(b'"user":"\xed\xa0\x80"')),
    raw("UTF-16", MALFORMED, r"the body is not UTF-8 \(byte 0\)", chat_body().decode().encode("utf-16")),
    raw("UTF-16 without a mark", MALFORMED, NOT_JSON + r"Expecting.*", chat_body().decode().encode("utf-16-le")),
    raw("a byte order mark", MALFORMED, NOT_JSON + r".*", b"\xef\xbb\xbf" + chat_body()),
    raw("gzip", MALFORMED, r"the body is not UTF-8 \(byte 1\)", b"\x1f\x8b\x08\x00\x00"),
    raw("deeply nested lists", MALFORMED, NESTED, b'{"messages":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    raw("deeply nested objects", MALFORMED, NESTED, b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    raw("deeply nested beside good messages", MALFORMED, NESTED, member(b'"x":' + b"[" * DEEP + b"]" * DEEP)),
    raw("deeply nested and never closed", MALFORMED, NESTED, member(b'"x":' + b"[" * DEEP)),
    raw("a nested list alone", MALFORMED, NESTED, b"[" * DEEP + b"]" * DEEP),
    raw("a key twice", MALFORMED, r'the key "model" appears twice in one object', member(b'"model":"sim/cent"')),
    raw("a key twice, once through an escape", MALFORMED, r'the key "max_tokens" appears twice in one object',
        member(rb'"max_tokens":1,"max\u005ftokens":100')),
    raw("a key twice inside", MALFORMED, r'the key "max_price" appears twice in one object',
        member(b'"provider":{"max_price":{},"max_price":{"prompt":1}}')),
    raw("a key twice in a message", MALFORMED, r'the key "role" appears twice in one object',
        b'{"model":"sim/ok","messages":[{"role":"user","role":"system","content":"hi"}]}'),
    raw("a long key twice", MALFORMED, r'the key "k{60}\\u2026" appears twice in one object',
        member(b'"%b":1,"%b":2' % (b"k" * 5000, b"k" * 5000))),
    raw("6 MB", (413, "body_too_large"), r"the body has 6000000 bytes; it must be below 6000000",
        chat_body().ljust(6_000_000)),
    raw("7 MB that are not JSON", (413, "body_too_large"), r"the body has 7000000 bytes; it must be below 6000000",
        b"[" * 7_000_000),
    raw("truncated in a string", MALFORMED, NOT_JSON + r"Unterminated string.*", chat_body()[:13]),
    raw("truncated after a comma", MALFORMED, NOT_JSON + r"Expecting property name.*", b'{"model":"sim/ok",'),
    raw("truncated after a colon", MALFORMED, NOT_JSON + r"Expecting value.*", b'{"model":'),
    raw("truncated before the end", MALFORMED, NOT_JSON + r"Expecting ',' delimiter.*", chat_body()[:-1]),
    raw("something after the end", MALFORMED, NOT_JSON + r"Extra data.*", chat_body() + b" x"),
    raw("two objects", MALFORMED, NOT_JSON + r"Extra data.*", chat_body() + b"\n" + chat_body()),
    raw("a brace too many", MALFORMED, NOT_JSON + r"Extra data.*", chat_body() + b"}"),
    raw("a NUL after the end", MALFORMED, NOT_JSON + r"Extra data.*", chat_body() + b"\0"),
    raw("a comment", MALFORMED, NOT_JSON + r"Expecting property name.*", b"{/* hi */" + HELLO + b"}"),
    raw("a comment behind", MALFORMED, NOT_JSON + r"Extra data.*", chat_body() + b"// hi"),
    raw("a comma too many", MALFORMED, NOT_JSON + r".*", b'{"model":"sim/ok",' + HELLO + b",}"),
    raw("single quotes", MALFORMED, NOT_JSON + r"Expecting property name.*", b"{'model':'sim/ok'}"),
    raw("a line break in a string", MALFORMED, NOT_JSON + r"Invalid control character.*", member(b'"user":"a\nb"')),
    raw("NaN", MALFORMED, NOT_JSON + "NaN is not a JSON number", member(b'"temperature":NaN')),
    raw("Infinity", MALFORMED, NOT_JSON + "Infinity is not a JSON number", member(b'"top_p":Infinity')),
    raw("-Infinity", MALFORMED, NOT_JSON + "-Infinity is not a JSON number", member(b'"x":{"y":[-Infinity]}')),
    raw("NaN as max_tokens", MALFORMED, NOT_JSON + "NaN is not a JSON number", member(b'"max_tokens":NaN')),
    raw("NaN as a price", MALFORMED, NOT_JSON + "NaN is not a JSON number",
        member(b'"provider":{"max_price":{"prompt":NaN}}')),
    raw("a number of 5000 digits", MALFORMED, r".*", member(b'"seed":' + b"1" * 5000)),
    raw("an exponent that no number has", MALFORMED, NOT_JSON + "1e9+ is out of range",
        member(b'"temperature":1e99999999999999999999')),
    raw("a number that no float has", MALFORMED, NOT_JSON + "-1e400 is out of range", member(b'"temperature":-1e400')),
    raw("a number in provider that no float has", MALFORMED, NOT_JSON + "1e400 is out of range",
        member(b'"provider":{"sort":1e400}')),
    raw("max_tokens of 401 digits", MALFORMED, "max_tokens" + WHOLE, member(b'"max_tokens":1' + b"0" * 400)),
    raw("max_tokens of 5000 digits", MALFORMED, r".*", member(b'"max_tokens":' + b"1" * 5000)),
    raw("max_tokens with an exponent", MALFORMED, "max_tokens" + WHOLE, member(b'"max_tokens":1e3')),
    raw("max_tokens with a fraction of zero", MALFORMED, "max_tokens" + WHOLE, member(b'"max_tokens":100.0')),
]  # fmt: skip

FIELDS = [
    raw("no messages", MALFORMED, NO_MESSAGES, b'{"model":"sim/ok"}'),
    fields("empty messages", MALFORMED, NO_MESSAGES, messages=[]),
    fields("messages null", MALFORMED, NO_MESSAGES, messages=None),
    fields("messages a string", MALFORMED, NO_MESSAGES, messages="Say hello"),
    fields("messages an object", MALFORMED, NO_MESSAGES, messages={"role": "user", "content": "hi"}),
    fields("a message that is a string", MALFORMED, r"messages\[0\] must be an object", messages=["hi"]),
    fields("a message that is null", MALFORMED, r"messages\[1\] must be an object",
           messages=[{"role": "user", "content": "hi"}, None]),
    fields("a message that is a list", MALFORMED, r"messages\[0\] must be an object", messages=[[]]),
    *(
        fields(f"{name} {value!r:.20}", MALFORMED, name + WHOLE, **{name: value})
        for name in ("max_tokens", "max_completion_tokens")
        for value in (0, -1, 10**7, 10**12, 1.5, 0.0, "100", "", True, False, [100], {"value": 100})
    ),
    fields("one good and one bad limit", MALFORMED, "max_completion_tokens" + WHOLE,
           max_tokens=100, max_completion_tokens=-1),
    *(
        fields(f"n {value!r}", UNSUPPORTED, "n is supported only for one choice a call", n=value)
        for value in (2, 0, -1, "1", 1.5, True, [1])
    ),
    *(
        fields(f"model {value!r:.20}", MALFORMED, "model" + MODEL, model=value)
        for value in (
            "", 7, True, ["sim/ok"], {"id": "sim/ok"}, "m" * 300, "sim/ok\0", "sim/ok\n", "sim\x1bok", "\ud800",
        )
    ),
    *(
        fields(f"model {model}", NOT_PRICED, re.escape(model) + NO_PRICE, model=model)
        for model in (
            "nobody/nothing", "SIM/OK", " sim/ok", "sim/ok ", "sim/ok:NITRO", "sim/ok: nitro", "sim/ok:", "sim/ok:free",
            "sim/ok@PRESET/cheap", "openrouter/pareto", "../models", "s\u0456m/ok", "sim/ok:nitr\u043e",
        )
    ),
    fields("a suffix and no name", NOT_PRICED, NO_PRICE, model=":nitro"),
    *(
        fields(f"the model {model}", UNSUPPORTED, "model" + PRESET, model=model)
        for model in ("@preset/cheap", "sim/ok@preset/cheap", "sim/ok:nitro@preset/cheap")
    ),
    fields("a preset among models", UNSUPPORTED, "models" + PRESET, models=["sim/cent", "@preset/cheap"]),
    *(
        fields(f"models {value!r:.30}", MALFORMED, MODELS, models=value)
        for value in ("sim/cent", "", {"sim/cent": 1}, 1, True, False, ["sim/cent"] * 21)
    ),
    *(
        fields(f"models with {value!r:.20}", MALFORMED, "models" + MODEL, models=["sim/cent", value])
        for value in ("", 7, None, ["sim/cent"], {"model": "sim/cent"}, "sim/cent\n")
    ),
    fields("a model without a price among models", NOT_PRICED, "nobody/nothing" + NO_PRICE,
           models=["sim/cent", "nobody/nothing"]),
    fields("only models without a price", NOT_PRICED, "nobody/nothing" + NO_PRICE, model=None,
           models=["nobody/nothing"]),
    fields("fusion", NOT_PRICED, r"openrouter/fusion is a router, whose price depends on what it chooses, .*",
           model="openrouter/fusion"),
    fields("the auto router", NOT_PRICED, r"openrouter/auto is a router.*: send provider\.max_price with .*",
           model="openrouter/auto"),
    fields("the auto router with half a cap", NOT_PRICED, r"openrouter/auto is a router.*: send provider\.max_price .*",
           model="openrouter/auto:nitro", provider={"max_price": {"prompt": 1}}),
    *(
        fields(name, UNSUPPORTED, f"{name} is not supported: it asks for .*", **{name: value})
        for name, value in (
            ("preset", "cheap"), ("deferred_tools", {"search": {}}), ("audio", {"voice": "alloy"}),
            ("prediction", {"type": "content", "content": "x"}), ("image_config", {}), ("prompt", "Say hello"),
            ("extra_body", {"service_tier": "priority"}), ("fallbacks", [{"model": "sim/cent"}]),
        )
    ),
    fields("a prompt and no messages", UNSUPPORTED, "prompt is not supported: .*", prompt="Say hello", messages=None),
    fields("best of two", UNSUPPORTED, "best_of is supported only for one choice a call", best_of=2),
    *(
        fields(f"route {route!r}", UNSUPPORTED, "route is supported only for fallback and sort", route=route)
        for route in ("", "cheapest", True, ["fallback"])
    ),
    *(
        fields(f"service tier {tier!r}", MALFORMED, TIER, service_tier=tier)
        for tier in NO_TIERS
    ),
    *(
        fields(f"speed {speed!r}", MALFORMED, "speed must be standard or fast", speed=speed)
        for speed in ("Fast", "slow", "", True, ["fast"])
    ),
    *(
        fields(f"the tier {tier}, which nobody sells", NOT_PRICED,
               f"sim/ok has no price for the service tier {tier}, .*", service_tier=tier)
        for tier in ("priority", "fast", "ultrafast", "scale")
    ),
    fields("a speed that nobody sells", NOT_PRICED, "sim/ok has no price for the service tier priority, .*",
           speed="fast"),
    fields("image output", UNSUPPORTED, "modalities is supported only for text output", modalities=["text", "image"]),
    fields("modalities a string", UNSUPPORTED, "modalities is supported only for text output", modalities="text"),
    *(
        fields(f"reasoning mode {mode!r}", UNSUPPORTED, r"reasoning\.mode is supported only for standard and pro",
               reasoning={"mode": mode})
        for mode in ("PRO", "ultra", "", True, ["pro"])
    ),
    fields("pro reasoning of a model that has none", NOT_PRICED, "sim/ok-pro is not in the catalogue of models.*",
           reasoning={"mode": "pro"}),
    *(
        fields(f"plugins {value!r}", MALFORMED, "plugins must be a list", plugins=value)
        for value in ({"id": "web"}, "web", True, False, 0)
    ),
    *(
        fields(f"a plugin {value!r}", MALFORMED, "each of plugins must be an object with an id", plugins=[value])
        for value in NO_PLUGINS
    ),
    *(
        fields(f"the plugin {name!r}", UNSUPPORTED, f'the plugin "{name}" is not supported: what it costs .*',
               plugins=[{"id": name}])
        for name in ("web-fetch", "fusion", "moderation", "pareto-router", "Web", "web ", "")
    ),
    fields("a plugin twice", MALFORMED, 'the plugin "web" is there twice',
           plugins=[{"id": "web", "enabled": False}, {"id": "web"}]),
    fields("a plugin that is half on", MALFORMED, 'enabled of the plugin "web" must be true or false',
           plugins=[{"id": "web", "enabled": "false"}]),
    fields("the web plugin", UNSUPPORTED, ALLOWANCE, plugins=[{"id": "web"}]),
    fields("web search", UNSUPPORTED, ALLOWANCE, web_search_options={}),
    fields("the suffix online", UNSUPPORTED, ALLOWANCE, model="sim/ok:online"),
    fields("the suffix online twice", UNSUPPORTED, ALLOWANCE, model="sim/ok:online:nitro:online"),
    fields("the suffix online among models", UNSUPPORTED, ALLOWANCE, models=["sim/cent:online"]),
    *(
        fields(f"the server tool {kind}", UNSUPPORTED, ALLOWANCE, tools=[{"type": kind}])
        for kind in ("openrouter:web_search", "openrouter:web_fetch", "openrouter:datetime", "web_search")
    ),
    *(
        fields(f"a tool of type {kind!r}", UNSUPPORTED, 'tools of type ".*" are not supported: what they cost .*',
               tools=[{"type": "function", "function": {"name": "f"}}, {"type": kind}])
        for kind in OTHER_TOOLS
    ),
    fields("a tool without type", UNSUPPORTED, 'tools of type "None" are not supported: .*',
           tools=[{"function": {"name": "f"}}]),
    fields("a tool that only the choice names", UNSUPPORTED, "tool_choice is supported only for tools that are .*",
           tool_choice={"type": "web_search_preview"}),
    *(
        fields(f"{value!r} results", MALFORMED, RESULTS, plugins=[{"id": "web", "max_results": value}])
        for value in (0, -1, 101, "10", True, 1.5, [5])
    ),
    fields("too many results of a tool", MALFORMED, RESULTS,
           tools=[{"type": "openrouter:web_search", "parameters": {"max_results": 1000}}]),
    fields("too many results of a tool, beside its type", MALFORMED, RESULTS,
           tools=[{"type": "web_search", "max_results": 1000}]),
    fields("a search billed by what it finds", UNSUPPORTED, "x_search is not supported: .*",
           tools=[{"type": "web_search", "x_search": {}}]),
    *(
        fields(f"stop_server_tools_when {value!r}", MALFORMED, "stop_server_tools_when must be a list",
               stop_server_tools_when=value)
        for value in ({"type": "max_cost"}, {}, "max_cost", "", 1, 0, True, False)
    ),
    fields("a file", UNSUPPORTED, FILES, messages=[{"role": "user", "content": [{"type": "file", "file": {}}]}]),
    fields("a file with an engine that costs a fee", UNSUPPORTED, FILES,
           messages=[{"role": "user", "content": [{"type": "file", "file": {}}]}],
           plugins=[{"id": "file-parser", "pdf": {"engine": "mistral-ocr"}}]),
    fields("a file with an engine that is a list", UNSUPPORTED, FILES,
           messages=[{"role": "user", "content": [{"type": "file", "file": {}}]}],
           plugins=[{"id": "file-parser", "pdf": {"engine": ["native"]}}]),
    fields("content of a new type", UNSUPPORTED, 'content of type "document" is not supported: .*',
           messages=[{"role": "user", "content": [{"type": "document"}]}]),
    fields("tools an object", MALFORMED, "tools must be a list", tools={"type": "function"}),
    fields("a tool that is a string", MALFORMED, r"tools\[0\] must be an object", tools=["web_search"]),
    *(
        fields(f"stream {value!r}", MALFORMED, "stream must be true or false", stream=value)
        for value in ("yes", "true", 1, 0, [True], {"on": True})
    ),
    *(
        fields(f"provider {value!r}", MALFORMED, "provider must be an object", provider=value)
        for value in ("openai", ["openai"], 1, True, False, "", [])
    ),
    *(
        fields(f"provider with {name} {value!r}", MALFORMED, rf"provider\.{name} must be a list of providers' names",
               provider={name: value})
        for name in ("order", "only")
        for value in ("openai", {"openai": 1}, [{"slug": "openai/priority"}], [1])
    ),
    *(
        fields(f"provider with {name}", UNSUPPORTED, rf"provider\.{name} is not supported: it may change the price",
               provider={name: {"a": 1}})
        for name in ("options", "Order", "service_tier")
    ),
    *(
        fields(f"max_price {value!r}", MALFORMED, r"provider\.max_price must be an object",
               provider={"max_price": value})
        for value in ("1", 1, ["1"], True, False, 0, [])
    ),
    *(
        fields(f"max_price of {value!r:.20}", MALFORMED, r"provider\.max_price\.prompt" + PRICE,
               provider={"max_price": {"prompt": value}})
        for value in (-1, "-0.1", "cheap", "", "NaN", "Infinity", "1e400", "1_0", True, [1], {"usd": 1})
    ),
    fields("a max_price for requests of the wrong type", MALFORMED, r"provider\.max_price\.request" + PRICE,
           provider={"max_price": {"request": "free"}}),
]  # fmt: skip

NAMES = {
    "with a space": "my team",
    "with a slash": "a/b",
    "that climbs": "../",
    "of two dots": "..",
    "of 65 characters": "a" * 65,
    "of 300 characters": "a" * 300,
    "with a NUL": "a\0b",
    "with a line break": "a\nb",
    "that ends in a line break": "a\n",
    "with an escape character": "a\x1b[31m",
    "with an umlaut": "bücher",
    "in full width": "ａｂｃ",  # noqa: RUF001 - that is the case
    "with digits of another script": "a٣",
    "that is empty": "",
    "of a blank": " ",
    "with the separator of keys": "a#b",
    "with a colon": "a:b",
    "with an apostrophe": "a'b",
    "with a percent sign": "a%20b",
}
HEADERS = [
    *(
        headers(f"a tenant {what}", BAD_NAME, "X-Tenant-Id" + NAME, KEY, ("X-Tenant-Id", name))
        for what, name in NAMES.items()
    ),
    *(
        headers(f"a feature {what}", BAD_NAME, "X-Feature" + NAME, KEY, ("X-Feature", name))
        for what, name in NAMES.items()
    ),
    headers("no key", NO_KEY, KEY_ABSENT),
    headers("an empty header for the key", NO_KEY, KEY_ABSENT, ("Authorization", "")),
    headers("a wrong key", NO_KEY, KEY_WRONG, ("Authorization", "Bearer wrong")),
    headers("the key and more", NO_KEY, KEY_WRONG, ("Authorization", f"Bearer {GATEWAY_KEY}x")),
    headers("the beginning of the key", NO_KEY, KEY_WRONG, ("Authorization", f"Bearer {GATEWAY_KEY[:-1]}")),
    headers("the key in capitals", NO_KEY, KEY_WRONG, ("Authorization", f"Bearer {GATEWAY_KEY.upper()}")),
    headers("the admin key", NO_KEY, KEY_WRONG, ("Authorization", "Bearer local-admin-key")),
    headers("the upstream key", NO_KEY, KEY_WRONG, ("Authorization", "Bearer simulated")),
    headers("a key that is not ASCII", NO_KEY, KEY_WRONG, ("Authorization", "Bearer schlüssel")),
    headers("a key that is no text", NO_KEY, KEY_WRONG, ("Authorization", "Bearer \ud800")),
    headers("a key of a megabyte", NO_KEY, KEY_WRONG, ("Authorization", "Bearer " + "a" * 1_000_000)),
    headers("two keys in one", NO_KEY, KEY_WRONG, ("Authorization", f"Bearer {GATEWAY_KEY}, Bearer x")),
    headers("no scheme", NO_KEY, KEY_FORM, ("Authorization", GATEWAY_KEY)),
    headers("another scheme", NO_KEY, KEY_FORM, ("Authorization", "Basic bG9jYWw6a2V5")),
    headers("Bearer alone", NO_KEY, KEY_FORM, ("Authorization", "Bearer")),
    headers("Bearer and blanks", NO_KEY, KEY_FORM, ("Authorization", "Bearer   ")),
    headers("the key in another header", NO_KEY, KEY_ABSENT, ("X-Api-Key", GATEWAY_KEY)),
    headers("two keys", MALFORMED, "the header authorization is given more than once",
            KEY, ("Authorization", "Bearer other")),
    headers("two keys under two spellings", MALFORMED, "the header authorization is given more than once",
            KEY, ("authorization", "Bearer other")),
    headers("two tenants", MALFORMED, "the header x-tenant-id is given more than once",
            KEY, ("X-Tenant-Id", "a"), ("x-tenant-id", "b")),
    headers("two features", MALFORMED, "the header x-feature is given more than once",
            KEY, ("X-Feature", "a"), ("X-Feature", "b")),
]  # fmt: skip

GET_ONLY = r" takes GET, not "
PATHS = [
    Row("an unknown path", 404, "not_found",
        r"there is nothing at '/api/v1/responses'; chat is at POST /api/v1/chat/completions",
        chat_body(), target="/api/v1/responses"),
    Row("legacy completions", 404, "not_found", r"there is nothing at '/api/v1/completions'; .*", chat_body(),
        target="/api/v1/completions"),
    Row("a slash behind", 404, "not_found", r"there is nothing at .*", chat_body(), target=f"{CHAT}/"),
    Row("a path of 5000 characters", 404, "not_found", r"there is nothing at '[^']{200}'; .*", chat_body(),
        target="/api/" + "x" * 5000),
    Row("nothing after the stage", 404, "not_found", r"there is nothing at .*", target="/api/", method="GET"),
    *(
        Row(f"{method} to chat", 405, "method_not_allowed", f"{CHAT} takes POST, not {method}", method=method)
        for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD")
    ),
    Row("POST to models", 405, "method_not_allowed", "/api/v1/models" + GET_ONLY + "POST", target="/api/v1/models"),
    Row("POST to usage", 405, "method_not_allowed", "/api/usage/default" + GET_ONLY + "POST",
        target="/api/usage/default"),
    Row("models without a key", *NO_KEY, KEY_ABSENT, headers=(), method="GET", target="/api/v1/models"),
    Row("usage without a key", *NO_KEY, KEY_ABSENT, headers=(), method="GET", target="/api/usage/default"),
    *(
        Row(f"usage of {name!r}", *BAD_NAME, "the tenant in the path" + NAME, method="GET", target=f"/api/usage/{name}")
        for name in ("", "a%20b", "a%2Fb", "a/b", "..", "%00", "a%23b", "x" * 65)
    ),
]  # fmt: skip

NOT_BASE64 = r"the body is not valid base64"
EVENTS = [
    Row(f"base64 that is not: {what}", *MALFORMED, NOT_BASE64, event={"body": body, "isBase64Encoded": True})
    for what, body in {
        "JSON": chat_body().decode(),
        "a wrong length": "YWJ",
        "other characters": "%%%%",
        "not ASCII": "äöüä",
        "the other alphabet": "-_-_",
    }.items()
] + [
    Row("no body", *MALFORMED, EMPTY, event={"body": None}),
    Row("base64 of nothing", *MALFORMED, EMPTY, event={"body": "", "isBase64Encoded": True}),
    Row("a body with half a character", *MALFORMED, r"the body is not UTF-8 \(byte 0\)", event={"body": "\ud800"}),
]

TABLE = [*BODIES, *FIELDS, *HEADERS, *PATHS, *EVENTS]


def send(door: Door, row: Row) -> Answered:
    event = {**event_of(HttpRequest(row.method, row.target, row.headers, row.body)), **row.event}
    return whole(answer(door.gate, event, DEADLINE))


def whole(response: Response) -> Answered:
    try:
        return Answered(response.status, response.headers, b"".join(response.body))
    finally:
        response.close()


scanner = cache(connect)  # making a client takes as long as a test


def items(door: Door, store_url: str) -> list[Any]:
    """Everything in the door's table."""
    return scanner(store_url).scan(TableName=door.gate.settings.farebox_table)["Items"]


def chats(simulator: Simulator) -> int:
    """How many chat requests went upstream."""
    return sum(request.target.endswith("/chat/completions") for request in simulator.seen)


def assert_error_shape(answered: Answered) -> Mapping[str, Any]:
    """The shape of design section 2, for every refusal."""
    assert answered.headers["Content-Type"] == "application/json"
    assert set(answered.json) == {"error"}
    error: Mapping[str, Any] = answered.json["error"]
    assert error["code"] == answered.status
    assert type(error["code"]) is int
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert isinstance(error["metadata"]["reason"], str)
    return error


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_bad_input_is_refused_with_a_message_and_costs_nothing(
    row: Row, door: Door, simulator: Simulator, embedded_url: str
) -> None:
    answered = send(door, row)
    error = assert_error_shape(answered)
    assert (answered.status, answered.reason) == (row.status, row.reason), error
    assert 400 <= answered.status < 500
    assert re.fullmatch(row.message, error["message"], re.DOTALL), error["message"]
    assert len(error["message"]) < 500
    assert answered.headers["X-Request-Id"]
    assert chats(simulator) == 0
    assert items(door, embedded_url) == []


def test_every_row_of_the_table_has_a_name_of_its_own() -> None:
    names = [row.name for row in TABLE]
    assert sorted(set(names)) == sorted(names)


def test_no_refusal_repeats_the_key_that_was_given(door: Door) -> None:
    for row in HEADERS:
        if row.reason == "unauthenticated":
            answered = send(door, row)
            assert b"schl" not in answered.body
            assert GATEWAY_KEY.encode() not in answered.body


def test_a_refused_method_names_the_one_that_is_allowed(door: Door) -> None:
    assert door.call("GET", CHAT).headers["Allow"] == "POST"
    assert door.call("DELETE", "/api/v1/models").headers["Allow"] == "GET"


def test_a_field_that_is_refused_is_named_for_programs(door: Door) -> None:
    assert door.chat(plugins=[{"id": "web"}]).json["error"]["metadata"]["field"] == "plugins"
    assert door.chat(tools=[{"type": "web_search"}]).json["error"]["metadata"]["field"] == "tools"
    assert door.chat(models=["@preset/x"]).json["error"]["metadata"]["field"] == "models"
    assert door.chat(n=2).json["error"]["metadata"]["field"] == "n"
    assert door.chat(model="nobody/nothing").json["error"]["metadata"]["model"] == "nobody/nothing"


NOT_ALLOWED = r"(.*) is not among the models that this tenant may use"


@pytest.mark.parametrize(
    ("settings", "members", "named"),
    [
        ({"FAREBOX_ALLOWED_MODELS": "sim/ok"}, {"models": ["sim/cent"]}, "sim/cent"),
        ({"FAREBOX_ALLOWED_MODELS": "sim/ok"}, {"model": None, "models": ["sim/cent"]}, "sim/cent"),
        ({"FAREBOX_DENIED_MODELS": "*:nitro"}, {"model": "sim/ok:nitro"}, "sim/ok:nitro"),
        ({"FAREBOX_DENIED_MODELS": "*:nitro"}, {"model": "sim/ok:nitro:exacto"}, "sim/ok:nitro:exacto"),
        ({"FAREBOX_DENIED_MODELS": "*:nitro"}, {"models": ["sim/ok:floor:nitro:floor"]}, "sim/ok:floor:nitro:floor"),
        ({"FAREBOX_DENIED_MODELS": "*-pro"}, {"model": "sim/pro-base", "reasoning": {"mode": "pro"}},
         "sim/pro-base-pro"),
        ({"FAREBOX_ALLOWED_MODELS": "sim/pro-base"}, {"model": "sim/pro-base", "reasoning": {"mode": "pro"}},
         "sim/pro-base-pro"),
        ({"FAREBOX_ALLOWED_MODELS": "sim/tiers-2"}, {"model": "sim/tiers-2", "speed": "fast"}, "sim/tiers-2-fast"),
    ],
    ids=str,
)  # fmt: skip
def test_no_spelling_gets_around_the_lists_of_models(
    settings: dict[str, str], members: dict[str, Any], named: str, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(**settings)
    refused = door.chat(**members)
    assert (refused.status, refused.reason) == (403, "model_not_allowed")
    assert re.fullmatch(NOT_ALLOWED, refused.json["error"]["message"]).group(1) == named  # type: ignore[union-attr]
    assert chats(simulator) == 0
    assert door.usage()["daily"]["held_usd"] == 0


@pytest.mark.parametrize(
    ("allowed", "members"),
    [
        ("sim/pro-base*", {"model": "sim/pro-base", "reasoning": {"mode": "pro"}}),
        ("sim/tiers-2,sim/tiers-2-fast", {"model": "sim/tiers-2", "service_tier": "priority"}),
        ("sim/tiers-2", {"model": "sim/tiers-2:nitro"}),
        ("sim/tiers-2", {"model": "sim/tiers-2", "service_tier": "flex"}),
    ],
    ids=str,
)
def test_what_the_lists_allow_passes_in_every_mode_of_its_own(
    allowed: str, members: dict[str, Any], make_door: MakeDoor
) -> None:
    assert make_door(FAREBOX_ALLOWED_MODELS=allowed).chat(**members).status == 200


def test_the_same_header_twice_with_the_same_value_is_one(door: Door) -> None:
    given = (KEY, KEY, ("X-Tenant-Id", "a"), ("x-tenant-id", "a"))
    assert send(door, Row("", 200, "", "", chat_body(), given)).status == 200


def test_whatever_the_depth_a_body_is_refused_or_answered_and_nothing_stays_held(door: Door) -> None:
    """Reading, checking and writing again each end at a depth of their own."""

    def status(depth: int) -> int:
        nested = b'{"options":' + b"[" * depth + b"]" * depth + b"}"
        return door.chat(member(b'"provider":' + nested)).status

    readable, unreadable = 1, DEEP
    while unreadable - readable > 1:
        middle = (readable + unreadable) // 2
        readable, unreadable = (readable, middle) if status(middle) == 400 else (middle, unreadable)
    assert {depth: found for depth in range(unreadable - 100, unreadable + 10) if (found := status(depth)) >= 500} == {}
    assert door.usage()["daily"]["held_usd"] == 0


@pytest.mark.parametrize(
    "harmless",
    [
        {"models": []}, {"models": None}, {"plugins": []}, {"n": 1}, {"service_tier": "default"}, {"provider": None},
        {"modalities": ["text"]}, {"stream": None}, {"stream": False}, {"tools": []}, {"tools": None},
        {"max_tokens": None}, {"max_tokens": 1}, {"max_tokens": 9_999_999}, {"max_completion_tokens": 16},
        {"provider": {"max_price": {}}}, {"provider": {"max_price": None}},
        {"provider": {"max_price": {"prompt": None}}},
        {"reasoning": {"effort": "low"}}, {"unknown_field": {"a": [1, 2.5, None]}}, {"user": "\ud800"},
        {"messages": [{"role": "user", "content": "ﷺ\u0000\U0001f680"}]}, {"temperature": 0.7},
    ],
    ids=lambda value: json.dumps(value)[:50],
)  # fmt: skip
def test_what_only_looks_unusual_passes(harmless: Mapping[str, Any], door: Door, simulator: Simulator) -> None:
    answered = door.chat(**harmless)
    assert answered.status == 200, answered.body
    usage = door.usage()["daily"]
    assert (round(usage["spent_usd"] * 1e9), usage["held_usd"]) == (simulator.billed_nanousd, 0)


# Refusals for money.

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Calendar:
    """A gate's clock, set by the test."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def door(self, door: Door) -> Door:
        gate = door.gate
        return Door(replace(gate, now=self, desk=replace(gate.desk, now=self)))


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


def spend_all(door: Door, **members: Any) -> Answered:
    """Call until the budget is exhausted; the refusal."""
    for _ in range(100):
        answered = door.chat(**{"model": "sim/cent", "max_tokens": 1000, **members})
        if answered.status != 200:
            return answered
    raise AssertionError("the budget has no end")


def assert_exhausted(answered: Answered, window: str, resets_at: str) -> Mapping[str, Any]:
    error = assert_error_shape(answered)
    facts: Mapping[str, Any] = error["metadata"]
    assert (answered.status, answered.reason, error["type"]) == (429, "budget_exhausted", "insufficient_quota")
    assert (facts["scope"], facts["tenant"], facts["window"]) == ("tenant", "default", window)
    assert facts["resets_at"] == resets_at
    assert facts["held_usd"] == 0
    assert facts["spent_usd"] + facts["needed_usd"] > facts["limit_usd"]
    assert answered.headers["x-should-retry"] == "false"
    assert "Retry-After" not in answered.headers
    return facts


def test_a_spent_day_is_refused_until_midnight_and_says_so(
    make_door: MakeDoor, calendar: Calendar, simulator: Simulator
) -> None:
    door = calendar.door(make_door(DEFAULT_DAILY_BUDGET="0.02"))
    refused = spend_all(door)
    facts = assert_exhausted(refused, "day", "2026-11-24T00:00:00Z")
    assert facts["limit_usd"] == 0.02
    assert round(facts["spent_usd"] * 1e9) == simulator.billed_nanousd
    assert re.fullmatch(
        r"the daily budget of tenant default does not pay for this call \(0\.\d+ of 0\.02 USD spent, 0 USD held; "
        r"the smallest answer needs 0\.\d+ USD\); it resets at 2026-11-24T00:00:00Z",
        refused.json["error"]["message"],
    )
    before = chats(simulator)
    assert door.chat(model="sim/cent").status == 429
    assert chats(simulator) == before
    calendar.now = NOON.replace(day=24, hour=0)
    assert door.chat(model="sim/cent").status == 200


def test_a_spent_month_is_refused_although_the_day_has_room(make_door: MakeDoor, calendar: Calendar) -> None:
    door = calendar.door(make_door(DEFAULT_DAILY_BUDGET="0.02", DEFAULT_MONTHLY_BUDGET="0.03"))
    assert_exhausted(spend_all(door), "day", "2026-11-24T00:00:00Z")
    calendar.now = NOON.replace(day=24)
    facts = assert_exhausted(spend_all(door), "month", "2026-12-01T00:00:00Z")
    assert facts["limit_usd"] == 0.03
    calendar.now = datetime(2026, 12, 1, tzinfo=UTC)
    assert door.chat(model="sim/cent").status == 200


def test_where_both_windows_are_spent_the_longer_one_is_named(make_door: MakeDoor, calendar: Calendar) -> None:
    door = calendar.door(make_door(DEFAULT_DAILY_BUDGET="0.02", DEFAULT_MONTHLY_BUDGET="0.02"))
    assert_exhausted(spend_all(door), "month", "2026-12-01T00:00:00Z")


def test_a_budget_of_zero_refuses_what_costs_and_what_is_free(
    make_door: MakeDoor, calendar: Calendar, embedded_url: str, simulator: Simulator
) -> None:
    door = calendar.door(make_door(DEFAULT_DAILY_BUDGET="0"))
    assert_exhausted(door.chat(), "day", "2026-11-24T00:00:00Z")
    told = items(door, embedded_url)
    # That the month may have holds, that it is spent, and that this is told.
    assert {item["pk"]["S"] for item in told} == {"LEDGERS#2026-11", "EVENTS", "TENANT#default"}
    assert not any(name == "m" or name.startswith(("h_", "d")) for item in told for name in item)
    assert_exhausted(door.chat(), "day", "2026-11-24T00:00:00Z")
    assert items(door, embedded_url) == told
    assert chats(simulator) == 0
    free = door.chat(model="sim/free:free")
    assert (free.status, free.reason) == (403, "tenant_closed")
    assert chats(simulator) == 0
    assert door.usage()["daily"] == {
        "limit_usd": 0, "spent_usd": 0, "held_usd": 0, "remaining_usd": 0, "resets_at": "2026-11-24T00:00:00Z",
    }  # fmt: skip


def test_a_call_whose_prompt_alone_is_above_the_budget_is_exhausted_and_not_held(
    make_door: MakeDoor, calendar: Calendar, simulator: Simulator
) -> None:
    door = calendar.door(make_door(DEFAULT_DAILY_BUDGET="0.02"))
    facts = assert_exhausted(
        door.chat(model="sim/cent", messages=[{"role": "user", "content": "x" * 10_000}]),
        "day",
        "2026-11-24T00:00:00Z",
    )
    assert facts["needed_usd"] > 0.1
    assert chats(simulator) == 0


def test_money_held_by_a_call_in_flight_is_worth_waiting_for(make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(DEFAULT_DAILY_BUDGET="0.01", FAREBOX_HOLD_FRACTION="1")
    running = door.open("POST", CHAT, chat_body(model="sim/cent", stream=True))
    held = door.chat(model="sim/cent")
    error = assert_error_shape(held)
    assert (held.status, held.reason, error["type"]) == (429, "budget_held", "rate_limit_error")
    assert 1 <= int(held.headers["Retry-After"]) <= 30
    assert held.headers.get("x-should-retry") != "false"
    assert error["metadata"]["window"] == "day"
    assert error["metadata"]["held_usd"] > 0 == error["metadata"]["spent_usd"]
    assert re.fullmatch(
        r"the daily budget of tenant default is held by calls in flight "
        r"\(0 of 0\.01 USD spent, 0\.\d+ USD held\); try again in \d+ s",
        error["message"],
    )
    assert chats(simulator) == 1
    running.close()
    usage = door.usage()["daily"]
    assert (round(usage["spent_usd"] * 1e9), usage["held_usd"]) == (simulator.billed_nanousd, 0)


def test_one_tenant_that_is_spent_does_not_stop_another(make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(TENANT_BUDGETS='{"poor": {"daily": 0}}')
    assert door.chat(headers={"X-Tenant-Id": "poor"}).reason == "budget_exhausted"
    assert door.chat(headers={"X-Tenant-Id": "rich"}).status == 200
    assert chats(simulator) == 1
