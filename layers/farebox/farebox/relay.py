"""Bytes from upstream to the client, settled exactly once whatever the client does.

A relay settles when upstream ends. When the client goes away first, whoever serves it calls `close`, which reads the
rest from upstream and then settles: most providers bill the whole answer whether or not anybody waits for it.

An attempt that fails before a model has made anything may be followed by one with another model, on a track of its own:
the client has got comments or white space only, which keep its connection alive.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from .settlement import Settlement, without_comments
from .upstream import CUT, TIMEOUT, Answer, Lost


class Reader(Protocol):
    """What reads an answer while it passes (settlement.py)."""

    is_complete: bool

    @property
    def has_begun(self) -> bool: ...

    @property
    def error(self) -> object: ...

    def feed(self, chunk: bytes) -> None: ...

    def settlement(self, *, cut: str | None) -> Settlement: ...


@dataclass(slots=True)
class Track:
    """One attempt's answer on its way. `read` are chunks that the reader has seen and the client has not.

    `end` settles; asked to go on, it returns the track of the next attempt, if there is one. A model that has not begun
    when it `is_late` is given up. A whole track has been read to its end.
    """

    answer: Answer
    reader: Reader
    end: "Callable[[Settlement, bool], Track | None]"
    is_late: Callable[[], bool] = lambda: False
    read: list[bytes] = field(default_factory=list)
    is_whole: bool = False
    is_settled: bool = False


class Relay(Iterator[bytes]):
    """An answer on its way. It is settled once, before the client gets its last bytes."""

    def __init__(self, track: Track) -> None:
        self._track = track
        self._is_ended = False

    def __next__(self) -> bytes:
        while not self._is_ended:
            piece = self._next()
            if piece:
                return piece
        raise StopIteration

    def close(self) -> None:
        """Read what is left, settle, and let the connection go. Nobody waits any more, so no other model is asked."""
        while not (self._is_ended or self._track.reader.is_complete):
            self._next(may_go_on=False)
        self._is_ended = True
        self._finish(None, may_go_on=False)
        self._track.answer.close()

    def _next(self, *, may_go_on: bool = True) -> bytes:
        cut = None
        try:
            chunk = self._chunk(may_go_on=may_go_on)
        except StopIteration:
            pass
        except Lost as e:
            cut = None if self._track.reader.is_complete else e.cause
        else:
            if self._track.reader.is_complete:
                self._finish(None, may_go_on=False)
            return self._passed(chunk)
        following = self._finish(cut, may_go_on=may_go_on)
        if following is not None:
            self._track.answer.close()
            self._track = following
            self._begin()
            return b""
        self._is_ended = True
        return self._last(cut)

    def _chunk(self, *, may_go_on: bool) -> bytes:
        """The next chunk, which the reader has seen; no model is late when nobody waits. Raises StopIteration, Lost."""
        track = self._track
        if track.read:
            return track.read.pop(0)
        if may_go_on and not track.reader.has_begun and track.is_late():
            raise Lost(TIMEOUT)
        chunk = next(track.answer.body)
        track.reader.feed(chunk)
        return chunk

    def _finish(self, cut: str | None, *, may_go_on: bool) -> Track | None:
        track = self._track
        if track.is_settled:
            return None
        track.is_settled = True
        return track.end(track.reader.settlement(cut=cut), may_go_on)

    def _begin(self) -> None:
        raise NotImplementedError

    def _passed(self, chunk: bytes) -> bytes:
        raise NotImplementedError

    def _last(self, cut: str | None) -> bytes:
        raise NotImplementedError


class StreamRelay(Relay):
    """Server-sent events. Only whole lines are passed on, so that a cut stream can end with an error event.

    Until a model has made something only comments are: an event before that may be an error that another model saves
    the client from.
    """

    def __init__(self, track: Track) -> None:
        super().__init__(track)
        self._begin()

    def _begin(self) -> None:
        self._rest: list[bytes] = []
        self._kept: list[bytes] = []

    def _passed(self, chunk: bytes) -> bytes:
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if end == 0:
            self._rest.append(chunk)
            return b""
        lines, self._rest = b"".join((*self._rest, chunk[:end])), [chunk[end:]]
        if not self._track.reader.has_begun:
            if _are_comments(lines) and _is_between_events(self._kept):
                return lines
            self._kept.append(lines)
            return b""
        kept, self._kept = self._kept, []
        return b"".join((*kept, lines))

    def _last(self, cut: str | None) -> bytes:
        end = b"".join(self._rest) if cut is None else b"\ndata: " + json.dumps(_cut_chunk(cut)).encode() + b"\n\n"
        return b"".join((*self._kept, end))


def _are_comments(lines: bytes) -> bool:
    return all(line.startswith(b":") for line in lines.splitlines() if line)


def _is_between_events(kept: list[bytes]) -> bool:
    """Whether comments may be passed before what is kept: the end of an event must stay with it."""
    return not kept or b"".join(kept[-2:]).endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))


class BodyRelay(Relay):
    """A plain body that began with white space, OpenRouter's way of keeping a connection alive while a model works.

    The status has gone out with the first bytes, so an error can only be said in the body, as OpenRouter does.
    """

    def __init__(self, track: Track) -> None:
        super().__init__(track)
        self._begin()

    def _begin(self) -> None:
        self._body: list[bytes] = []

    def _passed(self, chunk: bytes) -> bytes:
        if self._body or chunk.strip():
            self._body.append(chunk)
            return b""
        return chunk

    def _last(self, cut: str | None) -> bytes:
        body = without_comments(b"".join(self._body)).lstrip()
        return body if cut is None and body else json.dumps({"error": cut_error(cut or CUT)}).encode()


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
