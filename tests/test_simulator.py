"""The simulator and its server, met by the real clients: what the gateway is tested against must itself be right."""

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import openai
import openrouter
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openrouter.components import ChatUserMessage

from local import scenarios
from local.answers import number
from local.catalogue import CHEAP, Endpoint, Model, catalogue, pricing
from local.scenarios import Script
from local.simulator import Simulator, main, transport
from local.sockets import Cut, HttpRequest, HttpResponse, Server

KEY = "sk-or-v1-simulated"
HI = ChatUserMessage(role="user", content="Hello")
HELLO = [{"role": "user", "content": "Hello there"}]
VARYING = ("sim/agent", "sim/agent-cheap")
ANSWERED = (
    "sim/ok", "sim/cent", "sim/cent-bytes", "sim/free:free", "sim/dear-provider", "sim/priority:nitro",
    "sim/long-context", "sim/cache-write", "sim/canonical", "~sim/family-latest", "sim/reasoning", "sim/byok",
    "sim/no-byok-flag", "sim/server-tool", "sim/discount", "sim/no-max-output", "sim/tiny-overshoot", "sim/huge",
    "sim/stop-billing", "openrouter/auto", "openrouter/auto-beta", "openrouter/fusion", "sim/tiers", "sim/tiers-2",
    "sim/tiers-2-fast", "sim/pro-base", "sim/pro-base-pro", "sim/cache-read", "sim/vision", "sim/tool-call",
    "sim/usage-repeated-finish", "sim/usage-empty-choices", "sim/usage-null-finish", "sim/no-done", "sim/pad",
    "sim/comments-then-answer", "sim/error-with-usage", "sim/finish-error", "openai/gpt-4o-mini",
    "meta-llama/llama-3.3-70b-instruct", "anthropic/claude-4.6-sonnet-20260217",
)  # fmt: skip


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def simulator(clock: Clock) -> Simulator:
    return Simulator(api_key=KEY, clock=clock, sleep=clock.sleep)


@pytest.fixture
def client(simulator: Simulator) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(transport=transport(simulator), base_url="http://sim/api/v1", headers=headers) as opened:
        yield opened


@pytest.fixture
def url(simulator: Simulator) -> Iterator[str]:
    with Server(simulator.handle) as server:
        yield f"{server.url}/api/v1"


def ask(client: httpx.Client, model: str, **members: object) -> httpx.Response:
    return client.post("/chat/completions", json={"model": model, "messages": HELLO, **members})


def events(response: httpx.Response) -> list[dict[str, object]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line, parse_float=Decimal) for line in lines]


def usage_of(response: httpx.Response) -> dict[str, object]:
    """The usage of a response, streamed or not."""
    if response.headers["content-type"] == "text/event-stream":
        found = [event["usage"] for event in events(response) if "usage" in event]
        assert len(found) == 1
        usage = found[0]
    else:
        usage = json.loads(response.text, parse_float=Decimal)["usage"]
    assert isinstance(usage, dict)
    return usage


def spend(usage: dict[str, object]) -> int:
    """What the caller pays by a usage object: with an own key the provider's invoice comes on top."""
    details = usage["cost_details"]
    assert isinstance(details, dict)
    cost = Decimal(str(usage["cost"])) + (details["upstream_inference_cost"] if usage.get("is_byok") else 0)
    nano = cost * 1_000_000_000
    assert nano == int(nano)
    return int(nano)


# The bill


def test_the_bill_is_the_sum_of_what_the_answers_report(client: httpx.Client, simulator: Simulator) -> None:
    answers = [ask(client, model, stream=stream) for model in (*ANSWERED, *VARYING) for stream in (False, True)]
    reported = sum(spend(usage_of(answer)) for answer in answers)
    assert simulator.billed_nanousd == reported > 0
    assert client.get("http://sim/_sim/bill").json() == {"total_nanousd": reported, "generations": len(answers)}
    lines = client.get("http://sim/_sim/generations").json()
    assert sum(line["cost_nanousd"] for line in lines) == reported
    client.post("http://sim/_sim/reset")
    assert simulator.billed_nanousd == 0


@pytest.mark.parametrize("model", ["sim/cent", "sim/cent-bytes"])
def test_a_cent_is_exactly_a_cent(client: httpx.Client, simulator: Simulator, model: str) -> None:
    response = ask(client, model)
    assert '"cost":0.01,' in response.text
    assert response.json()["usage"]["total_tokens"] == 1000
    assert simulator.billed_nanousd == 10_000_000


def test_prompt_tokens_of_the_worst_model_are_the_bytes_of_the_decoded_text_and_an_overhead(
    client: httpx.Client,
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "déjà\n"}]}, {"role": "user", "content": "vu"}]
    response = ask(client, "sim/cent-bytes", messages=messages)
    assert response.json()["usage"]["prompt_tokens"] == 7 + 2 + 2 * 8


def test_generation_stops_at_the_limit_of_the_request(client: httpx.Client, simulator: Simulator) -> None:
    response = ask(client, "sim/cent", max_tokens=40)
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.json()["usage"]["completion_tokens"] == 40
    assert simulator.generations[0].tokens.completion == 40


def test_of_two_limits_the_larger_one_counts(client: httpx.Client) -> None:
    response = ask(client, "sim/cent", max_tokens=40, max_completion_tokens=50)
    assert response.json()["usage"]["completion_tokens"] == 50


def test_a_header_sets_how_much_the_model_wants_to_say(client: httpx.Client) -> None:
    body = {"model": "sim/ok", "messages": HELLO}
    response = client.post("/chat/completions", json=body, headers={"x-sim-output-tokens": "77"})
    assert response.json()["usage"]["completion_tokens"] == 77


def test_a_long_prompt_pays_the_price_of_the_override(client: httpx.Client) -> None:
    short, long = (
        ask(client, "sim/long-context", messages=[{"role": "user", "content": "x" * size}]) for size in (3984, 3988)
    )
    assert short.json()["usage"]["prompt_tokens"] == 1000
    assert short.json()["usage"]["cost"] == pytest.approx(1000 * 0.00000015 + 12 * 0.0000006)
    assert long.json()["usage"]["prompt_tokens"] == 1001
    assert long.json()["usage"]["cost"] == pytest.approx(1001 * 0.0000003 + 12 * 0.0000012)


def test_cache_writes_are_billed_dearer_than_prompt_tokens(client: httpx.Client) -> None:
    usage = ask(client, "sim/cache-write").json()["usage"]
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == usage["prompt_tokens"] == 7
    assert usage["cost_details"]["upstream_inference_prompt_cost"] == pytest.approx(7 * 0.00000015 * 1.25)


def test_a_discount_is_taken_off_the_bill(client: httpx.Client) -> None:
    plain, discounted = (ask(client, model).json()["usage"]["cost"] for model in ("sim/ok", "sim/discount"))
    assert discounted == pytest.approx(plain * 0.75, abs=1e-9)


def test_with_an_own_key_the_cost_is_zero_and_the_spend_is_upstream(client: httpx.Client, simulator: Simulator) -> None:
    usage = ask(client, "sim/byok").json()["usage"]
    assert (usage["cost"], usage["is_byok"]) == (0, True)
    assert round(usage["cost_details"]["upstream_inference_cost"] * 1e9) == simulator.billed_nanousd > 0


