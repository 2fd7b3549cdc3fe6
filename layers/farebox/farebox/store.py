"""DynamoDB: the ledger's two updates, cost spans, tenants. Translates, never decides.

    pk                      sk               item
    TENANT#<tenant>         LEDGER#<month>   m, d01 .. d31 (committed nano-dollars), h_<id> (open holds), v (version)
    TENANT#<tenant>         CONFIG           limits, time zone, version
    SPANS#<hour>#<shard>    <hold id>        one call's cost span
    LOST                    <hold id>        a reminder of a call whose cost is not known yet

A plain `ADD` counts twice when the SDK repeats it after a lost answer. Here the hold's own attribute makes both ledger
updates exactly-once: one write each, no transaction.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from .aws import Item, from_dynamodb, to_dynamodb
from .errors import StoreUnavailable
from .ledger import Hold, Ledger, Limits, No
from .tenants import Tenant

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


LOST = "LOST"


@dataclass(frozen=True, slots=True)
class Refused:
    """A reserve that was not made, with the ledger as it was: a refusal needs no second read."""

    why: No
    ledger: Ledger


class StoreError(Exception):
    """DynamoDB did not answer, or not in time: whether the write happened is not known."""


class Store:
    """One table. Every method raises StoreError when DynamoDB does not answer."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    # The ledger.

    def reserve(self, tenant: str, month: str, hold: Hold, limits: Limits) -> Ledger | Refused:
        """Make a hold if both windows have room, in one update; the ledger after it, or why not."""
        if hold.amount_nanousd > min(limits.day_nanousd, limits.month_nanousd):
            # A new item has no counters to compare with, so what can never fit is refused before any write.
            return _unchanged(self.ledger(tenant, month), hold, limits)
        names = {"#hold": f"h_{hold.id}", "#day": _day(hold.day), "#month": "m", "#version": "v"}
        values: dict[str, Any] = {":hold": _hold_item(hold), ":amount": hold.amount_nanousd, ":version": limits.version}
        # This hold was not made already: the SDK repeats after an unknown outcome.
        is_new = "attribute_not_exists(#hold)"
        # The limits were not changed since they were read.
        is_current = "(attribute_not_exists(#version) OR #version <= :version)"
        conditions = [is_new, is_current]
        if hold.amount_nanousd > 0:
            # Conditions cannot add, so room = limit - amount is computed here. A free call needs no room.
            values[":month_room"] = limits.month_nanousd - hold.amount_nanousd
            values[":day_room"] = limits.day_nanousd - hold.amount_nanousd
            conditions += [
                "(attribute_not_exists(#month) OR #month <= :month_room)",
                "(attribute_not_exists(#day) OR #day <= :day_room)",
            ]
        try:
            with _answered():
                answer = self._client.update_item(
                    TableName=self._table,
                    Key=_ledger_key(tenant, month),
                    UpdateExpression="SET #hold = :hold, #version = :version ADD #month :amount, #day :amount",
                    ConditionExpression=" AND ".join(conditions),
                    ExpressionAttributeNames=names,
                    ExpressionAttributeValues=to_dynamodb(values),
                    ReturnValues="ALL_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except _ConditionFailed as e:
            return _unchanged(ledger_of(e.item), hold, limits)
        return ledger_of(from_dynamodb(_attributes(answer)))

    def settle(self, tenant: str, month: str, hold: Hold, cost_nanousd: int) -> Ledger:
        """End a hold at its cost, in one update; the ledger after it. A hold that has ended already is left alone."""
        change = cost_nanousd - hold.amount_nanousd
        try:
            with _answered():
                answer = self._client.update_item(
                    TableName=self._table,
                    Key=_ledger_key(tenant, month),
                    UpdateExpression="REMOVE #hold ADD #month :change, #day :change",
                    ConditionExpression="attribute_exists(#hold)",
                    ExpressionAttributeNames={"#hold": f"h_{hold.id}", "#day": _day(hold.day), "#month": "m"},
                    ExpressionAttributeValues=to_dynamodb({":change": change}),
                    ReturnValues="ALL_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except _ConditionFailed as e:
            return ledger_of(e.item)
        return ledger_of(from_dynamodb(_attributes(answer)))

    def ledger(self, tenant: str, month: str) -> Ledger:
        """A tenant's month; an empty one when nothing was called yet."""
        return ledger_of(self._get(_ledger_key(tenant, month)))

    # Spans.

    def put_span(self, pk: str, sk: str, span: Item) -> None:
        """Write a cost span, once: what is there already came from this call or from whoever settled it instead."""
        try:
            with _answered():
                self._client.put_item(
                    TableName=self._table,
                    Item=to_dynamodb({"pk": pk, "sk": sk, **span}),
                    ConditionExpression="attribute_not_exists(pk)",
                )
        except _ConditionFailed:
            return

    def resolve_span(self, pk: str, sk: str, cost_nanousd: int, *, is_estimated: bool, known: Item) -> tuple[int, bool]:
        """Write the cost of a lost call into its span, once; what stands in it now, and whether that is estimated.

        Where the span itself was never written it is made, of what is `known`: no record is lost.
        """
        made = ", ".join(f"#{name} = if_not_exists(#{name}, :{name})" for name in known)
        values = {":cost": cost_nanousd, ":estimated": is_estimated, **{f":{name}": known[name] for name in known}}
        try:
            with _answered():
                answer = self._client.update_item(
                    TableName=self._table,
                    Key={"pk": {"S": pk}, "sk": {"S": sk}},
                    UpdateExpression=f"SET cost_nanousd = :cost, is_estimated = :estimated, {made}",
                    ConditionExpression="attribute_not_exists(cost_nanousd)",
                    ExpressionAttributeNames={f"#{name}": name for name in known},
                    ExpressionAttributeValues=to_dynamodb(values),
                    ReturnValues="UPDATED_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except _ConditionFailed as e:
            return e.item["cost_nanousd"], e.item.get("is_estimated", False)
        written = from_dynamodb(_attributes(answer))
        return written["cost_nanousd"], written["is_estimated"]

    def remind(self, hold_id: str, reminder: Item) -> None:
        """Remember a lost call, once: the first reminder knows most."""
        item = to_dynamodb({"pk": LOST, "sk": hold_id, **reminder})
        try:
            with _answered():
                self._client.put_item(TableName=self._table, Item=item, ConditionExpression="attribute_not_exists(pk)")
        except _ConditionFailed:
            return

    def reminders(self) -> Iterator[Item]:
        """All lost calls, oldest first: hold ids sort by time."""
        return self.spans(LOST)

    def forget(self, hold_id: str) -> None:
        """A lost call has been resolved."""
        with _answered():
            self._client.delete_item(TableName=self._table, Key={"pk": {"S": LOST}, "sk": {"S": hold_id}})

    def spans(self, pk: str) -> Iterator[Item]:
        """All items of a partition (the spans of one hour and shard), oldest first."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues=to_dynamodb({":pk": pk}),
            ConsistentRead=True,
        )
        with _answered():
            for page in pages:
                if "Items" not in page:
                    raise StoreError("a query was answered without items")
                yield from (from_dynamodb(item) for item in page["Items"])

    # Tenants.

    def tenant(self, name: str) -> Tenant | None:
        """A tenant's configuration, read consistently; None when there is none."""
        item = self._get({"pk": {"S": f"TENANT#{name}"}, "sk": {"S": "CONFIG"}})
        if not item:
            return None
        limits = Limits(int(item["day_nanousd"]), int(item["month_nanousd"]), int(item["version"]))
        return Tenant(name, limits, str(item["time_zone"]))

    def seed_tenant(self, tenant: Tenant) -> bool:
        """Write a tenant's configuration unless there is one; whether it was written."""
        item = {
            "pk": f"TENANT#{tenant.name}",
            "sk": "CONFIG",
            "day_nanousd": tenant.limits.day_nanousd,
            "month_nanousd": tenant.limits.month_nanousd,
            "version": tenant.limits.version,
            "time_zone": tenant.time_zone,
        }
        try:
            with _answered():
                self._client.put_item(
                    TableName=self._table, Item=to_dynamodb(item), ConditionExpression="attribute_not_exists(pk)"
                )
        except _ConditionFailed:
            return False
        return True

    def _get(self, key: Mapping[str, Any]) -> Item:
        with _answered():
            return from_dynamodb(
                self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item", {})
            )


def create_table(dynamodb: "DynamoDBClient", table: str) -> None:
    """The table as template.yaml has it, for local stores and tests; one that exists is left alone."""
    with contextlib.suppress(dynamodb.exceptions.ResourceInUseException):
        dynamodb.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )


def refusal(error: StoreError) -> StoreUnavailable:
    """Fail closed: the sentence for clients; the cause is for the log."""
    unavailable = StoreUnavailable(
        "the budget ledger does not answer, so nothing is admitted; nothing was spent", headers={"Retry-After": "2"}
    )
    unavailable.__cause__ = error
    return unavailable


# Translation.


def _unchanged(before: Ledger, hold: Hold, limits: Limits) -> Ledger | Refused:
    """What a reserve that wrote nothing means: the hold was there already, or why it was not made."""
    if hold.id in before.holds:
        return before
    stale = before.version is not None and before.version > limits.version
    return Refused(No.STALE_LIMITS if stale else No.NO_ROOM, before)


def ledger_of(item: Item) -> Ledger:
    """A ledger item to its value."""
    holds = [_hold(name[2:], value) for name, value in item.items() if name.startswith("h_")]
    days = {int(name[1:]): int(value) for name, value in item.items() if name[0] == "d" and name[1:].isdigit()}
    return Ledger(
        committed_nanousd=int(item.get("m", 0)),
        committed_by_day=days,
        holds={hold.id: hold for hold in holds},
        version=int(item["v"]) if "v" in item else None,
    )


def _hold_item(hold: Hold) -> dict[str, Any]:
    """Names of one letter: up to hundreds of holds stand in one item, and each write pays for all of it."""
    return {
        "a": hold.amount_nanousd,
        "d": hold.day,
        "t": hold.admitted_at,
        "x": hold.expires_at,
        "o": hold.model,
    }


def _hold(id_: str, item: Item) -> Hold:
    return Hold(id_, int(item["a"]), int(item["d"]), int(item["t"]), int(item["x"]), str(item["o"]))


def _ledger_key(tenant: str, month: str) -> dict[str, Any]:
    return {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": f"LEDGER#{month}"}}


def _day(day: int) -> str:
    return f"d{day:02}"


def _attributes(answer: Mapping[str, Any]) -> Item:
    """An update says what it left behind; an answer that does not is not DynamoDB's."""
    if not answer.get("Attributes"):
        raise StoreError("an update was answered without the item that it made")
    attributes: Item = answer["Attributes"]
    return attributes


class _ConditionFailed(Exception):
    def __init__(self, item: Item) -> None:
        super().__init__("condition failed")
        self.item = item


@contextmanager
def _answered() -> Iterator[None]:
    """A condition that failed is an answer; everything else means that the outcome is unknown."""
    try:
        yield
    except ClientError as e:
        if e.response["Error"]["Code"] == "ConditionalCheckFailedException":
            old: Any = e.response.get("Item", {})
            raise _ConditionFailed(from_dynamodb(old)) from None
        raise StoreError(f"DynamoDB answered {e.response['Error']['Code']}") from e
    except BotoCoreError as e:
        raise StoreError(f"DynamoDB did not answer: {type(e).__name__}") from e
