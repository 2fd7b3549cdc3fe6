"""Streams pass as they arrive, and settle exactly once whatever the client does with them."""

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from farebox.rest import Response
from farebox.routes import answer
from farebox.spans import SHARDS
from local import gateway
from local.simulator import Simulator, transport
from local.sockets import HttpRequest, HttpResponse, Server
from tests.conftest import DEADLINE, GATEWAY_KEY, Door, MakeDoor, chat_body

CHAT = "/api/v1/chat/completions"
SSE = "text/event-stream"
COMMENT = b": OPENROUTER PROCESSING\n\n"
DONE = b"data: [DONE]\n\n"
PATIENCE_S = 20
"""How long a test waits for something that must happen before it says that it did not."""


def event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(text: str) -> bytes:
    return event(
        {"id": "gen-1", "model": "sim/ok", "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]}
    )


USAGE = event({"id": "gen-1", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3, "cost": 0.000002}})
COST_NANOUSD = 2000


class Upstream(httpx.BaseTransport):
    """The simulator for the catalogue; chat is answered with pieces that are made only when they are asked for."""

    def __init__(self, pieces: Callable[[], Iterator[bytes]], kind: str = SSE) -> None:
        self._catalogue = transport(Simulator())
        self._pieces = pieces
        self._kind = kind
        self.made: list[bytes] = []
        self.closed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/chat/completions"):
            return self._catalogue.handle_request(request)
        headers = {"content-type": self._kind, "transfer-encoding": "chunked", "x-generation-id": "gen-1"}
        return httpx.Response(200, headers=headers, stream=_Pieces(self))

    def pieces(self) -> Iterator[bytes]:
        for piece in self._pieces():
            self.made.append(piece)
            yield piece


class _Pieces(httpx.SyncByteStream):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def __iter__(self) -> Iterator[bytes]:
        return self._upstream.pieces()

    def close(self) -> None:
        self._upstream.closed += 1


def saying(*pieces: bytes | Exception, kind: str = SSE) -> Upstream:
    """An upstream that says these pieces; an exception among them is where it breaks."""

    def said() -> Iterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    return Upstream(said, kind)


PIECE_S = 2
"""So long each piece takes in a slow door."""


def slow(door: Door, upstream: Upstream) -> Door:
    """The same door, to whose clock each piece takes 2 seconds: of the 3 that a client waits for a status."""
    return Door(replace(door.gate, monotonic=lambda: float(PIECE_S * len(upstream.made))))


@contextmanager
def streaming(door: Door, **members: Any) -> Iterator[tuple[Response, Iterator[bytes]]]:
    """A streamed call whose body is read by the test."""
    response = door.open("POST", CHAT, chat_body(stream=True, **members))
    try:
        yield response, iter(response.body)
    finally:
        response.close()


def books(door: Door) -> tuple[int, int]:
    """What is spent and what is held, in nano-dollars."""
    day = door.usage()["daily"]
    return round(day["spent_usd"] * 1e9), round(day["held_usd"] * 1e9)


def spans(door: Door) -> list[Mapping[str, Any]]:
    """The spans of this hour, and of the one before in case it has just ended."""
    now = datetime.now(UTC)
    hours = {f"{moment:%Y-%m-%dT%H}" for moment in (now, now - timedelta(minutes=30))}
    return [
        span for hour in hours for shard in range(SHARDS) for span in door.gate.store.spans(f"SPANS#{hour}#{shard}")
    ]


def assert_booked_once(door: Door, billed: int) -> None:
    assert billed > 0
    assert books(door) == (billed, 0)
    assert [span["cost_nanousd"] for span in spans(door)] == [billed]


# Passing on.


def test_each_piece_reaches_the_client_before_upstream_makes_the_next(make_door: MakeDoor) -> None:
    """From the first real delta on: up to it a stream may still turn out to be an error."""
    pieces = [COMMENT, delta("a"), delta("b"), delta("c"), USAGE, DONE]
    upstream = saying(*pieces)
    with streaming(make_door(upstream=upstream)) as (response, body):
        assert response.status == 200
        assert response.headers["Content-Type"].startswith(SSE)
        assert response.headers["X-Generation-Id"] == "gen-1"
        assert upstream.made == pieces[:2]
        for number, piece in enumerate(pieces, start=1):
            assert next(body) == piece
            assert len(upstream.made) == max(number, 2)
        assert list(body) == []


