"""A handler of local/sockets.py as an httpx transport: the same requests and responses, without a socket."""

from collections.abc import Iterator

import httpx

from local.sockets import Cut, Handle, HttpRequest, HttpResponse


class Unreachable(Cut):
    """No connection: httpx.ConnectError in-process, closed without a response behind a socket."""


class InProcess(httpx.BaseTransport):
    """Bodies are generated while they are read; closing a response early closes its body."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        received = HttpRequest(
            method=request.method,
            target=request.url.raw_path.decode("ascii"),
            headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw),
            body=request.read(),
        )
        try:
            response = self._handle(received)
        except Unreachable:
            raise httpx.ConnectError("[Errno 111] Connection refused", request=request) from None
        headers = list(response.headers)
        if response.header("content-length") is None:
            headers.append(("transfer-encoding", "chunked"))
        return httpx.Response(response.status, headers=headers, stream=_Stream(response), request=request)


class _Stream(httpx.SyncByteStream):
    def __init__(self, response: HttpResponse) -> None:
        self._body = response.body

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except Cut:
            sentence = "peer closed connection without sending complete message body (incomplete chunked read)"
            raise httpx.RemoteProtocolError(sentence) from None

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
