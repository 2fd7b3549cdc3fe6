"""The proxy as AWS runs it: its function and its layers under one root, in AWS's runtime interface emulator.

Upstream is the simulator behind a socket, the store is the embedded one. After each call the books are compared with
what the simulator billed.
"""

import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from farebox.spans import SHARDS
from farebox.store import Store
from local.answers import COMMENT, PADDING
from local.child import ROOT
from local.gateway import event_of
from local.simulator import Simulator
from local.sockets import HttpRequest, HttpResponse, Server
from tests.conftest import GATEWAY_KEY, connected, new_table
from tests.lambda_sandbox import PATIENCE_S, Sandbox, build_root, last_post, sandbox, unavailable, wrapper

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")

EVENTS = ROOT / "events"
CHAT = "/api/v1/chat/completions"
SETTLE_S = 10
"""What functions/proxy/handler.py keeps of the function's time."""
COMMENTS = 2
"""Pieces with which each stream of the simulator begins. The function keeps them until the first delta is there."""
BEGUN = COMMENTS + 1
DELTA = b'"delta"'


class Paced:
    """A body whose pieces are made one by one, each when the test says so."""

    def __init__(self, body: Iterable[bytes], steps: threading.Semaphore, made: list[bytes]) -> None:
        self._body = body
        self._steps = steps
        self._made = made

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._body)
        while self._steps.acquire(timeout=PATIENCE_S):
            piece = next(pieces, None)
            if piece is None:
                return
            self._made.append(piece)
            yield piece

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


class Flooding(Paced):
    """A body that goes on with more comments than all buffers on the way can take."""

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._body)
        yield from islice(pieces, BEGUN)
        for _ in range(40):
            yield b": " + b"-" * 1_000_000 + b"\n\n"
        yield from pieces


@dataclass(slots=True)
class Upstream:
    """The simulated OpenRouter; while it is paced, each `step` makes one piece of a chat's answer.

    It takes its time, since the function's clock is a real one, until it is to `run_on`.
    """

    simulator: Simulator = field(init=False)
    is_paced: bool = False
    is_flooding: bool = False
    made: list[bytes] = field(default_factory=list)
    _steps: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _is_hurried: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.simulator = Simulator(sleep=self._wait)

    def _wait(self, seconds: float) -> None:
        self._is_hurried.wait(seconds)

    def handle(self, request: HttpRequest) -> HttpResponse:
        response = self.simulator.handle(request)
        if request.method != "POST" or not (self.is_paced or self.is_flooding):
            return response
        body = (Paced if self.is_paced else Flooding)(response.body, self._steps, self.made)
        return HttpResponse(response.status, response.headers, body)

    def step(self, times: int = 1) -> None:
        self._steps.release(times)

    def run_on(self) -> None:
        """Make all the rest, at once."""
        self._is_hurried.set()
        self._steps.release(10_000)

    def begin(self) -> None:
        """As new, but for what a function has learned of it."""
        self.simulator.reset()
        self.is_paced = self.is_flooding = False
        self.made = []
        self._steps = threading.Semaphore(0)
        self._is_hurried.clear()

    @property
    def chats(self) -> int:
        """Chat requests that have arrived."""
        return sum(request.method == "POST" for request in self.simulator.seen)