def test_after_3_seconds_without_output_comments_are_passed_on_as_they_come_and_events_are_kept_back(
    make_door: MakeDoor,
) -> None:
    role = delta("")
    pieces = [COMMENT, b": more\n\n", b": and more\n\n", role, delta("a"), USAGE, DONE]
    upstream = saying(*pieces)
    with streaming(slow(make_door(upstream=upstream), upstream)) as (response, body):
        assert response.status == 200
        assert upstream.made == pieces[:2]  # 2 s each
        for number in (1, 2, 3):
            assert next(body) == pieces[number - 1]
            assert len(upstream.made) == max(number, 2)
        assert next(body) == role + delta("a")
        assert list(body) == [USAGE, DONE]


def test_a_stream_passes_byte_for_byte(door: Door, simulator: Simulator) -> None:
    """Comments, both shapes of usage and [DONE] included: as if the client had asked upstream itself."""
    for model in ("sim/ok", "sim/comment-in-body", "sim/usage-empty-choices", "sim/no-done", "sim/reasoning"):
        with streaming(door, model=model) as (_, body):
            through = b"".join(body)
        sent = simulator.seen[-1]
        direct = Simulator(sleep=lambda _: None).handle(HttpRequest("POST", sent.target, sent.headers, sent.body))
        assert without_ids(through) == without_ids(b"".join(direct.body))


def without_ids(body: bytes) -> list[Any]:
    """A stream's lines, without what differs from call to call."""
    lines: list[Any] = []
    for line in body.split(b"\n"):
        said = json.loads(line[6:]) if line.startswith(b"data: {") else line
        lines.append({**said, "id": "", "created": 0} if isinstance(said, dict) else said)
    return lines


def test_lines_that_come_in_parts_are_passed_on_whole_and_none_is_lost(make_door: MakeDoor) -> None:
    whole = b": OPENROUTER PROCESSING\n\n" + delta("ä\U0001f680") + delta("b") + USAGE + DONE
    for size in (1, 2, 3, 7, 50, 1000):
        upstream = saying(*(whole[at : at + size] for at in range(0, len(whole), size)))
        door = make_door(upstream=upstream)
        with streaming(door) as (_, body):
            got = list(body)
        assert b"".join(got) == whole
        assert all(piece.endswith(b"\n") for piece in got)
        assert_booked_once(door, COST_NANOUSD)


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"], ids=["CRLF", "CR", "LF"])
def test_whatever_ends_the_lines_nothing_is_kept_back(end: bytes, make_door: MakeDoor) -> None:
    pieces = [piece.replace(b"\n", end) for piece in (delta("a"), delta("b"), USAGE, DONE)]
    door = make_door(upstream=saying(*pieces))
    with streaming(door) as (_, body):
        assert next(body) == pieces[0]
        assert b"".join(body) == b"".join(pieces[1:])
    assert_booked_once(door, COST_NANOUSD)


def test_a_last_line_without_its_end_is_passed_on_too(make_door: MakeDoor) -> None:
    door = make_door(upstream=saying(delta("a"), USAGE, b"data: [DONE]"))
    with streaming(door) as (_, body):
        assert b"".join(body) == delta("a") + USAGE + b"data: [DONE]"
    assert_booked_once(door, COST_NANOUSD)


def test_white_space_before_a_plain_answer_is_passed_on_after_3_seconds(make_door: MakeDoor) -> None:
    said = {"id": "gen-1", "choices": [{"message": {"content": "hi"}}], "usage": {"cost": 0.000002}}
    pieces = [b"         \n", b"\n", b"  ", json.dumps(said).encode()[:9], json.dumps(said).encode()[9:]]
    upstream = saying(*pieces, kind="application/json")
    door = slow(make_door(upstream=upstream), upstream)
    response = door.open("POST", CHAT, chat_body())
    assert len(upstream.made) == 2
    body = iter(response.body)
    for number in (1, 2, 3):
        assert next(body) == pieces[number - 1]
        assert len(upstream.made) == max(number, 2)
    assert books(door)[1] > 0
    rest = next(body)
    assert json.loads(b"".join(pieces[:3]) + rest) == said
    assert list(body) == []
    response.close()
    assert_booked_once(door, COST_NANOUSD)


