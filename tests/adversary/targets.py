"""What differs between gateways: how a budget is made, which headers spend it, how its books are read.

A gateway that is not here needs a class with these three members, and a line in `__main__`.
"""

import uuid
from dataclasses import dataclass
from typing import Protocol

import httpx

from tests.adversary.clients import Door
from tests.adversary.money import NANO, nanousd
from tests.adversary.verdicts import Books


class CannotRun(Exception):
    """One sentence: what is missing for this target or case."""


@dataclass(frozen=True, slots=True)
class Purse:
    """A fresh budget: who spends it, and by which name its books are asked for."""

    door: Door
    name: str


class Target(Protocol):
    """A gateway under test. `tolerance_nanousd` is what floats may lose."""

    @property
    def name(self) -> str: ...

    @property
    def tolerance_nanousd(self) -> int: ...

    async def purse(self, http: httpx.AsyncClient, case: str, cap_nanousd: int) -> Purse:
        """A budget of so much that nothing was spent of. Raises CannotRun."""
        ...

    async def books(self, http: httpx.AsyncClient, purse: Purse) -> Books:
        """What the gateway says was spent, and is held."""
        ...


@dataclass(frozen=True, slots=True)
class Farebox:
    """Ours: a tenant is a header, and has the default's budget (DEFAULT_DAILY_BUDGET)."""

    url: str
    key: str
    name: str = "farebox"
    tolerance_nanousd: int = 0

    async def purse(self, http: httpx.AsyncClient, case: str, cap_nanousd: int) -> Purse:
        tenant = f"{''.join(c if c.isalnum() else '-' for c in case)[:40]}-{uuid.uuid4().hex[:8]}"
        headers = {"Authorization": f"Bearer {self.key}", "X-Tenant-Id": tenant}
        purse = Purse(Door(self.url, headers), tenant)
        limit = nanousd((await self.usage(http, purse))["daily"]["limit_usd"])
        if limit != cap_nanousd:
            raise CannotRun(
                f"a new tenant has {limit / NANO} USD a day, not {cap_nanousd / NANO}: start the gateway with "
                f"DEFAULT_DAILY_BUDGET={cap_nanousd / NANO}"
            )
        return purse

    async def books(self, http: httpx.AsyncClient, purse: Purse) -> Books:
        month = (await self.usage(http, purse))["monthly"]
        return Books(nanousd(month["spent_usd"]), nanousd(month["held_usd"]))

    async def usage(self, http: httpx.AsyncClient, purse: Purse) -> dict[str, dict[str, float]]:
        """The tenant's usage."""
        address = f"{self.url.removesuffix('/v1')}/usage/{purse.name}"
        response = await http.get(address, headers=dict(purse.door.headers))
        if response.status_code != 200:
            raise CannotRun(f"{address} answers {response.status_code}: {response.text[:200]}")
        found: dict[str, dict[str, float]] = response.json()
        return found


@dataclass(frozen=True, slots=True)
class LiteLLM:
    """A virtual key with max_budget, made with the master key; its spend is written from time to time."""

    url: str
    key: str
    name: str = "litellm"
    tolerance_nanousd: int = 1000

    async def purse(self, http: httpx.AsyncClient, case: str, cap_nanousd: int) -> Purse:
        alias = f"{case}-{uuid.uuid4().hex[:8]}"
        wanted = {"max_budget": cap_nanousd / NANO, "key_alias": alias}
        response = await http.post(f"{self._root}/key/generate", json=wanted, headers=self._master)
        if response.status_code != 200:
            raise CannotRun(f"/key/generate answers {response.status_code}: {response.text[:200]}")
        key = response.json()["key"]
        return Purse(Door(self.url, {"Authorization": f"Bearer {key}"}), key)

    async def books(self, http: httpx.AsyncClient, purse: Purse) -> Books:
        response = await http.get(f"{self._root}/key/info", params={"key": purse.name}, headers=self._master)
        response.raise_for_status()
        return Books(nanousd(response.json()["info"]["spend"]))

    @property
    def _root(self) -> str:
        return self.url.removesuffix("/v1")

    @property
    def _master(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True, slots=True)
class AnyGateway:
    """Any other gateway: the key is a budget that was made by hand. Good for one case; its books are not read."""

    url: str
    key: str
    name: str = "any"
    tolerance_nanousd: int = 0

    async def purse(self, http: httpx.AsyncClient, case: str, cap_nanousd: int) -> Purse:  # noqa: ARG002
        return Purse(Door(self.url, {"Authorization": f"Bearer {self.key}"}), "")

    async def books(self, http: httpx.AsyncClient, purse: Purse) -> Books:  # noqa: ARG002
        return Books(None)


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway, and the simulator that it calls."""

    target: Target
    upstream: str