@dataclass(frozen=True, slots=True)
class Proxy:
    """The function in its sandbox, what is around it, and its books."""

    sandbox: Sandbox
    upstream: Upstream
    store: Store
    server: Server

    @property
    def billed(self) -> int:
        return self.upstream.simulator.billed_nanousd

    def log_lines(self) -> list[dict[str, Any]]:
        """What Powertools' logger wrote; other lines are the emulator's and Lambda's runtime's."""
        lines = self.sandbox.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def books(self, tenant: str) -> tuple[int, int]:
        """What the tenant has spent and holds, in nano-dollars."""
        ledgers = [self.store.ledger(tenant, month) for month in {f"{moment:%Y-%m}" for moment in moments()}]
        return sum(book.spent_nanousd for book in ledgers), sum(book.held_nanousd for book in ledgers)

    def spans(self, tenant: str) -> list[Mapping[str, Any]]:
        hours = {f"{moment:%Y-%m-%dT%H}" for moment in moments()}
        keys = [f"SPANS#{hour}#{shard}" for hour in hours for shard in range(SHARDS)]
        found = [span for key in keys for span in self.store.spans(key) if span["tenant"] == tenant]
        return sorted(found, key=lambda span: str(span["sk"]))

    def assert_answered(self, tenant: str, calls: int = 1) -> None:
        """Every call is booked at what upstream billed, and nothing is held."""
        assert self.billed > 0
        assert self.books(tenant) == (self.billed, 0)
        spans = self.spans(tenant)
        assert [span["outcome"] for span in spans] == ["answered"] * calls
        assert sum(span["cost_nanousd"] for span in spans) == self.billed

    def assert_declined(self, tenant: str, cause: str) -> None:
        """Upstream billed nothing, and nothing is held."""
        assert self.billed == 0
        assert self.books(tenant) == (0, 0)
        assert [(span["outcome"], span["cause"]) for span in self.spans(tenant)] == [("declined", cause)]

    def assert_kept(self, tenant: str, cause: str) -> None:
        """What it cost is not known: the hold stays, and its span says why."""
        (span,) = self.spans(tenant)
        assert (span["outcome"], span["cause"]) == ("lost", cause)
        assert "cost_nanousd" not in span
        assert self.books(tenant) == (0, span["hold_nanousd"])

    def assert_lost(self, tenant: str, cause: str) -> None:
        """The same for a call that upstream billed: what is held pays for it."""
        self.assert_kept(tenant, cause)
        assert 0 < self.billed <= self.books(tenant)[1]

    def assert_untouched(self, tenant: str) -> None:
        """No call was made."""
        assert self.upstream.chats == 0
        assert self.books(tenant) == (0, 0)
        assert self.spans(tenant) == []


def moments() -> tuple[datetime, datetime]:
    """Now, and a moment ago in case an hour or a month has just begun."""
    now = datetime.now(UTC)
    return now, now - timedelta(minutes=30)


@contextmanager
def proxy(root: Path, store_url: str, *, streaming: bool = True, **variables: str) -> Iterator[Proxy]:
    """The function below a root, in an environment of its own, on an empty table."""
    upstream = Upstream()
    with Server(upstream.handle) as server:
        table = new_table(store_url)
        given = {
            "AWS_ENDPOINT_URL_DYNAMODB": store_url,
            "OPENROUTER_BASE_URL": f"{server.url}/api/v1",
            "OPENROUTER_API_KEY": "simulated",
            "FAREBOX_GATEWAY_KEY": GATEWAY_KEY,
            "FAREBOX_ADMIN_KEY": "local-admin-key",
            "FAREBOX_TABLE": table,
            "TENANT_BUDGETS": json.dumps({"poor": {"daily": 0.0001}}),
            **(wrapper(root) if streaming else {}),
            **variables,
        }
        with sandbox(root, handler="handler.handler", variables=given) as running:
            yield Proxy(running, upstream, Store(connected(store_url), table), server)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Lambda unpacks; third-party packages are those of the virtual environment."""
    path = tmp_path_factory.mktemp("lambda")
    layers = {ROOT / "layers/runtime": "", ROOT / "layers/farebox": "python"}
    build_root(path, layers=layers, function=ROOT / "functions/proxy")
    return path


@pytest.fixture(scope="module")
def warm_streaming(root: Path, embedded_url: str) -> Iterator[Proxy]:
    with proxy(root, embedded_url) as running:
        yield running


@pytest.fixture(scope="module")
def warm_buffered(root: Path, embedded_url: str) -> Iterator[Proxy]:
    with proxy(root, embedded_url, streaming=False) as running:
        yield running


@pytest.fixture
def streaming(warm_streaming: Proxy) -> Proxy:
    """The function started through the wrapper; warm, as most invocations find it."""
    warm_streaming.upstream.begin()
    warm_streaming.sandbox.wiretap.forget()
    return warm_streaming


@pytest.fixture
def buffered(warm_buffered: Proxy) -> Proxy:
    """The same function without the wrapper: AWS's own runtime."""
    warm_buffered.upstream.begin()
    return warm_buffered


