"""What no log may hold: keys, headers that carry them, prompts and answers. conftest.py looks at every test's logs.

Each record that any logger of this process makes is seen, whoever handles it, with its fields and its exception; and
so is each line of JSON that a test has written to stdout, which is what Powertools' logger makes of them. Code that a
stack trace quotes is no secret. What processes print that tests start is looked at by overheard.py.
"""

import logging
import re
from collections.abc import Iterable, Iterator

SECRET = re.compile(
    r"local-gateway-key|local-admin-key|sk-or-\w|bearer (?![{<])\S|authorization['\"]?\s*[:=]|say hello|fare is paid",
    re.IGNORECASE,
)
"""Keys of the tests, keys of OpenRouter, a header with any key, the prompt of the tests and the simulator's answer."""
KEPT = 1000


class Listener:
    """Keeps records until they are looked at: their fields are set after they were made."""

    def __init__(self) -> None:
        self._records: list[logging.LogRecord] = []
        self._secrets: list[str] = []

    def install(self) -> None:
        """From now on every record of this process is kept."""
        make = logging.getLogRecordFactory()

        def kept(*args: object, **more: object) -> logging.LogRecord:
            record = make(*args, **more)
            self.hear(record)
            return record

        logging.setLogRecordFactory(kept)

    def hear(self, record: logging.LogRecord) -> None:
        """Not the last ones, whose fields may not be there yet, are looked at when they are too many."""
        self._records.append(record)
        if len(self._records) >= KEPT:
            self._look(KEPT // 2)

    def secrets(self) -> list[str]:
        """What stood in records since the last look, and should not have."""
        self._look(len(self._records))
        found, self._secrets = self._secrets, []
        return found

    def _look(self, count: int) -> None:
        looked, self._records[:count] = self._records[:count], []
        for record in looked:
            self._secrets += secrets_in(_texts(record))


def secrets_in(texts: Iterable[str]) -> list[str]:
    """The texts with a secret, as far as they are needed to see which."""
    return [
        text[max(0, found.start() - 60) : found.end() + 30]
        for text in texts
        if (found := SECRET.search(text)) is not None
    ]


def json_lines(output: str) -> list[str]:
    """Lines of Powertools' logger, without the code in their stack traces."""
    return [re.sub(r"\\n    .*?\\n", r"\\n", line) for line in output.splitlines() if line.startswith("{")]


def _texts(record: logging.LogRecord) -> Iterator[str]:
    yield record.getMessage()
    yield str({name: value for name, value in vars(record).items() if name not in ("msg", "args", "exc_info")})
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        yield f"{error!r} {error}"
        error = error.__cause__ or error.__context__
