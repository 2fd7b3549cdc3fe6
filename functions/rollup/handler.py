"""EventBridge Scheduler's events to the sweep and the fold."""

import os
from typing import Any, Protocol

from farebox.rollup import open_parts, run

ENOUGH_MS = 30_000
"""Left to end the step that is under way when the function's time runs out."""
FOLD_MS = 90_000
"""Left for the fold at least, however much there is to sweep."""

parts = open_parts(os.environ)


class Context(Protocol):
    """What is read of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: dict[str, Any], context: Context) -> dict[str, int]:
    """Resolve lost calls, then bring the rollups up to date, while there is time; how many calls ended which way.

    Each run does all there is; an event with `since`, as 2026-11-01T00, has the hours from then on summed again.
    """

    def has(milliseconds: int) -> bool:
        return context.get_remaining_time_in_millis() > milliseconds

    return run(parts, lambda: has(ENOUGH_MS + FOLD_MS), lambda: has(ENOUGH_MS), event.get("since"))
