"""Rollups in the table: sums of spans by hour, day and month, and how far they are. Translates, never decides.

    pk                       sk                    item
    USAGE#<tenant>#<month>   H#<dd>#<hour>         sums of a day's spans that are kept under an hour in UTC; ttl
    USAGE#<tenant>#<month>   D#<dd>                the sum of that day's hours; `of`: which revision of each is in it
    USAGE#<tenant>#<month>   M                     the sum of the days; `of` as above
    ROLLUP                   WATERMARK             hour: all before it are final; by: which run wrote hours last
    ROLLUP                   STALE#<hour>#<mark>   a span of an older hour is about to be changed (Store.mark_stale)
    KEYUSE#<tenant>          <key>                 at: the last call with an API key, in epoch seconds

Days and months are the tenant's own, hours are UTC: in a zone with half hours one hour has spans of two days.

`rev` is an item's revision. Each write is made on the condition that the item is as it was read: of two runs at once
one finds itself overtaken, and a request that is repeated or comes late changes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .aws import Item, from_dynamodb, to_dynamodb
from .store import BATCH, ROLLUP, STALE, ConditionFailed, answered, batch, query
from .tally import READ

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_WATERMARK = {"pk": {"S": ROLLUP}, "sk": {"S": "WATERMARK"}}

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Progress:
    """Every hour before this one is final; and which run wrote hours last."""

    hour: str | None
    by: str | None


@dataclass(frozen=True, slots=True)
class Rollup:
    """An item: what it says, and its revision; 0 is one that is not there."""

    fields: Item
    rev: int = 0


MISSING = Rollup({})


@dataclass(slots=True)
class Allowance:
    """So many pages of queries may still be read, also those on which a filter has left nothing."""

    left: int
    is_used_up: bool = False
    """Whether there was a page that was not read."""

    def of(self, pages: Iterable[Any]) -> Iterator[Any]:
        """Those of a query that may be read. None is asked for beyond them: a page is paid for when it is asked for."""
        if self._is_short():
            return
        for page in pages:
            self.left -= 1
            yield page
            if "LastEvaluatedKey" in page and self._is_short():
                return

    def _is_short(self) -> bool:
        self.is_used_up = self.is_used_up or self.left <= 0
        return self.is_used_up


def hour_key(tenant: str, month: str, day: int, hour: str) -> Key:
    return f"USAGE#{tenant}#{month}", f"H#{day:02}#{hour}"


def day_key(tenant: str, month: str, day: int) -> Key:
    return f"USAGE#{tenant}#{month}", f"D#{day:02}"


def month_key(tenant: str, month: str) -> Key:
    return f"USAGE#{tenant}#{month}", "M"


class Rollups:
    """One table. Every method raises StoreError when DynamoDB does not answer."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    # What they are made of.

    def spans(
        self, pk: str, tenant: str | None = None, allowance: Allowance | None = None
    ) -> Iterator[tuple[str, Item]]:
        """Sort key, moment and what a tally reads of each span of a partition; nothing of an unreadable one.

        Of all tenants, or of one; all pages, or as many as are allowed.
        """
        of_tenant: Item = {} if tenant is None else {":tenant": tenant}
        for item in self._query("pk = :pk", {":pk": pk, **of_tenant}, ("sk", "admitted_at", *READ), allowance):
            yield item["sk"]["S"], _readable(item)

    # Rollups.

    def read(self, keys: Sequence[Key]) -> dict[Key, Rollup]:
        """Those that are there, read consistently."""
        found: dict[Key, Rollup] = {}
        for at in range(0, len(keys), BATCH):
            asked = [{"pk": {"S": pk}, "sk": {"S": sk}} for pk, sk in keys[at : at + BATCH]]
            for item in batch(self._client, self._table, asked):
                found[item["pk"]["S"], item["sk"]["S"]] = _rollup(item)
        return found

    def under(self, pk: str, begin: str) -> Iterator[tuple[str, Rollup]]:
        """Those of a partition whose sort key begins so, with that."""
        for item in self._query("pk = :pk AND begins_with(sk, :begin)", {":pk": pk, ":begin": begin}):
            yield item["sk"]["S"], _rollup(item)

    def put(self, key: Key, fields: Item, before: Rollup) -> bool:
        """Write one in the place of another; False where that is not there any more: another run was faster."""
        item = {"pk": key[0], "sk": key[1], "rev": before.rev + 1, **fields}
        try:
            with answered():
                self._client.put_item(
                    TableName=self._table,
                    Item=to_dynamodb(item),
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    **_is_as_read("rev", before.rev or None),
                )
        except ConditionFailed as e:
            return e.item == item  # a repeated request finds what it has written itself
        return True

    # How far they are.

    def progress(self) -> Progress:
        with answered():
            item = self._client.get_item(TableName=self._table, Key=_WATERMARK, ConsistentRead=True).get("Item", {})
        said = from_dynamodb(item)
        return Progress(said.get("hour"), said.get("by"))

    def claim(self, before: str | None, run: str) -> bool:
        """Be the run that writes hours, as long as no other has begun to since; whether this is so."""
        asked = _is_as_read("#by", before)
        values = {**asked.pop("ExpressionAttributeValues", {}), ":run": {"S": run}}
        try:
            with answered():
                self._client.update_item(
                    TableName=self._table,
                    Key=_WATERMARK,
                    UpdateExpression="SET #by = :run",
                    ExpressionAttributeNames={"#by": "by"},
                    ExpressionAttributeValues=values,
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    **asked,
                )
        except ConditionFailed as e:
            return bool(e.item.get("by") == run)
        return True

    def move(self, hour: str) -> None:
        """Every hour before this one is final. Never goes back."""
        with suppress(ConditionFailed), answered():
            self._client.update_item(
                TableName=self._table,
                Key=_WATERMARK,
                UpdateExpression="SET #hour = :hour",
                ConditionExpression="attribute_not_exists(#hour) OR #hour < :hour",
                ExpressionAttributeNames={"#hour": "hour"},
                ExpressionAttributeValues={":hour": {"S": hour}},
            )

    def used(self, tenant: str, key: str, at: int) -> None:
        """An API key was used then. Never goes back."""
        with suppress(ConditionFailed), answered():
            self._client.update_item(
                TableName=self._table,
                Key=to_dynamodb({"pk": f"KEYUSE#{tenant}", "sk": key}),
                UpdateExpression="SET #at = :at",
                ConditionExpression="attribute_not_exists(#at) OR #at < :at",
                ExpressionAttributeNames={"#at": "at"},
                ExpressionAttributeValues=to_dynamodb({":at": at}),
            )

    def marks(self) -> dict[str, list[str]]:
        """The sort keys of the marks there are, by hour."""
        found: dict[str, list[str]] = {}
        for item in self._query("pk = :pk AND begins_with(sk, :begin)", {":pk": ROLLUP, ":begin": STALE}):
            sk = item["sk"]["S"]
            found.setdefault(sk.split("#")[1], []).append(sk)
        return found

    def unmark(self, sk: str) -> None:
        """What this mark was left for is in the rollups. Each change has its own mark, so no other goes with it."""
        with answered():
            self._client.delete_item(TableName=self._table, Key={"pk": {"S": ROLLUP}, "sk": {"S": sk}})

    def _query(
        self, condition: str, values: Item, read: Sequence[str] = (), allowance: Allowance | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """The items of a partition as DynamoDB has them."""
        names = {f"#{name}": name for name in read}
        asked: Any = {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names} if read else {}
        if ":tenant" in values:
            asked["FilterExpression"] = "#tenant = :tenant"
        within = iter if allowance is None else allowance.of
        return query(self._client, self._table, condition, values, within=within, **asked)


def _is_as_read(name: str, before: int | str | None) -> dict[str, Any]:
    """The condition that an attribute is what it was; None where it was not there."""
    if before is None:
        return {"ConditionExpression": f"attribute_not_exists({name})"}
    return {
        "ConditionExpression": f"{name} = :before",
        "ExpressionAttributeValues": to_dynamodb({":before": before}),
    }


def _rollup(item: Mapping[str, Any]) -> Rollup:
    fields = from_dynamodb(item)
    rev = int(fields.pop("rev"))
    return Rollup({name: value for name, value in fields.items() if name not in ("pk", "sk")}, rev)


def _readable(item: Mapping[str, Any]) -> Item:
    try:
        return from_dynamodb(item)
    except (TypeError, ValueError):
        return {}
