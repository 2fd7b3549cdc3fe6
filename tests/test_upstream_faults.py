"""Whatever upstream does, a call ends in a documented answer, and the books are never below the bill.

The table's rows are the simulator's scenarios (local/scenarios.py), asked for plainly and as a stream.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from farebox.answers import upstream_error
from farebox.catalogue import Catalogue
from farebox.routes import answer
from farebox.spans import SHARDS
from farebox.upstream import Upstream
from local.catalogue import CHEAP, Endpoint
from local.gateway import event_of
from local.simulator import Simulator, transport
from local.sockets import HttpRequest
from tests.conftest import DEADLINE, GATEWAY_KEY, Answered, Door, MakeDoor, chat_body

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SPENT, RELEASED, KEPT = "spent", "released", "kept"
OUTCOMES = {SPENT: "answered", RELEASED: "declined", KEPT: "lost"}
LONG = "fare " * 1000


@dataclass(frozen=True, slots=True)
class Row:
    """A scenario, and how a call to it ends: the answer's status and reason, what becomes of the hold, and the cause
    that the span names. `error` is the reason in an error event or body that comes after status 200."""

    model: str
    stream: bool
    status: int
    hold: str
    cause: str | None = None
    reason: str | None = None
    error: str | None = None
    retry_after: str | None = None

    def __str__(self) -> str:
        return f"{self.model}{' streamed' if self.stream else ''}"


def both(model: str, status: int, hold: str, cause: str | None = None, **more: str) -> tuple[Row, Row]:
    """The same plainly and streamed."""
    return Row(model, False, status, hold, cause, **more), Row(model, True, status, hold, cause, **more)  # noqa: FBT003


def plain(model: str, status: int, hold: str, cause: str | None = None, **more: str) -> Row:
    return Row(model, False, status, hold, cause, **more)  # noqa: FBT003


def streamed(model: str, status: int, hold: str, cause: str | None = None, **more: str) -> Row:
    return Row(model, True, status, hold, cause, **more)  # noqa: FBT003


THEIRS = "upstream_error"
TABLE = [
    # Never sent, or declined before anything was generated: nothing is billed and nothing stays held.
    *both("sim/refuse", 502, RELEASED, "not_sent", reason="not_sent"),
    *both("sim/429", 429, RELEASED, "status_429", reason=THEIRS, retry_after="2"),
    *both("sim/429-plain", 429, RELEASED, "status_429", reason=THEIRS),
    *both("sim/402-balance", 402, RELEASED, "status_402", reason=THEIRS),
    *both(
        "sim/402-in-flight", 429, RELEASED, "in_flight_budget_exhausted", reason="in_flight_budget_exhausted",
        retry_after="3",
    ),
    *both("sim/402-weight", 402, RELEASED, "status_402", reason="weight_exceeds_budget"),
    *both("sim/403-key-limit", 403, RELEASED, "status_403", reason=THEIRS),
    *both("sim/404-no-endpoints", 404, RELEASED, "status_404", reason=THEIRS),
    *both("sim/500", 500, RELEASED, "status_500", reason=THEIRS),
    *both("sim/502", 502, RELEASED, "status_502", reason=THEIRS),
    *both("sim/503", 503, RELEASED, "status_503", reason=THEIRS, retry_after="4"),
    *both("sim/529", 529, RELEASED, "status_529", reason=THEIRS),
    plain("sim/error-200", 502, RELEASED, "error_in_body", reason=THEIRS),
    streamed("sim/error-200", 502, RELEASED, "error_in_stream", reason=THEIRS),
    plain("sim/first-event-429", 429, RELEASED, "error_in_body", reason=THEIRS),
    streamed("sim/first-event-429", 429, RELEASED, "error_in_stream", reason=THEIRS),
    plain("sim/comments-then-error", 502, RELEASED, "error_in_body", reason=THEIRS),
    streamed("sim/comments-then-error", 502, RELEASED, "error_in_stream", reason=THEIRS),
    *both("sim/flaky", 502, RELEASED, "status_502", reason=THEIRS),
    # Sent, and nobody knows what it cost: the hold stays.
    plain("sim/cut", 502, KEPT, "upstream_cut", reason="upstream_cut"),
    streamed("sim/cut", 200, KEPT, "upstream_cut", error="upstream_cut"),
    *both("sim/cut-early", 502, KEPT, "upstream_cut", reason="upstream_cut"),
    *both("sim/role-then-cut", 502, KEPT, "upstream_cut", reason="upstream_cut"),
    plain("sim/empty-stream", 200, KEPT, "cost_missing"),
    streamed("sim/empty-stream", 502, KEPT, "empty", reason="empty"),
    *both("sim/524-html", 504, KEPT, "status_524", reason=THEIRS),
    *both("sim/504", 504, KEPT, "status_504", reason=THEIRS),
    *both("sim/408", 408, KEPT, "status_408", reason=THEIRS),
    *both("sim/not-json", 502, KEPT, "not_json", reason="not_json"),
    *both("sim/usage-missing", 200, KEPT, "cost_missing"),
    *both("sim/cost-null", 200, KEPT, "cost_missing"),
    streamed("sim/error-mid-stream", 200, KEPT, "error_in_stream", error=THEIRS),
    streamed("sim/error-mid-stream-string-code", 200, KEPT, "error_in_stream", error=THEIRS),
    # A cost was reported: that is what is spent, whatever else the answer says.
    plain("sim/error-mid-stream", 200, SPENT),
    plain("sim/error-mid-stream-string-code", 200, SPENT),
    plain("sim/error-with-usage", 200, SPENT),
    streamed("sim/error-with-usage", 200, SPENT, "error_in_stream", error=THEIRS),
    *both("sim/finish-error", 200, SPENT),
    *(
        row
        for model in (
            "sim/ok", "sim/cent", "sim/cent-bytes", "sim/free:free", "sim/pad", "sim/comment-in-body", "sim/byok",
            "sim/no-byok-flag", "sim/server-tool", "sim/tiny-overshoot", "sim/reasoning", "sim/discount",
            "sim/cache-write", "sim/long-context", "sim/canonical", "sim/canonical-20260801", "sim/dear-provider",
            "~sim/family-latest", "sim/family-2", "sim/no-max-output", "sim/no-done", "sim/usage-repeated-finish",
            "sim/usage-empty-choices", "sim/usage-null-finish", "sim/stop-billing", "sim/huge", "sim/priority",
            "sim/tiers", "sim/tiers-2", "sim/tiers-2-fast", "sim/pro-base", "sim/pro-base-pro", "sim/cache-read",
            "sim/vision", "sim/agent", "sim/agent-cheap", "sim/tool-call", "sim/comments-then-answer",
            "openai/gpt-4o-mini", "anthropic/claude-sonnet-4.6", "meta-llama/llama-3.3-70b-instruct",
        )
        for row in both(model, 200, SPENT)
    ),
]  # fmt: skip


def at_noon(door: Door) -> Door:
    """The same door at a moment that the test knows, so that its spans are found."""
    gate = door.gate
    return Door(replace(gate, now=lambda: NOON, desk=replace(gate.desk, now=lambda: NOON)))


@pytest.fixture
def noon(door: Door) -> Iterator[Door]:
    """A door; at the end of the test its spans and its ledger must tell the same story."""
    yield (opened := at_noon(door))
    kept = sum(span["hold_nanousd"] for span in spans(opened) if "cost_nanousd" not in span)
    assert books(opened) == (sum(span.get("cost_nanousd", 0) for span in spans(opened)), kept)


def spans(door: Door) -> list[Mapping[str, Any]]:
    """All spans of the hour."""
    return [span for shard in range(SHARDS) for span in door.gate.store.spans(f"SPANS#2026-11-23T12#{shard}")]


def books(door: Door) -> tuple[int, int]:
    """What is spent and what is held, in nano-dollars; the day and the month must say the same."""
    usage = door.usage()
    day, month = (
        (round(usage[window]["spent_usd"] * 1e9), round(usage[window]["held_usd"] * 1e9))
        for window in ("daily", "monthly")
    )
    assert day == month
    return day


def events(body: bytes) -> list[Any]:
    """The events of a stream, each whole; [DONE] is left out."""
    datas = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(data) for data in datas if data != b"[DONE]"]


def said(answered: Answered) -> list[Any]:
    """The JSON objects of an answer: the events of a stream, or the one body."""
    if answered.headers["Content-Type"].startswith("text/event-stream"):
        return events(answered.body)
    return [json.loads(answered.body)]


def text_of(answered: Answered) -> str:
    """What the model said and thought."""
    choices = [choice for chunk in said(answered) for choice in chunk.get("choices", ())]
    parts = [choice.get("delta") or choice.get("message") for choice in choices]
    calls = [call["function"] for part in parts for call in part.get("tool_calls", ())]
    texts = [(part.get("reasoning") or "") + (part["content"] or "") for part in parts]
    return "".join([*texts, *(call["arguments"] for call in calls)])


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_call_ends_in_a_documented_answer_and_right_books(row: Row, noon: Door, simulator: Simulator) -> None:
    messages = [{"role": "user", "content": LONG if row.model == "sim/long-context" else "Say hello"}]
    answered = noon.chat(model=row.model, messages=messages, stream=row.stream)
    assert answered.status == row.status, answered.body
    assert answered.headers.get("Retry-After") == row.retry_after
    if row.reason:
        error = answered.json["error"]
        assert (error["code"], error["metadata"]["reason"]) == (row.status, row.reason)
        assert error["message"]
        assert error["type"] == "upstream_error"
    elif row.error:
        (error,) = [chunk["error"] for chunk in said(answered) if "error" in chunk]
        assert error["message"]
        assert error.get("metadata", {}).get("reason", THEIRS) == row.error
    else:
        assert bool(text_of(answered)) is (row.model != "sim/empty-stream")

    (span,) = spans(noon)
    assert (span["outcome"], span.get("cause")) == (OUTCOMES[row.hold], row.cause)
    assert (span["tenant"], span["model_asked"], span["streamed"]) == ("default", row.model, row.stream)
    spent, held = books(noon)
    billed = simulator.billed_nanousd
    assert spent + held >= billed
    if row.hold == KEPT:
        assert (spent, held) == (0, span["hold_nanousd"])
        assert "cost_nanousd" not in span
        assert "X-Farebox-Cost-Usd" not in answered.headers
        # A repetition may be billed as well, and this call was perhaps billed already.
        assert row.status == 200 or answered.headers["x-should-retry"] == "false"
    else:
        assert (spent, held) == (billed, 0)
        assert span["cost_nanousd"] == billed
    if row.hold == RELEASED:
        assert billed == 0
    if row.status == 200 and not row.stream and row.hold == SPENT and row.model != "sim/pad":
        assert Decimal(answered.headers["X-Farebox-Cost-Usd"]) == Decimal(billed).scaleb(-9)
    if row.hold == SPENT and row.model != "sim/server-tool":
        assert billed <= span["hold_nanousd"]


def test_every_scenario_that_can_be_called_is_in_the_table(simulator: Simulator) -> None:
    elsewhere = {
        "sim/slow",  # waits 30 s and answers as sim/ok does
        "sim/pad-forever",  # below: needs a deadline
        "sim/silent",  # below, too
        "openrouter/auto", "openrouter/auto-beta", "openrouter/fusion",  # refused without a price cap
        "openai/gpt-4o", "google/gemini-2.5-flash",  # as sim/ok, with other prices
    }  # fmt: skip
    assert simulator.models.keys() - elsewhere <= {row.model for row in TABLE}


def test_an_error_of_upstream_keeps_its_metadata_and_message(door: Door) -> None:
    error = door.chat(model="sim/429").json["error"]
    assert error["message"] == "Provider returned error"
    assert error["metadata"]["limit_source"] == "upstream_provider_shared_pool"
    assert error["metadata"]["headers"] == {"Retry-After": "2"}


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"reason": "flagged"}, "flagged"),
        ({"reason": {}}, "upstream_error"),
        ({"reason": ""}, "upstream_error"),
        (5, "upstream_error"),
    ],
)
def test_an_error_of_upstream_has_a_reason_in_words_whatever_its_metadata_are(metadata: object, reason: str) -> None:
    response = upstream_error(403, {"message": "no", "metadata": metadata}, {})
    assert json.loads(b"".join(response.body))["error"]["metadata"]["reason"] == reason


def test_saturation_upstream_does_not_read_as_a_spent_budget(door: Door) -> None:
    answered = door.chat(model="sim/402-in-flight")
    assert answered.reason not in ("budget_exhausted", "budget_held")
    assert "x-should-retry" not in answered.headers


# A time that passes only when upstream waits.


class Watch:
    """A monotonic clock that the simulator's sleeps move on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def timed(door: Door, watch: Watch, transport_: httpx.BaseTransport) -> Door:
    """The door with another clock for its deadlines."""
    upstream = Upstream("http://simulator/api/v1", "simulated", httpx.Client(transport=transport_), watch)
    return Door(replace(door.gate, upstream=upstream, monotonic=watch))


