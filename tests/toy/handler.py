"""A function with one behaviour for each test of the runtime, chosen by the event."""

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aws_lambda_powertools import Logger

log = Logger()


@dataclass(frozen=True)
class Answer:
    """An answer whose body is closed."""

    body: Iterable[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    multi_value_headers: dict[str, list[str]] = field(default_factory=dict)


class ClosableAnswer(Answer):
    """An answer that is closed itself, as Farebox's are."""

    def close(self) -> None:
        print("closed the answer")  # noqa: T201 - the test reads the log


class Closing:
    """A body that says when it was closed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        print("closed the body")  # noqa: T201 - the test reads the log


class ClosingAtGate(Closing):
    """A body whose closing waits for the test."""

    def close(self) -> None:
        wait_at_gate()
        print("closed slowly")  # noqa: T201 - the test reads the log


class FailingToClose(Closing):
    """A body that cannot be closed."""

    def close(self) -> None:
        raise OSError("not closed")


def wait_at_gate() -> None:
    host, port = os.environ["GATE"].split(":")
    with socket.create_connection((host, int(port))) as gate:
        gate.recv(1)


def gated(words: list[bytes]) -> Iterator[bytes]:
    for word in words:
        yield word
        wait_at_gate()


def then(error: BaseException, *words: bytes) -> Iterator[bytes]:
    yield from words
    raise error


def stream(event: dict[str, Any], _: Any) -> Answer:
    words = [word.encode() for word in event["words"]]
    return Answer(Closing(gated(words)), multi_value_headers={"X-Multi": ["a", "b"]})


def context_facts(_: dict[str, Any], context: Any) -> dict[str, Any]:
    return {
        "streams_responses": getattr(context, "streams_responses", False),
        "request_id": context.aws_request_id,
        "function_name": context.function_name,
        "arn": context.invoked_function_arn,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "trace_id": os.environ.get("_X_AMZN_TRACE_ID"),
        "pid": os.getpid(),
        "python_path": os.environ.get("PYTHONPATH"),
        "argv": sys.argv,
        "path": sys.path[:3],
    }


def proxy_dictionary(_: dict[str, Any], __: Any) -> dict[str, Any]:
    many = {"X-B": ["c", "d"]}
    answer = {"statusCode": 403, "headers": {"X-A": "b"}, "multiValueHeaders": many}
    return {**answer, "body": "bm8=", "isBase64Encoded": True}


def raises(_: dict[str, Any], __: Any) -> None:
    raise ValueError("a bug, with secret details")


def exits(_: dict[str, Any], __: Any) -> None:
    sys.exit("enough")


def whole(_: dict[str, Any], __: Any) -> Answer:
    return Answer((b"{}",))


def cannot_be_sent(_: dict[str, Any], __: Any) -> Answer:
    return Answer((b"one",), headers={"X-A": object()})  # type: ignore[dict-item] # a bug


def closes_itself(_: dict[str, Any], __: Any) -> Answer:
    return ClosableAnswer(Closing(iter([b"one"])))


def closes_itself_after_a_failure(_: dict[str, Any], __: Any) -> Answer:
    return ClosableAnswer(Closing(then(OSError("upstream cut"), b"one")))


def closes_slowly(_: dict[str, Any], __: Any) -> Answer:
    return Answer(ClosingAtGate(iter([b"one"])))


def fails_to_close(_: dict[str, Any], __: Any) -> Answer:
    return Answer(FailingToClose(iter([b"one"])))


def fails_first(_: dict[str, Any], __: Any) -> Answer:
    return Answer(Closing(then(OSError("secret"))))


def fails_later(_: dict[str, Any], __: Any) -> Answer:
    return Answer(Closing(then(OSError("upstream cut"), b"", b"one", b"two")))


def exits_later(_: dict[str, Any], __: Any) -> Answer:
    return Answer(Closing(then(SystemExit("enough"), b"one")))


def empty(_: dict[str, Any], __: Any) -> Answer:
    return Answer(Closing(iter([])), status=204, headers={})


def large(event: dict[str, Any], _: Any) -> Answer:
    return Answer(Closing(bytes(1_000_000) for _ in range(event["megabytes"])))


def too_large(_: dict[str, Any], __: Any) -> Answer:
    return Answer(ClosingAtGate(bytes(1_000_000) for _ in range(1000)))


BEHAVIOURS: list[Callable[[dict[str, Any], Any], Any]] = [
    *(stream, context_facts, proxy_dictionary, raises, exits, whole, empty, large, too_large, cannot_be_sent),
    *(closes_itself, closes_itself_after_a_failure, closes_slowly, fails_to_close),
    *(fails_first, fails_later, exits_later),
]


@log.inject_lambda_context
def handler(event: dict[str, Any], context: Any) -> Any:
    log.info("called")
    return next(do for do in BEHAVIOURS if do.__name__ == event["do"])(event, context)
