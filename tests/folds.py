"""A table with spans, a clock, and folds over it; what the rollups must say is computed anew each time."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from aws_lambda_powertools import Logger

from farebox.aws import to_dynamodb
from farebox.fold import Folder, fold
from farebox.hours import hour_of
from farebox.rollups import Rollups
from farebox.spans import SHARDS, partition
from farebox.store import Store
from farebox.telemetry import Telemetry
from farebox.tenants import windows
from tests.conftest import connected, new_table
from tests.rollup_truth import Key, Rollup, expected, stored
from tests.simulation.memory import Memory, Pages

NOON = datetime(2026, 11, 23, 12, 20, tzinfo=UTC)


@dataclass
class Shelf:
    """One table. `at` is the time of all that happens."""

    client: Any
    table: str
    at: datetime = NOON
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=itertools.count)

    @property
    def store(self) -> Store:
        return Store(self.client, self.table)

    def folder(self, client: Any = None) -> Folder:
        """`client` goes in the place of the table's own."""
        used = cast("Any", client or self.client)
        store, rollups = Store(used, self.table), Rollups(used, self.table)
        return Folder(store, rollups, Listening(self.said), lambda: self.at, lambda: secrets.token_hex(4))

    def fold(
        self, client: Any = None, *, since: str | None = None, has_time: Callable[[], bool] = lambda: True
    ) -> dict[str, int]:
        return fold(self.folder(client), has_time, since)

    def call(
        self, at: datetime | None = None, *, zone: str = "UTC", tenant: str = "acme", cost: int | None = 7, **more: Any
    ) -> tuple[str, str]:
        """Write the span of a call that was made then; its key."""
        at = at or self.at
        window, id_ = windows(at, zone), next(self.ids)
        pk, sk = partition(hour_of(int(at.timestamp())), id_ % SHARDS), f"{id_:08}"
        span: dict[str, Any] = {"tenant": tenant, "month": window.month, "day": window.day, "feature": "search"}
        span |= {"model": "sim/ok", "provider": "Sim", "prompt_tokens": 2, "completion_tokens": 3, **more}
        if cost is not None:
            span["cost_nanousd"] = cost
        self.store.put_span(pk, sk, {name: value for name, value in span.items() if value is not None})
        return pk, sk

    def begin(self, at: datetime) -> None:
        """All that was before this hour is final."""
        self.folder().rollups.move(hour_of(int(at.timestamp())))

    def put(self, item: dict[str, Any]) -> None:
        """Anything, in DynamoDB's way of writing."""
        self.client.put_item(TableName=self.table, Item=item)

    def mark(self, hour: str) -> None:
        self.store.mark_stale(hour, f"m{next(self.ids)}")

    @property
    def items(self) -> list[dict[str, Any]]:
        """Everything in the table, in order."""
        if isinstance(self.client, Memory):
            return [dict(self.client.items[key]) for key in sorted(self.client.items)]
        pages = self.client.get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True)
        found = [item for page in pages for item in page["Items"]]
        return sorted(found, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))

    @property
    def rollups(self) -> dict[Key, Rollup]:
        return stored(self.items)

    @property
    def watermark(self) -> str | None:
        return self.folder().rollups.progress().hour

    @property
    def marks(self) -> list[str]:
        return sorted(self.folder().rollups.marks())

    def is_right(self) -> None:
        """Every rollup says what the spans do, and none is missing."""
        items = self.items
        assert stored(items) == expected(items)

    def cost(self, sk: str, month: str = "2026-11", tenant: str = "acme") -> int | None:
        """What a rollup has under its total."""
        rollup = self.rollups.get((f"USAGE#{tenant}#{month}", sk))
        return None if rollup is None else rollup["total", ""].get("c", 0)


class Listening(Telemetry):
    """Keeps what is said of folds."""

    def __init__(self, said: list[tuple[str, dict[str, Any]]]) -> None:
        super().__init__(Logger(service="fold"))
        self._said = said

    def hour(self, fields: Any) -> None:
        self._said.append(("hour", dict(fields)))

    def folded(self, fields: Any) -> None:
        self._said.append(("folded", dict(fields)))

    def skipped(self, fields: Any) -> None:
        self._said.append(("skipped", dict(fields)))

    def failure(self, what: str, fields: Any) -> None:
        self._said.append((what, dict(fields)))


class Between:
    """A client that does something before its n-th request; `asked` has the operations."""

    def __init__(self, client: Any, before: Callable[[int, str, dict[str, Any]], None]) -> None:
        self._client, self._before = client, before
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name == "get_paginator":
            return lambda operation: Pages(lambda request: self._asked(operation, dict(request)))
        return lambda **request: self._asked(name, request)

    def _asked(self, operation: str, request: dict[str, Any]) -> Any:
        number = len(self.asked)
        self.asked.append(operation)
        self._before(number, operation, request)
        return getattr(self._client, operation)(**request)


class Killed(BaseException):
    """The process is gone."""


def dying(client: Any, operation: str, number: int) -> Between:
    """A client whose process dies before its n-th request of a kind."""

    def before(_number: int, asked: str, _request: dict[str, Any]) -> None:
        if asked == operation and between.asked.count(operation) == number:
            raise Killed

    between = Between(client, before)
    return between


def unreadable(pk: str, sk: str) -> dict[str, Any]:
    """A span with a list, which no item of ours has."""
    return {**to_dynamodb({"pk": pk, "sk": sk, "tenant": "acme"}), "feature": {"L": []}}


def shelf_of(url: str) -> Shelf:
    return Shelf(connected(url), new_table(url))


@pytest.fixture
def shelf() -> Shelf:
    """On the table of the simulation, which answers as DynamoDB does, and faster."""
    return Shelf(Memory(), "t")


@pytest.fixture
def each_shelf(store_url: str) -> Shelf:
    """On each store."""
    return Shelf(connected(store_url), new_table(store_url))