def test_padding_that_is_cut_ends_in_an_error_that_parses(make_door: MakeDoor) -> None:
    upstream = saying(b"   \n", b"   \n", b'{"id":"gen-', httpx.ReadError("reset"), kind="application/json")
    door = slow(make_door(upstream=upstream), upstream)
    answered = door.chat()
    assert answered.status == 200
    assert answered.json["error"]["metadata"]["reason"] == "upstream_cut"
    assert answered.json["error"]["code"] == 502
    (span,) = spans(door)
    assert (span["outcome"], books(door)) == ("lost", (0, span["hold_nanousd"]))


@pytest.mark.parametrize("end", [(), (b'{"id":"gen-', httpx.ReadError("reset"))], ids=["whole", "cut"])
def test_padding_that_ends_soon_in_no_answer_is_a_status(
    end: tuple[bytes | Exception, ...], make_door: MakeDoor
) -> None:
    door = make_door(upstream=saying(b"   \n", *end, kind="application/json"))
    answered = door.chat()
    assert (answered.status, answered.reason) == (502, "upstream_cut" if end else "not_json")
    assert answered.headers["x-should-retry"] == "false"
    (span,) = spans(door)
    assert (span["outcome"], books(door)) == ("lost", (0, span["hold_nanousd"]))


def test_padding_and_nothing_else_is_lost(make_door: MakeDoor) -> None:
    upstream = saying(b"   \n", b"\n", b"\n", kind="application/json")
    door = slow(make_door(upstream=upstream), upstream)
    assert door.chat().status == 200
    (span,) = spans(door)
    assert (span["outcome"], books(door)) == ("lost", (0, span["hold_nanousd"]))


# A stream that is cut.


def test_a_cut_stream_ends_with_whole_lines_and_an_error_event(make_door: MakeDoor) -> None:
    door = make_door(upstream=saying(delta("a"), delta("b")[:30], httpx.RemoteProtocolError("cut")))
    with streaming(door) as (_, body):
        got = b"".join(body)
    assert got.startswith(delta("a"))
    events = [json.loads(line[6:]) for line in got.split(b"\n") if line.startswith(b"data: ")]
    first, last = events
    assert first["choices"][0]["delta"]["content"] == "a"
    assert last["choices"][0]["finish_reason"] == "error"
    assert (last["error"]["code"], last["error"]["metadata"]["reason"]) == (502, "upstream_cut")
    assert isinstance(last["error"]["message"], str)
    assert last["object"] == "chat.completion.chunk"
    assert got.endswith(b"\n\n")
    (span,) = spans(door)
    assert (span["outcome"], span["cause"]) == ("lost", "upstream_cut")
    assert books(door) == (0, span["hold_nanousd"])


def test_a_stream_that_is_cut_after_its_cost_is_booked_at_it(make_door: MakeDoor) -> None:
    door = make_door(upstream=saying(delta("a"), USAGE, httpx.ReadError("reset")))
    with streaming(door) as (_, body):
        b"".join(body)
    assert_booked_once(door, COST_NANOUSD)


def test_a_stream_that_breaks_after_done_is_whole(make_door: MakeDoor) -> None:
    door = make_door(upstream=saying(delta("a"), USAGE, DONE, httpx.ReadError("reset")))
    with streaming(door) as (_, body):
        assert b"".join(body) == delta("a") + USAGE + DONE
    assert_booked_once(door, COST_NANOUSD)


def test_a_cost_of_zero_is_not_believed_of_a_stream_that_was_cut(make_door: MakeDoor) -> None:
    nothing_yet = event(
        {"id": "gen-1", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0, "cost": 0}}
    )
    door = make_door(upstream=saying(delta("a"), nothing_yet, delta("b"), httpx.ReadError("reset")))
    with streaming(door) as (_, body):
        b"".join(body)
    (span,) = spans(door)
    assert (span["outcome"], books(door)) == ("lost", (0, span["hold_nanousd"]))


def test_the_last_cost_that_a_stream_tells_is_the_one_that_counts(make_door: MakeDoor) -> None:
    first = event({"id": "gen-1", "choices": [], "usage": {"cost": 0.000001}})
    door = make_door(upstream=saying(delta("a"), first, delta("b"), USAGE, DONE))
    with streaming(door) as (_, body):
        b"".join(body)
    assert_booked_once(door, COST_NANOUSD)


# Settling.


