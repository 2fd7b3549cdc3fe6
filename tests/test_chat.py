"""A chat request: what is read of it bounds the price, what cannot be bounded is refused, and the bytes stay."""

import json
import tracemalloc
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.body import shown
from farebox.chat import (
    MAX_BODY_BYTES,
    MAX_TOKENS_ASKED,
    TEMPLATE_TOKENS_PER_ENTRY,
    TOOL_PREAMBLE_TOKENS,
    ChatRequest,
    body_with,
    max_price_of,
    parse,
    provider_with,
    stop_with,
)
from farebox.errors import BodyTooLarge, Malformed, Refusal, UnsupportedField
from farebox.policy import Extras

HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


def asked(**members: Any) -> ChatRequest:
    return parse(json.dumps({"messages": HI, **members}).encode())


def message(**members: Any) -> ChatRequest:
    return asked(messages=[{"role": "user", **members}])


# Whatever comes in, a request or a refusal comes out.

NAMES = [
    "messages", "model", "models", "stream", "max_tokens", "max_completion_tokens", "n", "provider", "max_price",
    "prompt", "completion", "tools", "type", "content", "ttl", "reasoning", "mode", "modalities", "service_tier",
    "images", "audio", "plugins", "cache_control", "x", "",
]  # fmt: skip
ATOMS = [
    "null", "true", "false", "0", "1", "-1", "-0", "16", "0.5", "1E400", "1e-400", "1e9999999", "-1e9999999",
    "1e99999999999999999999", "1e-99999999999999999999", "9" * 30, "9" * 5000, "NaN", "-Infinity", '"function"',
    '"text"', '"5m"', '"default"', '"1e9999999"', '"\\ud800"', '"\\udc00x"', '"\\u0000"', '"\u00e9"', '"\U0001d15e"',
    '"', "{", "]", "nul", "'x'",
]  # fmt: skip

texts = st.recursive(
    st.sampled_from(ATOMS) | st.text(max_size=6).map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]")
        | st.lists(st.tuples(st.sampled_from(NAMES).map(json.dumps), inner), max_size=4).map(
            lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=8,
)
fields = st.lists(st.tuples(st.sampled_from(NAMES[1:]), texts), max_size=4, unique_by=lambda pair: pair[0])


def never_another_exception(body: bytes) -> ChatRequest | Refusal:
    try:
        return parse(body)
    except Refusal as refusal:
        return refusal


@given(st.binary(max_size=60) | texts.map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_request_or_a_refusal(body: bytes) -> None:
    assert isinstance(never_another_exception(body), ChatRequest | Refusal)


@given(fields, texts)
@settings(max_examples=300, deadline=None)
def test_any_field_beside_messages_is_taken_or_refused(pairs: list[tuple[str, str]], content: str) -> None:
    members = [f'"messages":[{{"role":"user","content":{content}}}]', *(f'"{name}":{text}' for name, text in pairs)]
    assert isinstance(never_another_exception(f"{{{','.join(members)}}}".encode()), ChatRequest | Refusal)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('[{"type":[]}]', id="type-is-a-list"),
        pytest.param('[{"type":{}}]', id="type-is-an-object"),
        pytest.param("[{}]", id="no-type"),
        pytest.param("[[]]", id="part-is-a-list"),
        pytest.param('["text"]', id="part-is-a-string"),
        pytest.param(
            '{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}', id="a-part-without-a-list"
        ),
        pytest.param("7", id="number"),
        pytest.param("true", id="boolean"),
    ],
)
def test_content_that_is_neither_text_nor_a_list_of_parts_is_refused(content: str) -> None:
    with pytest.raises(Malformed):
        parse(f'{{"messages":[{{"role":"user","content":{content}}}]}}'.encode())


def test_half_a_surrogate_pair_is_text() -> None:
    assert parse(b'{"messages":[{"content":"\\ud800"}]}').prompt_tokens_max > 0


