"""DynamoDB: the ledger's three updates, cost spans, tenants. Translates, never decides.

    pk                      sk               item
    TENANT#<tenant>         LEDGER#<month>   m, d01 .. d31 (committed nano-dollars), h_<id> (open holds), n (how many),
                                             v (version), sm, s01 .. s31 (budget states that were told of)
    TENANT#<tenant>         CONFIG           limits, time zone, rules, version
    SPANS#<hour>#<shard>    <hold id>        one call's cost span
    LOST                    <hold id>        a reminder of a call whose cost is not known yet
    EVENTS                  <window>#...     a change of a budget's state

A plain `ADD` counts twice when the SDK repeats it after a lost answer. Here the hold's own attribute makes all ledger
updates exactly-once: one write each, no transaction.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from .aws import Item, from_dynamodb, to_dynamodb
from .errors import StoreUnavailable
from .ledger import MONTH, Ceilings, Hold, Ledger, Limits, No, lower, reserve, swap
from .money import dumps, loads_exact
from .rules import Rules, RulesError, rules_of
from .tenants import Tenant

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


LOST = "LOST"
EVENTS = "EVENTS"


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

    def reserve(
        self, tenant: str, month: str, hold: Hold, limits: Limits, ceilings: Ceilings | None = None
    ) -> Ledger | Refused:
        """Make a hold if both windows have room for it, in one update; the ledger after it, or why not."""
        values: dict[str, Any] = {
            ":hold": _hold_item(hold),
            ":amount": hold.amount_nanousd,
            ":one": 1,
            ":version": limits.version,
            ":in_flight": limits.in_flight,
        }
        # This hold was not made already: the SDK repeats after an unknown outcome.
        is_new = "attribute_not_exists(#hold)"
        # The tenant has fewer calls in flight than it may have.
        is_below_cap = "(attribute_not_exists(#count) OR #count < :in_flight)"
        conditions = [is_new, is_below_cap, _IS_CURRENT]
        if hold.amount_nanousd > 0:  # a free call needs no room
            most = lower(limits.ceilings(hold.amount_nanousd), ceilings)
            if min(most.day_nanousd, most.month_nanousd) < 0:
                # A new item has no counters to compare with, so what can never fit is refused before any write.
                return _unchanged(self.ledger(tenant, month), hold, limits, ceilings)
            values |= {":month_most": most.month_nanousd, ":day_most": most.day_nanousd}
            conditions += [_HAS_ROOM]
        names = {"#hold": f"h_{hold.id}", "#day": _day(hold.day), "#month": "m", "#version": "v", "#count": "n"}
        update = "SET #hold = :hold, #version = :version ADD #month :amount, #day :amount, #count :one"
        try:
            return self._update(tenant, month, update, conditions, names, values)
        except _ConditionFailed as e:
            return _unchanged(ledger_of(e.item), hold, limits, ceilings)

    def swap(self, tenant: str, month: str, old: Hold, new: Hold, limits: Limits) -> Ledger | Refused:
        """End one hold and make another in its place if the difference fits, in one update; the ledger after it."""
        more = new.amount_nanousd - old.amount_nanousd
        values: dict[str, Any] = {":new": _hold_item(new), ":more": more, ":version": limits.version}
        conditions = ["attribute_exists(#old)", "attribute_not_exists(#new)", _IS_CURRENT]
        if more > 0:
            most = limits.ceilings(more)
            values |= {":month_most": most.month_nanousd, ":day_most": most.day_nanousd}
            conditions += [_HAS_ROOM]
        names = {"#old": f"h_{old.id}", "#new": f"h_{new.id}", "#day": _day(new.day), "#month": "m", "#version": "v"}
        update = "SET #new = :new, #version = :version REMOVE #old ADD #month :more, #day :more"
        try:
            return self._update(tenant, month, update, conditions, names, values)
        except _ConditionFailed as e:
            before = ledger_of(e.item)
            result = swap(before, old, new, limits)
            return Refused(result, before) if isinstance(result, No) else before

    def settle(self, tenant: str, month: str, hold: Hold, cost_nanousd: int) -> Ledger:
        """End a hold at its cost, in one update; the ledger after it. A hold that has ended already is left alone."""
        names = {"#hold": f"h_{hold.id}", "#day": _day(hold.day), "#month": "m", "#count": "n"}
        values = {":change": cost_nanousd - hold.amount_nanousd, ":less": -1}
        update = "REMOVE #hold ADD #month :change, #day :change, #count :less"
        try:
            return self._update(tenant, month, update, ["attribute_exists(#hold)"], names, values)
        except _ConditionFailed as e:
            return ledger_of(e.item)

    def _update(
        self,
        tenant: str,
        month: str,
        update: str,
        conditions: Sequence[str],
        names: Mapping[str, str],
        values: Item,
    ) -> Ledger:
        """Change a ledger on conditions; the ledger after it. Raises _ConditionFailed with the one before."""
        with _answered():
            answer = self._client.update_item(
                TableName=self._table,
                Key=_ledger_key(tenant, month),
                UpdateExpression=update,
                ConditionExpression=" AND ".join(conditions),
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=to_dynamodb(values),
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        return ledger_of(from_dynamodb(_attributes(answer)))

    # Budget states.

    def put_event(self, sk: str, event: Item) -> bool:
        """Keep a change of a budget's state, once; whether this call was the first to tell of it."""
        try:
            with _answered():
                self._client.put_item(
                    TableName=self._table,
                    Item=to_dynamodb({"pk": EVENTS, "sk": sk, **event}),
                    ConditionExpression="attribute_not_exists(pk)",
                )
        except _ConditionFailed:
            return False
        return True

    def mark_state(self, tenant: str, month: str, window: str, old: str | None, new: str) -> None:
        """Note in the ledger which state of a window has been told of, unless another writer was faster."""
        values = {":new": new, **({} if old is None else {":old": old})}
        with suppress(_ConditionFailed), _answered():
            self._client.update_item(
                TableName=self._table,
                Key=_ledger_key(tenant, month),
                UpdateExpression="SET #state = :new",
                ConditionExpression="attribute_not_exists(#state)" if old is None else "#state = :old",
                ExpressionAttributeNames={"#state": _state(window)},
                ExpressionAttributeValues=to_dynamodb(values),
            )

    def events(self) -> Iterator[Item]:
        """All changes of state that are kept, by window."""
        return self.spans(EVENTS)

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

    def tenant(self, name: str, rules: Rules) -> Tenant | None:
        """A tenant's configuration, read consistently, with `rules` where it has none; None when there is no tenant."""
        item = self._get({"pk": {"S": f"TENANT#{name}"}, "sk": {"S": "CONFIG"}})
        if not item:
            return None
        if "rules" in item:
            try:
                rules = rules_of(loads_exact(item["rules"]), rules)
            except (RulesError, ValueError) as e:
                raise StoreError(f"the rules of tenant {name} cannot be read: {e}") from e
        limits = Limits(int(item["day_nanousd"]), int(item["month_nanousd"]), int(item["version"]), rules.in_flight)
        return Tenant(name, limits, str(item["time_zone"]), rules)

    def seed_tenant(self, tenant: Tenant) -> bool:
        """Write a tenant's configuration unless there is one; whether it was written."""
        item = {
            "pk": f"TENANT#{tenant.name}",
            "sk": "CONFIG",
            "day_nanousd": tenant.limits.day_nanousd,
            "month_nanousd": tenant.limits.month_nanousd,
            "version": tenant.limits.version,
            "time_zone": tenant.time_zone,
            "rules": dumps(tenant.rules.content()),
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
    with suppress(dynamodb.exceptions.ResourceInUseException):
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


# The limits were not changed since they were read.
_IS_CURRENT = "(attribute_not_exists(#version) OR #version <= :version)"
# Conditions cannot add, so the most that may be committed before is computed here: the limit less the hold.
_HAS_ROOM = (
    "(attribute_not_exists(#month) OR #month <= :month_most) AND (attribute_not_exists(#day) OR #day <= :day_most)"
)


def _unchanged(before: Ledger, hold: Hold, limits: Limits, ceilings: Ceilings | None) -> Ledger | Refused:
    """What a reserve that wrote nothing means: the hold was there already, or why it was not made."""
    if hold.id in before.holds:
        return before
    result = reserve(before, hold, limits, ceilings)
    # The count of calls in flight may be above the holds for a moment of an upgrade: what it refused was too many.
    return Refused(result if isinstance(result, No) else No.TOO_MANY, before)


def ledger_of(item: Item) -> Ledger:
    """A ledger item to its value."""
    holds = [_hold(name[2:], value) for name, value in item.items() if name.startswith("h_")]
    days = {int(name[1:]): int(value) for name, value in item.items() if name[0] == "d" and name[1:].isdigit()}
    states = {_window(name): str(value) for name, value in item.items() if name == "sm" or _is_day_state(name)}
    return Ledger(
        committed_nanousd=int(item.get("m", 0)),
        committed_by_day=days,
        holds={hold.id: hold for hold in holds},
        version=int(item["v"]) if "v" in item else None,
        states=states,
    )


def _is_day_state(name: str) -> bool:
    return name[0] == "s" and name[1:].isdigit()


def _state(window: str) -> str:
    """The attribute of a window's state: `sm`, or `s01` to `s31`."""
    return "sm" if window == MONTH else f"s{int(window):02}"


def _window(attribute: str) -> str:
    return MONTH if attribute == "sm" else str(int(attribute[1:]))


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