@pytest.fixture
def tenant() -> str:
    """A tenant of the test's own."""
    return f"tenant-{uuid.uuid4().hex[:8]}"


def event(name: str, tenant: str | None = None, **members: Any) -> dict[str, Any]:
    """An event of events/*.json, with another tenant, and members laid over its body."""
    loaded: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    loaded["requestContext"]["requestId"] = str(uuid.uuid4())
    if tenant is not None:
        loaded["headers"]["X-Tenant-Id"] = tenant
        loaded["multiValueHeaders"]["X-Tenant-Id"] = [tenant]
    if members:
        loaded["body"] = json.dumps({**json.loads(loaded["body"]), **members})
    return loaded


def reason(body: bytes | str) -> Any:
    return json.loads(body)["error"]["metadata"]["reason"]


def events_of(body: bytes) -> list[bytes]:
    return [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]


@contextmanager
def calling(place: Proxy, sent: Mapping[str, Any]) -> Iterator[None]:
    """The invocation, on its way in a thread of its own; it has ended after the block."""
    call = threading.Thread(target=place.sandbox.invoke, args=(sent,))
    call.start()
    try:
        yield
    finally:
        place.upstream.run_on()
        call.join()


# Through the wrapper: answers stream.


def test_a_streamed_chat_leaves_piece_by_piece_and_is_settled_before_its_end(streaming: Proxy, tenant: str) -> None:
    upstream, wiretap = streaming.upstream, streaming.sandbox.wiretap
    upstream.is_paced = True
    sent = event("chat-streamed", tenant)
    with calling(streaming, sent):
        upstream.step(COMMENTS)
        for number in range(COMMENTS, 9):
            upstream.step()
            # This piece has left the function, and the next one is not made yet.
            heard = wiretap.wait_for(upstream_piece(upstream, number))
            assert len(upstream.made) == number + 1
            assert not heard.endswith(b"\r\n0\r\n\r\n")
        assert upstream.made[-1] == b"data: [DONE]\n\n"
        streaming.assert_answered(tenant)

    post = last_post(wiretap.heard())
    assert post.prelude["statusCode"] == 200
    assert post.prelude["headers"]["Content-Type"] == "text/event-stream; charset=utf-8"
    assert post.prelude["headers"]["X-Request-Id"] == sent["requestContext"]["requestId"]
    assert post.prelude["headers"]["X-Generation-Id"] == json.loads(events_of(post.body)[0])["id"]
    assert "X-Farebox-Cost-Usd" not in post.prelude["headers"]
    assert post.chunks[1:] == tuple(upstream.made)
    assert post.trailers == {}
    streaming.assert_answered(tenant)


def upstream_piece(upstream: Upstream, number: int) -> bytes:
    """A piece, as soon as it is made."""
    for _ in range(int(PATIENCE_S / 0.01)):
        if len(upstream.made) > number:
            return upstream.made[number]
        threading.Event().wait(0.01)
    raise TimeoutError(f"upstream was not asked for piece {number}")


def test_a_plain_chat_is_one_chunk_with_its_cost_in_the_prelude(streaming: Proxy, tenant: str) -> None:
    sent = event("chat", tenant)
    post = streaming.sandbox.stream(sent)
    assert post.prelude["statusCode"] == 200
    assert post.prelude["headers"]["Content-Type"] == "application/json"
    assert post.prelude["headers"]["X-Request-Id"] == sent["requestContext"]["requestId"]
    assert round(float(post.prelude["headers"]["X-Farebox-Cost-Usd"]) * 1e9) == streaming.billed
    assert len(post.chunks) == 2
    assert json.loads(post.body)["choices"][0]["message"]["content"]
    streaming.assert_answered(tenant)