@pytest.mark.parametrize("number", ["1e9999999", "-1e9999999", "1e99999999999999999999", '"1e9999999"', "9" * 5000])
def test_a_number_that_python_cannot_take_is_refused_like_any_other_mistake(number: str) -> None:
    body = f'{{"messages":[{{"role":"user","content":"x"}}],"provider":{{"max_price":{{"prompt":{number}}}}}}}'
    with pytest.raises(Malformed):
        parse(body.encode())


@pytest.mark.parametrize("depth", [50_000, 900_000])
@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[", ""), ('[{"a":', "")], ids=["[]", "{}", "[", "[{"]
)
def test_a_body_nested_too_deeply_is_refused(depth: int, opening: str, closing: str) -> None:
    deep = opening * depth + ("1" if opening.endswith(":") else "") + closing * depth
    for body in (deep, f'{{"messages":[{{"role":"user","content":"x"}}],"a":{deep}}}'):
        assert len(body) < MAX_BODY_BYTES
        with pytest.raises(Malformed, match=r"nested too deeply|must be a JSON object|not JSON"):
            parse(body.encode())


@pytest.mark.parametrize("depth", [*range(100, 900, 100), *range(900, 1010, 5)])
@pytest.mark.parametrize("where", ["a", "tools", "provider"])
def test_at_every_depth_a_body_is_refused_or_can_be_sent(depth: int, where: str) -> None:
    deep = "[" * depth + "]" * depth
    value = {"a": deep, "tools": f'[{{"type":"function","a":{deep}}}]', "provider": f'{{"sort":{deep}}}'}[where]
    body = f'{{"messages":[{{"role":"user","content":"\u00e9"}}],"{where}":{value}}}'
    request = never_another_exception(body.encode())
    if isinstance(request, ChatRequest):
        assert deep in body_with(request, {"provider": provider_with(request, {})}).decode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b" \r\n\t", "empty", id="white-space"),
        pytest.param(b'{"a":"\xff"}', "not UTF-8 (byte 6)", id="not-utf8"),
        pytest.param(b"\xef\xbb\xbf{}", "not JSON", id="byte-order-mark"),
        pytest.param(b"nope", "not JSON", id="word"),
        pytest.param(b"[]", "must be a JSON object", id="list"),
        pytest.param(b'"x"', "must be a JSON object", id="string"),
        pytest.param(b"[1", "not JSON", id="cut-list"),
        pytest.param(b"{", "not JSON", id="cut-object"),
        pytest.param(b'{"a"', "not JSON", id="cut-after-name"),
        pytest.param(b'{"a":', "not JSON", id="cut-after-colon"),
        pytest.param(b'{"a":1', "not JSON", id="cut-after-value"),
        pytest.param(b'{"a":1,', "not JSON", id="cut-after-comma"),
        pytest.param(b'{"a":1,}', "not JSON", id="trailing-comma"),
        pytest.param(b"{'a':1}", "not JSON", id="single-quotes"),
        pytest.param(b'{"a" 1}', "Expecting ':'", id="no-colon"),
        pytest.param(b'{"a":1 "b":2}', "Expecting ','", id="no-comma"),
        pytest.param(b'{"a":1} x', "Extra data", id="text-after"),
        pytest.param(b"{} {}", "Extra data", id="second-object"),
        pytest.param(b"{1:2}", "not JSON", id="number-as-name"),
        pytest.param(b'{"a":NaN}', "NaN is not a JSON number", id="nan"),
        pytest.param(b'{"a":[-Infinity]}', "-Infinity is not a JSON number", id="infinity"),
        pytest.param(b'{"a":"\n"}', "not JSON", id="raw-newline-in-string"),
        pytest.param(b"{}", "messages must be a list", id="no-messages"),
    ],
)
def test_what_is_not_a_json_object_is_told_what_is_wrong(body: bytes, says: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse(body)
    assert says in refused.value.message


def test_the_largest_body_is_one_byte_below_the_limit() -> None:
    body = json.dumps({"messages": HI}).encode()
    parse(body.ljust(MAX_BODY_BYTES - 1))
    with pytest.raises(BodyTooLarge, match=str(MAX_BODY_BYTES)):
        parse(body.ljust(MAX_BODY_BYTES))


# A key twice could mean one thing to us and another upstream.

TWICE = [
    pytest.param('"model":"a","model":"b"', "model", id="top"),
    pytest.param('"model":"cheap","\\u006dodel":"dear"', "model", id="top-escaped"),
    pytest.param('"max_tokens":1,"max\\u005ftokens":2', "max_tokens", id="top-escaped-number"),
    pytest.param('"provider":{"only":["a"],"only":["b"]}', "only", id="inner"),
    pytest.param('"provider":{"max_price":{"prompt":1,"\\u0070rompt":2}}', "prompt", id="inner-escaped"),
    pytest.param('"a":[[{"b":[{"c":1,"d":2,"c":3}]}]]', "c", id="deep"),
    pytest.param('"messages":[]', "messages", id="messages"),
]


@pytest.mark.parametrize(("members", "name"), TWICE)
def test_a_key_that_appears_twice_is_refused_at_any_depth_and_through_escapes(members: str, name: str) -> None:
    with pytest.raises(Malformed, match=f'the key "{name}" appears twice'):
        parse(f'{{"messages":[{{"role":"user","content":"x"}}],{members}}}'.encode())


def test_a_long_key_that_appears_twice_is_shown_short() -> None:
    name = "k" * 1000
    with pytest.raises(Malformed) as refused:
        parse(f'{{"{name}":1,"{name}":2}}'.encode())
    assert len(refused.value.message) < 150
    assert shown(name) in refused.value.message


def test_the_same_key_in_two_objects_is_no_repetition() -> None:
    assert parse(b'{"messages":[{"role":"user"},{"role":"user"}],"metadata":{"messages":"x"}}').members


# Setting members: all other bytes are as received.


@dataclass(frozen=True)
class Written:
    """A JSON object in one of its many spellings, cut at the values of its top-level members."""

    value: dict[str, Any]
    pieces: list[tuple[str, str | None]]
    """Text, and the name of the member whose value it is, if it is one."""

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)


