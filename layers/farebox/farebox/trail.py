"""The last spans as they are in the table, for whoever watches calls come in (`farebox tail`).

A span is written at the end of its call, under the hour and the id of its beginning: who looks again has to look as far
back as a call can take. Ids sort by time, so only that part of an hour is read, and no more than MAX_PAGES: one
tenant's are looked for among everybody's.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from .aws import Item, from_dynamodb
from .hours import hour_of, hours
from .rollups import Allowance
from .spans import SHARDS, partition
from .store import query

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_BACK_S = 7200
_SLACK_S = 60
"""A hold's id is made before the moment of its admission is taken, by another clock."""
_PAGE = 250
MAX_PAGES = 100
"""Of as many spans, so 25,000: the most that can be asked for takes fewer where no tenant is looked for."""


class Trail:
    """One table. Raises StoreError when DynamoDB does not answer."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    def since(self, since: int, now: int, tenant: str | None, most: int) -> tuple[list[Item], bool]:
        """Spans of calls that were admitted since then, the newest last; and whether there were more, or may have been.

        Moments in epoch seconds. From the latest hour back, so that a busy gateway's are not all read.
        """
        found: list[Item] = []
        # Each shard has its own, or the first one's old calls would be told and the last one's new ones not.
        allowances = [Allowance(MAX_PAGES // SHARDS) for _ in range(SHARDS)]
        more = False
        for hour in reversed(list(hours(hour_of(since), hour_of(now)))):
            for shard, allowance in enumerate(allowances):
                found += islice(self._spans(partition(hour, shard), since, tenant, allowance), most + 1)
            more = len(found) > most or any(allowance.is_used_up for allowance in allowances)
            if more:
                break
        found.sort(key=lambda span: (span["admitted_at"], span["sk"]))
        return found[-most:], more

    def _spans(self, pk: str, since: int, tenant: str | None, allowance: Allowance) -> Iterator[Item]:
        """Of one partition, the newest first."""
        asked: dict[str, Any] = {"FilterExpression": "admitted_at >= :since"}
        values: dict[str, Any] = {":pk": pk, ":from": f"{max(0, since - _SLACK_S) * 1000:011x}", ":since": since}
        if tenant is not None:
            asked = {
                "FilterExpression": "admitted_at >= :since AND #tenant = :tenant",
                "ExpressionAttributeNames": {"#tenant": "tenant"},
            }
            values[":tenant"] = tenant
        found = query(
            self._client,
            self._table,
            "pk = :pk AND sk >= :from",
            values,
            within=allowance.of,
            ScanIndexForward=False,
            PaginationConfig={"PageSize": _PAGE},
            **asked,
        )
        return map(from_dynamodb, found)
