"""What a gateway or a function in a process of its own prints: read at once, and looked through when it has ended.

The rules are those of secrecy.py, for each line and not only for a logger's. Two things are no leak: the call that
`make dev` shows when it starts, with its local key, and the code that a stack trace quotes.
"""

import re
import threading
from typing import IO

from tests.secrecy import json_lines, secrets_in

SHOWN = re.compile(
    r"^curl -i \S+ \\\n  -H 'Authorization: Bearer [^'\n]*' -H '[^'\n]*' \\\n  -d '[^\n]*'$", re.MULTILINE
)
"""The call, as local/dev.py prints it once."""
QUOTED = re.compile(r"^(  File \".*)\n    .*$", re.MULTILINE)
"""A frame of a stack trace, and its code."""


class Leak(AssertionError):
    """A process has printed a key, a prompt or an answer."""


def require_no_secret(output: str) -> None:
    """Of a process of ours, from its start. Raises Leak."""
    plain = QUOTED.sub(r"\1", SHOWN.sub("", output, count=1)).splitlines()
    found = secrets_in([*json_lines(output), *(line for line in plain if not line.startswith("{"))])
    if found:
        raise Leak(f"a process has printed a key, a prompt or an answer: {found}")


class Overheard:
    """The output of a running process: a full pipe never stops it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._has_ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True, name="overheard")
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream:
            self._hear(line)
        self._hear(None)

    def _hear(self, line: str | None) -> None:
        with self._news:
            self._lines += [line] if line is not None else []
            self._has_ended = line is None
            self._news.notify_all()

    @property
    def text(self) -> str:
        """So far."""
        with self._news:
            return "".join(self._lines)

    def line(self, starts_with: str, seconds: float) -> str:
        """The first one that begins so. Raises RuntimeError, with what was printed, if there is none in time."""

        def found() -> str | None:
            return next((line for line in self._lines if line.startswith(starts_with)), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._has_ended, seconds)
            if (line := found()) is not None:
                return line
        raise RuntimeError(f"it did not start: {self.text}")

    def close(self, seconds: float) -> str:
        """When the process has ended: all that it has printed."""
        self._reader.join(seconds)
        if not self._reader.is_alive():  # something that it started may still hold the pipe
            self._stream.close()
        return self.text
