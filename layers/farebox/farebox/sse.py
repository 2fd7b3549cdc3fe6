"""Server-sent events, read while they pass. The bytes themselves are relayed untouched; nothing here changes them.

The subset that OpenRouter speaks: `data:` lines, comments (`: OPENROUTER PROCESSING`), events ended by a blank line,
lines ended by LF, CRLF or CR. Other fields are passed over.
"""

import re

DONE = b"[DONE]"
MAX_EVENT_BYTES = 32 * 1024 * 1024
"""An image in a delta has megabytes; beyond this an event is passed on unread rather than kept in memory."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Reader:
    """Chunks of bytes in, the data of finished events out, whatever the chunks' boundaries are."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end in this chunk."""
        *lines, self._rest = self._lines(self._rest + chunk)
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            self._rest = b""
        return [data for line in lines if (data := self._line(line)) is not None]

    def end(self) -> list[bytes]:
        """What a last event without its blank line says: upstream may close right after it."""
        return [data for line in (self._rest, b"") if (data := self._line(line)) is not None]

    @staticmethod
    def _lines(buffer: bytes) -> list[bytes]:
        # A trailing CR may be the first half of a CRLF.
        held_back = buffer.endswith(b"\r")
        lines = _LINE_END.split(buffer[:-1] if held_back else buffer)
        if held_back:
            lines[-1] += b"\r"
        return lines

    def _line(self, line: bytes) -> bytes | None:
        line = line.removesuffix(b"\r")
        if not line:
            data, self._data, self._size = b"\n".join(self._data), [], 0
            return data or None
        if line.startswith(b"data:") and self._size + len(line) <= MAX_EVENT_BYTES:
            value = line[5:].removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)
        return None