def test_done_reaches_the_client_only_after_the_books_are_settled(door: Door, simulator: Simulator) -> None:
    with streaming(door, model="sim/cent") as (_, body):
        for piece in body:
            spent, held = books(door)
            if b"[DONE]" in piece:
                assert (spent, held) == (simulator.billed_nanousd, 0)
                break
            assert (spent, held > 0) == (0, True)
        else:
            pytest.fail("there was no [DONE]")
    assert_booked_once(door, simulator.billed_nanousd)


@pytest.mark.parametrize("joined", [USAGE + DONE, delta("a") + USAGE + DONE], ids=["usage and done", "everything"])
def test_usage_and_done_in_one_piece_are_settled_before_they_are_passed_on(joined: bytes, make_door: MakeDoor) -> None:
    door = make_door(upstream=saying(delta("a"), joined))
    with streaming(door) as (_, body):
        assert next(body) == delta("a")
        assert next(body) == joined
        assert_booked_once(door, COST_NANOUSD)


def test_a_stream_without_done_is_settled_at_its_end(make_door: MakeDoor) -> None:
    door = make_door(upstream=saying(delta("a"), USAGE))
    with streaming(door) as (_, body):
        assert [next(body), next(body)] == [delta("a"), USAGE]
        assert list(body) == []
        assert_booked_once(door, COST_NANOUSD)


@pytest.mark.parametrize("model", ["sim/cent", "sim/stop-billing", "sim/huge", "sim/pad"])
@pytest.mark.parametrize("read", [0, 1, 3, 5], ids=["unread", "one piece", "comments and a delta", "in the middle"])
def test_a_stream_that_is_closed_early_is_drained_and_booked_at_its_true_cost_once(
    read: int, model: str, door: Door, simulator: Simulator
) -> None:
    """Draining leaves the bill in full also where an abort would have stopped it: the cost is known, not guessed."""
    response = door.open("POST", CHAT, chat_body(model=model, stream=True))
    body = iter(response.body)
    for _ in range(read):
        assert next(body)
    assert simulator.billed_nanousd == 0
    response.close()
    (generation,) = simulator.generations
    assert not generation.cancelled
    assert_booked_once(door, simulator.billed_nanousd)
    response.close()
    assert list(body) == []
    response.close()
    assert_booked_once(door, simulator.billed_nanousd)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_padded_answer_that_nobody_reads_is_booked(stream: bool, door: Door, simulator: Simulator) -> None:  # noqa: FBT001
    response = door.open("POST", CHAT, chat_body(model="sim/pad", stream=stream))
    response.close()
    response.close()
    assert_booked_once(door, simulator.billed_nanousd)


@pytest.mark.parametrize("model", ["sim/cut", "sim/cut-early", "sim/usage-missing", "sim/error-mid-stream"])
def test_a_faulty_stream_that_is_closed_early_keeps_its_hold(model: str, door: Door, simulator: Simulator) -> None:
    response = door.open("POST", CHAT, chat_body(model=model, stream=True))
    response.close()
    response.close()
    (span,) = spans(door)
    assert (span["outcome"], books(door)) == ("lost", (0, span["hold_nanousd"]))
    assert span["hold_nanousd"] >= simulator.billed_nanousd


def test_the_connection_upstream_is_let_go_after_every_end(make_door: MakeDoor) -> None:
    ends: list[tuple[bytes | Exception, ...]] = [
        (delta("a"), USAGE, DONE),
        (delta("a"), USAGE),
        (delta("a"), httpx.ReadError("reset")),
        (delta("a"),),
    ]
    for pieces in ends:
        for read in (False, True):
            upstream = saying(*pieces)
            with streaming(make_door(upstream=upstream)) as (_, body):
                if read:
                    list(body)
            assert upstream.closed >= 1


def test_a_settled_stream_is_not_read_further_for_a_client_that_has_gone(make_door: MakeDoor) -> None:
    """Nothing after [DONE] matters, so nothing after it is waited for."""
    upstream = saying(delta("a"), USAGE + DONE, b": more\n\n", b": and more\n\n")
    door = make_door(upstream=upstream)
    with streaming(door):
        pass
    assert upstream.made == [delta("a"), USAGE + DONE]
    assert_booked_once(door, COST_NANOUSD)


# Over sockets.


@contextmanager
def served(door: Door) -> Iterator[Server]:
    """The door behind a socket, as `make dev` has it."""
    with Server(gateway.serve(lambda event, _context: answer(door.gate, event, DEADLINE))) as server:
        yield server
        server.close(grace_s=PATIENCE_S)


