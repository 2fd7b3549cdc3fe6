"""Bytes from upstream to the client, settled exactly once whatever the client does.

A relay settles when upstream ends. When the client goes away first, whoever serves it calls `close`, which reads the
rest from upstream and then settles: most providers bill the whole answer whether or not anybody waits for it.
"""

import json
from collections.abc import Callable, Iterator
from typing import Protocol

from .settlement import BodyReader, Settlement, StreamReader
from .upstream import TIMEOUT, Answer, Lost


class Reader(Protocol):
    """What reads an answer while it passes (settlement.py)."""

    is_complete: bool

    def feed(self, chunk: bytes) -> None: ...

    def settlement(self, *, cut: str | None) -> Settlement: ...


class Relay(Iterator[bytes]):
    """An answer on its way. `settle` is called once, before the client gets the last bytes."""

    def __init__(self, answer: Answer, reader: Reader, settle: Callable[[Settlement], object]) -> None:
        self._answer = answer
        self._reader = reader
        self._settle = settle
        self._is_settled = False
        self._is_ended = False

    def __next__(self) -> bytes:
        while not self._is_ended:
            piece = self._next()
            if piece:
                return piece
        raise StopIteration

    def close(self) -> None:
        """Read what is left, settle, and let the connection go."""
        while not (self._is_ended or self._reader.is_complete):
            self._next()
        self._is_ended = True
        self._finish(None)
        self._answer.close()

    def _next(self) -> bytes:
        cut = None
        try:
            chunk = next(self._answer.body)
        except StopIteration:
            pass
        except Lost as e:
            cut = None if self._reader.is_complete else e.cause
        else:
            self._reader.feed(chunk)
            if self._reader.is_complete:
                self._finish(None)
            return self._passed(chunk)
        self._is_ended = True
        self._finish(cut)
        return self._last(cut)

    def _finish(self, cut: str | None) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._settle(self._reader.settlement(cut=cut))

    def _passed(self, chunk: bytes) -> bytes:
        raise NotImplementedError

    def _last(self, cut: str | None) -> bytes:
        raise NotImplementedError


class StreamRelay(Relay):
    """Server-sent events. Only whole lines are passed on, so that a cut stream can end with an error event."""

    def __init__(self, answer: Answer, settle: Callable[[Settlement], object]) -> None:
        super().__init__(answer, StreamReader(), settle)
        self._rest: list[bytes] = []

    def _passed(self, chunk: bytes) -> bytes:
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if end == 0:
            self._rest.append(chunk)
            return b""
        lines, self._rest = b"".join((*self._rest, chunk[:end])), [chunk[end:]]
        return lines

    def _last(self, cut: str | None) -> bytes:
        return b"".join(self._rest) if cut is None else b"\ndata: " + json.dumps(_cut_chunk(cut)).encode() + b"\n\n"


class BodyRelay(Relay):
    """A plain body that began with white space, OpenRouter's way of keeping a connection alive while a model works.

    The status has gone out with the first bytes, so an error can only be said in the body, as OpenRouter does.
    """

    def __init__(self, answer: Answer, first: bytes, settle: Callable[[Settlement], object]) -> None:
        self._body = BodyReader()
        super().__init__(answer, self._body, settle)
        self._padding = first
        self._has_begun = False

    def _next(self) -> bytes:
        padding, self._padding = self._padding, b""
        return padding or super()._next()

    def _passed(self, chunk: bytes) -> bytes:
        self._has_begun = self._has_begun or bool(chunk.strip())
        return b"" if self._has_begun else chunk

    def _last(self, cut: str | None) -> bytes:
        return self._body.body.lstrip() if cut is None else json.dumps({"error": cut_error(cut)}).encode()


def cut_error(cause: str) -> dict[str, object]:
    """The error object for an answer that did not come whole."""
    is_late = cause == TIMEOUT
    return {
        "code": 504 if is_late else 502,
        "message": "OpenRouter's answer did not come whole; the call may have been billed, so its budget stays held",
        "type": "upstream_error",
        # OpenRouter's SDK takes an error in a stream only with an error_type that it knows.
        "metadata": {"reason": cause, "error_type": "timeout" if is_late else "provider_unavailable"},
    }


def _cut_chunk(cause: str) -> dict[str, object]:
    """OpenRouter's own shape of an error in the middle of a stream, so that its clients understand it."""
    return {
        "id": "",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "",
        "system_fingerprint": None,
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "error"}],
        "error": cut_error(cause),
    }
