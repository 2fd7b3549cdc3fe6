"""EventBridge Scheduler's events to the sweeper."""

import os
from typing import Any, Protocol

from farebox.rollup import open_sweeper
from farebox.sweep import sweep

ENOUGH_MS = 30_000
"""Left to end the step that is under way when the function's time runs out."""

sweeper = open_sweeper(os.environ)


class Context(Protocol):
    """What is read of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: dict[str, Any], context: Context) -> dict[str, int]:  # noqa: ARG001 - each run does all there is
    """Resolve lost calls while there is time; how many ended which way."""
    return sweep(sweeper, lambda: context.get_remaining_time_in_millis() > ENOUGH_MS)
