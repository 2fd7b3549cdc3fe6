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
        self._line: list[bytes] = []
        self._line_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._is_first_line = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end in this chunk."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF
            self._after_cr = False
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        *ended, rest = _LINE_END.split(chunk)
        found = [data for piece in ended if (data := self._end_of_line(piece)) is not None]
        self._add(rest)
        return found

    def end(self) -> list[bytes]:
        """What a last event without its blank line says: upstream may close right after it."""
        return [data for piece in (b"", b"") if (data := self._end_of_line(piece)) is not None]

    def _add(self, piece: bytes) -> None:
        self._line_size += len(piece)
        if self._line_size <= MAX_EVENT_BYTES:
            self._line.append(piece)
        else:
            self._line.clear()

    def _end_of_line(self, piece: bytes) -> bytes | None:
        self._add(piece)
        is_too_long = self._line_size > MAX_EVENT_BYTES
        line, self._line, self._line_size = b"".join(self._line), [], 0
        if is_too_long:
            return None
        if self._is_first_line:
            line, self._is_first_line = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            data, self._data, self._data_size = b"\n".join(self._data), [], 0
            return data or None
        if line.startswith(b"data:") and self._data_size + len(line) <= MAX_EVENT_BYTES:
            value = line[5:].removeprefix(b" ")
            self._data.append(value)
            self._data_size += len(value) + 1
        return None