@pytest.mark.parametrize(
    ("name", "sign_of_life"), [("chat", PADDING), ("chat-streamed", COMMENT)], ids=["plain", "streamed"]
)
def test_a_client_is_kept_alive_while_a_model_is_still_at_work(
    name: str, sign_of_life: bytes, streaming: Proxy, tenant: str
) -> None:
    upstream, wiretap = streaming.upstream, streaming.sandbox.wiretap
    upstream.is_paced = True
    with calling(streaming, event(name, tenant, model="sim/comments-then-answer")):
        upstream.step(12)  # the last of them comes more than PEEK_S after the first; no answer is made yet
        assert b'{"statusCode": 200, ' in wiretap.wait_for(sign_of_life)
        assert set(upstream.made) == {sign_of_life}
        assert streaming.billed == 0
    post = last_post(wiretap.heard())
    assert post.chunks[1] == sign_of_life
    assert "X-Farebox-Cost-Usd" not in post.prelude["headers"]
    assert post.body == b"".join(upstream.made)
    assert post.trailers == {}
    streaming.assert_answered(tenant)


def test_a_refusal_is_a_stream_of_one_chunk_and_nothing_goes_upstream(streaming: Proxy) -> None:
    post = streaming.sandbox.stream(event("chat-streamed", "poor", max_tokens=100_000))
    assert post.prelude["statusCode"] == 429
    assert post.prelude["headers"]["x-should-retry"] == "false"
    assert reason(post.body) == "budget_exhausted"
    assert len(post.chunks) == 2
    streaming.assert_untouched("poor")


# A model each: one that says Retry-After is not asked again for so long.
@pytest.mark.parametrize(("name", "status", "wait"), [("chat", 429, "2"), ("chat-streamed", 503, "4")])
def test_a_refusal_of_upstream_has_its_own_status(
    name: str, status: int, wait: str, streaming: Proxy, tenant: str
) -> None:
    post = streaming.sandbox.stream(event(name, tenant, model=f"sim/{status}"))
    assert (post.prelude["statusCode"], reason(post.body)) == (status, "upstream_error")
    assert post.prelude["headers"]["Content-Type"] == "application/json"
    assert post.prelude["headers"]["Retry-After"] == wait
    streaming.assert_declined(tenant, f"status_{status}")


@pytest.mark.parametrize("name", ["chat", "chat-streamed"])
def test_a_connection_that_upstream_closes_without_an_answer_is_a_502(name: str, streaming: Proxy, tenant: str) -> None:
    post = streaming.sandbox.stream(event(name, tenant, model="sim/refuse"))
    assert (post.prelude["statusCode"], reason(post.body)) == (502, "upstream_cut")
    assert post.prelude["headers"]["x-should-retry"] == "false"
    streaming.assert_kept(tenant, "upstream_cut")


@pytest.mark.parametrize("name", ["chat", "chat-streamed"])
def test_an_upstream_that_is_not_there_costs_nothing(name: str, root: Path, embedded_url: str, tenant: str) -> None:
    with proxy(root, embedded_url) as running:
        running.sandbox.stream(event("chat", tenant))  # its prices are known now
        before = running.books(tenant)
        running.server.close()
        post = running.sandbox.stream(event(name, tenant))
        assert (post.prelude["statusCode"], reason(post.body)) == (502, "not_sent")
        assert running.books(tenant) == before
        assert [span["outcome"] for span in running.spans(tenant)] == ["answered", "declined"]


def test_a_cut_in_the_middle_of_a_stream_ends_it_with_an_error_event(streaming: Proxy, tenant: str) -> None:
    post = streaming.sandbox.stream(event("chat-streamed", tenant, model="sim/cut"))
    assert post.prelude["statusCode"] == 200
    *deltas, last = events_of(post.body)
    assert deltas
    assert json.loads(last)["error"]["metadata"]["reason"] == "upstream_cut"
    assert post.trailers == {}
    streaming.assert_lost(tenant, "upstream_cut")


def test_a_cut_in_the_middle_of_a_plain_body_is_a_502(streaming: Proxy, tenant: str) -> None:
    post = streaming.sandbox.stream(event("chat", tenant, model="sim/cut"))
    assert (post.prelude["statusCode"], reason(post.body)) == (502, "upstream_cut")
    streaming.assert_lost(tenant, "upstream_cut")


