"""API Gateway's events to the gate. The parts are made once an environment; everything else is in the package."""

import os
import time
from typing import Any, Protocol

from farebox.gate import open_gate
from farebox.rest import Response
from farebox.routes import answer

SETTLE_S = 10
"""Kept back from the function's time, so that the last call of an environment still settles."""

gate = open_gate(os.environ)


class Context(Protocol):
    """What is read of Lambda's context. A runtime that can stream says so in `streams_responses`."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: dict[str, Any], context: Context) -> Response | dict[str, Any]:
    """Answer an event: as an iterator of bytes where the runtime streams, else in one piece."""
    if request_id := getattr(context, "aws_request_id", None):
        gate.telemetry.invocation(request_id)
    left_s = min(context.get_remaining_time_in_millis() / 1000 - SETTLE_S, gate.settings.farebox_call_deadline_s)
    response = answer(gate, event, time.monotonic() + left_s)
    return response if getattr(context, "streams_responses", False) else response.buffered()
