"""`farebox`, the command line, and a gateway behind a socket for it."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from farebox.admin import answer as admin_answer
from farebox.admin import open_admin
from farebox.cli import farebox
from farebox.cli_terminal import Clock
from farebox.routes import answer
from local import gateway
from local.child import ROOT
from local.sockets import Server
from tests.conftest import GATEWAY_KEY, Door, MakeDoor, chat_body

ADMIN_KEY = "local-admin-key"
CENT = "sim/cent"
NOBODY: dict[str, str | None] = dict.fromkeys(
    ("FAREBOX_URL", "FAREBOX_ADMIN_KEY", "FAREBOX_GATEWAY_KEY", "PORT", "COLUMNS", "FORCE_COLOR")
)
"""Who has set nothing: None takes a variable away."""
PACKAGE = {"PYTHONPATH": str(ROOT / "layers/farebox"), "PATH": os.environ["PATH"]}


def run(
    *arguments: str, environment: Mapping[str, str | None], clock: Clock | None = None, stdin: Any = None
) -> Result:
    """The program in an environment in which nothing else is set."""
    return CliRunner(mix_stderr=False).invoke(
        farebox, arguments, obj=clock, env={**NOBODY, **environment}, input=stdin, catch_exceptions=False
    )


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway with its admin's side behind a socket, and the command line that knows where it is."""

    url: str
    door: Door

    @property
    def environment(self) -> dict[str, str]:
        url = f"{self.url}/api/v1"
        return {"FAREBOX_URL": url, "FAREBOX_ADMIN_KEY": ADMIN_KEY, "FAREBOX_GATEWAY_KEY": GATEWAY_KEY}

    def run(self, *arguments: str, clock: Clock | None = None, stdin: Any = None, **environment: str | None) -> Result:
        return run(*arguments, environment={**self.environment, **environment}, clock=clock, stdin=stdin)

    def ok(self, *arguments: str, **more: Any) -> str:
        """What a command that works prints on stdout."""
        ran = self.run(*arguments, **more)
        assert ran.exit_code == 0, ran.stderr
        assert "\x1b" not in ran.stdout + ran.stderr
        assert max(map(len, ran.stdout.splitlines()), default=0) <= 80 or "--json" in arguments or "--csv" in arguments
        return ran.stdout

    def json(self, *arguments: str, **more: Any) -> Any:
        return json.loads(self.ok(*arguments, "--json", **more))

    def chat(self, tenant: str = "acme", key: str = GATEWAY_KEY, **fields: Any) -> httpx.Response:
        who = {} if key != GATEWAY_KEY else {"X-Tenant-Id": tenant}
        headers = {"Authorization": f"Bearer {key}", **who}
        url = f"{self.url}/api/v1/chat/completions"
        return httpx.post(url, content=chat_body(None, **fields), headers=headers, trust_env=False)


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(make_door: MakeDoor) -> Iterator[MakeSite]:
    """Settings as keywords."""
    servers: list[Server] = []

    def make(**settings: str) -> Site:
        door = make_door(**settings)
        table = door.gate.settings.farebox_table
        clerk = open_admin({"FAREBOX_ADMIN_KEY": ADMIN_KEY, "FAREBOX_TABLE": table, **settings})
        servers.append(
            Server(
                gateway.serve(
                    lambda event, _context: answer(door.gate, event, time.monotonic() + 60),
                    lambda event, _context: admin_answer(clerk, event),
                )
            )
        )
        return Site(servers[-1].url, door)

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """With the default settings."""
    return make_site()


class Watcher:
    """A clock on which something happens while the command sleeps; in the end somebody types Ctrl-C."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self._happens = iter(happens)
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        happens = next(self._happens, None)
        if happens is None:
            raise KeyboardInterrupt
        happens()

    @property
    def clock(self) -> Clock:
        return Clock(time.time, self.sleep)
