"""Hours in UTC, by which spans are kept: when one is over, and from when on it is only changed with a mark.

    began             over               final
    |-- no mark ------|-- with a mark -- |-- with a mark ...
    |-- folded in each run --------------|-- folded where there is a mark

A span is written at the end of its call, fifteen minutes after its beginning at most; a copy of that request may come
five minutes later, and clocks differ.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

HOUR_S = 3600
FINAL_AFTER_S = 1800
"""So long after its end an hour may still get spans of calls that were made in it."""
FIRST_HOURS = 48
"""So far back the first fold goes, which knows no watermark."""


def hour_of(seconds: int) -> str:
    """2026-11-24T10, of epoch seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H")


def began(hour: str) -> int:
    """Epoch seconds. Raises ValueError."""
    return int(datetime.strptime(f"{hour}+0000", "%Y-%m-%dT%H%z").timestamp())


def following(hour: str) -> str:
    return hour_of(began(hour) + HOUR_S)


def is_over(hour: str, now: int) -> bool:
    """From now on whoever changes a span of it leaves a mark."""
    return began(hour) + HOUR_S <= now


def is_final(hour: str, now: int) -> bool:
    """All its calls have ended, so only a mark tells of a change."""
    return began(hour) + HOUR_S + FINAL_AFTER_S <= now


def hours(first: str, last: str) -> Iterator[str]:
    """From the first to the last, in order."""
    for seconds in range(began(first), began(last) + 1, HOUR_S):
        yield hour_of(seconds)
