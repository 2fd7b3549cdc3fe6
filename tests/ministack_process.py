"""AWS on this machine: ministack in a process of its own, with CloudFormation, API Gateway, Lambda and what they need.

It runs functions as processes, with the interpreter and the environment that it has itself. So its environment is made
here: nothing of ours is on the search path, and what a function imports of the program comes from its layers.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from local import child

LOOPBACK = "0100007F"  # 127.0.0.1, as /proc/net/tcp has it
LISTENING = "0A"
END_SECONDS = 10.0
SETTINGS = {
    "AUTH": "true",  # a function may do what its role allows, and nothing else
    "AWS_ACCESS_KEY_ID": "local",  # who is root: local/child.py's clients, and AWS's tools with `environment`
    "LOG_LEVEL": "ERROR",
}


@dataclass(frozen=True, slots=True)
class Emulated:
    """A running emulator: its endpoint, and the session that it and the functions' processes belong to."""

    url: str
    session: int

    @property
    def environment(self) -> dict[str, str]:
        """What AWS's own tools need to talk to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def processes(self) -> list[int]:
        """The emulator and its functions, where /proc tells (on Linux)."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _session(int(path.name)) == self.session]

    def listeners(self) -> set[str]:
        """Where they listen: address and port in hexadecimal digits."""
        sockets = {_link(file) for pid in self.processes() for file in _files(pid)}
        tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        rows = [row.split() for table in tables for row in table]
        return {row[1] for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in sockets}


@contextmanager
def emulated_aws() -> Iterator[Emulated]:
    """Start it, and end it and everything that it started with the block."""
    with TemporaryDirectory(prefix="farebox-aws-", ignore_cleanup_errors=True) as directory:
        environment = {"PATH": os.environ["PATH"], "HOME": directory, "TMPDIR": directory, **SETTINGS}
        started = child.start("ministack", [sys.executable, "-m", "tests.ministack_process"], env=environment)
        emulated = Emulated(started.url, started.process.pid)
        try:
            yield emulated
        finally:
            started.stop()
            _end(emulated)


def main() -> None:
    """Serve until stdin ends."""
    threading.Thread(target=_exit_with_parent, daemon=True, name="parent-watch").start()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listener.getsockname()[1]
    os.environ["GATEWAY_PORT"] = str(port)  # what functions find AWS at
    os.environ["MINISTACK_HOST"] = "127.0.0.1"
    asyncio.run(_serve(listener, port))


def _exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)  # its functions end when their pipes do


async def _serve(listener: socket.socket, port: int) -> None:
    # Imported here: importing ministack reads the environment.
    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415
    from ministack.app import app  # type: ignore[import-untyped]  # noqa: PLC0415
    from ministack.services.scheduler import start_scheduler  # type: ignore[import-untyped]  # noqa: PLC0415

    async def requests_only(scope: Any, receive: Any, send: Any) -> None:
        """Without the start-up hook: it tidies the user's Docker, runs scripts, listens on all interfaces (MQTT)."""
        if scope["type"] == "http":
            await app(scope, receive, send)

    start_scheduler()
    config = Config()
    config.loglevel = "ERROR"
    config.keep_alive_timeout = 75
    child.announce(port)
    config.bind = [f"fd://{listener.detach()}"]
    await serve(requests_only, config)


def _end(emulated: Emulated) -> None:
    """Functions end by themselves; one that does not in time is killed."""
    until = time.monotonic() + END_SECONDS
    while emulated.processes() and time.monotonic() < until:
        time.sleep(0.02)
    if emulated.processes():
        os.killpg(emulated.session, signal.SIGKILL)


def _session(pid: int) -> int:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return -1


def _files(pid: int) -> list[Path]:
    with suppress(FileNotFoundError):
        return [*Path(f"/proc/{pid}/fd").iterdir()]
    return []


def _link(file: Path) -> str:
    with suppress(FileNotFoundError):
        return str(file.readlink())
    return ""


if __name__ == "__main__":
    main()