def call_until(door: Door, deadline: float, **members: Any) -> Answered:
    request = HttpRequest(
        "POST", "/api/v1/chat/completions", (("Authorization", f"Bearer {GATEWAY_KEY}"),), chat_body(**members)
    )
    response = answer(door.gate, event_of(request), deadline)
    try:
        return Answered(response.status, response.headers, b"".join(response.body))
    finally:
        response.close()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_keep_alives_without_end_are_ended_at_the_deadline_and_the_hold_stays(noon: Door, stream: bool) -> None:  # noqa: FBT001
    watch = Watch()
    simulator = Simulator(sleep=watch.sleep)
    door = timed(noon, watch, transport(simulator))
    answered = call_until(door, watch.now + 60, model="sim/pad-forever", stream=stream)
    assert answered.status == 200  # it went out with the first keep-alive bytes
    error = said(answered)[-1]["error"]
    assert (error["code"], error["metadata"]["reason"]) == (504, "upstream_timeout")
    assert 1000 + 20 < watch.now < 1000 + 60
    (span,) = spans(door)
    assert (span["outcome"], span["cause"]) == ("lost", "upstream_timeout")
    assert books(door) == (0, span["hold_nanousd"])
    assert simulator.billed_nanousd <= span["hold_nanousd"]


@pytest.mark.parametrize("model", ["sim/slow", "sim/silent"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_silence_upstream_is_a_504_and_the_hold_stays(noon: Door, model: str, stream: bool) -> None:  # noqa: FBT001
    def silence(_seconds: float) -> None:
        raise httpx.ReadTimeout("The read operation timed out")

    door = timed(noon, Watch(), transport(Simulator(sleep=silence)))
    answered = call_until(door, DEADLINE, model=model, stream=stream)
    assert (answered.status, answered.reason) == (504, "upstream_timeout")
    assert answered.headers["x-should-retry"] == "false"
    (span,) = spans(door)
    assert (span["outcome"], books(door)) == ("lost", (0, span["hold_nanousd"]))


# Other things that upstreams and the edge before them were seen to send.

Handle = Callable[[httpx.Request], httpx.Response]
ANSWER: dict[str, Any] = {
    "id": "gen-1",
    "model": "sim/ok",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": 0.000001},
}


class Edge(httpx.BaseTransport):
    """The simulator for the catalogue, and an answer of the test's own to chat."""

    def __init__(self, simulator: Simulator, handle: Handle) -> None:
        self._catalogue = transport(simulator)
        self._handle = handle

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/chat/completions"):
            return self._handle(request)
        return self._catalogue.handle_request(request)


def answering(
    status: int = 200, content: Any = b"", kind: str = "application/json", *, encoding: str = "identity", to: str = ""
) -> Handle:
    """An upstream that says the same to everybody."""

    def handle(_request: httpx.Request) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"content-type": kind, "content-encoding": encoding, **({"location": to} if to else {})}
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))

    return handle


