"""The simulator as a process of its own, and its bill."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.race import _process

DELAY_S = 0.3
PORT = 9099
"""Where the simulator is looked for when the gateway was not started here."""


@contextmanager
def simulator(delay_s: float = DELAY_S) -> Iterator[str]:
    """A simulator for the time of the block; its root."""
    command = ["local.simulator", "--delay", str(delay_s), "--exit-on-eof"]
    with _process(command, {}, starts_with="http") as url:
        yield url.removesuffix("/api/v1")


def missing(root: str) -> str | None:
    """In a sentence why there is no simulator at this root; None if there is."""
    try:
        if httpx.get(f"{root}/_sim/bill", timeout=5).status_code == 200:
            return None
    except httpx.HTTPError:
        pass
    port = root.rpartition(":")[2]
    return (
        f"no simulator answers at {root}: start one (python -m local.simulator --port {port} --delay {DELAY_S}) and "
        f"let the gateway call it at {root}/api/v1"
    )


async def reset(http: httpx.AsyncClient, root: str) -> None:
    """A new bill."""
    (await http.post(f"{root}/_sim/reset")).raise_for_status()


async def billed_nanousd(http: httpx.AsyncClient, root: str) -> int:
    """Everything since."""
    return int((await http.get(f"{root}/_sim/bill")).json()["total_nanousd"])
