"""A small threaded HTTP/1.1 server for the simulator and for the gateway of `make dev`.

It exists because wsgiref speaks HTTP/1.0, where the end of the connection is the end of the body: a cut stream would
look like a complete one. Here a body without a known length is sent in chunks, so a client can tell the two apart.

    with Server(handle) as server:
        httpx.get(server.url)

`handle` turns one request into one response. It runs in the connection's own thread, and so does the `close()` of the
body, which is always called: the gateway's body drains the upstream and settles there, and may take its time.
"""

import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_LINE_BYTES = 65_536
LINGER_S = 1.0
NEEDS_LENGTH = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as received: the target is raw, duplicate headers are kept."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response whose body is sent piece by piece, in chunks unless a content-length header is given."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: Iterable[bytes]

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


Handle = Callable[[HttpRequest], HttpResponse]


class Cut(Exception):
    """Raised by a body (or by `handle`, instead of any response) to have the connection closed abruptly."""


class Refusal(Exception):
    """The request cannot be read; the connection is closed after the answer, because what follows is unknown."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """Serves `handle` on 127.0.0.1 from its own thread, from construction until `close()`."""

    def __init__(self, handle: Handle, *, port: int = 0, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._listener = _Listener(handle, port=port, max_body_bytes=max_body_bytes)
        self.port: int = self._listener.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, name=f"serve-{self.port}", daemon=True
        )
        self._thread.start()

    def close(self, *, grace_s: float = 0.0) -> None:
        """Stop accepting and end idle connections; calls in flight get `grace_s` to finish before this returns."""
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
        self._listener.hang_up(grace_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    server_address: tuple[str, int]

    def __init__(self, handle: Handle, *, port: int, max_body_bytes: int) -> None:
        self.handle = handle
        self.max_body_bytes = max_body_bytes
        self.closing = False
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", port), _Connection)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which can take seconds where there is no DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address

    def enter(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.add(connection)
            if self.closing:
                _shut(connection, socket.SHUT_RD)

    def leave(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def hang_up(self, grace_s: float) -> None:
        """End reading on every connection: an idle one ends at once, a busy one when its response is sent."""
        with self._changed:
            self.closing = True
            for connection in self._open:
                _shut(connection, socket.SHUT_RD)
            self._changed.wait_for(lambda: not self._open, timeout=grace_s)

    def handle_error(self, request: object, client_address: object) -> None:
        """Show bugs, but stay silent about clients that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typeshed: its private address type


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener
    _expects_continue = False

    def handle(self) -> None:
        self.server.enter(self.connection)
        try:
            super().handle()
        finally:
            self.server.leave(self.connection)

    def _serve(self) -> None:
        try:
            request = HttpRequest(self.command, self.path, tuple(self.headers.items()), self._read_body())
        except Refusal as refusal:
            self._refuse(refusal)
            return
        finally:
            self._expects_continue = False
        try:
            response = self.server.handle(request)
        except Cut:
            self.close_connection = True
            return
        except Exception:
            self._answer(500, "internal error")
            raise
        try:
            self._send(response)
        except (Cut, OSError):
            self.close_connection = True
        finally:
            close = getattr(response.body, "close", None)
            if close is not None:
                close()
        self.close_connection = self.close_connection or self.server.closing

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815 - http.server's names

    def handle_expect_100(self) -> bool:
        """Postpone `100 Continue` until the body is wanted, so that a body that is too large is never sent."""
        self._expects_continue = True
        return True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """No access log."""

    def _read_body(self) -> bytes:
        if self.headers.defects or self.headers.get_payload():
            raise Refusal(400, "a header line that is none")
        if any("\n" in value or "\r" in value or "\0" in value for value in self.headers.values()):
            raise Refusal(400, "a header value with a line break")
        codings = self.headers.get_all("transfer-encoding", [])
        coding = ", ".join(codings) if codings else None
        lengths = set(self.headers.get_all("content-length", []))
        if coding is not None:
            if lengths:
                raise Refusal(400, "both transfer-encoding and content-length")
            if coding.strip().lower() != "chunked":
                raise Refusal(501, f"transfer-encoding {coding!r} is not supported")
            return self._read_chunked()
        if not lengths:
            if self.command in NEEDS_LENGTH:
                raise Refusal(411, "a content-length is required")
            return b""
        return self._read_sized(lengths)

    def _read_sized(self, lengths: set[str]) -> bytes:
        text = lengths.pop().strip()
        if lengths or not (text.isascii() and text.isdigit() and len(text) < 20):
            raise Refusal(400, "invalid content-length")
        self._check_size(int(text))
        self._continue()
        return self._read_exactly(int(text))

    def _read_chunked(self) -> bytes:
        self._continue()
        body = bytearray()
        while size := self._chunk_size():
            self._check_size(len(body) + size)
            body += self._read_exactly(size)
            if self._line() != b"":
                raise Refusal(400, "invalid chunk")
        while self._line():  # trailers
            pass
        return bytes(body)

    def _chunk_size(self) -> int:
        digits = self._line().split(b";")[0].strip()
        if not digits or len(digits) > 16 or set(digits) - set(b"0123456789abcdefABCDEF"):
            raise Refusal(400, "invalid chunk size")
        return int(digits, 16)

    def _line(self) -> bytes:
        line = self.rfile.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise Refusal(400, "the request ended early")
        return line.rstrip(b"\r\n")

    def _read_exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise Refusal(400, "the request ended early")
        return data

    def _check_size(self, size: int) -> None:
        if size > self.server.max_body_bytes:
            raise Refusal(413, f"the request body is larger than {self.server.max_body_bytes} bytes")

    def _continue(self) -> None:
        if self._expects_continue:
            self.send_response_only(100)
            self.end_headers()

    def _send(self, response: HttpResponse) -> None:
        length = response.header("content-length")
        bodiless = self.command == "HEAD" or response.status in (204, 304)
        chunked = length is None and not bodiless and self.request_version != "HTTP/1.0"
        self._send_head(response, chunked=chunked)
        if bodiless:
            return
        sent = 0
        for piece in response.body:
            if piece:  # an empty chunk would end the body
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                sent += len(piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        elif length is None or sent != int(length):
            self.close_connection = True

    def _send_head(self, response: HttpResponse, *, chunked: bool) -> None:
        self.send_response_only(response.status)
        for name, value in response.headers:
            if "\n" in value or "\r" in value:
                raise ValueError(f"a line break in header {name}")
            if name.lower() != "transfer-encoding":  # decided here
                self.send_header(name, value)
        if response.header("date") is None:
            self.send_header("date", self.date_time_string())
        if chunked:
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, then swallow what the client still sends: closing with unread bytes would reset its connection
        before it has read the answer."""
        self._answer(refusal.status, str(refusal))
        _shut(self.connection, socket.SHUT_WR)
        self.connection.settimeout(LINGER_S)
        until = time.monotonic() + LINGER_S
        while time.monotonic() < until and self.rfile.read1(MAX_LINE_BYTES):
            pass

    def _answer(self, status: int, message: str) -> None:
        body = b'{"error":{"code":%d,"message":"%b"}}' % (status, message.replace('"', "'").encode())
        headers = (
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        )
        self._send(HttpResponse(status, headers, (body,)))
        self.close_connection = True


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        return  # the other side was faster