@given(st.integers(min_value=0, max_value=10**15))
def test_numbers_are_written_exactly(nanousd: int) -> None:
    text = number(Decimal(nanousd) / 10**9)
    assert Decimal(text) * 10**9 == nanousd
    assert json.loads(text, parse_float=Decimal) == Decimal(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [("0.01000", "0.01"), ("100", "100"), ("0.000001", "0.000001"), ("0.00000015", "1.5e-7"), ("0", "0")],
)
def test_numbers_are_written_as_javascript_writes_them(value: str, text: str) -> None:
    assert number(Decimal(value)) == text


# Aborts and cuts


def aborted(client: httpx.Client, model: str) -> str:
    """Read a stream up to its first data and go away."""
    body = {"model": model, "messages": HELLO, "stream": True}
    with client.stream("POST", "/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                break
        return str(response.headers["x-generation-id"])


def test_an_abort_is_billed_in_full_by_default(client: httpx.Client, simulator: Simulator) -> None:
    aborted(client, "sim/cent")
    assert simulator.billed_nanousd == 10_000_000
    assert simulator.generations[0].cancelled


def test_an_abort_ends_the_bill_where_the_provider_supports_it(client: httpx.Client, simulator: Simulator) -> None:
    aborted(client, "sim/stop-billing")
    assert simulator.generations[0].tokens.completion == 50
    assert simulator.billed_nanousd == (7 + 50) * 10_000
    assert simulator.generations[0].cancelled


def test_an_abort_of_endless_padding_is_billed_in_full(client: httpx.Client, simulator: Simulator) -> None:
    with client.stream("POST", "/chat/completions", json={"model": "sim/pad-forever", "messages": HELLO}) as response:
        pieces = response.iter_raw()
        assert [next(pieces).strip() for _ in range(100)] == [b""] * 100
    assert simulator.generations[0].tokens.completion == 12


def test_a_body_that_nobody_read_is_billed_too(client: httpx.Client, simulator: Simulator) -> None:
    with client.stream("POST", "/chat/completions", json={"model": "sim/cent", "messages": HELLO, "stream": True}):
        assert simulator.billed_nanousd == 0
    assert simulator.billed_nanousd == 10_000_000


@pytest.mark.parametrize("model", ["sim/cut", "sim/cut-early"])
@pytest.mark.parametrize("members", [{}, {"stream": True}])
def test_a_cut_is_an_incomplete_body_in_process_and_over_a_socket(
    client: httpx.Client, simulator: Simulator, url: str, model: str, members: dict[str, bool]
) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        ask(client, model, **members)
    with (
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as outside,
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
    ):
        ask(outside, model, **members)
    assert [record.tokens.completion for record in simulator.generations] == [12, 12]


def test_a_cut_stream_has_delivered_something(client: httpx.Client) -> None:
    body = {"model": "sim/cut", "messages": HELLO, "stream": True}
    received: list[bytes] = []
    with client.stream("POST", "/chat/completions", json=body) as response, pytest.raises(httpx.RemoteProtocolError):
        received.extend(response.iter_raw())
    assert any(b'"content":"the fare is "' in piece for piece in received)
    assert not any(b"[DONE]" in piece for piece in received)


def test_a_refused_connection_is_no_response(client: httpx.Client, simulator: Simulator, url: str) -> None:
    with pytest.raises(httpx.ConnectError):
        ask(client, "sim/refuse")
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as outside:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            ask(outside, "sim/refuse")
        assert ask(outside, "sim/ok").status_code == 200
    assert len(simulator.generations) == 1


def test_calls_at_once_are_all_billed_under_ids_of_their_own(simulator: Simulator, url: str) -> None:
    with (
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as outside,
        ThreadPoolExecutor(50) as pool,
    ):
        answers = list(pool.map(lambda number: ask(outside, "sim/cent", stream=number % 2 == 0), range(200)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-generation-id"] for answer in answers}) == 200
    assert simulator.billed_nanousd == 200 * 10_000_000


# Routing


def test_a_price_equal_to_the_cap_is_refused_and_a_little_more_passes(client: httpx.Client) -> None:
    refused = ask(client, "sim/ok", provider={"max_price": {"prompt": 0.15, "completion": 0.6}})
    assert refused.status_code == refused.json()["error"]["code"] == 404
    assert refused.json()["error"]["metadata"]["failed_routing_step"] == "Filter by Max Price"
    assert ask(client, "sim/ok", provider={"max_price": {"prompt": "0.151", "completion": 0.601}}).status_code == 200


def test_only_a_free_model_passes_a_cap_of_zero(client: httpx.Client, simulator: Simulator) -> None:
    zero = {"max_price": {"prompt": 0, "completion": 0}}
    assert ask(client, "sim/free:free", provider=zero).status_code == 200
    assert ask(client, "sim/ok", provider=zero).status_code == 404
    assert simulator.billed_nanousd == 0


def test_the_dearest_endpoint_below_the_cap_serves_the_call(client: httpx.Client) -> None:
    assert ask(client, "sim/dear-provider").json()["provider"] == "Dear"
    capped = ask(client, "sim/dear-provider", provider={"max_price": {"prompt": 0.2, "completion": 0.7}})
    assert capped.json()["provider"] == "Simulated"
    assert ask(client, "sim/dear-provider", provider={"ignore": ["dear"]}).json()["provider"] == "Simulated"


def test_a_limit_above_what_an_endpoint_can_produce_leaves_no_endpoint(client: httpx.Client) -> None:
    assert ask(client, "sim/cent", max_tokens=16_384).status_code == 200
    refused = ask(client, "sim/cent", max_tokens=16_385)
    assert (refused.status_code, refused.json()["error"]["message"]) == (404, "No endpoints found for sim/cent.")


def test_the_next_model_of_the_list_answers_when_the_first_fails(client: httpx.Client) -> None:
    response = ask(client, "sim/503", models=["sim/429", "sim/canonical"])
    assert response.json()["model"] == "sim/canonical-20260801"


def test_an_alias_and_a_router_report_the_model_that_answered(client: httpx.Client) -> None:
    assert ask(client, "~sim/family-latest").json()["model"] == "sim/family-2"
    assert ask(client, "openrouter/auto").json()["model"] == "sim/cent"


def test_a_priority_endpoint_serves_only_who_asks_for_it(client: httpx.Client) -> None:
    asked = [ask(client, "sim/priority"), ask(client, "sim/priority", service_tier="priority")]
    asked.append(ask(client, "sim/priority:nitro"))
    assert [response.json()["service_tier"] for response in asked] == ["default", "priority", "priority"]


# Failures


@pytest.mark.parametrize(
    ("model", "status", "retry_after"),
    [
        ("sim/429", 429, "2"), ("sim/429-plain", 429, None), ("sim/402-balance", 402, None),
        ("sim/402-in-flight", 402, "3"), ("sim/402-weight", 402, None), ("sim/403-key-limit", 403, None),
        ("sim/404-no-endpoints", 404, None), ("sim/408", 408, None), ("sim/500", 500, None), ("sim/502", 502, None),
        ("sim/503", 503, "4"), ("sim/529", 529, None), ("sim/no-such-model", 400, None),
    ],
)  # fmt: skip
def test_a_failure_before_dispatch_has_openrouters_body_and_costs_nothing(
    client: httpx.Client, simulator: Simulator, model: str, status: int, retry_after: str | None
) -> None:
    response = ask(client, model, stream=True)
    assert (response.status_code, response.headers.get("retry-after")) == (status, retry_after)
    assert response.text.startswith('{"error":{"message":"')
    assert response.json()["error"]["code"] == status
    assert simulator.generations == ()


@pytest.mark.parametrize(("model", "status"), [("sim/504", 504), ("sim/524-html", 524), ("sim/not-json", 200)])
def test_a_failure_after_dispatch_is_billed(
    client: httpx.Client, simulator: Simulator, model: str, status: int
) -> None:
    assert ask(client, model).status_code == status
    assert simulator.billed_nanousd > 0


def test_a_wrong_or_missing_key_is_401(client: httpx.Client, simulator: Simulator) -> None:
    wrong = client.post("/chat/completions", json={}, headers={"authorization": "Bearer other"})
    assert wrong.json() == {"error": {"message": "User not found.", "code": 401}}
    with httpx.Client(transport=transport(simulator)) as anonymous:
        missing = anonymous.get("http://sim/api/v1/key")
    assert missing.json() == {"error": {"message": "Missing Authentication header", "code": 401}}


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":"sim/ok"}', b'{"messages":[1]}'])
def test_a_malformed_request_is_400(client: httpx.Client, body: bytes) -> None:
    assert client.post("/chat/completions", content=body).status_code == 400


def test_a_prompt_beyond_the_context_is_400(client: httpx.Client) -> None:
    response = ask(client, "sim/cent-bytes", messages=[{"role": "user", "content": "x" * 128_000}])
    assert response.json()["error"]["metadata"]["error_type"] == "context_length_exceeded"


def test_an_error_inside_200_has_no_choices(client: httpx.Client, simulator: Simulator) -> None:
    body = ask(client, "sim/error-200").json()
    assert (body["error"]["code"], "choices" in body) == (502, False)
    streamed = ask(client, "sim/error-200", stream=True)
    assert [event["choices"] for event in events(streamed)] == [[]]
    assert "[DONE]" not in streamed.text
    assert simulator.billed_nanousd == 0


def test_errors_in_the_middle_of_a_stream_come_after_deltas(client: httpx.Client, simulator: Simulator) -> None:
    codes: list[object] = []
    for model in ("sim/error-mid-stream", "sim/error-mid-stream-string-code", "sim/error-with-usage"):
        *deltas, last = events(ask(client, model, stream=True))
        assert deltas
        error = last["error"]
        assert isinstance(error, dict)
        codes.append(error["code"])
    assert codes == [502, "server_error", 502]
    assert [record.tokens.completion for record in simulator.generations] == [6, 6, 6]


def test_a_finish_reason_of_error_is_insured(client: httpx.Client, simulator: Simulator) -> None:
    body = ask(client, "sim/finish-error").json()
    assert (body["choices"][0]["finish_reason"], body["usage"]["cost"]) == ("error", 0)
    assert simulator.billed_nanousd == 0


def test_usage_comes_in_three_shapes_or_not_at_all(client: httpx.Client) -> None:
    shapes = []
    for model in ("sim/usage-repeated-finish", "sim/usage-empty-choices", "sim/usage-null-finish"):
        last = events(ask(client, model, stream=True))[-1]
        choices = last["choices"]
        assert isinstance(choices, list)
        assert "usage" in last
        shapes.append([choice["finish_reason"] for choice in choices])
    assert shapes == [["stop"], [], [None]]
    assert not any("usage" in event for event in events(ask(client, "sim/usage-missing", stream=True)))
    assert "usage" not in ask(client, "sim/usage-missing").json()
    assert ask(client, "sim/cost-null").json()["usage"]["cost"] is None


def test_padding_and_comments_come_before_the_json(client: httpx.Client) -> None:
    padded = ask(client, "sim/pad")
    assert padded.text.startswith(" " * 9)
    assert padded.json()["object"] == "chat.completion"
    assert ask(client, "sim/comment-in-body").text.startswith(": OPENROUTER PROCESSING\n\n{")


def test_the_wait_is_after_the_comments_and_before_the_first_token(clock: Clock) -> None:
    simulator = Simulator(clock=clock, sleep=clock.sleep, delay_s=1.5)
    body = {"model": "sim/slow", "messages": HELLO, "stream": True}
    headers = {"authorization": "Bearer any", "x-sim-delay-ms": "250"}
    with (
        httpx.Client(transport=transport(simulator), headers=headers) as client,
        client.stream("POST", "http://sim/api/v1/chat/completions", json=body) as response,
    ):
        pieces = response.iter_raw()
        assert next(pieces) == next(pieces) == b": OPENROUTER PROCESSING\n\n"
        assert clock.slept == []
        assert next(pieces).startswith(b"data: ")
        assert clock.slept == [31.75]


def test_every_scenario_is_in_the_table_and_every_row_is_a_model() -> None:
    rows = re.findall(r"^\| (\S+)", scenarios.__doc__ or "", flags=re.MULTILINE)
    documented = {name for name in rows if "/" in name}
    assert documented == {name for name in catalogue() if "sim/" in name or name.startswith("openrouter/")}


def test_the_last_requests_are_kept_byte_for_byte(client: httpx.Client, simulator: Simulator) -> None:
    body = b'{ "messages":[{"content":"caf\\u00e9","role":"user"}],"model":"sim/ok" }'
    client.post("/chat/completions", content=body, headers=[("x-a", "1"), ("x-a", "2")])
    (seen,) = simulator.seen
    assert seen.body == body
    assert [value for name, value in seen.headers if name.lower() == "x-a"] == ["1", "2"]


# What moves the price. A greeting is 7 tokens and sim/ok answers with 12, at 150 and 600 nano-dollars: 8250 in all.


def bill_of(client: httpx.Client, simulator: Simulator, model: str, **members: object) -> int:
    """What a call is billed, which is what its usage reports."""
    before = simulator.billed_nanousd
    answer = ask(client, model, **members)
    assert answer.status_code == 200, answer.text
    billed = simulator.billed_nanousd - before
    assert spend(usage_of(answer)) == billed
    return billed


def opened(*models: Model) -> tuple[Simulator, httpx.Client]:
    """A simulator of these models alone."""
    simulator = Simulator(models={model.id: model for model in models})
    headers = {"authorization": "Bearer any"}
    return simulator, httpx.Client(transport=transport(simulator), base_url="http://sim/api/v1", headers=headers)


@pytest.mark.parametrize(
    ("members", "tier", "nanousd"),
    [
        ({}, "default", 8250), ({"service_tier": "auto"}, "default", 8250), ({"speed": "standard"}, "default", 8250),
        ({"service_tier": "default"}, "default", 8250), ({"service_tier": None, "speed": None}, "default", 8250),
        ({"service_tier": "flex"}, "flex", 8250 // 2),
        ({"service_tier": "priority"}, "priority", 2 * 8250), ({"service_tier": "fast"}, "priority", 2 * 8250),
        ({"speed": "fast"}, "priority", 2 * 8250), ({"speed": "fast", "service_tier": "flex"}, "priority", 2 * 8250),
        ({"service_tier": "ultrafast"}, "ultrafast", 4 * 8250), ({"service_tier": "scale"}, "ultrafast", 4 * 8250),
        ({"provider": {"order": ["simulated/priority"]}}, "priority", 2 * 8250),
        ({"provider": {"only": ["simulated/flex"]}}, "flex", 8250 // 2),
        ({"provider": {"only": ["simulated"]}}, "default", 8250),
        ({"service_tier": "ultrafast", "provider": {"ignore": ["simulated/ultrafast"]}}, "priority", 2 * 8250),
        ({"service_tier": "priority", "provider": {"ignore": ["simulated"]}}, "priority", 2 * 8250),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_tier_is_billed_at_its_own_price(
    client: httpx.Client, simulator: Simulator, members: dict[str, object], tier: str, nanousd: int, *, stream: bool
) -> None:
    assert bill_of(client, simulator, "sim/tiers", stream=stream, **members) == nanousd
    answer = ask(client, "sim/tiers", stream=stream, **members)
    last = events(answer)[-1] if stream else answer.json()
    assert last["service_tier"] == tier


def test_suffixes_admit_the_endpoints_of_tiers(client: httpx.Client, simulator: Simulator) -> None:
    prices = [bill_of(client, simulator, f"sim/tiers{suffix}") for suffix in (":nitro", ":floor", ":exacto")]
    assert prices == [2 * 8250, 8250, 8250]
    assert bill_of(client, simulator, "sim/tiers:exacto:nitro") == 2 * 8250
    below_the_default = {"max_price": {"prompt": 0.15, "completion": 0.6}}
    assert bill_of(client, simulator, "sim/tiers:floor", provider=below_the_default) == 8250 // 2
    assert ask(client, "sim/tiers", provider=below_the_default).status_code == 404


def test_a_tier_falls_back_where_there_is_none_but_flex_stays_flex(client: httpx.Client, simulator: Simulator) -> None:
    assert bill_of(client, simulator, "sim/priority", service_tier="ultrafast") == 2 * 8250
    tiers = ("flex", "priority", "ultrafast", "scale")
    assert [bill_of(client, simulator, "sim/ok", service_tier=tier) for tier in tiers] == [8250] * 4
    for_default_only = {"ignore": ["simulated/flex"]}
    assert ask(client, "sim/tiers", service_tier="flex", provider=for_default_only).status_code == 404


@pytest.mark.parametrize("members", [{"service_tier": "turbo"}, {"service_tier": ["flex"]}, {"speed": "warp"}])
def test_an_unknown_tier_is_400(client: httpx.Client, members: dict[str, object]) -> None:
    assert ask(client, "sim/tiers", **members).status_code == 400


@pytest.mark.parametrize("members", [{"service_tier": "priority"}, {"service_tier": "fast"}, {"speed": "fast"},
                                     {"service_tier": "ultrafast"}])  # fmt: skip
def test_a_fast_sibling_takes_over_at_its_own_price(
    client: httpx.Client, simulator: Simulator, members: dict[str, object]
) -> None:
    assert bill_of(client, simulator, "sim/tiers-2", **members) == 6 * 8250
    assert ask(client, "sim/tiers-2", **members).json()["model"] == "sim/tiers-2-fast"
    assert bill_of(client, simulator, "sim/tiers-2:nitro", service_tier="flex") == 8250
    sibling_too_dear = {"max_price": {"prompt": 0.9, "completion": 3.6}}
    assert ask(client, "sim/tiers-2", provider=sibling_too_dear, **members).status_code == 404


@pytest.mark.parametrize(
    "members",
    [
        {"models": 7}, {"models": "sim/ok"}, {"reasoning": "high"}, {"plugins": {"id": "web"}},
        {"stop_server_tools_when": [1]}, {"provider": []}, {"provider": {"max_price": {"prompt": "NaN"}}},
        {"provider": {"max_price": {"prompt": "x"}}},
        {"plugins": [{"id": "web", "max_results": "9"}]}, {"plugins": [{"id": "file-parser", "pdf": "native"}]},
    ],
)  # fmt: skip
def test_what_moves_the_price_must_have_the_right_type(client: httpx.Client, members: dict[str, object]) -> None:
    assert ask(client, "sim/ok", **members).status_code == 400


def test_pro_reasoning_takes_the_pro_model_which_must_exist(client: httpx.Client, simulator: Simulator) -> None:
    assert bill_of(client, simulator, "sim/pro-base") == 8250
    pro = {"mode": "pro"}
    assert bill_of(client, simulator, "sim/pro-base", reasoning=pro) == 7 * 150 + 24 * 600
    assert ask(client, "sim/pro-base", reasoning=pro).json()["model"] == "sim/pro-base-pro"
    assert ask(client, "sim/pro-base-pro", reasoning=pro).json()["model"] == "sim/pro-base-pro"
    assert ask(client, "sim/ok", reasoning=pro).status_code == 404


def test_the_cap_meets_list_prices_of_tiers_before_overrides_and_discounts(
    client: httpx.Client, simulator: Simulator
) -> None:
    equal, above = ({"max_price": {"prompt": p, "completion": c}} for p, c in ((0.3, 1.2), (0.301, 1.201)))
    assert bill_of(client, simulator, "sim/tiers", service_tier="priority", provider=equal) == 8250
    assert bill_of(client, simulator, "sim/tiers", service_tier="priority", provider=above) == 2 * 8250
    above = {"max_price": {"prompt": 0.151, "completion": 0.601}}
    long = [{"role": "user", "content": "x" * 3988}]
    overridden = bill_of(client, simulator, "sim/long-context", messages=long, provider=above)
    assert overridden == 1001 * 300 + 12 * 1200
    discounted_is_lower = {"max_price": {"prompt": 0.15, "completion": 0.6}}
    assert ask(client, "sim/discount", provider=discounted_is_lower).status_code == 404


@pytest.mark.parametrize(("router", "times"), [("openrouter/auto", 1), ("openrouter/auto-beta", 1),
                                               ("openrouter/fusion", 5)])  # fmt: skip
def test_a_router_chooses_the_dearest_model_below_the_cap(
    client: httpx.Client, simulator: Simulator, router: str, times: int
) -> None:
    assert bill_of(client, simulator, router) == times * 10_000_000
    chosen = []
    for prompt, completion, nanousd in (
        (100, 100, 7 * 15_000 + 75_000), (4, 20, 7 * 3000 + 15_000), (0.2, 1, 7 * 150 + 600),
    ):  # fmt: skip
        provider = {"max_price": {"prompt": prompt, "completion": completion}}
        assert bill_of(client, simulator, router, max_tokens=1, provider=provider) == times * nanousd
        chosen.append(simulator.generations[-1].model)
    assert chosen == ["sim/agent", "sim/agent-cheap", "sim/ok"]
    refused = ask(client, router, provider={"max_price": {"prompt": 0.1}})
    assert refused.json()["error"]["metadata"]["failed_routing_step"] == "Filter by Max Price"


def test_what_a_router_had_done_by_others_is_in_the_cost_and_not_in_what_upstream_shows(client: httpx.Client) -> None:
    usage = ask(client, "openrouter/fusion").json()["usage"]
    assert (usage["cost"], usage["cost_details"]["upstream_inference_cost"]) == (0.05, 0.01)
    assert usage["total_tokens"] == 1000


def test_suffixes_work_in_the_list_of_models(client: httpx.Client, simulator: Simulator) -> None:
    assert bill_of(client, simulator, "sim/503", models=["sim/404-no-endpoints", "sim/tiers:nitro"]) == 2 * 8250
    assert bill_of(client, simulator, "sim/503", models=["sim/ok:online"]) == 8_208_250


def test_a_prompt_too_long_for_one_model_goes_to_the_next(client: httpx.Client, simulator: Simulator) -> None:
    long = [{"role": "user", "content": "x" * 128_000}]
    assert bill_of(client, simulator, "sim/cent-bytes", models=["sim/ok"], messages=long) == 32_004 * 150 + 12 * 600
    assert simulator.generations[-1].model == "sim/ok"


def cached_for(ttl: str | None) -> dict[str, object]:
    return {"cache_control": {"type": "ephemeral", **({"ttl": ttl} if ttl else {})}}


def test_an_hour_of_cache_costs_more_than_five_minutes(client: httpx.Client, simulator: Simulator) -> None:
    five_minutes = 8513  # 7 * 187.5 + 12 * 600, rounded up
    assert bill_of(client, simulator, "sim/cache-write") == five_minutes
    assert bill_of(client, simulator, "sim/cache-write", **cached_for(None)) == five_minutes
    assert bill_of(client, simulator, "sim/cache-write", **cached_for("5m")) == five_minutes
    assert bill_of(client, simulator, "sim/cache-write", **cached_for("1h")) == 7 * 400 + 12 * 600
    block = [{"role": "user", "content": [{"type": "text", "text": "Hello there", **cached_for("1h")}]}]
    assert bill_of(client, simulator, "sim/cache-write", messages=block) == 7 * 400 + 12 * 600
    usage = ask(client, "sim/cache-write", **cached_for("1h")).json()["usage"]
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == 7


def test_an_hour_of_cache_without_a_price_costs_twice_the_prompt() -> None:
    simulator, client = opened(Model("a/b", Script(cache_writes=True), (Endpoint(CHEAP),)))
    assert bill_of(client, simulator, "a/b") == 8250
    assert bill_of(client, simulator, "a/b", **cached_for("1h")) == 7 * 300 + 12 * 600


def test_half_of_a_prompt_is_read_from_the_cache(client: httpx.Client, simulator: Simulator, clock: Clock) -> None:
    assert bill_of(client, simulator, "sim/cache-read") == 3 * 15 + 4 * 150 + 12 * 600
    assert ask(client, "sim/cache-read").json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    clock.sleep(2)
    record = client.get("/generation", params={"id": simulator.generations[-1].id}).json()["data"]
    assert record["native_tokens_cached"] == 3


def hello_with(*parts: str) -> list[dict[str, object]]:
    """The greeting and other parts."""
    content = [{"type": "text", "text": "Hello there"}, *({"type": part, part: {"data": ""}} for part in parts)]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("model", "parts", "nanousd"),
    [
        ("sim/ok", ["image_url"], 1007 * 150 + 12 * 600),
        ("sim/ok", ["input_audio", "video_url"], 2007 * 150 + 12 * 600),
        ("sim/vision", ["image_url"], 90_007 * 150 + 12 * 600 + 1_200_000),
        ("sim/vision", ["image_url"] * 2, (128_000 - 12) * 150 + 12 * 600 + 2 * 1_200_000),
        ("sim/vision", ["input_audio"], 7 * 150 + 1000 * 1050 + 12 * 600),
        ("sim/vision", ["image_url", "input_audio"], 90_007 * 150 + 1000 * 1050 + 12 * 600 + 1_200_000),
    ],
)
def test_media_are_billed_by_their_tokens_and_pictures_each(
    client: httpx.Client, simulator: Simulator, model: str, parts: list[str], nanousd: int
) -> None:
    assert bill_of(client, simulator, model, messages=hello_with(*parts)) == nanousd


def test_tokens_of_pictures_and_sounds_have_rates_of_their_own() -> None:
    prices = {**CHEAP, "image_token": "0.000001", "audio": "0.000002", "image": "0.5"}
    simulator, client = opened(Model("a/b", endpoints=(Endpoint(prices),)))
    messages = hello_with("image_url", "input_audio")
    answer = ask(client, "a/b", messages=messages)
    assert simulator.billed_nanousd == 7 * 150 + 1000 * 1000 + 1000 * 2000 + 12 * 600 + 500_000_000
    assert answer.json()["usage"]["prompt_tokens_details"]["audio_tokens"] == 1000


@pytest.mark.parametrize(
    ("pdf", "fee"),
    [(None, 60_000_000), ({"engine": "mistral-ocr"}, 60_000_000), ({"engine": "native"}, 0),
     ({"engine": "cloudflare-ai"}, 0)],
)  # fmt: skip
def test_the_pages_of_a_file_cost_a_fee_with_the_default_engine(
    client: httpx.Client, simulator: Simulator, pdf: object, fee: int
) -> None:
    plugins = [{"id": "file-parser", "pdf": pdf}]
    assert bill_of(client, simulator, "sim/ok", messages=hello_with("file"), plugins=plugins) == 158_250 + fee
    assert bill_of(client, simulator, "sim/ok", messages=hello_with("file", "file")) == 308_250 + 120_000_000
    unknown = [{"id": "file-parser", "pdf": {"engine": "quill"}}]
    assert ask(client, "sim/ok", messages=hello_with("file"), plugins=unknown).status_code == 400


@pytest.mark.parametrize(
    ("plugin", "fee"),
    [
        ({}, 7_000_000), ({"engine": "exa"}, 7_000_000), ({"engine": "exa-deep"}, 12_000_000),
        ({"engine": "exa-deep-reasoning"}, 15_000_000), ({"max_results": 10}, 7_000_000),
        ({"max_results": 25}, 22_000_000), ({"engine": "exa-deep", "max_results": 11}, 13_000_000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_the_web_plugin_searches_once_and_adds_what_it_finds_to_the_prompt(
    client: httpx.Client, simulator: Simulator, plugin: dict[str, object], fee: int, *, stream: bool
) -> None:
    plugins = [{"id": "web", **plugin}]
    assert bill_of(client, simulator, "sim/ok", plugins=plugins, stream=stream) == 8007 * 150 + 12 * 600 + fee
    assert bill_of(client, simulator, "sim/ok:online", plugins=plugins) == 8007 * 150 + 12 * 600 + fee


def test_online_is_the_web_plugin(client: httpx.Client, simulator: Simulator) -> None:
    assert bill_of(client, simulator, "sim/ok:online") == 8007 * 150 + 12 * 600 + 7_000_000
    usage = ask(client, "sim/ok:online").json()["usage"]
    assert usage["server_tool_use_details"] == {"web_search_requests": 1, "tool_calls_executed": 1}
    assert usage["cost_details"]["server_tool_cost"] == 0.007
    assert bill_of(client, simulator, "sim/ok", plugins=[{"id": "web", "enabled": False}]) == 8250


def test_what_a_search_finds_is_cut_to_the_context_and_native_searches_have_a_price() -> None:
    small = Model("a/small", endpoints=(Endpoint(CHEAP, context_length=5000),))
    native = Model("a/native", endpoints=(Endpoint({**CHEAP, "web_search": "0.01"}),))
    simulator, client = opened(small, native)
    assert bill_of(client, simulator, "a/small:online") == (5000 - 12) * 150 + 12 * 600 + 7_000_000
    assert bill_of(client, simulator, "a/native:online") == 8007 * 150 + 12 * 600 + 10_000_000
    exa = [{"id": "web", "engine": "exa"}]
    assert bill_of(client, simulator, "a/native", plugins=exa) == 8007 * 150 + 12 * 600 + 7_000_000


SEARCH = [{"type": "openrouter:web_search"}]  # 35 bytes of JSON: the prompt has 16 tokens


@pytest.mark.parametrize(
    ("stops", "prompts", "steps"),
    [
        (None, [*range(16, 120_017, 8000), *[128_000 - 12] * 15], 30),
        ([{"type": "step_count_is", "step_count": 2}], [16, 8016, 16_016], 2),
        ([{"type": "step_count_is", "step_count": 99}], [*range(16, 120_017, 8000), *[128_000 - 12] * 15], 30),
        # After three steps 16 * 150 + 8016 * 150 + 16_016 * 150 + 36 * 600 + 21_000_000 = 24_628_800 are spent.
        ([{"type": "max_cost", "max_cost_in_dollars": 0.02}], [16, 8016, 16_016, 24_016], 3),
        ([{"type": "max_cost", "max_cost_in_dollars": 0.0246288}], [16, 8016, 16_016, 24_016], 3),
        ([{"type": "max_cost", "max_cost_in_dollars": 0.0246289}], [16, 8016, 16_016, 24_016, 32_016], 4),
        ([{"type": "max_cost", "max_cost_in_dollars": 0}], [16, 8016], 1),
        ([{"type": "max_cost", "max_cost_in_dollars": 9}, {"type": "step_count_is", "step_count": 1}], [16, 8016], 1),
        ([{"type": "has_tool_call"}, {"type": "step_count_is", "step_count": 1}], [16, 8016], 1),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_server_tools_loop_until_a_stop_and_then_the_model_has_a_last_turn(
    client: httpx.Client, simulator: Simulator, stops: object, prompts: list[int], steps: int, *, stream: bool
) -> None:
    answer = ask(client, "sim/ok", tools=SEARCH, stop_server_tools_when=stops, stream=stream)
    usage = usage_of(answer)
    assert len(prompts) == steps + 1
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (sum(prompts), 12 * len(prompts))
    assert spend(usage) == simulator.billed_nanousd == sum(prompts) * 150 + 12 * len(prompts) * 600 + steps * 7_000_000
    assert usage["server_tool_use_details"] == {"web_search_requests": steps, "tool_calls_executed": steps}


def test_thirty_steps_with_searches_cost_this_much(client: httpx.Client, simulator: Simulator) -> None:
    assert bill_of(client, simulator, "sim/ok", tools=SEARCH) == 642_234_600


def test_each_server_tool_has_its_fee(client: httpx.Client, simulator: Simulator) -> None:
    once = [{"type": "step_count_is", "step_count": 1}]
    fetch, clock = [{"type": "openrouter:web_fetch"}], [{"type": "openrouter:datetime"}]
    fetched = bill_of(client, simulator, "sim/ok", tools=fetch, stop_server_tools_when=once)
    assert fetched == (16 + 8016) * 150 + 24 * 600 + 1_000_000
    assert bill_of(client, simulator, "sim/ok", tools=clock, stop_server_tools_when=once) == (15 + 8015) * 150 + 14_400
    deep = [{"type": "openrouter:web_search", "parameters": {"engine": "exa-deep", "max_results": 12}}]
    ask(client, "sim/ok", tools=deep, stop_server_tools_when=once)
    assert simulator.generations[-1].charge.tool_usd == Decimal("0.014")


def test_a_function_of_the_client_is_no_server_tool(client: httpx.Client, simulator: Simulator) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]  # 49 bytes of JSON, 60 with the greeting
    assert bill_of(client, simulator, "sim/ok", tools=tools) == (15 + 4) * 150 + 12 * 600


@pytest.mark.parametrize("limit", ["1", None, True])
def test_a_stop_condition_without_a_number_is_400(client: httpx.Client, limit: object) -> None:
    stops = [{"type": "max_cost", "max_cost_in_dollars": limit}]
    assert ask(client, "sim/ok", tools=SEARCH, stop_server_tools_when=stops).status_code == 400


def test_the_bill_of_many_turns_is_rounded_up_once() -> None:
    simulator, client = opened(Model("a/b", endpoints=(Endpoint(pricing("0.00000000003", "0")),)))
    once = [{"type": "step_count_is", "step_count": 1}]
    # 15 * 0.03 + 8015 * 0.03 = 0.45 + 240.45 = 240.9 nano-dollars: each rounded up by itself would be 242.
    tools = [{"type": "openrouter:datetime"}]
    assert bill_of(client, simulator, "a/b", tools=tools, stop_server_tools_when=once) == 241


@pytest.mark.parametrize("model", ["sim/finish-error", "sim/error-200", "sim/first-event-429"])
def test_the_insurance_does_not_cover_fees(client: httpx.Client, simulator: Simulator, model: str) -> None:
    ask(client, f"{model}:online")
    assert simulator.billed_nanousd == 7_000_000
    ask(client, model, messages=hello_with("file"))
    assert simulator.billed_nanousd == 67_000_000


def test_two_searches_of_the_old_scenario_cost_what_they_did(client: httpx.Client, simulator: Simulator) -> None:
    assert bill_of(client, simulator, "sim/server-tool") == 8250 + 14_000_000
    usage = ask(client, "sim/server-tool").json()["usage"]
    assert usage["server_tool_use_details"] == {"web_search_requests": 2, "tool_calls_executed": 2}


# Agents


def completions(model: str, calls: int) -> list[int]:
    simulator = Simulator()
    headers = {"authorization": "Bearer any"}
    with httpx.Client(transport=transport(simulator), base_url="http://sim/api/v1", headers=headers) as client:
        return [ask(client, model).json()["usage"]["completion_tokens"] for _ in range(calls)]


def test_an_agent_says_something_else_in_each_call_and_the_same_in_each_run() -> None:
    said = completions("sim/agent", 300)
    assert said == completions("sim/agent", 300)
    assert len(set(said)) > 200
    assert 330 < sorted(said)[150] < 480
    # Three sigma: 400 * e^3 = 8034 and 400 / e^3 = 20.
    assert min(said) < 50
    assert 4000 < max(said) <= 64_000


def test_luck_is_a_quantile_of_what_an_agent_says() -> None:
    varies = scenarios.SCRIPTS["sim/agent"].varies
    assert varies is not None
    assert [varies(luck) for luck in (1e-12, 0.5, 0.8413447460685429)] == [1, 400, 1087]  # one sigma is times e


@pytest.mark.parametrize(("model", "prompt", "completion"), [("sim/agent", 15_000, 75_000),
                                                             ("sim/agent-cheap", 3000, 15_000)])  # fmt: skip
def test_an_agent_is_billed_for_what_it_says(
    client: httpx.Client, simulator: Simulator, model: str, prompt: int, completion: int
) -> None:
    billed = bill_of(client, simulator, model, stream=True)
    assert billed == 7 * prompt + simulator.generations[-1].tokens.completion * completion
    row = next(row for row in client.get("/models").json()["data"] if row["id"] == model)
    assert (row["context_length"], row["top_provider"]["max_completion_tokens"]) == (200_000, 64_000)


def test_agents_at_once_say_in_all_what_they_say_one_after_the_other(simulator: Simulator, url: str) -> None:
    with (
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as outside,
        ThreadPoolExecutor(20) as pool,
    ):
        list(pool.map(lambda _: ask(outside, "sim/agent"), range(100)))
    assert sorted(record.tokens.completion for record in simulator.generations) == sorted(completions("sim/agent", 100))


# Catalogues of a test's own


def test_a_test_may_bring_models_of_its_own() -> None:
    prices = pricing("0.000001", "0.000002", request="0.01")
    simulator, client = opened(Model("acme/one", Script(wants=lambda prompt: 2 * prompt), (Endpoint(prices),)))
    assert bill_of(client, simulator, "acme/one") == 7 * 1000 + 14 * 2000 + 10_000_000
    assert [row["id"] for row in client.get("/models").json()["data"]] == ["acme/one"]


def test_the_endpoint_that_makes_this_call_dearest_serves_it() -> None:
    reads, writes = pricing("0.000010", "0.000001"), pricing("0.000001", "0.000010")
    offers = (Endpoint(reads, "Reads", "reads"), Endpoint(writes, "Writes", "writes"))
    simulator, client = opened(Model("acme/two", Script(), offers))
    assert bill_of(client, simulator, "acme/two") == 7 * 1000 + 12 * 10_000
    assert bill_of(client, simulator, "acme/two", max_tokens=1) == 7 * 10_000 + 1000


def test_an_override_by_the_hour_counts_where_it_is_dearer() -> None:
    hours = {"utc_start": 1, "utc_end": 2, "utc_days": [1], "prompt": "0.0000001", "completion": "0.000001"}
    simulator, client = opened(Model("acme/hours", endpoints=(Endpoint({**CHEAP, "overrides": [hours]}),)))
    assert bill_of(client, simulator, "acme/hours") == 7 * 150 + 12 * 1000


@pytest.mark.parametrize(("reasoning", "nanousd"), [("0", 600), ("0.000002", 2000)])
def test_reasoning_costs_its_own_price_or_that_of_other_output(reasoning: str, nanousd: int) -> None:
    script = Script(reasons=lambda _completion: 5)
    endpoint = Endpoint({**CHEAP, "internal_reasoning": reasoning})
    simulator, client = opened(Model("acme/thinks", script, (endpoint,)))
    assert bill_of(client, simulator, "acme/thinks") == 7 * 150 + 7 * 600 + 5 * nanousd


# Failures that a fallback meets


def test_a_rate_limit_can_be_the_first_event(client: httpx.Client, simulator: Simulator) -> None:
    streamed = ask(client, "sim/first-event-429", stream=True)
    (only,) = events(streamed)
    assert streamed.text.startswith(": OPENROUTER PROCESSING\n\n" * 2 + "data: {")
    assert (streamed.status_code, only["choices"]) == (200, [])
    plain = ask(client, "sim/first-event-429")
    assert (plain.status_code, plain.json().get("choices")) == (200, None)
    for error in (json.loads(json.dumps(only["error"], default=str)), plain.json()["error"]):
        assert (error["code"], error["metadata"]["retry_after_seconds"]) == (429, 2)
    assert simulator.billed_nanousd == 0


def test_an_error_can_come_after_seconds_of_comments_or_padding(client: httpx.Client, clock: Clock) -> None:
    streamed = ask(client, "sim/comments-then-error", stream=True)
    assert streamed.text.startswith(": OPENROUTER PROCESSING\n\n" * 17 + "data: {")
    assert sum(clock.slept) == pytest.approx(3)
    assert [event["choices"] for event in events(streamed)] == [[]]
    plain = ask(client, "sim/comments-then-error")
    assert plain.text.startswith("         \n" * 15 + "{")
    assert sum(clock.slept) == pytest.approx(6)
    assert plain.json()["error"]["code"] == 502


def test_an_answer_can_come_after_seconds_of_comments_or_padding(client: httpx.Client, clock: Clock) -> None:
    streamed = ask(client, "sim/comments-then-answer", stream=True)
    assert streamed.text.startswith(": OPENROUTER PROCESSING\n\n" * 14 + "data: {")
    assert streamed.text.endswith("data: [DONE]\n\n")
    plain = ask(client, "sim/comments-then-answer")
    assert plain.text.startswith("         \n" * 12 + "{")
    assert plain.json()["choices"] == ask(client, "sim/ok").json()["choices"]
    assert [pause for pause in clock.slept if pause] == [0.5] * 24


def test_a_stream_can_be_empty_and_its_prompt_billed(client: httpx.Client, simulator: Simulator) -> None:
    streamed = ask(client, "sim/empty-stream", stream=True)
    assert streamed.text == ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\ndata: [DONE]\n\n"
    assert simulator.billed_nanousd == 7 * 150
    plain = ask(client, "sim/empty-stream").json()
    assert (plain["choices"][0]["message"]["content"], "usage" in plain) == ("", False)


def test_a_model_that_is_down_can_be_healed_and_broken_again(client: httpx.Client, simulator: Simulator) -> None:
    statuses = [ask(client, "sim/flaky").status_code]
    simulator.is_healthy = True
    statuses.append(ask(client, "sim/flaky").status_code)
    for route in ("break", "heal"):
        client.post(f"http://sim/_sim/{route}")
        statuses.append(ask(client, "sim/flaky", stream=True).status_code)
    assert statuses == [502, 200, 502, 200]
    assert simulator.billed_nanousd == 2 * 8250


@pytest.mark.parametrize("stream", [False, True])
def test_silence_lasts_an_hour_before_the_headers(client: httpx.Client, clock: Clock, *, stream: bool) -> None:
    body = {"model": "sim/silent", "messages": HELLO, "stream": stream}
    with client.stream("POST", "/chat/completions", json=body) as response:
        assert clock.slept == [3600]
        response.read()
    assert clock.slept[1:] in ([], [0])


@pytest.mark.parametrize("stream", [False, True])
def test_who_gives_up_in_the_silence_pays_for_everything(*, stream: bool) -> None:
    def out_of_time(_seconds: float) -> None:
        raise httpx.ReadTimeout("slow")

    simulator = Simulator(sleep=out_of_time)
    body = {"model": "sim/silent", "messages": HELLO, "stream": stream}
    with (
        httpx.Client(transport=transport(simulator), headers={"authorization": "Bearer any"}) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.post("http://sim/api/v1/chat/completions", json=body)
    assert simulator.billed_nanousd == 8250


def test_a_stream_can_break_before_any_content(client: httpx.Client, simulator: Simulator) -> None:
    body = {"model": "sim/role-then-cut", "messages": HELLO, "stream": True}
    received: list[bytes] = []
    with client.stream("POST", "/chat/completions", json=body) as response, pytest.raises(httpx.RemoteProtocolError):
        received.extend(response.iter_raw())
    *comments, last = received
    assert len(comments) == 2
    assert b'"delta":{"role":"assistant","content":""},"finish_reason":null' in last
    with pytest.raises(httpx.RemoteProtocolError):
        ask(client, "sim/role-then-cut")
    assert simulator.billed_nanousd == 2 * 8250


def test_a_model_can_call_a_function_instead_of_saying_something(client: httpx.Client, simulator: Simulator) -> None:
    assert (
        bill_of(client, simulator, "sim/tool-call") == bill_of(client, simulator, "sim/tool-call", stream=True) == 8250
    )
    choice = ask(client, "sim/tool-call").json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    answer = ask(client, "sim/tool-call", stream=True)
    *chunks, finish, _usage = [json.loads(json.dumps(event, default=str))["choices"][0] for event in events(answer)]
    pieces = [piece for chunk in chunks for piece in chunk["delta"]["tool_calls"]]
    assert "".join(piece["function"]["arguments"] for piece in pieces) == call["function"]["arguments"]
    assert json.loads(call["function"]["arguments"])["said"].startswith("the fare is paid ")
    assert [chunk["delta"]["content"] for chunk in chunks] == [None] * len(chunks)
    assert pieces[0]["function"]["name"] == "say"
    assert finish["finish_reason"] == "tool_calls"


# Real clients over a socket


@pytest.fixture
def openai_client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as opened:
        yield opened


@pytest.fixture
def openrouter_client(url: str) -> Iterator[openrouter.OpenRouter]:
    with openrouter.OpenRouter(server_url=url, api_key=KEY, retry_config=None) as opened:
        yield opened


def test_the_openai_sdk_reads_answers_and_streams(openai_client: openai.OpenAI, simulator: Simulator) -> None:
    whole = openai_client.chat.completions.create(model="sim/cent", messages=[{"role": "user", "content": "Hello"}])
    chunks = list(
        openai_client.chat.completions.create(
            model="sim/cent", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert whole.choices[0].message.content == text
    assert whole.usage is not None
    assert whole.usage.model_dump()["cost"] == 0.01
    assert len(chunks) < 30
    assert chunks[-1].usage is not None
    assert simulator.billed_nanousd == 20_000_000
    assert {model.id for model in openai_client.models.list()} == set(catalogue())


def test_the_openai_sdk_raises_what_openrouter_raises(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        openai_client.chat.completions.create(model="sim/429", messages=[{"role": "user", "content": "Hello"}])
    with pytest.raises(openai.APIError, match="Provider returned error"):
        list(
            openai_client.chat.completions.create(
                model="sim/error-mid-stream", messages=[{"role": "user", "content": "Hello"}], stream=True
            )
        )


@pytest.mark.parametrize("model", [model for model in ANSWERED if model != "sim/huge"])
def test_the_openrouter_sdk_validates_answers_and_streams(
    openrouter_client: openrouter.OpenRouter, simulator: Simulator, model: str
) -> None:
    whole = openrouter_client.chat.send(model=model, messages=[HI])
    assert whole.usage is not None
    with openrouter_client.chat.send(model=model, messages=[HI], stream=True) as stream:
        chunks = list(stream)
    assert chunks[-1].usage == whole.usage
    assert len(simulator.generations) == 2


@pytest.mark.filterwarnings("ignore:.*DEPRECATED:DeprecationWarning")  # the SDK's own, about /key's rate_limit
def test_the_openrouter_sdk_validates_models_endpoints_key_and_credits(
    openrouter_client: openrouter.OpenRouter,
) -> None:
    listed = openrouter_client.models.list()
    assert listed is not None
    rows = {row.id: row for row in listed.result.data}
    assert set(rows) == set(catalogue())
    assert rows["openrouter/auto"].pricing.prompt == "-1"
    page = openrouter_client.endpoints.list(author="sim", slug="dear-provider")
    prices = [endpoint.pricing.prompt for endpoint in page.data.endpoints]
    assert prices == ["0.00000015", "0.00000075"]
    openrouter_client.chat.send(model="sim/cent", messages=[HI])
    assert openrouter_client.api_keys.get_current_key_metadata().data.usage == 0.01
    assert openrouter_client.credits.get_credits().data.total_usage == 0.01


def test_models_are_listed_in_pages_when_asked(client: httpx.Client) -> None:
    path, found = "/api/v1/models?offset=0&limit=20", list[str]()
    while path:
        page = client.get(f"http://sim{path}").json()
        found += [row["id"] for row in page["data"]]
        path = page["links"]["next"]
    assert found == list(catalogue())
    assert page["total_count"] == len(found)


def test_the_openrouter_sdk_validates_the_record_of_a_generation_once_it_is_ready(
    openrouter_client: openrouter.OpenRouter, client: httpx.Client, clock: Clock
) -> None:
    generation_id = aborted(client, "sim/cent")
    assert client.get("/generation", params={"id": generation_id}).status_code == 404
    clock.sleep(2)
    record = openrouter_client.generations.get_generation(id=generation_id).data
    assert (record.id, record.total_cost, record.cancelled, record.streamed) == (generation_id, 0.01, True, True)
    assert client.get("/generation", params={"id": "gen-unknown"}).status_code == 404


# The server


class Watched:
    """A body that tells when it was closed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self.closed.set()


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 1024


def cut() -> Iterator[bytes]:
    yield b"some"
    raise Cut


@pytest.mark.parametrize("pieces", [endless, cut, lambda: iter([b"", b"whole"])])
def test_a_body_is_closed_however_it_ends(pieces: object) -> None:
    assert callable(pieces)
    body = Watched(pieces())
    with (
        Server(lambda _request: HttpResponse(200, (), body)) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        if pieces is endless:
            connection.close()
        assert body.closed.wait(30)


def test_a_client_that_leaves_leaves_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    body = Watched(endless())
    server = Server(lambda _request: HttpResponse(200, (), body))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.recv(1)
    assert body.closed.wait(30)
    server.close(grace_s=30)
    assert capfd.readouterr().err == ""


def test_closing_the_server_lets_a_call_in_flight_finish() -> None:
    entered, leave = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first "
        entered.set()
        leave.wait(30)
        yield b"last"

    server = Server(lambda _request: HttpResponse(200, (), pieces()))
    with httpx.stream("GET", server.url) as response:
        assert entered.wait(30)
        closer = threading.Thread(target=server.close, kwargs={"grace_s": 30})
        closer.start()
        leave.set()
        assert response.read() == b"first last"
    closer.join(30)
    assert not closer.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def echo(request: HttpRequest) -> HttpResponse:
    headers = (("content-length", str(len(request.body))), ("x-method", request.method), ("x-target", request.target))
    return HttpResponse(200, headers, (request.body,))


@pytest.fixture
def echoes() -> Iterator[Server]:
    with Server(echo, max_body_bytes=100_000) as server:
        yield server


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_and_the_raw_target_reach_the_handler(echoes: Server, method: str) -> None:
    response = httpx.request(method, f"{echoes.url}/a%2Fb?c=%20d", headers={"content-length": "0"})
    assert (response.headers["x-method"], response.headers["x-target"]) == (method, "/a%2Fb?c=%20d")


def test_a_chunked_request_body_is_read_whole(echoes: Server) -> None:
    assert httpx.post(echoes.url, content=iter([b"a" * 5000, b"b"])).content == b"a" * 5000 + b"b"


def raw(server: Server, head: bytes, body: bytes = b"") -> http.client.HTTPResponse:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.read()
        return response


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\n", 413),
        (b"POST / HTTP/1.1\r\ncontent-length: 100001\r\n\r\n", 413),
    ],
)  # fmt: skip
def test_an_unreadable_request_is_answered_and_the_connection_closed(echoes: Server, head: bytes, status: int) -> None:
    response = raw(echoes, head)
    assert (response.status, response.headers["connection"]) == (status, "close")


def test_a_client_that_sends_too_much_still_reads_why(echoes: Server) -> None:
    assert httpx.post(echoes.url, content=b"x" * 3_000_000).status_code == 413


def test_a_client_that_waits_for_100_is_asked_to_continue_or_refused(echoes: Server) -> None:
    with socket.create_connection(("127.0.0.1", echoes.port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hi")
        assert b"200 OK" in connection.recv(1000)
    assert raw(echoes, b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 100001\r\n\r\n").status == 413


def test_a_bug_in_the_handler_is_500_and_shows_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(_request: HttpRequest) -> HttpResponse:
        raise LookupError("a bug")

    server = Server(broken)
    assert httpx.get(server.url).status_code == 500
    server.close(grace_s=30)
    assert "LookupError: a bug" in capfd.readouterr().err


def test_a_busy_port_is_an_oserror_at_construction(echoes: Server) -> None:
    with pytest.raises(OSError, match="in use"):
        Server(echo, port=echoes.port)


# The command


def test_the_command_prints_its_url_serves_and_ends_with_its_stdin() -> None:
    command = [sys.executable, "-m", "local.simulator", "--api-key", KEY, "--exit-on-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/key", headers={"authorization": f"Bearer {KEY}"}).json()["data"]["usage"] == 0
        process.stdin.close()
        assert process.wait(30) == 0


def test_the_command_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "local.simulator"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.terminate()
        assert process.wait(30) == 0


def test_the_command_says_in_one_line_that_a_port_is_busy(echoes: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--port", str(echoes.port)])
    assert capsys.readouterr().err == f"cannot listen on 127.0.0.1:{echoes.port}: Address already in use\n"