def wait_for(what: Callable[[], bool]) -> None:
    """Ask until it is so, for a bounded time."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


HEADERS = {"Authorization": f"Bearer {GATEWAY_KEY}"}


@pytest.mark.parametrize("model", ["sim/cent", "sim/stop-billing", "sim/huge"])
def test_a_client_that_hangs_up_after_the_first_chunk_is_booked_in_full(
    model: str, door: Door, simulator: Simulator
) -> None:
    with (
        served(door) as server,
        httpx.Client() as http,
        http.stream(
            "POST", server.url + CHAT, content=chat_body(model=model, stream=True), headers=HEADERS
        ) as response,
    ):
        assert response.status_code == 200
        assert next(response.iter_raw())
        response.close()
        wait_for(lambda: bool(spans(door)) and books(door)[1] == 0)
    (generation,) = simulator.generations
    assert not generation.cancelled
    assert_booked_once(door, simulator.billed_nanousd)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_that_resets_its_connection_before_the_answer_is_booked_in_full(
    stream: bool,  # noqa: FBT001
    make_door: MakeDoor,
) -> None:
    """It has sent its request, the model is at work, and then the client's machine is gone."""
    at_work, gone = threading.Event(), threading.Event()

    def wait(_seconds: float) -> None:
        at_work.set()
        assert gone.wait(PATIENCE_S)

    simulator = Simulator(sleep=wait)
    door = make_door(upstream=transport(simulator))
    body = chat_body(model="sim/cent", stream=stream)
    request = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {GATEWAY_KEY}\r\nContent-Length: {len(body)}\r\n"
    )
    with served(door) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(request.encode() + b"\r\n" + body)
        assert at_work.wait(PATIENCE_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
        client.close()
        gone.set()
        wait_for(lambda: bool(spans(door)) and books(door)[1] == 0)
    assert_booked_once(door, simulator.billed_nanousd)


class LockStep:
    """An upstream behind a socket, whose next piece the test hands out."""

    def __init__(self) -> None:
        self._simulator = Simulator()
        self._pieces: queue.Queue[bytes | None] = queue.Queue()

    def say(self, piece: bytes | None) -> None:
        self._pieces.put(piece)

    def handle(self, request: HttpRequest) -> HttpResponse:
        if request.method == "GET":
            return self._simulator.handle(request)
        return HttpResponse(200, (("content-type", SSE),), self._said())

    def _said(self) -> Iterator[bytes]:
        while (piece := self._pieces.get(timeout=PATIENCE_S)) is not None:
            yield piece


def read_in_lock_step(response: httpx.Response, lock_step: LockStep, pieces: list[bytes]) -> Iterator[bytes]:
    chunks = response.iter_raw()
    assert next(chunks) == delta("0")
    for piece in pieces:
        lock_step.say(piece)
        assert next(chunks) == piece
    return chunks


def test_over_sockets_each_chunk_is_read_before_upstream_says_the_next(make_door: MakeDoor) -> None:
    lock_step = LockStep()
    pieces = [b": OPENROUTER PROCESSING\n\n", delta("a"), delta("b"), USAGE, DONE]
    with (
        Server(lock_step.handle) as upstream,
        httpx.HTTPTransport() as sockets,
        served(door := make_door(upstream=sockets, OPENROUTER_BASE_URL=f"{upstream.url}/api/v1")) as server,
        httpx.Client(timeout=PATIENCE_S) as http,
    ):
        lock_step.say(delta("0"))  # the status waits for it
        with http.stream("POST", server.url + CHAT, content=chat_body(stream=True), headers=HEADERS) as response:
            chunks = read_in_lock_step(response, lock_step, pieces)
            assert books(door) == (COST_NANOUSD, 0)
            lock_step.say(None)
            assert list(chunks) == []
    assert_booked_once(door, COST_NANOUSD)


def test_a_stream_that_upstream_cuts_reaches_a_socket_client_as_a_whole_answer_with_an_error(door: Door) -> None:
    with served(door) as server, httpx.Client() as http:
        got = http.post(server.url + CHAT, content=chat_body(model="sim/cut", stream=True), headers=HEADERS)
    events = [json.loads(line[6:]) for line in got.content.split(b"\n") if line.startswith(b"data: ")]
    assert [bool(said.get("error")) for said in events] == [False] * (len(events) - 1) + [True]
    assert len(events) > 1