def test_invocations_in_a_row_share_what_the_first_one_learned(streaming: Proxy, tenant: str) -> None:
    for name in ("chat-streamed", "chat", "chat-streamed"):
        assert streaming.sandbox.stream(event(name, tenant, model="sim/cent")).prelude["statusCode"] == 200
    streaming.assert_answered(tenant, calls=3)
    prices = [request.target for request in streaming.upstream.simulator.seen if request.method == "GET"]
    assert len(prices) == len(set(prices))


@pytest.mark.parametrize(("pieces", "got"), [(1, b""), (BEGUN, DELTA)], ids=["in-silence", "in-the-middle"])
def test_a_client_that_goes_away_is_paid_for_in_full(pieces: int, got: bytes, streaming: Proxy, tenant: str) -> None:
    upstream, wiretap = streaming.upstream, streaming.sandbox.wiretap
    upstream.is_paced = True
    address = urlsplit(streaming.sandbox.url)
    body = json.dumps(event("chat-streamed", tenant)).encode()
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as client:
        client.sendall(b"POST /2015-03-31/functions/function/invocations HTTP/1.1\r\nHost: sandbox\r\n")
        client.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        upstream.step(pieces)
        upstream_piece(upstream, pieces - 1)
        wiretap.wait_for(got)
    upstream.run_on()
    assert streaming.sandbox.invoke(event("health")).status_code == 200  # the emulator serves one after the other
    streaming.assert_answered(tenant)


def test_a_connection_to_lambda_that_breaks_costs_what_upstream_bills(streaming: Proxy, tenant: str) -> None:
    upstream, wiretap = streaming.upstream, streaming.sandbox.wiretap
    upstream.is_paced = True
    wiretap.hang_up_at(DELTA)
    with calling(streaming, event("chat-streamed", tenant, model="sim/cent")):
        upstream.step(BEGUN)
        wiretap.wait_for(DELTA)
    streaming.assert_answered(tenant)
    assert b"cut short" in streaming.sandbox.log.read_bytes()
    assert streaming.sandbox.stream(event("health")).prelude["statusCode"] == 200


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("chat-without-body", 400, "malformed"),
        ("chat-without-key", 401, "unauthenticated"),
        ("chat-multi-value-headers", 400, "malformed"),
        ("unknown-path", 404, "not_found"),
    ],
)
def test_an_event_that_cannot_be_served_is_refused(name: str, status: int, said: str, streaming: Proxy) -> None:
    sent = event(name)
    post = streaming.sandbox.stream(sent)
    assert (post.prelude["statusCode"], reason(post.body)) == (status, said)
    assert post.prelude["headers"]["X-Request-Id"] == sent["requestContext"]["requestId"]
    streaming.assert_untouched("acme")


def test_a_base64_body_is_read_as_its_bytes(streaming: Proxy, tenant: str) -> None:
    post = streaming.sandbox.stream(event("chat-base64", tenant))
    assert post.prelude["statusCode"] == 200
    assert "Grüß Gott, 世界".encode() in streaming.upstream.simulator.seen[-1].body
    streaming.assert_answered(tenant)


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "GET"])
def test_another_method_on_a_known_path_is_refused(method: str, streaming: Proxy) -> None:
    post = streaming.sandbox.stream({**event("chat"), "httpMethod": method})
    assert (post.prelude["statusCode"], reason(post.body)) == (405, "method_not_allowed")
    assert post.prelude["headers"]["Allow"] == "POST"
    assert streaming.upstream.chats == 0


def test_a_body_just_below_lambdas_limit_is_refused_before_it_is_read(streaming: Proxy, tenant: str) -> None:
    sent = event("chat", tenant)
    sent["body"] = " " * 6_000_000 + sent["body"]
    post = streaming.sandbox.stream(sent)
    assert (post.prelude["statusCode"], reason(post.body)) == (413, "body_too_large")
    streaming.assert_untouched(tenant)


