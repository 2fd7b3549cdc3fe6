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


# max_tokens.


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (b'"max_tokens":20000', b'"max_tokens":16384'),
        (b'"max_completion_tokens": 20000', b'"max_completion_tokens": 16384'),
        (b'"max_tokens":20000,"max_completion_tokens":1', b'"max_tokens":16384,"max_completion_tokens":1'),
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