def raising(error: Exception) -> Handle:
    def handle(_request: httpx.Request) -> httpx.Response:
        raise error

    return handle


def with_usage(**usage: Any) -> dict[str, Any]:
    return {**ANSWER, "usage": {**ANSWER["usage"], **usage}}


def stream_of(*datas: Any) -> bytes:
    return b"".join(b"data: " + (d if isinstance(d, bytes) else json.dumps(d).encode()) + b"\n\n" for d in datas)


DELTA = {"id": "gen-1", "model": "sim/ok", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hi"}}]}
SSE = "text/event-stream"
STRANGE: dict[str, tuple[Handle, int, str]] = {
    "a redirect": (answering(302, to="https://elsewhere.example/"), 502, RELEASED),
    "an empty 200": (answering(), 502, KEPT),
    "a 200 that is a list": (answering(content=[]), 502, KEPT),
    "a 204": (answering(204), 502, KEPT),
    "an empty 500": (answering(500), 500, KEPT),
    "HTML with 502": (answering(502, b"<html>bad gateway</html>", "text/html"), 502, KEPT),
    "HTML with 403": (answering(403, b"<html>Attention Required</html>", "text/html"), 403, RELEASED),
    "an error that is a string": (answering(400, {"error": "no"}), 400, RELEASED),
    "an unknown status": (answering(599, {"error": {"code": 599, "message": "?"}}), 599, RELEASED),
    "418": (answering(418, {"error": {"code": 418, "message": "teapot"}}), 418, RELEASED),
    "413": (answering(413, {"error": {"code": 413, "message": "too large"}}), 413, RELEASED),
    "an error with a cost": (answering(502, {"error": {"code": 502, "message": "no"}, "usage": {"cost": 1e-6}}),
                             502, SPENT),
    "a 200 with an error of a string code": (answering(content={"error": {"code": "server_error", "message": "no"}}),
                                             502, RELEASED),
    "a 200 with an error 401": (answering(content={"error": {"code": 401, "message": "no"}}), 502, RELEASED),
    "a 200 with an error and a cost": (answering(content={**ANSWER, "choices": [], "error": {"code": 502}}),
                                       502, SPENT),
    "a 200 with an error 504": (answering(content={"error": {"code": 504, "message": "slow"}}), 504, KEPT),
    "a negative cost": (answering(content=with_usage(cost=-1)), 200, KEPT),
    "a cost that is a string": (answering(content=with_usage(cost="0.000001")), 200, KEPT),
    "a cost that is true": (answering(content=with_usage(cost=True)), 200, KEPT),
    "a cost that is NaN": (answering(content=json.dumps(with_usage(cost=float("nan"))).encode()), 502, KEPT),
    "a cost that is absurd": (answering(content=with_usage(cost=10**30)), 200, KEPT),
    "an exponent that no number has": (
        answering(content=json.dumps(with_usage(cost=1e-6)).replace("1e-06", "1e99999999999999999999").encode()),
        502, KEPT),
    "usage that is a list": (answering(content={**ANSWER, "usage": []}), 200, KEPT),
    "own key without the provider's bill": (answering(content=with_usage(is_byok=True)), 200, KEPT),
    "a token count that is a string": (answering(content=with_usage(prompt_tokens="many")), 200, SPENT),
    "deeply nested JSON": (answering(content=b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), 502, KEPT),
    "a body that is not UTF-8": (answering(content=b'{"a":"\xff"}'), 502, KEPT),
    "a stream that is empty": (answering(content=b"", kind=SSE), 502, KEPT),
    "a stream of JSON that is none": (answering(content=stream_of(b"{", b"[1]", b"7"), kind=SSE), 502, KEPT),
    "a stream with a number that is none": (
        answering(content=stream_of(DELTA, b'{"usage":{"cost":1e99999999999999999999}}', b"[DONE]"), kind=SSE),
        200, KEPT),
    "a stream that says only [DONE]": (answering(content=stream_of(b"[DONE]"), kind=SSE), 502, KEPT),
    "a stream with a cost in an error before any output": (
        answering(content=stream_of({"error": {"code": 502}, "usage": {"cost": 1e-6}}), kind=SSE), 502, SPENT),
    "a stream with an error after the role alone": (
        answering(content=stream_of({"choices": [{"delta": {"role": "assistant"}}]}, {"error": {"code": 502}}),
                  kind=SSE), 502, RELEASED),
    "a stream with an error after reasoning": (
        answering(content=stream_of({"choices": [{"delta": {"reasoning": "hm"}}]}, {"error": {"code": 502}}),
                  kind=SSE), 200, KEPT),
    "a stream with a time-out before any output": (
        answering(content=stream_of({"error": {"code": 504, "message": "slow"}}), kind=SSE), 504, KEPT),
    "a stream with an error and then output": (
        answering(content=stream_of({"error": {"code": 502}}, DELTA), kind=SSE), 200, KEPT),
    "a stream without a last line break": (
        answering(content=stream_of(DELTA, {"choices": [], "usage": {"cost": 1e-6}}).rstrip(), kind=SSE), 200, SPENT),
    "a stream with CRLF": (
        answering(content=stream_of(DELTA, {"choices": [], "usage": {"cost": 1e-6}}, b"[DONE]").replace(b"\n", b"\r\n"),
                  kind=SSE), 200, SPENT),
    "no connection in time": (raising(httpx.ConnectTimeout("slow")), 502, RELEASED),
    "no free connection": (raising(httpx.PoolTimeout("busy")), 502, RELEASED),
    "a request that could not be written": (raising(httpx.WriteError("broken pipe")), 502, KEPT),
    "a write that took too long": (raising(httpx.WriteTimeout("slow")), 504, KEPT),
    "no answer in time": (raising(httpx.ReadTimeout("slow")), 504, KEPT),
    "a reset before the answer": (raising(httpx.ReadError("reset")), 502, KEPT),
    "closed without an answer": (raising(httpx.RemoteProtocolError("disconnected")), 502, KEPT),
    "bytes that are not gzip": (answering(content=b"hello", encoding="gzip"), 502, KEPT),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_answer_is_no_bug_and_its_money_is_decided(
    name: str, make_door: MakeDoor, simulator: Simulator
) -> None:
    handle, status, hold = STRANGE[name]
    door = at_noon(make_door(upstream=Edge(simulator, handle)))
    answered = door.chat()
    assert answered.status == status, answered.body
    if status != 200:
        assert answered.json["error"]["code"] == status
        assert answered.json["error"]["message"]
    (span,) = spans(door)
    assert span["outcome"] == OUTCOMES[hold]
    expected = {SPENT: (1000, 0), RELEASED: (0, 0), KEPT: (0, span["hold_nanousd"])}
    assert books(door) == expected[hold]


def test_our_key_refused_upstream_is_not_told_as_the_clients(make_door: MakeDoor) -> None:
    door = at_noon(make_door(upstream=transport(Simulator(api_key="another", sleep=lambda _: None))))
    answered = door.chat()
    assert (answered.status, answered.json["error"]["code"]) == (502, 502)
    assert answered.json["error"]["message"] == (
        "OpenRouter does not accept the key of this gateway: check OPENROUTER_API_KEY"
    )
    (span,) = spans(door)
    assert (span["outcome"], span["cause"], books(door)) == ("declined", "status_401", (0, 0))


# Prices.


def test_a_cost_above_the_hold_is_booked_in_full(noon: Door, simulator: Simulator) -> None:
    answered = noon.chat(model="sim/server-tool", max_tokens=16)
    assert answered.status == 200
    (span,) = spans(noon)
    assert span["cost_nanousd"] == simulator.billed_nanousd > span["hold_nanousd"]
    assert books(noon) == (simulator.billed_nanousd, 0)


def test_an_overrun_above_what_was_left_is_booked_in_full_too(make_door: MakeDoor, simulator: Simulator) -> None:
    door = at_noon(make_door(DEFAULT_DAILY_BUDGET="0.001", DEFAULT_MONTHLY_BUDGET="0.001"))
    answered = door.chat(model="sim/server-tool", max_tokens=16)
    assert answered.status == 200
    assert books(door) == (simulator.billed_nanousd, 0)
    assert simulator.billed_nanousd > 1_000_000
    assert answered.headers["X-Farebox-Budget-State"] == "stopped"
    assert door.chat(max_tokens=16).reason == "budget_exhausted"


def sent_caps(simulator: Simulator) -> Mapping[str, Any]:
    """provider.max_price of the last chat request."""
    chats = [request for request in simulator.seen if request.target.endswith("/chat/completions")]
    caps: Mapping[str, Any] = json.loads(chats[-1].body)["provider"]["max_price"]
    return caps


@pytest.mark.parametrize("model", ["sim/dear-provider", "sim/priority", "sim/cent", "sim/cache-write", "sim/discount"])
def test_nothing_is_served_dearer_than_the_price_cap_that_was_sent(
    model: str, noon: Door, simulator: Simulator
) -> None:
    assert noon.chat(model=model).status == 200
    caps = sent_caps(simulator)
    (generation,) = simulator.generations
    tokens, charge = generation.tokens, generation.charge
    assert charge.completion_usd <= tokens.completion * Decimal(str(caps["completion"])) / 10**6
    (span,) = spans(noon)
    assert simulator.billed_nanousd <= span["hold_nanousd"]


def test_a_client_can_keep_a_dear_provider_out(noon: Door, simulator: Simulator) -> None:
    assert noon.chat(model="sim/dear-provider").json["provider"] == "Dear"
    asked = {"max_price": {"prompt": 0.2, "completion": 0.7}}
    assert noon.chat(model="sim/dear-provider", provider=asked).json["provider"] == "Simulated"
    assert books(noon) == (simulator.billed_nanousd, 0)


def test_an_endpoint_that_became_dearer_after_the_catalogue_was_read_does_not_serve(
    noon: Door, simulator: Simulator
) -> None:
    noon.chat()
    cheap = simulator.models["sim/ok"]
    dear = Endpoint({name: f"{Decimal(str(price)) * 9:f}" for name, price in CHEAP.items()}, "Dear", "dear")
    simulator.models["sim/ok"] = replace(cheap, endpoints=(*cheap.endpoints, dear))
    assert noon.chat().json["provider"] == "Simulated"
    assert books(noon) == (simulator.billed_nanousd, 0)


def test_a_price_that_rose_is_refused_once_and_held_at_its_new_height_next(noon: Door, simulator: Simulator) -> None:
    assert noon.chat().status == 200
    before = books(noon)
    old_caps = sent_caps(simulator)
    cheap = simulator.models["sim/ok"]
    risen = {name: f"{Decimal(str(price)) * 3:f}" for name, price in CHEAP.items()}
    simulator.models["sim/ok"] = replace(cheap, endpoints=(Endpoint(risen),))

    refused = noon.chat()
    assert (refused.status, refused.json["error"]["code"]) == (404, 404)
    assert sent_caps(simulator) == old_caps
    assert books(noon) == before
    assert sorted(span.get("cause", "") for span in spans(noon)) == ["", "price_cap"]

    assert noon.chat().status == 200
    assert sent_caps(simulator)["completion"] > 2.9 * old_caps["completion"]
    assert books(noon) == (simulator.billed_nanousd, 0)
    assert all(span["hold_nanousd"] >= span.get("cost_nanousd", 0) for span in spans(noon))


# The catalogue.


def listing(status: int, body: bytes, encoding: str = "identity") -> httpx.MockTransport:
    return httpx.MockTransport(answering(status, body, encoding=encoding))


NO_CATALOGUE: dict[str, httpx.BaseTransport] = {
    "refused": httpx.MockTransport(raising(httpx.ConnectError("refused"))),
    "not connected in time": httpx.MockTransport(raising(httpx.ConnectTimeout("slow"))),
    "silent": httpx.MockTransport(raising(httpx.ReadTimeout("slow"))),
    "cut": httpx.MockTransport(raising(httpx.RemoteProtocolError("cut"))),
    "500": listing(500, b""),
    "a redirect": listing(302, b""),
    "HTML": listing(200, b"<html>"),
    "a list": listing(200, b"[]"),
    "data that is an object": listing(200, b'{"data":{}}'),
    "no data": listing(200, b"{}"),
    "a number that is none": listing(200, b'{"data":[{"created":1e99999999999999999999}]}'),
    "deeply nested": listing(200, b"[" * 100_000 + b"]" * 100_000),
    "not UTF-8": listing(200, b"\xff"),
    "not gzip": listing(200, b"hello", "gzip"),
}


@pytest.mark.parametrize("name", NO_CATALOGUE)
def test_without_prices_nothing_is_sent_and_nothing_is_held(name: str, make_door: MakeDoor) -> None:
    door = at_noon(make_door(upstream=NO_CATALOGUE[name]))
    answered = door.chat()
    assert (answered.status, answered.reason) == (502, "catalogue_unavailable"), answered.body
    assert answered.headers["Retry-After"]
    assert (books(door), spans(door)) == ((0, 0), [])


class Broken(httpx.BaseTransport):
    """The simulator, whose catalogue can be made to fail."""

    def __init__(self, simulator: Simulator) -> None:
        self._whole = transport(simulator)
        self.is_broken = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_broken and request.method == "GET":
            return httpx.Response(503, content=b"")
        return self._whole.handle_request(request)


def test_the_last_good_prices_serve_while_the_catalogue_is_away(make_door: MakeDoor, simulator: Simulator) -> None:
    upstream, watch = Broken(simulator), Watch()
    door = at_noon(make_door(upstream=upstream))
    door = Door(replace(door.gate, catalogue=Catalogue(door.gate.upstream, 300, watch)))
    assert door.chat(model="sim/dear-provider").status == 200
    upstream.is_broken = True
    watch.sleep(1000)
    assert door.chat(model="sim/dear-provider").status == 200
    assert books(door) == (simulator.billed_nanousd, 0)
    assert all(span["hold_nanousd"] >= span["cost_nanousd"] for span in spans(door))