@pytest.mark.parametrize("sent", [{}, {"source": "aws.events", "detail": {}}], ids=["empty", "scheduled"])
def test_an_event_of_something_else_is_answered_and_does_no_harm(sent: dict[str, Any], streaming: Proxy) -> None:
    post = streaming.sandbox.stream(sent)
    assert (post.prelude["statusCode"], reason(post.body)) == (404, "not_found")


def test_what_the_local_gateway_makes_of_a_request_is_served_alike(streaming: Proxy, tenant: str) -> None:
    headers = (("Authorization", f"Bearer {GATEWAY_KEY}"), ("X-Tenant-Id", tenant))
    body = json.dumps({"model": "sim/ok", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    post = streaming.sandbox.stream(event_of(HttpRequest("POST", CHAT, headers, body)))
    assert post.prelude["statusCode"] == 200
    streaming.assert_answered(tenant)
    usage = streaming.sandbox.stream(event_of(HttpRequest("GET", f"/api/usage/{tenant}", headers[:1], b"")))
    assert round(json.loads(usage.body)["daily"]["spent_usd"] * 1e9) == streaming.billed


# Logs.


def test_a_call_is_one_json_line_with_its_request_id_and_trace_id(streaming: Proxy, tenant: str) -> None:
    sent = event("chat-streamed", tenant)
    streaming.sandbox.stream(sent)
    (line,) = [line for line in streaming.log_lines() if line.get("tenant") == tenant]
    assert (line["message"], line["level"], line["service"]) == ("call", "INFO", "farebox")
    assert line["request_id"] == sent["requestContext"]["requestId"]
    assert line["xray_trace_id"].startswith("1-")
    assert line["outcome"] == "answered"


def test_each_invocation_has_a_trace_id_of_its_own(streaming: Proxy, tenant: str) -> None:
    for _ in range(2):
        streaming.sandbox.stream(event("chat", tenant))
    first, second = (line["xray_trace_id"] for line in streaming.log_lines() if line.get("tenant") == tenant)
    assert int(second.removeprefix("1-")) == int(first.removeprefix("1-")) + 1


def test_a_refusal_is_a_line_as_well_and_no_line_has_a_key_or_a_prompt(streaming: Proxy, tenant: str) -> None:
    sent = event("chat", tenant, messages=[{"role": "user", "content": "a-secret-prompt"}], n=2)
    streaming.sandbox.stream(sent)
    request_id = sent["requestContext"]["requestId"]
    (line,) = [line for line in streaming.log_lines() if line.get("request_id") == request_id]
    assert (line["message"], line["reason"]) == ("refusal", "unsupported_field")
    log = streaming.sandbox.log.read_text()
    assert [word for word in ("a-secret-prompt", GATEWAY_KEY, "simulated") if word in log] == []


# The end of the function's time.


@pytest.fixture(scope="module")
def short(root: Path, embedded_url: str) -> Iterator[Proxy]:
    """A function with three seconds for a call."""
    with proxy(root, embedded_url, AWS_LAMBDA_FUNCTION_TIMEOUT=str(SETTLE_S + 3)) as running:
        running.sandbox.stream(event("health"))  # the first invocation's time has the cold start in it
        yield running


@pytest.fixture(scope="module")
def patient(root: Path, embedded_url: str) -> Iterator[Proxy]:
    """A function with more time for a call than a client is kept waiting for its first bytes."""
    with proxy(root, embedded_url, AWS_LAMBDA_FUNCTION_TIMEOUT=str(SETTLE_S + 7)) as running:
        running.sandbox.stream(event("chat"))  # prices are known now, too
        yield running


def assert_settled_in_time(place: Proxy, tenant: str) -> None:
    """As lost, and the environment lives on."""
    place.assert_kept(tenant, "upstream_timeout")
    assert place.sandbox.stream(event("health")).prelude["statusCode"] == 200
    assert b"timed out after" not in place.sandbox.log.read_bytes()


@pytest.mark.parametrize("model", ["sim/pad-forever", "sim/slow"])
@pytest.mark.parametrize("name", ["chat", "chat-streamed"])
def test_a_call_that_gives_nothing_is_a_504_and_settled_as_lost_before_the_functions_time_is_up(
    name: str, model: str, short: Proxy, tenant: str
) -> None:
    short.upstream.begin()
    post = short.sandbox.stream(event(name, tenant, model=model))
    assert (post.prelude["statusCode"], reason(post.body)) == (504, "upstream_timeout")
    assert post.prelude["headers"]["x-should-retry"] == "false"
    assert_settled_in_time(short, tenant)


@pytest.mark.parametrize("name", ["chat", "chat-streamed"])
def test_a_call_that_gives_white_space_without_end_ends_with_an_error_before_the_functions_time_is_up(
    name: str, patient: Proxy, tenant: str
) -> None:
    patient.upstream.begin()
    post = patient.sandbox.stream(event(name, tenant, model="sim/pad-forever"))
    assert post.prelude["statusCode"] == 200  # it went out with the white space
    text = events_of(post.body)[-1] if name == "chat-streamed" else post.body
    assert reason(text) == "upstream_timeout"
    assert_settled_in_time(patient, tenant)


def test_a_stream_that_stops_in_the_middle_ends_with_an_error_before_the_functions_time_is_up(
    short: Proxy, tenant: str
) -> None:
    short.upstream.begin()
    short.upstream.is_paced = True
    short.upstream.step(BEGUN)
    post = short.sandbox.stream(event("chat-streamed", tenant))
    assert post.prelude["statusCode"] == 200
    delta, error = events_of(post.body)
    assert DELTA in delta
    assert reason(error) == "upstream_timeout"
    assert_settled_in_time(short, tenant)


def test_a_client_that_reads_no_more_cannot_keep_a_call_from_being_settled(short: Proxy, tenant: str) -> None:
    short.upstream.begin()
    short.upstream.is_flooding = True
    short.sandbox.wiretap.stop_reading_at(b"/response HTTP")
    short.sandbox.invoke(event("chat-streamed", tenant))
    assert_settled_in_time(short, tenant)


def test_a_function_without_time_for_a_call_makes_none(root: Path, embedded_url: str, tenant: str) -> None:
    with proxy(root, embedded_url, AWS_LAMBDA_FUNCTION_TIMEOUT=str(SETTLE_S - 1)) as late:
        post = late.sandbox.stream(event("chat", tenant))
        assert (post.prelude["statusCode"], reason(post.body)) == (502, "not_sent")
        assert late.upstream.chats == 0
        late.assert_declined(tenant, "not_sent")


# Without the wrapper: AWS's own runtime, one answer in one piece.


def in_one_piece(place: Proxy, sent: Mapping[str, Any]) -> tuple[int, Mapping[str, str], str]:
    answer = place.sandbox.invoke(sent).json()
    assert set(answer) == {"statusCode", "headers", "body", "isBase64Encoded"}
    assert answer["isBase64Encoded"] is False
    return answer["statusCode"], answer["headers"], answer["body"]


@pytest.mark.parametrize("name", ["chat", "chat-base64"])
def test_without_the_wrapper_a_chat_is_answered_in_one_piece(name: str, buffered: Proxy, tenant: str) -> None:
    status, headers, body = in_one_piece(buffered, event(name, tenant))
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"]
    assert round(float(headers["X-Farebox-Cost-Usd"]) * 1e9) == buffered.billed
    buffered.assert_answered(tenant)


def test_without_the_wrapper_a_streamed_chat_is_whole(buffered: Proxy, tenant: str) -> None:
    status, headers, body = in_one_piece(buffered, event("chat-streamed", tenant))
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert body.endswith("data: [DONE]\n\n")
    buffered.assert_answered(tenant)


def test_without_the_wrapper_a_refusal_has_its_status(buffered: Proxy) -> None:
    status, headers, body = in_one_piece(buffered, event("chat", "poor", max_tokens=100_000))
    assert (status, reason(body), headers["x-should-retry"]) == (429, "budget_exhausted", "false")
    buffered.assert_untouched("poor")


def test_without_the_wrapper_a_cut_stream_ends_with_an_error_event(buffered: Proxy, tenant: str) -> None:
    status, _, body = in_one_piece(buffered, event("chat-streamed", tenant, model="sim/cut"))
    assert (status, reason(events_of(body.encode())[-1])) == (200, "upstream_cut")
    buffered.assert_lost(tenant, "upstream_cut")


# What a start needs.


def secrets_manager(secrets: Mapping[str, str]) -> Callable[[HttpRequest], HttpResponse]:
    """AWS Secrets Manager, as far as a function reads from it."""

    def handle(request: HttpRequest) -> HttpResponse:
        assert request.header("x-amz-target") == "secretsmanager.GetSecretValue"
        name = json.loads(request.body)["SecretId"]
        if name in secrets:
            status, said = 200, {"Name": name, "SecretString": secrets[name]}
        else:
            sentence = "Secrets Manager can't find the specified secret."
            status, said = 400, {"__type": "ResourceNotFoundException", "Message": sentence}
        return HttpResponse(status, (("Content-Type", "application/x-amz-json-1.1"),), (json.dumps(said).encode(),))

    return handle


@contextmanager
def proxy_with_secrets(root: Path, store_url: str, secrets: Mapping[str, str]) -> Iterator[Proxy]:
    """The function with its gateway key in a secret."""
    with (
        Server(secrets_manager(secrets)) as server,
        proxy(
            root,
            store_url,
            AWS_ENDPOINT_URL_SECRETS_MANAGER=server.url,
            FAREBOX_GATEWAY_KEY="",
            FAREBOX_GATEWAY_KEY_SECRET="farebox/gateway-key",
        ) as running,
    ):
        yield running


def test_a_key_from_secrets_manager_opens_and_is_not_in_the_log(root: Path, embedded_url: str, tenant: str) -> None:
    secrets = {"farebox/gateway-key": "a-key-that-was-made\n"}
    with proxy_with_secrets(root, embedded_url, secrets) as running:
        sent = event("chat", tenant)
        sent["headers"]["Authorization"] = "Bearer a-key-that-was-made"
        sent["multiValueHeaders"]["Authorization"] = ["Bearer a-key-that-was-made"]
        assert running.sandbox.stream(sent).prelude["statusCode"] == 200
        running.assert_answered(tenant)
        assert running.sandbox.stream(event("chat", tenant)).prelude["statusCode"] == 401
        assert "a-key-that-was-made" not in running.sandbox.log.read_text()


@pytest.mark.parametrize(
    ("secrets", "sentence"),
    [
        ({}, "FAREBOX_GATEWAY_KEY_SECRET: the secret farebox/gateway-key cannot be read: "),
        (
            {"farebox/gateway-key": ""},
            "FAREBOX_GATEWAY_KEY_SECRET: the secret farebox/gateway-key is empty; put the key into it",
        ),
    ],
    ids=["missing", "empty"],
)
def test_a_secret_that_gives_no_key_ends_the_start_with_a_sentence(
    secrets: Mapping[str, str], sentence: str, root: Path, embedded_url: str, tenant: str
) -> None:
    with proxy_with_secrets(root, embedded_url, secrets) as running:
        report = running.sandbox.invoke(event("chat", tenant)).json()
        assert report["errorType"] == "SettingsError"
        assert report["errorMessage"].startswith(sentence)
        assert f"[ERROR] SettingsError: {sentence}" in running.sandbox.log.read_text()
        assert b"POST /2018-06-01/runtime/init/error" in running.sandbox.wiretap.heard()
        running.assert_untouched(tenant)


def test_without_its_table_the_proxy_admits_nothing(root: Path, embedded_url: str, tenant: str) -> None:
    with proxy(root, embedded_url, FAREBOX_TABLE="a-table-that-is-not-there") as running:
        for name in ("chat", "chat-streamed"):
            post = running.sandbox.stream(event(name, tenant))
            assert (post.prelude["statusCode"], reason(post.body)) == (503, "store_unavailable")
            assert post.prelude["headers"]["Retry-After"] == "2"
        running.assert_untouched(tenant)
        assert "ResourceNotFoundException" in running.sandbox.log.read_text()
