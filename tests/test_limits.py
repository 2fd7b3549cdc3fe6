"""Every size has a limit, whoever sends it; and the local server reads a request in one way or not at all."""

import itertools
import re
import socket
from collections import deque

import httpx
import pytest

from farebox import sse
from farebox.breaker import Breakers
from farebox.directory import MAX_KEPT, Directory
from farebox.upstream import Lost, Upstream
from local.child import ROOT
from local.in_process import InProcess
from local.simulator import Simulator
from local.sockets import HttpRequest, HttpResponse, Server
from tests.conftest import Door, MakeDoor

PACKAGE = ROOT / "layers" / "farebox" / "farebox"

# Sizes.


def endless(simulator: Simulator, target: str, piece: bytes) -> InProcess:
    """An upstream whose answer to this does not end."""

    def handle(request: HttpRequest) -> HttpResponse:
        if not request.target.endswith(target):
            return simulator.handle(request)
        return HttpResponse(200, (("content-type", "application/json"),), itertools.repeat(piece))

    return InProcess(handle)


@pytest.mark.parametrize("target", ["/models", "/endpoints"])
def test_prices_without_end_are_given_up(target: str, make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(upstream=endless(simulator, target, b" " * 2**20))
    answered = door.chat()
    assert answered.status == (502 if target == "/models" else 200)


def test_an_answer_without_end_is_given_up_and_its_money_stays_held(make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(upstream=endless(simulator, "/completions", b"x" * 2**20))
    assert door.chat().status in (200, 502)
    assert door.usage()["daily"]["held_usd"] > 0


def test_a_stream_without_end_is_given_up() -> None:
    client = httpx.Client(transport=endless(Simulator(), "/completions", b": x\n" * 2**18), trust_env=False)
    sent = Upstream("http://simulator/api/v1", "k", client, lambda: 0.0).chat(b"{}", {}, 60.0, stream=True)
    with pytest.raises(Lost):
        deque(sent.body, maxlen=0)


def test_empty_data_lines_of_one_event_are_kept_only_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    reader = sse.Reader()
    for _ in range(1000):
        reader.feed(b"data:\n")
    assert len(reader._data) <= 100


def test_names_of_tenants_are_kept_only_up_to_a_limit(door: Door) -> None:
    directory = Directory(Nobody(), door.gate.settings)  # type: ignore[arg-type]
    for number in range(MAX_KEPT + 10):
        directory.at(f"t{number}", door.gate.now())
    assert len(directory._kept) <= MAX_KEPT


class Nobody:
    """A store without tenants."""

    def tenant(self, default: object) -> None:
        pass


def test_only_models_with_a_price_have_a_circuit(door: Door) -> None:
    for name in ("no/model", "sim/ok:nitro:nitro", "sim/ok:floor", "m" * 200, ":nitro", "sim/ok:online:x"):
        door.chat(model=name)
    breakers: Breakers = door.gate.breakers
    assert set(breakers._circuits) == {"sim/ok"}


@pytest.mark.parametrize("depth", [100, 900, 950, 980, 990, 1000, 5000])
def test_an_error_of_upstream_may_be_nested_at_any_depth(depth: int, make_door: MakeDoor, simulator: Simulator) -> None:
    body = b'{"error":{"code":400,"message":"no","metadata":' + b"[" * depth + b"]" * depth + b"}}"

    def handle(request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return simulator.handle(request)
        return HttpResponse(400, (("content-type", "application/json"),), (body,))

    answered = make_door(upstream=InProcess(handle)).chat()
    assert answered.status == 400


# The local server, which stands where API Gateway does.

POST = b"POST /api/x HTTP/1.1\r\nHost: x\r\n"


def sent_raw(data: bytes) -> tuple[list[bytes], list[HttpRequest]]:
    """The status lines of all responses to these bytes, and the requests that were handled."""
    seen: list[HttpRequest] = []

    def handle(request: HttpRequest) -> HttpResponse:
        seen.append(request)
        return HttpResponse(200, (("content-length", "0"),), ())

    with Server(handle) as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answered = b"".join(iter(lambda: client.recv(65_536), b""))
    return re.findall(rb"HTTP/1.1 (\d+)", answered), seen


INNER = b"GET /api/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED: dict[str, bytes] = {
    "both lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + INNER,
    "a signed length": POST + b"Content-Length: +0\r\n\r\n" + INNER,
    "a length in hexadecimal": POST + b"Content-Length: 0x0\r\n\r\n" + INNER,
    "a list of lengths": POST + b"Content-Length: 0, 40\r\n\r\n" + INNER,
    "a folded length": POST + b"Content-Length: 0\r\n 40\r\n\r\n" + INNER,
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + INNER,
    "a chunk that does not end": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\naXX0\r\n\r\n" + INNER,
    "no length": POST + b"\r\n" + INNER,
    "a space before the colon": b"GET /api/x HTTP/1.1\r\nHost: x\r\nContent-Length : 42\r\n\r\n" + INNER,
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + INNER,
    "a length of many digits": POST + b"Content-Length: " + b"0" * 5000 + b"\r\n\r\n" + INNER,
}


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
def test_a_request_with_two_readings_is_refused_and_nothing_after_it_is_read(data: bytes) -> None:
    statuses, seen = sent_raw(data)
    assert seen == []
    assert len(statuses) == 1
    assert statuses[0] in (b"400", b"411", b"501")
