"""DynamoDB: the ledger's three updates, cost spans, tenants. Translates, never decides.

    pk                      sk               item
    TENANT#<tenant>         LEDGER#<month>   m, d01 .. d31 (committed nano-dollars), h_<id> (open holds, and marks of
                                             some that have ended), n (how many are open), v (version),
                                             k_<id> (committed with an API key), e_<id> (estimates), sm,
                                             s01 .. s31 (budget states that were told of)
    LEDGERS#<month>         <tenant>         such a ledger may have holds
    SWEEP                   CURSOR           where the walk over the ledgers goes on
    TENANT#<tenant>         CONFIG           limits, time zone, rules, version
    SPANS#<hour>#<shard>    <hold id>        one call's cost span
    LOST                    <hold id>        a reminder of a call whose cost is not known yet
    EVENTS                  <window>#...     a change of a budget's state
    ROLLUP                  STALE#<hour>#... a span of an older hour has changed (rollups.py, where USAGE# is too)
    FEES                    <model>          fee_nanousd: of each call, billed and announced nowhere

A plain `ADD` counts twice when the SDK repeats it after a lost answer. Here the hold's own attribute makes all ledger
updates exactly-once: one write each, no transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from .aws import Item, from_dynamodb, to_dynamodb
from .configs import Config, ConfigError
from .errors import StoreUnavailable
from .ledger import MONTH, Ceilings, Estimate, Hold, Ledger, Limits, No, lower, reserve, swap
from .reminders import kept_until
from .tenants import DEFAULT, Tenant

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


BATCH = 100
"""Items that one request may read."""
TRIES = 8
"""Of a batch of which DynamoDB does nothing at the moment."""
LOST = "LOST"
EVENTS = "EVENTS"
ROLLUP = "ROLLUP"
STALE = "STALE#"
FEES = "FEES"


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
        self._repeated: set[str] = set()
        """Holds whose reserve was sent more than once by this environment: few, and it lives for hours at most."""

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
            if most.least_nanousd < 0:
                # A new item has no counters to compare with, so what can never fit is refused before any write.
                return _unchanged(self.ledger(tenant, month), hold, limits, ceilings)
            values |= _most(most)
            conditions += _has_room(most)
        counters, names = _counters(hold, ":amount")
        names |= {"#hold": f"h_{hold.id}", "#version": "v", "#count": "n"}
        update = f"SET #hold = :hold, #version = :version ADD {counters}, #count :one"
        try:
            return self._update(tenant, month, update, conditions, names, values, makes=hold.id)
        except ConditionFailed as e:
            before = ledger_of(e.item)
            if hold.id in before.holds:
                self._repeat(hold.id)
            return _unchanged(before, hold, limits, ceilings)

    def swap(self, tenant: str, month: str, old: Hold, new: Hold, limits: Limits) -> Ledger | Refused:
        """End one hold and make another in its place if the difference fits, in one update; the ledger after it."""
        more = new.amount_nanousd - old.amount_nanousd
        values: dict[str, Any] = {
            ":new": _hold_item(new),
            ":more": more,
            ":version": limits.version,
            ":map": "M",
        }
        conditions = ["attribute_type(#old, :map)", "attribute_not_exists(#new)", _IS_CURRENT]
        if more > 0:
            most = limits.ceilings(more)
            values |= _most(most)
            conditions += _has_room(most)
        counters, names = _counters(new, ":more")
        names |= {"#old": f"h_{old.id}", "#new": f"h_{new.id}", "#version": "v"}
        update = f"SET #new = :new, #version = :version REMOVE #old ADD {counters}"
        if old.id in self._repeated:
            update = f"SET #new = :new, #version = :version, #old = :until ADD {counters}"
            values[":until"] = old.expires_at
        try:
            return self._update(tenant, month, update, conditions, names, values, makes=new.id)
        except ConditionFailed as e:
            before = ledger_of(e.item)
            if new.id in before.holds:
                self._repeat(new.id)
            result = swap(before, old, new, limits)
            return Refused(result, before) if isinstance(result, No) else before

    def settle(
        self,
        tenant: str,
        month: str,
        hold: Hold,
        cost_nanousd: int,
        *,
        is_estimated: bool = False,
        leaves_mark: bool = False,
    ) -> Ledger:
        """End a hold at its cost, in one update; the ledger after it. A hold that has ended already is left alone.

        What is estimated is noted beside it, so that it can be corrected. Where a copy of the reserve may still be on
        its way the hold leaves a mark, which keeps that copy from holding again; who has not made the hold cannot know.
        """
        counters, names = _counters(hold, ":change")
        names |= {"#hold": f"h_{hold.id}", "#count": "n"}
        values: dict[str, Any] = {":change": cost_nanousd - hold.amount_nanousd, ":less": -1, ":map": "M"}
        sets, removes = [], ["#hold"]
        if leaves_mark or hold.id in self._repeated:
            sets, removes = ["#hold = :until"], []
            values[":until"] = hold.expires_at
        if is_estimated:
            sets.append("#estimate = :estimate")
            names["#estimate"] = f"e_{hold.id}"
            values[":estimate"] = {"a": cost_nanousd, "d": hold.day, **_of_key(hold.key)}
        changes = [f"SET {', '.join(sets)}"] if sets else []
        changes += [f"REMOVE {', '.join(removes)}"] if removes else []
        update = " ".join((*changes, f"ADD {counters}, #count :less"))
        try:
            return self._update(tenant, month, update, [_IS_HELD], names, values)
        except ConditionFailed as e:
            after = ledger_of(e.item)
        if hold.id in self._repeated and hold.id not in after.ended:
            self._mark_ended(tenant, month, hold)
        return after

    def _mark_ended(self, tenant: str, month: str, hold: Hold) -> None:
        """A hold that was not made may still be: the mark takes its place."""
        with suppress(ConditionFailed):
            names, values = {"#hold": f"h_{hold.id}"}, {":until": hold.expires_at}
            self._update(tenant, month, "SET #hold = :until", ["attribute_not_exists(#hold)"], names, values)

    def note(self, tenant: str, month: str, hold_id: str, generation_id: str) -> None:
        """Put the generation's id into a hold, if that has not ended."""
        names, values = {"#hold": f"h_{hold_id}", "#id": "g"}, {":id": generation_id, ":map": "M"}
        with suppress(ConditionFailed):
            self._update(tenant, month, "SET #hold.#id = :id", [_IS_HELD], names, values)

    def correct(self, tenant: str, month: str, hold_id: str, cost_nanousd: int | None) -> Ledger:
        """Put the true cost in the place of an estimate, once; None leaves the estimate as the last word."""
        ledger = self.ledger(tenant, month)
        if (estimate := ledger.estimates.get(hold_id)) is None:
            return ledger
        change = 0 if cost_nanousd is None else cost_nanousd - estimate.amount_nanousd
        counters, names = _counters(estimate, ":change")
        names |= {"#estimate": f"e_{hold_id}"}
        update = f"REMOVE #estimate ADD {counters}"
        try:
            return self._update(tenant, month, update, ["attribute_exists(#estimate)"], names, {":change": change})
        except ConditionFailed as e:
            return ledger_of(e.item)

    def book(self, tenant: str, month: str, hold: Hold, cost_nanousd: int) -> Ledger:
        """Spend without a hold, once: the mark of an ended one is its name."""
        counters, names = _counters(hold, ":cost")
        names |= {"#hold": f"h_{hold.id}"}
        values = {":cost": cost_nanousd, ":until": hold.expires_at}
        update = f"SET #hold = :until ADD {counters}"
        try:
            return self._update(tenant, month, update, ["attribute_not_exists(#hold)"], names, values)
        except ConditionFailed as e:
            return ledger_of(e.item)

    def unmark(self, tenant: str, month: str, hold_id: str) -> None:
        """Take away the mark of a hold that has ended: no copy of its reserve is so old."""
        names, values = {"#hold": f"h_{hold_id}"}, {":map": "M"}
        with suppress(ConditionFailed):
            self._update(tenant, month, "REMOVE #hold", [f"attribute_exists(#hold) AND NOT {_IS_HELD}"], names, values)

    def _update(
        self,
        tenant: str,
        month: str,
        update: str,
        conditions: Sequence[str],
        names: Mapping[str, str],
        values: Item,
        *,
        makes: str | None = None,
    ) -> Ledger:
        """Change a ledger on conditions; the ledger after it. Raises ConditionFailed with the one before.

        `makes` is the hold that this makes: where the request was repeated, or not answered, a copy may come late.
        """
        try:
            answer = self._update_item(tenant, month, update, conditions, names, values)
        except StoreError:
            self._repeat(makes)
            raise
        if answer.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0:
            self._repeat(makes)
        return ledger_of(from_dynamodb(_attributes(answer)))

    def _repeat(self, makes: str | None) -> None:
        if makes is not None:
            self._repeated.add(makes)

    def _update_item(
        self,
        tenant: str,
        month: str,
        update: str,
        conditions: Sequence[str],
        names: Mapping[str, str],
        values: Item,
    ) -> Mapping[str, Any]:
        with answered():
            return self._client.update_item(
                TableName=self._table,
                Key=_ledger_key(tenant, month),
                UpdateExpression=update,
                ConditionExpression=" AND ".join(conditions),
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=to_dynamodb(values),
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )

    # Budget states.

    def put_event(self, sk: str, event: Item) -> bool:
        """Keep a change of a budget's state, once; whether this call was the first to tell of it."""
        return self._put_once({"pk": EVENTS, "sk": sk, **event})

    def mark_state(self, tenant: str, month: str, window: str, old: str | None, new: str) -> None:
        """Note in the ledger which state of a window has been told of, unless another writer was faster."""
        values = {":new": new, **({} if old is None else {":old": old})}
        with suppress(ConditionFailed), answered():
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

    # Where holds may be: every ledger is registered before its first hold is made.

    def register(self, tenant: str, month: str) -> None:
        """A tenant has a ledger of a month."""
        with answered():
            self._client.put_item(
                TableName=self._table,
                Item=to_dynamodb({"pk": f"LEDGERS#{month}", "sk": tenant, "ttl": _months_end(month)}),
            )

    def registered(self, month: str, after: str) -> Iterator[str]:
        """The tenants with a ledger of a month, in order, behind a name."""
        for item in self._query("pk = :pk AND sk > :after", {":pk": f"LEDGERS#{month}", ":after": after or " "}):
            yield str(item["sk"])

    def cursor(self) -> str:
        """Where the last walk over the ledgers stopped; empty at the beginning."""
        return str(self._get({"pk": {"S": "SWEEP"}, "sk": {"S": "CURSOR"}}).get("at", ""))

    def move_cursor(self, at: str) -> None:
        """The next walk begins behind this."""
        with answered():
            self._client.put_item(TableName=self._table, Item=to_dynamodb({"pk": "SWEEP", "sk": "CURSOR", "at": at}))

    # Spans.

    def span(self, pk: str, sk: str) -> Item:
        """One span, read consistently; empty when it was not written."""
        return self._get({"pk": {"S": pk}, "sk": {"S": sk}})

    def correct_span(self, pk: str, sk: str, cost_nanousd: int | None) -> int | None:
        """Put the true cost into a span that was estimated; None leaves the estimate as the last word.

        What the last word is: the first one stands, and the ledger follows it.
        """
        update, values = "SET estimated_nanousd = cost_nanousd", dict[str, Any]({":yes": True})
        if cost_nanousd is not None:
            update += ", cost_nanousd = :cost, is_estimated = :no"
            values |= {":cost": cost_nanousd, ":no": False}
        try:
            with answered():
                answer = self._client.update_item(
                    TableName=self._table,
                    Key={"pk": {"S": pk}, "sk": {"S": sk}},
                    UpdateExpression=update,
                    ConditionExpression="is_estimated = :yes AND attribute_not_exists(estimated_nanousd)",
                    ExpressionAttributeValues=to_dynamodb(values),
                    ReturnValues="ALL_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            span: Item = from_dynamodb(_attributes(answer))
        except ConditionFailed as e:
            span = e.item
        return None if span.get("is_estimated", True) else int(span["cost_nanousd"])

    def put_span(self, pk: str, sk: str, span: Item) -> None:
        """Write a cost span, once: what is there already came from this call or from whoever settled it instead."""
        self._put_once({"pk": pk, "sk": sk, **span})

    def resolve_span(self, pk: str, sk: str, cost_nanousd: int, *, is_estimated: bool, known: Item) -> tuple[int, bool]:
        """Write the cost of a lost call into its span, once; what stands in it now, and whether that is estimated.

        Where the span itself was never written it is made, of what is `known`: no record is lost.
        """
        made = ", ".join(f"#{name} = if_not_exists(#{name}, :{name})" for name in known)
        values = {":cost": cost_nanousd, ":estimated": is_estimated, **{f":{name}": known[name] for name in known}}
        try:
            with answered():
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
        except ConditionFailed as e:
            return e.item["cost_nanousd"], e.item.get("is_estimated", False)
        written = from_dynamodb(_attributes(answer))
        return written["cost_nanousd"], written["is_estimated"]

    def remind(self, hold_id: str, reminder: Item) -> None:
        """Remember a lost call, once: the first reminder knows most."""
        self._put_once({"pk": LOST, "sk": hold_id, **reminder})

    def reminder(self, hold_id: str) -> Item:
        """Of one lost call, read consistently; empty when there is none."""
        return self._get({"pk": {"S": LOST}, "sk": {"S": hold_id}})

    def reminders(self) -> Iterator[Item]:
        """All lost calls, oldest first: hold ids sort by time."""
        return self.spans(LOST)

    def look_again(self, hold_id: str, at: int) -> None:
        """An estimate may still be corrected: not before this moment."""
        with suppress(ConditionFailed), answered():
            self._client.update_item(
                TableName=self._table,
                Key={"pk": {"S": LOST}, "sk": {"S": hold_id}},
                UpdateExpression="SET look_at = :at",
                ConditionExpression="attribute_exists(pk)",
                ExpressionAttributeValues=to_dynamodb({":at": at}),
            )

    def forget(self, hold_id: str) -> None:
        """A lost call has been resolved."""
        with answered():
            self._client.delete_item(TableName=self._table, Key={"pk": {"S": LOST}, "sk": {"S": hold_id}})

    def spans(self, pk: str) -> Iterator[Item]:
        """All items of a partition (the spans of one hour and shard), oldest first."""
        return self._query("pk = :pk", {":pk": pk})

    # Fees that models bill and no catalogue announces.

    def fee(self, model: str) -> int:
        """What was learnt of a model, read consistently; 0 where nothing was."""
        return int(self._get({"pk": {"S": FEES}, "sk": {"S": model}}).get("fee_nanousd", 0))

    def learn(self, model: str, fee_nanousd: int, at: int, until: int) -> bool:
        """Keep a fee until then, and the highest that was seen; whether this is higher. May be repeated."""
        # A lower one only shows that there still is a fee.
        is_higher = "attribute_not_exists(fee_nanousd) OR fee_nanousd < :fee"
        try:
            self._learn(model, "SET fee_nanousd = :fee, #at = :at, #ttl = :ttl", is_higher, at, until, fee=fee_nanousd)
        except ConditionFailed:
            with suppress(ConditionFailed):
                self._learn(model, "SET #at = :at, #ttl = :ttl", "attribute_exists(pk)", at, until)
            return False
        return True

    def _learn(self, model: str, update: str, condition: str, at: int, until: int, **fee: int) -> None:
        with answered():
            self._client.update_item(
                TableName=self._table,
                Key={"pk": {"S": FEES}, "sk": {"S": model}},
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames={"#at": "at", "#ttl": "ttl"},
                ExpressionAttributeValues=to_dynamodb(
                    {":at": at, ":ttl": until, **{f":{name}": value for name, value in fee.items()}}
                ),
            )

    def mark_stale(self, hour: str, mark: str) -> None:
        """A span of an hour that rollups may be through with is about to be changed. `mark` is another each time."""
        with answered():
            self._client.put_item(
                TableName=self._table, Item=to_dynamodb({"pk": ROLLUP, "sk": f"{STALE}{hour}#{mark}"})
            )

    # Tenants.

    def tenant(self, default: Tenant) -> Tenant | None:
        """A tenant's configuration laid over the default one, read consistently; None when there is no tenant."""
        item = self._get(_config_key(default.name))
        return _tenant(default, item) if item else None

    def accounts(self, defaults: Sequence[Tenant], month: str) -> Iterator[tuple[Tenant, Ledger]]:
        """Tenants and their ledgers of a month, many a request; who has no configuration is as by default."""
        for at in range(0, len(defaults), BATCH // 2):
            asked = defaults[at : at + BATCH // 2]
            keys = [key for each in asked for key in (_config_key(each.name), _ledger_key(each.name, month))]
            found = {(item["pk"], item["sk"]): item for item in self._batch(keys)}
            for default in asked:
                config = found.get((f"TENANT#{default.name}", "CONFIG"))
                ledger = found.get((f"TENANT#{default.name}", f"LEDGER#{month}"), {})
                yield default if config is None else _tenant(default, config), ledger_of(ledger)

    # Requests that more than one of these makes.

    def _put_once(self, item: Item) -> bool:
        """Write an item unless there is one; whether it was written."""
        try:
            with answered():
                self._client.put_item(
                    TableName=self._table, Item=to_dynamodb(item), ConditionExpression="attribute_not_exists(pk)"
                )
        except ConditionFailed:
            return False
        return True

    def _query(self, condition: str, values: Item) -> Iterator[Item]:
        return (from_dynamodb(item) for item in query(self._client, self._table, condition, values))

    def _batch(self, keys: Sequence[Mapping[str, Any]]) -> Iterator[Item]:
        return (from_dynamodb(item) for item in batch(self._client, self._table, keys))

    def _get(self, key: Mapping[str, Any]) -> Item:
        with answered():
            return from_dynamodb(
                self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item", {})
            )


def query(
    client: "DynamoDBClient",
    table: str,
    condition: str,
    values: Item,
    *,
    within: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    **asked: Any,
) -> Iterator[Mapping[str, Any]]:
    """The items of a partition as DynamoDB has them, read consistently, page by page.

    `within` may end before the last page; `asked` has other fields of the request.
    """
    pages: Any = client.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression=condition,
        ExpressionAttributeValues=to_dynamodb(values),
        ConsistentRead=True,
        **asked,
    )
    with answered():
        for page in within(pages):
            if "Items" not in page:
                raise StoreError("a query was answered without items")
            yield from page["Items"]


def batch(client: "DynamoDBClient", table: str, keys: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those of at most BATCH items that are there, as DynamoDB has them. Large ones come in more than one answer."""
    left: Any = keys
    fruitless = 0
    while left:
        with answered():
            answer: Any = client.batch_get_item(RequestItems={table: {"Keys": left, "ConsistentRead": True}})
        if "Responses" not in answer:
            raise StoreError("a batch was answered without items")
        yield from answer["Responses"].get(table, [])
        unread = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
        fruitless = 0 if len(unread) < len(left) else fruitless + 1
        if fruitless == TRIES:
            raise StoreError("DynamoDB has left a batch unread")
        left = unread


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


# The hold is there: its mark, once it has ended, is a number.
_IS_HELD = "attribute_type(#hold, :map)"
# The limits were not changed since they were read.
_IS_CURRENT = "(attribute_not_exists(#version) OR #version <= :version)"


def _has_room(most: Ceilings) -> list[str]:
    """Conditions cannot add, so the most that may be committed before is computed by us: the limit less the hold."""
    windows = ("month", "day") if most.key_nanousd is None else ("month", "day", "key")
    return [f"(attribute_not_exists(#{window}) OR #{window} <= :{window}_most)" for window in windows]


def _most(most: Ceilings) -> dict[str, int]:
    found = {":month_most": most.month_nanousd, ":day_most": most.day_nanousd, ":key_most": most.key_nanousd}
    return {name: value for name, value in found.items() if value is not None}


def _counters(of: Hold | Estimate, change: str) -> tuple[str, dict[str, str]]:
    """What an update adds to, and the names of it: the month, the day, and the API key's month."""
    names = {"#month": "m", "#day": _day(of.day), **({} if of.key is None else {"#key": f"k_{of.key}"})}
    return ", ".join(f"{name} {change}" for name in names), names


def _of_key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"k": key}


def _unchanged(before: Ledger, hold: Hold, limits: Limits, ceilings: Ceilings | None) -> Ledger | Refused:
    """What a reserve that wrote nothing means: the hold was there already, or why it was not made."""
    if hold.id in before.holds:
        return before
    result = reserve(before, hold, limits, ceilings)
    # The count of calls in flight may be above the holds for a moment of an upgrade: what it refused was too many.
    return Refused(result if isinstance(result, No) else No.TOO_MANY, before)


def ledger_of(item: Item) -> Ledger:
    """A ledger item to its value."""
    held = {name[2:]: value for name, value in item.items() if name.startswith("h_")}
    holds = [_hold(id_, value) for id_, value in held.items() if isinstance(value, Mapping)]
    days = {int(name[1:]): int(value) for name, value in item.items() if name[0] == "d" and name[1:].isdigit()}
    states = {_window(name): str(value) for name, value in item.items() if name == "sm" or _is_day_state(name)}
    return Ledger(
        committed_nanousd=int(item.get("m", 0)),
        committed_by_day=days,
        committed_by_key={name[2:]: int(value) for name, value in item.items() if name[:2] == "k_"},
        holds={hold.id: hold for hold in holds},
        version=int(item["v"]) if "v" in item else None,
        states=states,
        estimates={
            name[2:]: Estimate(int(value["a"]), int(value["d"]), value.get("k"))
            for name, value in item.items()
            if name[:2] == "e_"
        },
        ended={id_: value for id_, value in held.items() if isinstance(value, int)},
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
        **({} if hold.feature == DEFAULT else {"f": hold.feature}),
        **({"l": hold.learnt_nanousd} if hold.learnt_nanousd else {}),
        **_of_key(hold.key),
    }


def _hold(id_: str, item: Item) -> Hold:
    return Hold(
        id_,
        int(item["a"]),
        int(item["d"]),
        int(item["t"]),
        int(item["x"]),
        str(item["o"]),
        str(item.get("f", DEFAULT)),
        item.get("g"),
        item.get("k"),
        learnt_nanousd=int(item.get("l", 0)),
    )


def _tenant(default: Tenant, item: Item) -> Tenant:
    return config_of(default.name, item).tenant(default)


def config_of(name: str, item: Item) -> Config:
    """What an owner has set. Raises StoreError."""
    try:
        return Config.of(name, item)
    except ConfigError as e:
        raise StoreError(str(e)) from e


def _config_key(tenant: str) -> dict[str, Any]:
    return {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": "CONFIG"}}


def _ledger_key(tenant: str, month: str) -> dict[str, Any]:
    return {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": f"LEDGER#{month}"}}


def _months_end(month: str) -> int:
    """Epoch seconds, thirteen months after a month began: its holds have ended long before, but it may be asked for."""
    return kept_until(int(datetime.fromisoformat(f"{month}-01T00:00:00+00:00").timestamp()))


def _day(day: int) -> str:
    return f"d{day:02}"


def _attributes(answer: Mapping[str, Any]) -> Item:
    """An update says what it left behind; an answer that does not is not DynamoDB's."""
    if not answer.get("Attributes"):
        raise StoreError("an update was answered without the item that it made")
    attributes: Item = answer["Attributes"]
    return attributes


class ConditionFailed(Exception):
    """Nothing was written; with the item that stood against it, where that was asked for."""

    def __init__(self, item: Item) -> None:
        super().__init__("condition failed")
        self.item = item


@contextmanager
def answered() -> Iterator[None]:
    """A condition that failed is an answer; everything else means that the outcome is unknown."""
    try:
        yield
    except ClientError as e:
        if e.response["Error"]["Code"] == "ConditionalCheckFailedException":
            old: Any = e.response.get("Item", {})
            raise ConditionFailed(from_dynamodb(old)) from None
        raise StoreError(f"DynamoDB answered {e.response['Error']['Code']}") from e
    except BotoCoreError as e:
        raise StoreError(f"DynamoDB did not answer: {type(e).__name__}") from e
