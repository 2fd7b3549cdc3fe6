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
from local.catalogue import catalogue
from local.simulator import Simulator, main, transport
from local.sockets import Cut, HttpRequest, HttpResponse, Server

KEY = "sk-or-v1-simulated"
HI = ChatUserMessage(role="user", content="Hello")
HELLO = [{"role": "user", "content": "Hello there"}]
ANSWERED = (
    "sim/ok", "sim/cent", "sim/cent-bytes", "sim/free:free", "sim/dear-provider", "sim/priority:nitro",
    "sim/long-context", "sim/cache-write", "sim/canonical", "~sim/family-latest", "sim/reasoning", "sim/byok",
    "sim/no-byok-flag", "sim/server-tool", "sim/discount", "sim/no-max-output", "sim/tiny-overshoot", "sim/huge",
    "sim/stop-billing", "openrouter/auto", "sim/usage-repeated-finish", "sim/usage-empty-choices",
    "sim/usage-null-finish", "sim/no-done", "sim/pad", "sim/error-with-usage", "sim/finish-error", "openai/gpt-4o-mini",
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
    answers = [ask(client, model, stream=stream) for model in ANSWERED for stream in (False, True)]
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