READ = {*NAMES, "route", "preset", "web_search_options", "speed", "fallbacks", "extra_body", "best_of"} - {""}

spaces = st.sampled_from(["", "", " ", "\n", "\t ", " \r\n "])
strings = st.text(max_size=5) | st.sampled_from(["}", "{", '"', "\\", "\u00e9", "\U0001f600", ',"max_tokens":1}', "\n"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | strings,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(strings, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def written(draw: st.DrawFn) -> Written:
    any_name = strings.filter(lambda name: name not in READ) | st.sampled_from(["model", "max_tokens", "provider"])
    names = draw(st.lists(any_name, max_size=5, unique=True))
    fixed: dict[str, st.SearchStrategy[Any]] = {
        "model": st.just("acme/m1"),
        "max_tokens": st.integers(1, 99),
        "provider": st.dictionaries(st.sampled_from(["ignore", "sort"]), values, max_size=2),
    }
    value: dict[str, Any] = {name: draw(fixed.get(name, values)) for name in names}
    value["messages"] = [{"role": "user", "content": draw(strings)}]
    order = draw(st.permutations(list(value)))
    pieces: list[tuple[str, str | None]] = [(draw(spaces) + "{", None)]
    for at, name in enumerate(order):
        comma = draw(spaces) + "," if at else ""
        pieces.append((f"{comma}{draw(spaces)}{_spelled(draw, name)}{draw(spaces)}:{draw(spaces)}", None))
        pieces.append((_spelled(draw, value[name]), name))
    pieces += [(draw(spaces), None), ("}", None), (draw(spaces), None)]
    return Written(value, pieces)


def _spelled(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON: escaped or not, spaced or not; a string sometimes with an escape for every character."""
    if isinstance(value, str) and draw(st.booleans()):
        units = value.encode("utf-16-be", errors="surrogatepass")
        return '"' + "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)) + '"'
    separators = draw(st.sampled_from([(",", ":"), (" ,\n", " :\t"), (", ", ": ")]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators)


def expected(body: Written, changes: Mapping[str, str]) -> str:
    """The bytes by the rule: values replaced where they stand, new members before the last brace."""
    kept = "".join(text if name is None else changes.get(name, text) for text, name in body.pieces)
    added = "".join(f",{json.dumps(name)}:{new}" for name, new in changes.items() if name not in body.value)
    head, _, tail = kept.rpartition("}")
    return f"{head}{added}}}{tail}"


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_setting_members_leaves_every_other_byte_as_received(data: st.DataObject) -> None:
    body = data.draw(written())
    names = st.sampled_from([*body.value, "max_tokens", "max_completion_tokens", "provider", "model", "}"])
    changes = data.draw(st.dictionaries(names, values, max_size=4))
    texts_of = {name: json.dumps(value) for name, value in changes.items()}
    sent = body_with(parse(body.text.encode()), texts_of)
    assert sent.decode() == expected(body, texts_of)
    assert json.loads(sent) == {**body.value, **changes}


@given(written())
@settings(max_examples=100, deadline=None)
def test_setting_nothing_gives_the_body_as_received(body: Written) -> None:
    assert body_with(parse(body.text.encode()), {}) == body.text.encode()


PROVIDERS = [
    '{"sort":"price","max_price":%s,"only":["a"]}',
    ' {"max_price" : %s }',
    '{"only": ["a\\u002fb"],\n "preferred_max_latency": 12345678901234567890.50, "ma\\u0078_price":%s}',
]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("theirs", ["null", "{}", '{ "prompt" : 1.50, "image": null }'])
def test_a_price_cap_is_set_inside_provider_and_the_rest_of_it_stays_as_received(provider: str, theirs: str) -> None:
    request = parse((f'{{"provider":{provider % theirs},"messages":[{{"role":"user"}}]}}').encode())
    assert max_price_of(request) == (json.loads(theirs) or {})
    sent = provider_with(request, {"prompt": Decimal("2.55"), "completion": 10})
    assert sent == (provider % '{"prompt":2.55,"completion":10}').strip()


@pytest.mark.parametrize(
    ("provider", "sent"),
    [
        ("null", '{"max_price":{"prompt":1}}'),
        ("{}", '{"max_price":{"prompt":1}}'),
        ('{"only":["a"] }', '{"only":["a"] ,"max_price":{"prompt":1}}'),
    ],
)
def test_a_price_cap_is_added_where_there_was_none(provider: str, sent: str) -> None:
    request = parse((f'{{"messages":[{{"role":"user"}}],"provider":{provider}}}').encode())
    assert max_price_of(request) == {}
    assert provider_with(request, {"prompt": 1}) == sent


def test_without_a_provider_object_there_is_one_with_the_cap_alone() -> None:
    assert provider_with(asked(), {"prompt": 1}) == '{"max_price":{"prompt":1}}'


OURS = '{"type":"max_cost","max_cost_in_dollars":0.25}'


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("", f"[{OURS}]"),
        (',"stop_server_tools_when":null', f"[{OURS}]"),
        (',"stop_server_tools_when":[]', f"[{OURS}]"),
        (',"stop_server_tools_when": [ \n] ', f"[{OURS}]"),
        (',"stop_server_tools_when": [ {"type":"step_count_is" , "step_count":3.0} ] ',
         f'[ {{"type":"step_count_is" , "step_count":3.0}},{OURS}]'),
        (',"stop_server_tools_when":["]",1]', f'["]",1,{OURS}]'),
        (',"stop_server_tools_when":[{"type":"max_cost","max_cost_in_dollars":9}]',
         f'[{{"type":"max_cost","max_cost_in_dollars":9}},{OURS}]'),
    ],
)  # fmt: skip
def test_a_cost_is_one_more_reason_to_stop_and_the_clients_own_stay_as_received(given: str, sent: str) -> None:
    request = parse(f'{{"messages":[{{"role":"user"}}]{given}}}'.encode())
    stop = stop_with(request, Decimal("0.25"))
    assert stop == sent
    assert json.loads(stop)[-1] == json.loads(OURS)


@given(st.lists(values, max_size=3), spaces, spaces)
@settings(max_examples=100, deadline=None)
def test_whatever_the_clients_reasons_ours_comes_behind_them(theirs: list[Any], before: str, inside: str) -> None:
    text = json.dumps(theirs, ensure_ascii=False, separators=(f"{inside},", ":"))
    body = f'{{"messages":[{{"role":"user"}}],"stop_server_tools_when":{before}[{inside}{text[1:]}}}'
    assert json.loads(stop_with(parse(body.encode()), Decimal("0.25"))) == [*theirs, json.loads(OURS)]


# Reading.


def test_what_is_read_of_a_request() -> None:
    request = asked(model="acme/m1", stream=True, max_tokens=7)
    assert (request.models, request.stream, request.max_tokens) == (("acme/m1",), True, 7)
    assert (asked().models, asked().stream, asked().max_tokens) == ((), False, None)


@pytest.mark.parametrize(
    ("members", "models"),
    [
        ({"model": "a/x", "models": ["b/y", "c/z"]}, ("a/x", "b/y", "c/z")),
        ({"models": ["b/y", "a/x"]}, ("b/y", "a/x")),
        ({"model": None, "models": ["b/y"]}, ("b/y",)),
        ({"model": "a/x", "models": ["b/y", "a/x", "b/y"]}, ("a/x", "b/y")),
        ({"model": "a/x", "models": []}, ("a/x",)),
        ({"model": "a/x", "models": None}, ("a/x",)),
        ({"model": "a/x", "models": ["a/x:nitro"]}, ("a/x", "a/x:nitro")),
    ],
    ids=str,
)
def test_the_model_is_tried_first_and_then_the_list_each_once(members: dict[str, Any], models: tuple[str, ...]) -> None:
    assert asked(**members).models == models


@pytest.mark.parametrize("model", [7, "", "a\nb", "x" * 201, "\ud800", ["a"], True])
def test_a_model_is_a_printable_name(model: object) -> None:
    with pytest.raises(Malformed, match="model must name a model with a string of 1 to 200"):
        asked(model=model)


@pytest.mark.parametrize("stream", [1, 0, "true", [], {}])
def test_stream_is_true_or_false(stream: object) -> None:
    with pytest.raises(Malformed, match="stream must be true or false"):
        asked(stream=stream)


@pytest.mark.parametrize(
    ("members", "most"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_tokens": 20, "max_completion_tokens": 10}, 20),
        ({"max_tokens": None, "max_completion_tokens": 10}, 10),
        ({"max_tokens": None}, None),
        ({"max_tokens": MAX_TOKENS_ASKED - 1}, MAX_TOKENS_ASKED - 1),
    ],
)
def test_of_two_output_caps_the_larger_is_the_bound(members: dict[str, Any], most: int | None) -> None:
    assert asked(**members).max_tokens == most


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("cap", [0, -1, 1.5, 10.0, "10", True, [], MAX_TOKENS_ASKED, 10**30])
def test_an_output_cap_is_a_whole_number(name: str, cap: object) -> None:
    with pytest.raises(Malformed, match=f"{name} must be a whole number"):
        asked(**{name: cap})


@pytest.mark.parametrize("messages", [None, [], {}, "hi", 7])
def test_messages_are_a_list_with_something_in_it(messages: object) -> None:
    with pytest.raises(Malformed, match="messages must be a list"):
        asked(messages=messages)


def test_a_message_is_an_object_and_the_wrong_one_is_named() -> None:
    with pytest.raises(Malformed, match=r"messages\[1\] must be an object"):
        asked(messages=[*HI, "hi"])


# What moves the price is looked at (all of it in test_policy.py); null means absent, everywhere.


def test_what_moves_the_price_is_read_of_the_members_that_the_body_has() -> None:
    request = asked(
        models=["acme/m1:nitro", "acme/m2"], service_tier="flex", reasoning={"mode": "pro"}, plugins=[{"id": "web"}]
    )
    assert request.models == ("acme/m1:nitro", "acme/m2")
    assert request.extras == Extras(service_tiers=frozenset({"flex"}), is_pro=True, web_results=10)


def test_a_file_is_counted_where_the_request_has_a_free_engine_and_refused_where_not() -> None:
    members = {"messages": [{"role": "user", "content": [{"type": "file"}, {"type": "image_url"}]}]}
    free = asked(**members, plugins=[{"id": "file-parser", "pdf": {"engine": "native"}}])
    assert (free.media_parts, free.extras.parses_files_free) == (2, True)
    with pytest.raises(UnsupportedField, match="files are supported only with an engine"):
        asked(**members)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"preset": "cheap"}, "preset"),
        ({"model": "acme/m@preset/x"}, "model"),
        ({"models": ["acme/m", "@preset/x"]}, "models"),
        ({"n": 2}, "n"),
        ({"provider": {"options": {"openai": {"service_tier": "priority"}}}}, "provider"),
        ({"tools": [{"type": ["function"]}]}, "tools"),
        ({"plugins": [{"id": "fusion"}]}, "plugins"),
        ({"messages": [{"role": "user", "content": [{"type": "something_new"}]}]}, "messages"),
    ],
    ids=str,
)
def test_what_changes_the_price_out_of_sight_is_refused_by_name(members: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedField) as refused:
        asked(**members)
    assert refused.value.facts == {"field": field}


@pytest.mark.parametrize(
    "members",
    [
        {"temperature": 0.1, "seed": 1, "user": "u", "usage": {"include": True}, "transforms": ["middle-out"]},
        {"stream_options": {"include_usage": True}, "debug": {"echo_upstream_body": True}, "session_id": "s"},
        {"max_output_tokens": 10**9, "thinking": {"type": "enabled", "budget_tokens": 2000}, "verbosity": "high"},
        {"reasoning": "high"},
        dict.fromkeys([
            "models", "route", "preset", "plugins", "web_search_options", "speed", "prompt", "n", "service_tier",
            "modalities", "reasoning", "tools", "provider", "model", "stream", "max_tokens", "max_completion_tokens",
            "prediction", "audio", "image_config", "deferred_tools", "functions", "response_format", "extra_body",
            "fallbacks", "best_of", "tool_choice", "stop_server_tools_when", "prompt_cache_retention", "cache_control",
        ]),
    ],
    ids=lambda members: "all-null" if len(members) > 9 else str(members),
)  # fmt: skip
def test_what_does_not_change_the_price_is_taken(members: dict[str, Any]) -> None:
    request = asked(**members)
    assert request.members.keys() == {"messages", *members}
    assert (request.extras, request.has_long_cache_writes) == (Extras(), False)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"provider": "deepinfra"}, "provider must be an object"),
        ({"models": "a/b"}, "models must be a list"),
        ({"models": {"a/b": 1}}, "models must be a list"),
        ({"tools": {}}, "tools must be a list"),
        ({"tools": "web_search"}, "tools must be a list"),
        ({"tools": ["f"]}, "tools[0] must be an object"),
        ({"plugins": {"id": "web"}}, "plugins must be a list"),
        *(
            ({"stop_server_tools_when": value}, "stop_server_tools_when must be a list")
            for value in ({}, {"type": "max_cost"}, "", "max_cost", 0, 1, False, True)
        ),
    ],
    ids=str,
)
def test_a_member_of_the_wrong_shape_is_named(members: dict[str, Any], says: str) -> None:
    with pytest.raises(Malformed) as refused:
        asked(**members)
    assert says in refused.value.message


def test_no_message_repeats_a_whole_body() -> None:
    with pytest.raises(Malformed) as refused:
        asked(provider={"max_price": {"k" * 100_000: -1}})
    assert len(refused.value.message) < 300


# The bound of the prompt.


@pytest.mark.parametrize(
    ("members", "count"),
    [
        ({"content": "text"}, 0),
        ({"content": None}, 0),
        ({"content": [{"type": "text", "text": "x"}]}, 0),
        ({"content": [{"type": kind} for kind in ("text", "refusal", "reasoning", "thinking")]}, 0),
        ({"content": [{"type": "image_url"}, {"type": "text"}, {"type": "input_audio"}]}, 2),
        ({"content": [{"type": "video_url"}]}, 1),
        ({"images": [{"type": "image_url"}, {}]}, 2),
        ({"images": [], "audio": None}, 0),
        ({"audio": {"id": "audio_1"}, "content": [{"type": "image_url"}]}, 2),
    ],
    ids=str,
)
def test_pictures_and_sounds_are_counted(members: dict[str, Any], count: int) -> None:
    assert message(**members).media_parts == count


def test_media_is_counted_over_all_messages() -> None:
    image = [{"type": "image_url"}]
    assert asked(messages=[{"content": image}, {"content": image * 2}]).media_parts == 3


@pytest.mark.parametrize(
    ("members", "is_long"),
    [
        ({}, False),
        ({"cache_control": {"type": "ephemeral"}}, False),
        ({"cache_control": {"type": "ephemeral", "ttl": "5m"}}, False),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, True),
        ({"cache_control": {"type": "ephemeral", "ttl": None}}, False),
        ({"cache_control": {"type": "ephemeral", "ttl": "1H"}}, True),
        ({"cache_control": {"type": "ephemeral", "ttl": 3600}}, True),
        ({"cache_control": {"type": "ephemeral", "ttl": ["5m"]}}, True),
        ({"prompt_cache_options": {"mode": "explicit"}}, False),
        ({"prompt_cache_options": {"ttl": "30m"}}, False),
        ({"prompt_cache_options": {"ttl": "12h"}}, True),
        ({"prompt_cache_retention": "in_memory"}, False),
        ({"prompt_cache_retention": "24h"}, True),
        ({"messages": [{"content": [{"type": "text", "prompt_cache_breakpoint": {"ttl": "12h"}}]}]}, True),
        ({"messages": [{"content": [{"type": "text", "text": "x", "cache_control": {"ttl": "1h"}}]}]}, True),
        ({"tools": [{"type": "function", "cache_control": {"ttl": "1h"}}]}, True),
    ],
    ids=str,
)
def test_a_cache_write_that_lives_long_is_seen_wherever_it_stands(members: dict[str, Any], is_long: bool) -> None:  # noqa: FBT001 - a table's column
    assert asked(**members).has_long_cache_writes is is_long


def test_every_message_and_every_tool_adds_its_template() -> None:
    one, two = asked(messages=HI), asked(messages=HI * 2)
    text_of_one = len(json.dumps(HI[0])) + len(", ")
    assert one.prompt_tokens_max == len(one.text) + TEMPLATE_TOKENS_PER_ENTRY
    assert two.prompt_tokens_max - one.prompt_tokens_max == text_of_one + TEMPLATE_TOKENS_PER_ENTRY
    tools = asked(tools=[{"type": "function"}] * 2)
    assert tools.prompt_tokens_max >= len(tools.text) + 3 * TEMPLATE_TOKENS_PER_ENTRY + TOOL_PREAMBLE_TOKENS


@pytest.mark.parametrize("name", ["tools", "functions", "response_format"])
def test_a_schema_is_bounded_as_a_template_that_indents_it_lays_it_out(name: str) -> None:
    schema: Any = {"type": "object"}
    for _ in range(40):
        schema = {"type": "object", "properties": {"a": schema}}
    value = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    rest = len(json.dumps({"messages": HI}))
    assert asked(**{name: value}).prompt_tokens_max >= rest + len(json.dumps(value, indent=4))


@given(st.dictionaries(strings, values, max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_schema_is_bounded_as_it_looks_when_it_is_indented(schema: dict[str, Any]) -> None:
    compact = json.dumps(schema, separators=(",", ":"))
    request = parse(f'{{"messages":[{{"role":"user"}}],"response_format":{compact}}}'.encode())
    grown = len(json.dumps(schema, indent=4)) - len(compact)
    assert request.prompt_tokens_max - len(request.text) - TEMPLATE_TOKENS_PER_ENTRY >= grown


def test_a_small_body_does_not_grow_without_bound_while_it_is_measured() -> None:
    """200 kB of zeros, nested: laid out over lines they would be a thousand times as long."""
    deep: Any = [0] * 100_000
    for _ in range(250):
        deep = [deep]
    body = json.dumps({"messages": HI, "tools": [{"type": "function", "a": deep}]}, separators=(",", ":")).encode()
    tracemalloc.start()
    never_another_exception(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


@pytest.mark.parametrize(
    ("members", "least"),
    [
        ({}, 0),
        ({"reasoning": {}}, 0),
        ({"reasoning": {"effort": "none"}}, 0),
        ({"reasoning": {"exclude": True}}, 0),
        ({"reasoning": {"effort": "low"}}, 1280),
        ({"reasoning": {"enabled": True}}, 1280),
        ({"reasoning_effort": "high"}, 1280),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning": {"effort": None}, "reasoning_effort": "high"}, 1280),
        ({"reasoning": {"max_tokens": 2000}}, 2256),
        ({"reasoning": {"max_tokens": True}}, 0),
    ],
    ids=str,
)
def test_an_answer_has_room_for_more_than_its_reasoning(members: dict[str, Any], least: int) -> None:
    assert asked(**members).min_output_tokens == least


def test_the_likely_size_of_a_prompt_is_a_third_of_ascii_and_a_token_for_each_other_character() -> None:
    for content, likely in (("x" * 3000, 1000), ("\u4e16" * 1000, 1000)):
        body = json.dumps({"messages": [{"role": "user", "content": content}]}, ensure_ascii=False).encode()
        assert parse(body).prompt_tokens_likely == pytest.approx(likely, abs=100)


@pytest.mark.parametrize("form", ["as it is", "NFC", "NFKC"])
@given(text=st.text(max_size=200), spelling=st.sampled_from(["escaped", "raw"]))
@example(text="\ufdfa" * 1000, spelling="escaped").via("eleven times its size in NFKC")
@example(text="\U0001d15e" * 1000 + "\U0001d400" * 1000, spelling="raw").via("grows in NFC, and shrinks in NFKC")
@example(text="\u0390" * 1000 + "\uff21" * 1000, spelling="escaped")
@example(text="\ud800" * 100, spelling="escaped")
@settings(max_examples=100, deadline=None)
def test_the_prompt_bound_is_no_less_than_the_bytes_of_the_text_in_any_form_a_tokenizer_reads(
    form: Any, text: str, spelling: str
) -> None:
    if spelling == "raw":
        text = text.encode(errors="ignore").decode()
    body = json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=spelling == "escaped")
    read = text if form == "as it is" else unicodedata.normalize(form, text)
    size, bound = len(read.encode(errors="surrogatepass")), parse(body.encode()).prompt_tokens_max
    assert bound >= size
