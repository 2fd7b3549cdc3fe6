"""What goes upstream and what comes back: the client's bytes, except for the fields that hold the money."""

import json
import re
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from farebox.routes import answer
from local.gateway import event_of
from local.simulator import Simulator
from local.sockets import HttpRequest
from tests.conftest import DEADLINE, GATEWAY_KEY, Answered, Door, MakeDoor

CHAT = "/api/v1/chat/completions"
OURS = b'"provider":{"max_price":{"prompt":0.153,"completion":0.612}}'
"""sim/ok costs 0.15 and 0.6 USD per million tokens; the cap is a little above."""
HELLO = b'"messages":[{"role":"user","content":"hi"}]'
HI = b'{"model":"sim/ok",' + HELLO


def sent(simulator: Simulator) -> HttpRequest:
    """The last chat request that upstream saw."""
    return [request for request in simulator.seen if request.target.endswith("/chat/completions")][-1]


def passed(door: Door, simulator: Simulator, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """The body that upstream saw for this one."""
    answered = door.chat(body, headers)
    assert answered.status == 200, answered.body
    return sent(simulator).body


# Bodies without a `provider` of their own and with an honest max_tokens: ours is added before the closing brace.
UNTOUCHED = {
    "compact": HI + b',"max_tokens":100}',
    "spaced": b'{ "model" : "sim/ok" ,\n\t"messages": [ {"role" : "user","content":"hi"} ] , "max_tokens" : 100 }',
    "with white space around": b' \r\n{"max_tokens":100,"model":"sim/ok",' + HELLO + b"}\n\n ",
    "another order": b'{"max_tokens":100,' + HELLO + b',"model":"sim/ok"}',
    "unicode": HI + ',"max_tokens":100,"user":"äöü 日本語 \U0001f680 \u2028 \ufeff"}'.encode(),
    "escapes": rb'{"model":"sim\/ok",' + HELLO + rb',"max_tokens":100,"user":"\u00e4\ud83d\ude80\n\/\"\\ \u007b"}',
    "a lone surrogate": rb'{"model":"sim/ok","messages":[{"role":"user","content":"\ud83d"}],"max_tokens":100}',
    "escapes in names": rb'{"m\u006fdel":"sim/ok",' + HELLO + rb',"max\u005ftokens":100}',
    "unknown fields": HI + b',"max_tokens":100,"unknown":{"a":[1,{"b":null}]},"transforms":["middle-out"]}',
    "number spellings": HI + b',"max_tokens":100,"temperature":1.0,"top_p":1e0,"seed":-0,"x":1E+3,"y":0.10}',
    "long numbers": HI + b',"max_tokens":100,"temperature":0.12345678901234567890123,"seed":' + b"9" * 30 + b"}",
    "very large and small numbers": HI + b',"max_tokens":100,"x":[1e300,-1E-300,' + b"1" * 100 + b"]}",
    "braces in strings": HI + b',"max_tokens":100,"stop":["}","{","],}"],"user":"\\"}"}',
    "nested fields of the same names": HI + b',"max_tokens":100,"metadata":{"max_tokens":"1","provider":"x"}}',
    "usage flags": HI + b',"max_tokens":100,"usage":{"include":true},"stream_options":{"include_usage":true}}',
    "an empty name": HI + b',"max_tokens":100,"":""}',
    "max_completion_tokens": HI + b',"max_completion_tokens":100}',
    "both limits": HI + b',"max_tokens":50,"max_completion_tokens":100}',
    "one limit null": HI + b',"max_tokens":null,"max_completion_tokens":100}',
    "nulls": HI + b',"max_tokens":100,"stop":null,"tools":null,"models":null}',
    "as streamed": HI + b',"max_tokens":100,"stream":true}',
    "a large body": HI + b',"max_tokens":100,"user":"' + b"x" * 100_000 + b'"}',
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOUCHED)
def test_a_body_goes_upstream_byte_for_byte_with_the_price_cap_behind(
    name: str, door: Door, simulator: Simulator
) -> None:
    body = UNTOUCHED[name]
    close = body.rindex(b"}")
    assert passed(door, simulator, body) == body[:close] + b"," + OURS + body[close:]


REPLACED = {
    "provider null": (b'"provider":null,', OURS + b","),
    "provider empty": (b'"provider" : {} ,', b'"provider" : ' + OURS.removeprefix(b'"provider":') + b" ,"),
    "other keys": (
        b'"provider":{"order":["b","simulated"],"allow_fallbacks":false,"zdr":true},',
        b'"provider":{"order":["b","simulated"],"allow_fallbacks":false,"zdr":true,"max_price":'
        b'{"prompt":0.153,"completion":0.612}},',
    ),
    "a higher cap is lowered": (b'"provider":{"max_price":{"prompt":5,"completion":5.5}},', OURS + b","),
    "a lower cap stays": (
        b'"provider":{"max_price":{"completion":0.61,"prompt":0.151}},',
        b'"provider":{"max_price":{"completion":0.61,"prompt":0.151}},',
    ),
    "one lower and one higher": (
        b'"provider":{"max_price":{"prompt":0.151,"completion":99}},',
        b'"provider":{"max_price":{"prompt":0.151,"completion":0.612}},',
    ),
    "only one": (
        b'"provider":{"max_price":{"completion":0.61}},',
        b'"provider":{"max_price":{"completion":0.61,"prompt":0.153}},',
    ),
    "null as a cap": (b'"provider":{"max_price":{"prompt":null,"completion":null}},', OURS + b","),
    "a cap as a string that is too high": (b'"provider":{"max_price":{"prompt":"5","completion":"5"}},', OURS + b","),
    "other caps": (
        b'"provider":{"max_price":{"request":0.5,"image":1}},',
        b'"provider":{"max_price":{"request":0.5,"image":1.0,"prompt":0.153,"completion":0.612}},',
    ),
    "spacing and numbers of other keys": (
        b'"provider" : { "sort" :"price", "preferred_min_throughput":1.50 , "max_price" : { "prompt":5 } ,"zdr":true},',
        b'"provider" : { "sort" :"price", "preferred_min_throughput":1.50 , '
        b'"max_price" : {"prompt":0.153,"completion":0.612} ,"zdr":true},',
    ),
    "a name with an escape": (rb'"pro\u0076ider":{},', rb'"pro\u0076ider":' + OURS.removeprefix(b'"provider":') + b","),
}


@pytest.mark.parametrize("name", REPLACED)
def test_the_clients_provider_stays_and_the_lower_price_cap_wins(name: str, door: Door, simulator: Simulator) -> None:
    theirs, expected = REPLACED[name]
    head, tail = b'{"model":"sim/ok",', b' "max_tokens" : 100, ' + HELLO + b"}"
    assert passed(door, simulator, head + theirs + tail) == head + expected + tail


@pytest.mark.parametrize("spelling", ["0.151", "0_0.151", "0.15_1", "０.１５１", "٠.١٥١", "0.151\u2003", "1.51e-1"])  # noqa: RUF001
def test_a_price_cap_is_not_sent_in_a_spelling_that_only_we_read(
    spelling: str, door: Door, simulator: Simulator
) -> None:
    """Upstream might take what it cannot read for no cap at all."""
    answered = door.chat(max_tokens=100, provider={"max_price": {"prompt": spelling}})
    assert answered.status in (200, 400)
    if answered.status == 200:
        cap = json.loads(sent(simulator).body)["provider"]["max_price"]["prompt"]
        assert re.fullmatch(r"[0-9.]+([eE][-+]?[0-9]+)?", str(cap))
        assert Decimal(str(cap)) == Decimal("0.151")


def test_whatever_is_in_the_clients_provider_what_goes_upstream_is_json(door: Door, simulator: Simulator) -> None:
    for value in (b"1e400", b"-1e400", b"1e-400", b"0.1234567890123456789", b'"\\ud800"', b"12345678901234567890123"):
        answered = door.chat(HI + b',"provider":{"preferred_max_latency":%b}}' % value)
        assert answered.status in (200, 400)
        if answered.status == 200:
            json.loads(sent(simulator).body, parse_constant=pytest.fail)


# What moves the price is passed on as it came, with the bounds that the hold was made with.

CAP = b'"provider":{"max_price":{"prompt":%b,"completion":%b}}'
PLAIN_CAP, TWICE, FOUR_TIMES, SIX_TIMES, CENT = (
    CAP % caps
    for caps in (
        (b"0.153", b"0.612"), (b"0.306", b"1.224"), (b"0.612", b"2.448"), (b"0.918", b"3.672"), (b"10.2", b"10.2"),
    )
)  # fmt: skip
ALLOWANCE = "0.05"
OUR_STOP = b'{"type":"max_cost","max_cost_in_dollars":0.05}'
STOP = b',"stop_server_tools_when":[' + OUR_STOP + b"]"
SEARCH = b'"tools":[{"type":"openrouter:web_search" , "parameters":{"max_results":20}}]'
IMAGE = b'"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]'
FILE = b'"messages":[{"role":"user","content":[{"type":"file","file":{"file_data":"https://x/y.pdf"}}]}]'

# A row: the model and other members as the client wrote them, and what is added behind them.
PRICED: dict[str, tuple[bytes, bytes]] = {
    **{
        f"tier {tier.decode()}": (b'"model":"sim/tiers","service_tier" : "%b"' % tier, cap)
        for tier, cap in (
            (b"auto", PLAIN_CAP), (b"default", PLAIN_CAP), (b"flex", PLAIN_CAP), (b"priority", TWICE), (b"fast", TWICE),
            (b"ultrafast", FOUR_TIMES), (b"scale", FOUR_TIMES),
        )
    },
    "tier null": (b'"model":"sim/tiers","service_tier":null', PLAIN_CAP),
    "a tier of an endpoint": (b'"model":"sim/tiers","speed":"fast"', TWICE),
    "a tier of a sibling": (b'"model":"sim/tiers-2","service_tier":"priority"', SIX_TIMES),
    "speed standard": (b'"model":"sim/tiers-2","speed":"standard"', PLAIN_CAP),
    "speed fast": (b'"model":"sim/tiers-2","speed":"fast"', SIX_TIMES),
    "speed fast above a tier": (b'"model":"sim/tiers-2","speed":"fast","service_tier":"flex"', SIX_TIMES),
    "pro": (b'"model":"sim/pro-base","reasoning":{ "mode":"pro" }', PLAIN_CAP),
    "nitro": (b'"model":"sim/tiers:nitro"', TWICE),
    "floor": (b'"model":"sim/tiers:floor"', PLAIN_CAP),
    "exacto": (b'"model":"sim/tiers:exacto"', PLAIN_CAP),
    "two suffixes": (b'"model":"sim/tiers:floor:nitro"', TWICE),
    "online": (b'"model":"sim/ok:online"', PLAIN_CAP),
    "models": (b'"model":"sim/ok","models":[ "sim/429","sim/cent" ]', CENT),
    "only models": (b'"models":["sim/429" , "sim/cent"],"route":"fallback"', CENT),
    "the same model again": (b'"model":"sim/ok","models":["sim/ok","sim/ok"]', PLAIN_CAP),
    "models and a suffix": (b'"model":"sim/ok","models":["sim/tiers:nitro"]', TWICE),
    "no models": (b'"model":"sim/ok","models":[]', PLAIN_CAP),
    "the web plugin": (b'"model":"sim/ok","plugins":[{"id":"web","max_results":20,"engine":"exa"}]', PLAIN_CAP),
    "a hundred results": (b'"model":"sim/ok","plugins":[{"id":"web","max_results":100}]', PLAIN_CAP),
    "free plugins": (b'"model":"sim/ok","plugins":[{"id":"response-healing"},{"id":"fusion","enabled":false}]',
                     PLAIN_CAP),
    "web search options": (b'"model":"sim/ok","web_search_options":{"search_context_size":"low"}', PLAIN_CAP),
    "a server tool": (b'"model":"sim/ok",' + SEARCH, PLAIN_CAP + STOP),
    "a server tool in its short form": (b'"model":"sim/ok","tools":[{"type":"web_search","max_results":3}]',
                                        PLAIN_CAP + STOP),
    "a server tool that is chosen": (b'"model":"sim/ok","tool_choice":{"type":"openrouter:web_search"},' + SEARCH,
                                     PLAIN_CAP + STOP),
    "functions": (b'"model":"sim/ok","tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto"',
                  PLAIN_CAP),
    "an hour of cache": (b'"model":"sim/cache-write","cache_control":{"type":"ephemeral","ttl":"1h"}', PLAIN_CAP),
    "a day of cache": (b'"model":"sim/cache-write","prompt_cache_retention":"24h"', PLAIN_CAP),
    "what only looks dear": (b'"model":"sim/ok","max_output_tokens":99999,"verbosity":"high","thinking":{},"n":1',
                             PLAIN_CAP),
}  # fmt: skip


def held_usd(door: Door, body: bytes) -> Any:
    """What a quote says that the call would hold."""
    return door.call("POST", "/api/v1/quote", body).json["hold_usd"]


def assert_passed_on(door: Door, simulator: Simulator, body: bytes, expected: bytes) -> None:
    """The body arrives as expected, and the bill is what was booked and no more than what was held."""
    hold = held_usd(door, body)
    assert passed(door, simulator, body) == expected
    usage = door.usage()["daily"]
    assert (round(usage["spent_usd"] * 1e9), usage["held_usd"]) == (simulator.billed_nanousd, 0)
    assert 0 < simulator.billed_nanousd <= round(hold * 1e9)


@pytest.mark.parametrize("name", PRICED)
def test_what_moves_the_price_goes_upstream_as_it_came_and_is_held(
    name: str, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(FAREBOX_SERVER_TOOLS_USD=ALLOWANCE)
    theirs, ours = PRICED[name]
    body = b"{ " + theirs + b' ,"max_tokens":100,\t' + HELLO + b"}"
    assert_passed_on(door, simulator, body, body[:-1] + b"," + ours + b"}")


@pytest.mark.parametrize("engine", [b"native", b"cloudflare-ai", b"pdf-text"])
@pytest.mark.parametrize("content", [IMAGE, FILE], ids=["image", "file"])
def test_images_and_files_that_are_read_for_nothing_are_passed_on_with_a_cap_for_images(
    content: bytes, engine: bytes, door: Door, simulator: Simulator
) -> None:
    body = b'{"model":"sim/vision","max_tokens":99,"plugins":[{"id":"file-parser","pdf":{"engine":"%b"}}],' % engine
    ours = b'"provider":{"max_price":{"prompt":0.153,"completion":0.612,"image":0.001224}}'
    assert_passed_on(door, simulator, body + content + b"}", body + content + b"," + ours + b"}")


REPLACED_STOPS = {
    "null": (b"null", b"[" + OUR_STOP + b"]"),
    "empty": (b"[ ]", b"[" + OUR_STOP + b"]"),
    "steps": (b'[ {"type":"step_count_is","step_count":2} ]',
              b'[ {"type":"step_count_is","step_count":2},' + OUR_STOP + b"]"),
    "a higher cost": (b'[{"type":"max_cost","max_cost_in_dollars":9.50}]',
                      b'[{"type":"max_cost","max_cost_in_dollars":9.50},' + OUR_STOP + b"]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACED_STOPS)
def test_a_loop_of_server_tools_ends_at_the_allowance_or_before(
    name: str, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(FAREBOX_SERVER_TOOLS_USD=ALLOWANCE)
    theirs, sent = REPLACED_STOPS[name]
    body = b'{"stop_server_tools_when":%b,"max_tokens":100,"model":"sim/ok",' + SEARCH + b"," + HELLO
    assert_passed_on(door, simulator, body % theirs + b"}", body % sent + b"," + PLAIN_CAP + b"}")


def test_without_server_tools_the_reasons_to_end_them_stay_as_received(door: Door, simulator: Simulator) -> None:
    body = HI + b',"max_tokens":100,"stop_server_tools_when":[ {"type":"max_cost","max_cost_in_dollars":1} ]'
    assert passed(door, simulator, body + b"}") == body + b"," + OURS + b"}"


@pytest.mark.parametrize("models", [b"", b',"models":null', b',"models":[]'])
@pytest.mark.parametrize("model", [b"", b',"model":null'])
def test_where_no_model_is_named_the_primary_one_is_set_and_nothing_else(
    model: bytes, models: bytes, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(PRIMARY_MODEL="sim/ok")
    head = b"{" + HELLO + b',"max_tokens":9'
    got = passed(door, simulator, head + model + models + b"}")
    replaced = model.replace(b"null", b'"sim/ok"') + models.replace(b"null", b'["sim/ok"]').replace(
        b"[]", b'["sim/ok"]'
    )
    added = b"," + OURS + (b"" if model else b',"model":"sim/ok"')
    assert got == head + replaced + added + b"}"


def test_a_routers_models_are_bounded_by_the_clients_own_price_cap(door: Door, simulator: Simulator) -> None:
    head, tail = b'{"model":"openrouter/auto","max_tokens":100,', b"," + HELLO + b"}"
    theirs = b'"provider":{"max_price":{"prompt":11,"completion":12}}'
    ours = b'"provider":{"max_price":{"prompt":11.0,"completion":12.0,"request":1.02e-09}}'
    assert_passed_on(door, simulator, head + theirs + tail, head + ours + tail)


# max_tokens.


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (b'"max_tokens":20000', b'"max_tokens":16384'),
        (b'"max_completion_tokens": 20000', b'"max_completion_tokens": 16384'),
        (b'"max_tokens":20000,"max_completion_tokens":1', b'"max_tokens":16384,"max_completion_tokens":1'),
        (b'"max_completion_tokens":20000, "max_tokens":30000', b'"max_completion_tokens":16384, "max_tokens":16384'),
        (b'"max_tokens":null,"max_completion_tokens":20000', b'"max_tokens":null,"max_completion_tokens":16384'),
        (b'"max_tokens":16384', b'"max_tokens":16384'),
        (b'"max_tokens":1', b'"max_tokens":1'),
    ],
)
def test_a_limit_above_what_the_model_can_is_lowered_in_its_place(
    asked: bytes, expected: bytes, door: Door, simulator: Simulator
) -> None:
    body = b'{"model":"sim/ok",%b,' + HELLO + b"}"
    got = passed(door, simulator, body % asked)
    assert got == (body % expected)[:-1] + b"," + OURS + b"}"


@pytest.mark.parametrize("absent", [b"", b',"max_tokens":null'])
def test_without_a_limit_the_one_that_was_held_is_sent(absent: bytes, door: Door, simulator: Simulator) -> None:
    got = json.loads(passed(door, simulator, HI + absent + b"}"))
    assert got["max_tokens"] == 16_384
    assert "max_completion_tokens" not in got


def test_near_the_cap_the_output_is_clamped_and_the_client_is_told(make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(DEFAULT_DAILY_BUDGET="0.01", FAREBOX_HOLD_FRACTION="1")
    answered = door.chat(model="sim/cent", max_tokens=1000)
    assert answered.status == 200
    clamped = json.loads(sent(simulator).body)["max_tokens"]
    assert 256 <= clamped < 1000
    assert answered.headers["X-Farebox-Max-Tokens"] == str(clamped)
    assert answered.json["usage"]["completion_tokens"] == clamped
    assert answered.json["choices"][0]["finish_reason"] == "length"


def test_near_the_cap_both_limits_are_clamped_and_neither_is_raised(make_door: MakeDoor, simulator: Simulator) -> None:
    for low, high in ((300, 1000), (900, 1000)):
        door = make_door(DEFAULT_DAILY_BUDGET="0.01", FAREBOX_HOLD_FRACTION="1")
        answered = door.chat(model="sim/cent", max_tokens=low, max_completion_tokens=high)
        got = json.loads(sent(simulator).body)
        clamped = int(answered.headers["X-Farebox-Max-Tokens"])
        assert 300 < clamped < 900
        assert (got["max_tokens"], got["max_completion_tokens"]) == (min(low, clamped), clamped)


@pytest.mark.parametrize("fields", [{"max_tokens": 100}, {"max_completion_tokens": 16_384}, {}])
def test_an_honest_limit_is_not_said_to_be_clamped(fields: dict[str, Any], door: Door) -> None:
    assert "X-Farebox-Max-Tokens" not in door.chat(**fields).headers


def test_a_request_without_a_model_gets_the_primary_one(make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(PRIMARY_MODEL="sim/ok")
    for body in (b"{" + HELLO + b',"max_tokens":9}', b'{"model":null,' + HELLO + b',"max_tokens":9}'):
        assert json.loads(passed(door, simulator, body))["model"] == "sim/ok"
    assert door.chat(model="sim/cent").headers["X-Farebox-Model"] == "sim/cent"


def test_without_a_model_and_a_primary_one_the_request_is_refused(door: Door, simulator: Simulator) -> None:
    answered = door.chat(b"{" + HELLO + b"}")
    assert (answered.status, answered.reason) == (400, "malformed")
    assert answered.json["error"]["message"] == "model is missing, and no PRIMARY_MODEL is set"
    assert simulator.seen == []


# Headers upstream.

ATTRIBUTION = {
    "HTTP-Referer": "https://shop.example",
    "X-Title": "Shop",
    "X-OpenRouter-Title": "The Shop",
    "X-OpenRouter-Categories": "cli-agent,chat",
    "X-OpenRouter-Metadata": "enabled",
}
PRIVATE = {
    "X-Tenant-Id": "acme",
    "X-Feature": "search",
    "X-Request-Id": "from-the-client",
    "X-Api-Key": "a-secret",
    "Cookie": "session=a-secret",
    "User-Agent": "shop/1.0",
    "X-Forwarded-For": "192.0.2.7",
    "X-OpenRouter-Cache": "true",
    "X-Sim-Output-Tokens": "5",
    "Accept-Encoding": "gzip",
    "Origin": "https://shop.example",
}


def test_attribution_goes_upstream_under_our_key_and_nothing_else_of_the_client(
    door: Door, simulator: Simulator
) -> None:
    assert door.chat(headers={**ATTRIBUTION, **PRIVATE}).status == 200
    headers = {name.lower(): value for name, value in sent(simulator).headers}
    assert headers["authorization"] == "Bearer simulated"
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    for name, value in ATTRIBUTION.items():
        assert headers[name.lower()] == value
    everything = repr((headers, sent(simulator).body))
    for secret in ("a-secret", GATEWAY_KEY, "acme", "search", "192.0.2.7", "from-the-client", "session"):
        assert secret not in everything
    names = {"host", "accept", "connection", "user-agent", "authorization", "content-type", "content-length"}
    assert set(headers) == names | {"accept-encoding"} | {name.lower() for name in ATTRIBUTION}


@pytest.mark.parametrize("value", ["Läden", "a\nX-Evil: 1", "a\0b", "", "日本"])
def test_attribution_that_is_no_header_is_left_out(value: str, door: Door, simulator: Simulator) -> None:
    assert door.chat(headers={"X-Title": value}).status == 200
    assert sent(simulator).header("x-title") is None


@pytest.mark.parametrize("name", ["authorization", "AUTHORIZATION", "Authorization"])
def test_header_names_are_read_in_any_case(name: str, door: Door) -> None:
    request = HttpRequest("POST", CHAT, ((name, f"bearer  {GATEWAY_KEY} "),), HI + b"}")
    response = answer(door.gate, event_of(request), DEADLINE)
    response.close()
    assert response.status == 200


# Headers of the answer.


def test_an_answer_carries_the_headers_of_the_interface(make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(DEFAULT_DAILY_BUDGET="1", DEFAULT_MONTHLY_BUDGET="20")
    answered = door.chat(max_tokens=100)
    billed = Decimal(simulator.billed_nanousd).scaleb(-9)
    headers = {name: value for name, value in answered.headers.items() if name.startswith("X-Farebox-")}
    assert {name: Decimal(value) for name, value in headers.items() if name.endswith("-Usd")} == {
        "X-Farebox-Cost-Usd": billed,
        "X-Farebox-Daily-Remaining-Usd": 1 - billed,
        "X-Farebox-Monthly-Remaining-Usd": 20 - billed,
    }
    assert all(re.fullmatch(r"\d+(\.\d+)?", value) for name, value in headers.items() if name.endswith("-Usd"))
    assert (headers["X-Farebox-Model"], headers["X-Farebox-Budget-State"]) == ("sim/ok", "active")
    assert answered.headers["X-Generation-Id"] == answered.json["id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", answered.headers["X-Request-Id"])
    assert answered.headers["Content-Type"] == "application/json"


def test_a_streamed_answer_says_what_is_left_while_it_is_held(make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(DEFAULT_DAILY_BUDGET="1")
    answered = door.chat(max_tokens=100, stream=True)
    assert answered.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answered.headers["Cache-Control"] == "no-cache"
    assert answered.headers["X-Generation-Id"].startswith("gen-")
    assert "X-Farebox-Cost-Usd" not in answered.headers
    left = Decimal(answered.headers["X-Farebox-Daily-Remaining-Usd"])
    assert left < 1 - Decimal(simulator.billed_nanousd).scaleb(-9)


def test_every_answer_has_the_request_id_of_its_event(door: Door) -> None:
    event = event_of(HttpRequest("POST", CHAT, (("Authorization", "Bearer x"),), b"{}"))
    response = answer(door.gate, event, DEADLINE)
    assert response.headers["X-Request-Id"] == event["requestContext"]["requestId"]


def test_the_budget_state_warns_from_80_percent_and_stops_at_the_end(make_door: MakeDoor) -> None:
    door = make_door(DEFAULT_DAILY_BUDGET="0.05", FAREBOX_HOLD_FRACTION="1")
    states = []
    for _ in range(20):
        answered = door.chat(model="sim/cent", max_tokens=1000)
        if answered.status != 200:
            break
        states.append((answered.headers["X-Farebox-Budget-State"], door.usage()["daily"]["spent_usd"]))
    assert states == sorted(states, key=lambda state: state[1])
    assert {state for state, _ in states} >= {"active", "warned"}
    for state, spent in states:
        assert state == ("stopped" if spent >= 0.05 else "warned" if spent >= 0.04 else "active")


# The log.


def test_neither_keys_nor_prompts_nor_answers_are_logged(
    make_door: MakeDoor, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = ("sk-or-v1-upstream", "the-gateway-key", "the-admin-key", "a wrong key", "my private prompt", "ride")
    # A logger of its own: one of this name may have been made already, for another test's stdout.
    door = make_door(
        OPENROUTER_API_KEY=secrets[0],
        FAREBOX_GATEWAY_KEY=secrets[1],
        FAREBOX_ADMIN_KEY=secrets[2],
        OTEL_SERVICE_NAME=f"log-{uuid.uuid4().hex}",
    )
    ours, theirs = ({"Authorization": f"Bearer {key}"} for key in (secrets[1], secrets[3]))
    messages = [{"role": "user", "content": secrets[4]}]
    models = (
        "sim/ok",
        "sim/429",
        "sim/cut",
        "sim/500",
        "sim/refuse",
        "sim/usage-missing",
        "sim/server-tool",
        "no/model",
    )
    answers: list[Answered] = []
    for stream in (False, True):
        answers += [
            door.chat(headers=ours, model=model, messages=messages, stream=stream, max_tokens=16) for model in models
        ]
    answers.append(door.chat(headers=ours, messages=messages, plugins=[{"id": secrets[4]}]))
    answers.append(door.chat(headers=theirs, messages=messages))
    answers.append(door.chat(b'{"messages":"my private prompt"', headers=ours))
    assert {answered.status for answered in answers} >= {200, 400, 401, 422, 429, 500, 502}
    assert any(b"ride" in answered.body for answered in answers)
    out = "".join(capfd.readouterr())
    logged: list[Any] = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert {line["message"] for line in logged} >= {"call", "refusal", "overrun"}
    assert len(logged) >= len(answers)
    for secret in secrets:
        assert secret not in out
