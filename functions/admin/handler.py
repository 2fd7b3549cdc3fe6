"""API Gateway's events to the admin's side. The parts are made once an environment."""

import os
from typing import Any

from farebox.admin import answer, open_admin
from farebox.rest import Response

clerk = open_admin(os.environ)


def handler(event: dict[str, Any], context: object) -> Response | dict[str, Any]:
    """Answer an event; as a value where the runtime streams, which is in `make dev`."""
    response = answer(clerk, event)
    return response if getattr(context, "streams_responses", False) else response.buffered()
