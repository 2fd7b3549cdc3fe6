"""The store of `make dev` and of most tests: ministack's DynamoDB, in memory, on 127.0.0.1.

ministack keeps no lock around an update. It is exact under concurrency because one event loop serves all requests one
after the other, so it must never be given more workers or threads.
"""

import argparse
import asyncio
import decimal
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from local import child

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

# The whole environment of the server. ministack reads some forty variables, several of which make it write files
# (PERSIST_STATE), check credentials (AUTH) or listen on a second port; none that a user has set is meant for this.
_ENVIRONMENT = {"SERVICES": "dynamodb", "LOG_LEVEL": "ERROR"}
_DIGITS = 38  # DynamoDB's precision; ministack adds with Python's default, and rounds the sum from 29 digits on
_BACKLOG = 512


def start() -> child.Child:
    """Start the store. The caller stops it; it ends with this process at the latest."""
    return child.start("The embedded store", [sys.executable, "-m", "local.embedded_store"])


@contextmanager
def embedded_store() -> Iterator[str]:
    """The store's endpoint URL, for the time of the block."""
    with child.running(start()) as url:
        yield url


def main() -> None:
    """Serve until stdin ends (at a terminal: Ctrl-D)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0, the default, takes any free one")
    port = parser.parse_args().port
    threading.Thread(target=_exit_with_parent, daemon=True, name="parent-watch").start()
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    decimal.getcontext().prec = _DIGITS
    asyncio.run(_serve(_listener(port)))


def _exit_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass  # only the end means something
    os._exit(0)  # nothing in memory is worth an orderly shutdown


def _listener(port: int) -> socket.socket:
    """A listening socket, so that whoever reads the announcement can connect at once."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(_BACKLOG)
    return listener


async def _serve(listener: socket.socket) -> None:
    # Imported here: importing ministack reads the environment, and those who only start a server need none of it.
    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415

    config = Config()
    config.loglevel = "ERROR"
    config.backlog = _BACKLOG
    config.keep_alive_timeout = 75
    application = _tables_only()
    child.announce(listener.getsockname()[1])
    config.bind = [f"fd://{listener.detach()}"]
    await serve(application, config)


def _tables_only() -> "ASGIFramework":
    """ministack without its start-up hook.

    The hook would remove containers from the user's Docker, run scripts it finds in system folders, and start
    schedulers and an MQTT listener.
    """
    from ministack.app import app  # type: ignore[import-untyped]  # noqa: PLC0415

    async def requests_only(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    return requests_only


if __name__ == "__main__":
    main()
