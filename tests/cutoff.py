"""Whether the very next call obeys: a lower limit and a revoked key, against a gate that has the tenant in memory.

Each try warms the gate with a call, which costs its three requests to the table and no more, then changes something
through the admin's side, and calls again.

    python -m tests.cutoff --tries 1000        on DynamoDB Local
"""

import argparse
import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from farebox.admin import answer as answer_admin
from farebox.admin import open_admin
from farebox.clerk import Clerk
from farebox.gate import open_gate
from farebox.store import create_table
from local.child import connect
from local.dynamodb_local import dynamodb_local, unavailable
from local.gateway import event_of
from local.simulator import Simulator, transport
from local.sockets import HttpRequest
from tests.conftest import GATEWAY_KEY, Door
from tests.wire import Wire

ADMIN_KEY = "local-admin-key"
ADMITTED = ("reserve", "put_span", "settle")
ASIDE = ("breaker", "fee")
"""A model's circuit and fee, which are asked for once in a while, whoever calls."""
KEYS_OF_ONE = 50
"""A tenant has a hundred at most."""


@dataclass(slots=True)
class Result:
    """How calls ended after a change, and what calls without one have cost."""

    after_a_change: Counter[str] = field(default_factory=Counter)
    without_one: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def is_right(self, tries: int) -> bool:
        stopped = self.after_a_change == {
            "limit: budget_exhausted": tries - tries // 2,
            "key: unauthenticated": tries // 2,
        }
        return stopped and self.without_one.keys() == {ADMITTED}

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {what}" for what, count in sorted(self.after_a_change.items()))
        costs = ", ".join(f"{count} of {len(steps)} requests" for steps, count in self.without_one.items())
        return f"next calls: {ends}; calls without a change: {costs}"


@dataclass(frozen=True, slots=True)
class Town:
    """A gate and the admin's side, both behind the wire."""

    door: Door
    clerk: Clerk
    wire: Wire

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        sent = b"" if body is None else json.dumps(body).encode()
        headers = (("Authorization", f"Bearer {ADMIN_KEY}"),)
        response = answer_admin(self.clerk, event_of(HttpRequest(method, f"/api/admin{path}", headers, sent)))
        said = json.loads(b"".join(response.body))
        if response.status >= 300:
            raise RuntimeError(f"the admin's side answered {said}")
        return said

    def call(self, tenant: str, key: str) -> tuple[str, tuple[str, ...]]:
        """How a call ended, and what it did with the table."""
        self.wire.seen.clear()
        answered = self.door.chat(headers={"Authorization": f"Bearer {key}", "X-Tenant-Id": tenant})
        steps = tuple(step for step in self.wire.steps if step not in ASIDE)
        return "answered" if answered.status == 200 else str(answered.reason), steps


def cut_off(town: Town, tries: int) -> Result:
    """Change something as often as said, a limit and a key in turn."""
    result = Result()
    tenant = ""
    for number in range(tries):
        if number % KEYS_OF_ONE == 0:
            tenant = f"t{number}-{uuid.uuid4().hex[:8]}"
            town.admin("POST", "/tenants", {"name": tenant, "daily": 5})
            _warm(town, tenant, GATEWAY_KEY)
        (_cut_key if number % 2 else _cut_limit)(town, tenant, result)
    return result


def _cut_limit(town: Town, tenant: str, result: Result) -> None:
    _note(result, *_warm(town, tenant, GATEWAY_KEY))
    town.admin("PATCH", f"/tenants/{tenant}", {"daily": 0})
    result.after_a_change[f"limit: {town.call(tenant, GATEWAY_KEY)[0]}"] += 1
    town.admin("PATCH", f"/tenants/{tenant}", {"daily": 5})
    _warm(town, tenant, GATEWAY_KEY)


def _cut_key(town: Town, tenant: str, result: Result) -> None:
    made = town.admin("POST", f"/tenants/{tenant}/keys", {"name": "laptop"})
    _warm(town, tenant, made["key"])
    _note(result, *_warm(town, tenant, made["key"]))
    town.admin("DELETE", f"/tenants/{tenant}/keys/{made['id']}")
    result.after_a_change[f"key: {town.call(tenant, made['key'])[0]}"] += 1
    _warm(town, tenant, GATEWAY_KEY)


def _warm(town: Town, tenant: str, key: str) -> tuple[str, tuple[str, ...]]:
    """A call that is answered, with whatever it takes to know the newest version."""
    ended = town.call(tenant, key)
    if ended[0] != "answered":
        raise RuntimeError(f"a call that nothing stands against was refused: {ended[0]}")
    return ended


def _note(result: Result, _: str, steps: tuple[str, ...]) -> None:
    result.without_one[steps] += 1


def main() -> None:
    """Cut off tenants and keys on DynamoDB Local; exit 1 unless every next call was refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.cutoff", description=main.__doc__)
    parser.add_argument("--tries", type=int, default=1000, help="changes (default: %(default)s)")
    tries = parser.parse_args().tries
    if why := unavailable():
        sys.exit(f"not run: {why}")
    os.environ.setdefault("POWERTOOLS_LOG_LEVEL", "CRITICAL")
    with dynamodb_local() as url, Wire(url) as wire:
        town = open_town(wire, connect(url), os.environ.update)
        result = cut_off(town, tries)
    print(result)
    sys.exit(not result.is_right(tries))


def open_town(wire: Wire, client: Any, update: Callable[[dict[str, str]], None]) -> Town:
    """On a new table; `update` sets the variables of this process that AWS's clients read."""
    table = f"t-{uuid.uuid4().hex}"
    create_table(client, table)
    update(
        {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_DYNAMODB": wire.url,
        }
    )
    environment = {
        "OPENROUTER_BASE_URL": "http://simulator/api/v1",
        "OPENROUTER_API_KEY": "simulated",
        "FAREBOX_GATEWAY_KEY": GATEWAY_KEY,
        "FAREBOX_ADMIN_KEY": ADMIN_KEY,
        "FAREBOX_TABLE": table,
    }
    door = Door(open_gate(environment, transport(Simulator(sleep=lambda _: None))))
    return Town(door, open_admin(environment), wire)


if __name__ == "__main__":
    main()
