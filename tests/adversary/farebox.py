"""Our gateway, started here, on an embedded store; `make race` has two gateways on one store."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.adversary.money import NANO
from tests.adversary.targets import Farebox, Place
from tests.race import KEY, _process

DEADLINE_S = 64
"""An answer that goes on and on is given up as lost after that; half of it may be silence, as the 30 s of sim/slow."""


@contextmanager
def started(upstream: str, cap_nanousd: int, environment: Mapping[str, str] | None = None) -> Iterator[Place]:
    """A gateway for the time of the block, each tenant of which may spend the cap a day."""
    settings = {
        "PORT": "0",
        "OPENROUTER_BASE_URL": f"{upstream}/api/v1",
        "OPENROUTER_API_KEY": "simulated",
        "DEFAULT_DAILY_BUDGET": str(cap_nanousd / NANO),
        "FAREBOX_CALL_DEADLINE_S": str(DEADLINE_S),
        **(environment or {}),
    }
    with _process(["local.dev"], settings, starts_with="Farebox is at ") as url:
        yield Place(Farebox(url, KEY), upstream)
