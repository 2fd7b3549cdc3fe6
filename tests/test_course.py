"""A call's attempts in time: what the client hears while models are silent, and who is asked when one is for long."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from farebox.rest import Response
from farebox.routes import answer
from farebox.upstream import Upstream
from local.gateway import event_of
from local.simulator import Simulator, transport
from local.sockets import HttpRequest
from tests.conftest import DEADLINE, GATEWAY_KEY, Door, MakeDoor, chat_body
from tests.test_upstream_faults import at_noon, books, spans

CHAT = "/api/v1/chat/completions"
FIRST, SECOND = "sim/ok", "sim/cent"
COMMENT = b": OPENROUTER PROCESSING\n\n"
DONE = b"data: [DONE]\n\n"
CUT_OFF = httpx.ReadError("reset")
Piece = bytes | Exception | float
"""What upstream says, how it breaks, or how many seconds pass."""


def event(**members: Any) -> bytes:
    return b"data: " + json.dumps({"id": "gen-1", **members}).encode() + b"\n\n"


def delta(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"role": "assistant", "content": text}}])


def error(code: int = 502) -> bytes:
    return event(choices=[], error={"code": code, "message": "no"})


def usage(cost: float) -> bytes:
    return event(choices=[], usage={"cost": cost})


ROLE = delta("")
ANSWER = (delta("a"), delta("b"), usage(2e-6), DONE)
COST_NANOUSD = 2000
BODY = json.dumps({"id": "gen-2", "choices": [{"message": {"content": "hi"}}], "usage": {"cost": 2e-6}}).encode()
SLOW = (COMMENT, 2.0, COMMENT, 2.0, COMMENT)
"""4 seconds in which nothing is made: after 3 of them the client gets its status."""
PADDING = (b"   \n", 2.0, b"  \n", 2.0, b" \n")


@dataclass
class Models(httpx.BaseTransport):
    """Models that say their pieces, each made only when it is asked for, and a clock that these move on."""

    says: Mapping[str, Sequence[Piece] | Callable[[], Iterator[Piece]]]
    kind: str = "text/event-stream"
    now: float = 1000.0
    asked: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    catalogue: httpx.BaseTransport = field(default_factory=lambda: transport(Simulator()))

    def clock(self) -> float:
        return self.now

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/chat/completions"):
            return self.catalogue.handle_request(request)
        model = json.loads(request.read())["model"]
        self.asked.append(model)
        headers = {"content-type": self.kind, "transfer-encoding": "chunked", "x-generation-id": f"gen-{model[4:]}"}
        return httpx.Response(200, headers=headers, stream=_Said(self, model))

    def said(self, model: str) -> Iterator[bytes]:
        says = self.says[model]
        for piece in says() if callable(says) else says:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, float):
                self.now += piece
            else:
                yield piece


class _Said(httpx.SyncByteStream):
    def __init__(self, models: Models, model: str) -> None:
        self._models = models
        self._model = model

    def __iter__(self) -> Iterator[bytes]:
        return self._models.said(self._model)

    def close(self) -> None:
        self._models.closed.append(self._model)


OpenDoor = Callable[..., Door]


@pytest.fixture
def open_door(make_door: MakeDoor) -> OpenDoor:
    """A door to these models, whose clocks are theirs."""

    def opened(models: Models, *chain: str, **settings: str) -> Door:
        door = at_noon(make_door(upstream=models, FALLBACK_MODEL_CHAIN=",".join(chain), **settings))
        upstream = Upstream("http://simulator/api/v1", "simulated", httpx.Client(transport=models), models.clock)
        desk = replace(door.gate.desk, sleep=lambda _: None)
        return Door(replace(door.gate, upstream=upstream, monotonic=models.clock, desk=desk))

    return opened


@contextmanager
def calling(
    door: Door, *, stream: bool = True, deadline: float = DEADLINE
) -> Iterator[tuple[Response, Iterator[bytes]]]:
    body = chat_body(model=FIRST, stream=stream, max_tokens=100)
    request = HttpRequest("POST", CHAT, (("Authorization", f"Bearer {GATEWAY_KEY}"),), body)
    response = answer(door.gate, event_of(request), deadline)
    try:
        yield response, iter(response.body)
    finally:
        response.close()


def datas(stream: bytes) -> list[bytes]:
    """The events of a stream as its reader takes them."""
    return [line for line in stream.split(b"\n") if line.startswith(b"data: ")]


def story(door: Door) -> list[tuple[Any, ...]]:
    """Number, outcome and cause of each attempt."""
    found = sorted(spans(door), key=lambda span: span["attempt"])
    return [(span["attempt"], span["outcome"], span.get("cause")) for span in found]


def kept(door: Door) -> int:
    return sum(span["hold_nanousd"] for span in spans(door) if span["outcome"] == "lost")


# Before the status.


def test_an_error_within_3_seconds_leaves_no_trace_in_the_answer(open_door: OpenDoor) -> None:
    models = Models({FIRST: (COMMENT, 1.0, ROLE, 1.0, error()), SECOND: (COMMENT, *ANSWER)})
    with calling(door := open_door(models, SECOND)) as (response, body):
        assert response.headers["X-Farebox-Fallback-From"] == FIRST
        assert response.headers["X-Generation-Id"] == "gen-cent"
        assert b"".join(body) == b"".join((COMMENT, *ANSWER))
    assert story(door) == [(1, "declined", "error_in_stream"), (2, "answered", None)]
    assert books(door) == (COST_NANOUSD, 0)


def test_the_3_seconds_are_of_the_call_and_not_of_each_attempt(open_door: OpenDoor) -> None:
    models = Models({FIRST: (2.0, error()), SECOND: (COMMENT, 2.0, COMMENT, 2.0, *ANSWER)})
    with calling(open_door(models, SECOND)) as (response, body):
        assert (models.now, response.headers["X-Farebox-Model"]) == (1004.0, SECOND)
        assert [next(body), next(body)] == [COMMENT, COMMENT]
        assert b"".join(body) == b"".join(ANSWER)


# Inside a stream that the client has begun to get.


@pytest.mark.parametrize(
    ("end", "outcome", "cause"),
    [
        ((error(),), "declined", "error_in_stream"),
        ((ROLE, error(429)), "declined", "error_in_stream"),
        ((ROLE, CUT_OFF), "lost", "upstream_cut"),
        ((b"data: {half", CUT_OFF), "lost", "upstream_cut"),
        ((DONE,), "lost", "empty"),
        ((httpx.ReadTimeout("silent"),), "lost", "upstream_timeout"),
    ],
    ids=["error", "429 after the role", "cut", "cut in a line", "empty", "silent"],
)
def test_after_comments_another_model_goes_on_in_the_same_stream(
    open_door: OpenDoor, end: tuple[Piece, ...], outcome: str, cause: str
) -> None:
    models = Models({FIRST: (*SLOW, *end), SECOND: (COMMENT, *ANSWER)})
    with calling(door := open_door(models, SECOND)) as (response, body):
        assert (response.status, response.headers["X-Farebox-Model"]) == (200, FIRST)
        assert models.asked == [FIRST]
        assert b"".join(body) == COMMENT * 4 + b"".join(ANSWER)
        assert models.asked == [FIRST, SECOND]
    assert story(door) == [(1, outcome, cause), (2, "answered", None)]
    assert books(door) == (COST_NANOUSD, kept(door))
    assert sorted(set(models.closed)) == [SECOND, FIRST]


@pytest.mark.parametrize(
    ("end", "outcome", "cause"),
    [((error(529),), "declined", "error_in_stream"), ((CUT_OFF,), "lost", "upstream_cut")],
    ids=["error", "cut"],
)
def test_when_the_other_one_fails_at_once_the_client_gets_the_error_of_the_first(
    open_door: OpenDoor, end: tuple[Piece, ...], outcome: str, cause: str
) -> None:
    models = Models({FIRST: (*SLOW, ROLE, error(503)), SECOND: end})
    with calling(door := open_door(models, SECOND)) as (_, body):
        assert b"".join(body) == COMMENT * 3 + ROLE + error(503)
    assert story(door) == [(1, "declined", "error_in_stream"), (2, outcome, cause)]
    assert books(door) == (0, kept(door))


def test_when_the_other_one_is_cut_while_the_client_waits_for_it_an_error_says_so(open_door: OpenDoor) -> None:
    models = Models({FIRST: (*SLOW, ROLE, error(503)), SECOND: (COMMENT, ROLE, CUT_OFF)})
    with calling(door := open_door(models, SECOND)) as (_, body):
        got = b"".join(body)
    assert got.startswith(COMMENT * 4 + ROLE + b"\ndata: ")
    assert json.loads(datas(got)[-1].removeprefix(b"data: "))["error"]["metadata"]["reason"] == "upstream_cut"
    assert books(door) == (0, kept(door))


def test_an_error_after_a_long_silence_is_still_a_status(open_door: OpenDoor) -> None:
    models = Models({FIRST: (30.0, error(503))})
    with calling(open_door(models)) as (response, _):
        assert response.status == 503


def test_two_models_may_fail_one_after_the_other_in_a_stream(open_door: OpenDoor) -> None:
    models = Models({FIRST: (*SLOW, error()), SECOND: (COMMENT, CUT_OFF), "sim/tiers": ANSWER})
    with calling(door := open_door(models, SECOND, "sim/tiers")) as (_, body):
        assert b"".join(body) == COMMENT * 4 + b"".join(ANSWER)
    assert [attempt[:2] for attempt in story(door)] == [(1, "declined"), (2, "lost"), (3, "answered")]
    assert books(door) == (COST_NANOUSD, kept(door))


def test_an_error_that_any_model_would_give_ends_the_stream(open_door: OpenDoor) -> None:
    models = Models({FIRST: (*SLOW, error(400)), SECOND: ANSWER})
    with calling(door := open_door(models, SECOND)) as (_, body):
        assert b"".join(body) == COMMENT * 3 + error(400)
    assert (models.asked, books(door)) == ([FIRST], (0, 0))


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"], ids=["CRLF", "CR", "LF"])
def test_comments_keep_coming_after_a_role_that_is_kept_back(open_door: OpenDoor, end: bytes) -> None:
    """A role says nothing yet, but a client that hears nothing for 5 seconds may repeat the call."""
    comment, role, rest = (piece.replace(b"\n", end) for piece in (COMMENT, ROLE, b"".join(ANSWER)))
    models = Models({FIRST: (comment, 4.0, comment, role, comment, 4.0, comment, rest)})
    with calling(open_door(models)) as (_, body):
        assert [next(body) for _ in range(4)] == [comment] * 4
        assert list(body) == [role + rest]


def test_a_comment_does_not_get_between_an_event_and_its_end(open_door: OpenDoor) -> None:
    pieces = (*SLOW, ROLE[:-1], b"\n" + COMMENT, COMMENT, b"".join(ANSWER))
    with calling(open_door(Models({FIRST: pieces}))) as (_, body):
        got = b"".join(body)
    assert got.replace(COMMENT, b"") == ROLE + b"".join(ANSWER)


# A plain answer that the client has begun to get.


def test_after_white_space_another_model_answers_in_the_same_body(open_door: OpenDoor) -> None:
    failed = b'{"error": {"code": 502, "message": "no"}}'
    models = Models({FIRST: (*PADDING, failed), SECOND: (b" \n", BODY)}, kind="application/json")
    with calling(door := open_door(models, SECOND), stream=False) as (response, body):
        assert response.status == 200
        got = b"".join(body)
    assert (got.strip(), json.loads(got)) == (BODY, json.loads(BODY))
    assert story(door) == [(1, "declined", "error_in_body"), (2, "answered", None)]
    assert books(door) == (COST_NANOUSD, 0)


def test_after_white_space_an_error_of_all_models_is_the_first_ones(open_door: OpenDoor) -> None:
    failed = b'{"error": {"code": 502, "message": "no"}}'
    models = Models({FIRST: (*PADDING, failed), SECOND: (failed,)}, kind="application/json")
    with calling(door := open_door(models, SECOND), stream=False) as (_, body):
        assert json.loads(b"".join(body)) == json.loads(failed)
    assert books(door) == (0, 0)


# A client that goes away.


@pytest.mark.parametrize("read", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("end", "outcome"),
    [((error(),), "declined"), ((CUT_OFF,), "lost"), (ANSWER, "answered")],
    ids=["error", "cut", "ok"],
)
def test_for_a_client_that_has_gone_no_other_model_is_asked(
    open_door: OpenDoor, read: int, end: tuple[Piece, ...], outcome: str
) -> None:
    models = Models({FIRST: (*SLOW, *end), SECOND: ANSWER})
    with calling(door := open_door(models, SECOND)) as (response, body):
        for _ in range(read):
            next(body)
        response.close()
        response.close()
        assert list(body) == []
    assert models.asked == [FIRST]
    assert [attempt[:2] for attempt in story(door)] == [(1, outcome)]
    assert books(door) == (COST_NANOUSD if outcome == "answered" else 0, kept(door))
    assert models.closed


@pytest.mark.parametrize("read", [4, 5, 6])
def test_a_client_that_goes_away_after_another_model_took_over_pays_for_that_one(
    open_door: OpenDoor, read: int
) -> None:
    models = Models({FIRST: (*SLOW, ROLE, CUT_OFF), SECOND: (COMMENT, *ANSWER)})
    with calling(door := open_door(models, SECOND)) as (_, body):
        for _ in range(read):
            next(body)
        assert models.asked == [FIRST, SECOND]
    assert story(door) == [(1, "lost", "upstream_cut"), (2, "answered", None)]
    assert books(door) == (COST_NANOUSD, kept(door))


# Patience.


def forever(piece: bytes) -> Callable[[], Iterator[Piece]]:
    def said() -> Iterator[Piece]:
        while True:
            yield piece
            yield 0.5

    return said


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
def test_a_model_that_does_not_begin_is_given_up_after_the_patience_where_another_one_is_left(
    open_door: OpenDoor,
    stream: bool,  # noqa: FBT001 - a table's column
) -> None:
    kind, pad, ok = ("text/event-stream", COMMENT, ANSWER) if stream else ("application/json", b" \n", (BODY,))
    models = Models({FIRST: forever(pad), SECOND: ok}, kind=kind)
    door = open_door(models, SECOND, FAREBOX_ATTEMPT_TIMEOUT_S="20")
    with calling(door, stream=stream, deadline=models.now + 600) as (_, body):
        got = b"".join(body)
    assert got.replace(pad, b"").strip() == b"".join(ok).strip()
    assert 1020 <= models.now <= 1021
    assert story(door) == [(1, "lost", "upstream_timeout"), (2, "answered", None)]
    assert books(door) == (COST_NANOUSD, kept(door))


def test_a_patience_below_3_seconds_ends_before_the_status(open_door: OpenDoor) -> None:
    models = Models({FIRST: forever(COMMENT), SECOND: ANSWER})
    with calling(open_door(models, SECOND, FAREBOX_ATTEMPT_TIMEOUT_S="2")) as (response, body):
        assert response.headers["X-Farebox-Fallback-From"] == FIRST
        assert b"".join(body) == b"".join(ANSWER)


@pytest.mark.parametrize("chain", [(), (SECOND,)], ids=["alone", "all of them"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
def test_the_last_model_is_given_up_at_the_deadline_of_the_call(
    open_door: OpenDoor,
    stream: bool,  # noqa: FBT001 - a table's column
    chain: tuple[str, ...],
) -> None:
    kind, pad = ("text/event-stream", COMMENT) if stream else ("application/json", b" \n")
    models = Models(dict.fromkeys((FIRST, SECOND), forever(pad)), kind=kind)
    door = open_door(models, *chain, FAREBOX_ATTEMPT_TIMEOUT_S="20")
    with calling(door, stream=stream, deadline=models.now + 200) as (_, body):
        got = b"".join(body).replace(pad, b"").strip()
    said = json.loads(got.removeprefix(b"data: "))["error"]
    assert (said["code"], said["metadata"]["reason"]) == (504, "upstream_timeout")
    assert 1100 <= models.now < 1200
    assert [attempt[1:] for attempt in story(door)] == [("lost", "upstream_timeout")] * (1 + len(chain))
    assert books(door) == (0, kept(door))


def test_a_model_is_not_given_up_for_another_one_that_cannot_be_asked(open_door: OpenDoor) -> None:
    models = Models({FIRST: (*SLOW, 30.0, COMMENT, *ANSWER), SECOND: ANSWER})
    door = open_door(models, SECOND, FAREBOX_ATTEMPT_TIMEOUT_S="20")
    door.gate.breakers.cool(SECOND, 60)
    with calling(door, deadline=models.now + 600) as (_, body):
        assert b"".join(body).endswith(b"".join(ANSWER))


def test_a_model_that_has_begun_is_not_given_up_for_its_age(open_door: OpenDoor) -> None:
    models = Models({FIRST: (delta("a"), 100.0, delta("b"), usage(2e-6), DONE), SECOND: ANSWER})
    door = open_door(models, SECOND, FAREBOX_ATTEMPT_TIMEOUT_S="20")
    with calling(door, deadline=models.now + 600) as (_, body):
        assert b"".join(body) == b"".join(ANSWER)
    assert models.asked == [FIRST]


def test_no_other_model_is_asked_when_no_time_is_left_for_it(open_door: OpenDoor) -> None:
    models = Models({FIRST: (100.0, error()), SECOND: ANSWER})
    with calling(door := open_door(models, SECOND), deadline=models.now + 101) as (response, _):
        assert response.status == 502
    assert (models.asked, books(door)) == ([FIRST], (0, 0))
    assert door.gate.breakers.wait_s(SECOND) == 0


# Circuits.


def test_a_model_that_breaks_off_in_the_middle_each_time_is_not_well(open_door: OpenDoor) -> None:
    models = Models({FIRST: (delta("a"), CUT_OFF), SECOND: ANSWER})
    door = open_door(models, SECOND)
    for _ in range(3):
        with calling(door) as (_response, body):
            assert b"upstream_cut" in b"".join(body)
    assert door.gate.breakers.wait_s(FIRST) > 0


@pytest.mark.parametrize("end", [(error(),), (CUT_OFF,), (DONE,)], ids=["error", "cut", "empty"])
def test_a_failure_after_comments_counts_for_the_circuit(open_door: OpenDoor, end: tuple[Piece, ...]) -> None:
    models = Models({FIRST: (*SLOW, *end), SECOND: ANSWER})
    door = open_door(models, SECOND)
    for _ in range(3):
        assert door.gate.breakers.wait_s(FIRST) == 0
        with calling(door) as (_, body):
            assert b"".join(body).endswith(DONE)
    assert door.gate.breakers.wait_s(FIRST) > 0


def test_an_answer_after_comments_is_a_success_for_the_circuit(open_door: OpenDoor) -> None:
    says: dict[str, Sequence[Piece]] = {SECOND: ANSWER}
    models = Models(says)
    door = open_door(models, SECOND)
    for end in ((error(),), (error(),), ANSWER, (error(),), (error(),)):
        says[FIRST] = (*SLOW, *end)
        with calling(door) as (_, body):
            assert b"".join(body).endswith(DONE)
    assert door.gate.breakers.wait_s(FIRST) == 0
