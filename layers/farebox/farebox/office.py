"""Configurations of tenants in the table, and how functions hear that one was changed. Translates, never decides.

    pk                 sk          item
    TENANT#<tenant>    CONFIG      configs.py; ttl, once the tenant is purged
    TENANTS            <tenant>    such a configuration was made, or was about to be, and was not purged
    ANNOUNCE           <tenant>    version, at: a change that ledgers may not know of yet
    PURGES             <tenant>    purge_at: when a deleted tenant may be emptied
    KEYUSE#<tenant>    <key>       at: the last call with an API key (written by the fold)

Functions keep tenants in memory and ask nobody before a call: they learn of a change when a ledger refuses their hold,
because its `v` is above the version that they know. So a change is four writes:

    1. ANNOUNCE, with the version to come
    2. CONFIG, if it still has the version before       from here on the change is stored
    3. v in the ledgers of the months around now        from here on every next call obeys it
    4. ANNOUNCE is deleted, unless it is a later change's

Who dies between 2 and 3 leaves the mark, and the next rollup does 3 and 4.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .aws import Item, from_dynamodb, to_dynamodb
from .changes import DAY_S, REMEMBERED_DAYS, is_gone, months_around, purged
from .configs import Config
from .store import BATCH, ConditionFailed, StoreError, answered, batch, config_of, query
from .tenants import Status, Tenant

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TENANTS = "TENANTS"
ANNOUNCE = "ANNOUNCE"
PURGES = "PURGES"
SLACK_S = 300
"""Longer than any change is under way: a mark that is older belongs to one that was stored, or never will be."""


class Overtaken(Exception):
    """Somebody else has changed the tenant since it was read: nothing was stored."""


class NotAnnounced(StoreError):
    """The change is stored, but functions that have the tenant in memory may not know of it yet."""


class Office:
    """One table. Every method raises StoreError when DynamoDB does not answer."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    # Reading.

    def read(self, name: str) -> Config | None:
        """A tenant's configuration, read consistently; None when it has none of its own."""
        item = self._get(f"TENANT#{name}", "CONFIG")
        return config_of(name, item) if item else None

    def read_many(self, names: Sequence[str]) -> dict[str, Config]:
        """Those that have one."""
        found = {}
        for at in range(0, len(names), BATCH):
            keys = [_key(f"TENANT#{name}", "CONFIG") for name in names[at : at + BATCH]]
            for item in map(from_dynamodb, batch(self._client, self._table, keys)):
                name = str(item["pk"]).removeprefix("TENANT#")
                found[name] = config_of(name, item)
        return found

    def has_called(self, name: str, months: Iterable[str]) -> bool:
        """Whether a tenant has made a call in one of these months."""
        return any(self._get(f"LEDGERS#{month}", name) for month in months)

    def names(self, after: str, months: Iterable[str], seeds: Iterable[str], page: int) -> Iterator[tuple[str, bool]]:
        """Everybody who is in the list of tenants, has called in one of these months, or is seeded; in order, behind a
        name, and whether it is a tenant without a configuration, too.

        Read as it goes, `page` items a request.
        """
        called = [self._sks(f"LEDGERS#{month}", after, page) for month in months]
        sources = [((name, True) for name in names) for names in (*called, sorted(set(seeds)))]
        enrolled = ((name, False) for name in self._sks(TENANTS, after, page))
        merged = groupby(heapq.merge(enrolled, *sources), key=itemgetter(0))
        return ((name, any(known for _, known in group)) for name, group in merged if name > after)

    def last_used(self, name: str) -> dict[str, int]:
        """When each API key of a tenant was last used, in epoch seconds, as far as the rollups are."""
        return {str(item["sk"]): int(item["at"]) for item in self._items(f"KEYUSE#{name}")}

    # Writing.

    def enrol(self, name: str) -> None:
        """Put a name into the list of tenants, before its configuration is made. May be repeated."""
        self._put({"pk": TENANTS, "sk": name})

    def write(self, after: Config, before: Config | None, default: Tenant, now: datetime) -> None:
        """Store a configuration in the place of another, and announce it. Raises Overtaken, NotAnnounced."""
        seconds = int(now.timestamp())
        if after.status is Status.DELETED:
            self._put({"pk": PURGES, "sk": after.name, "purge_at": after.purge_at or seconds, "at": seconds})
        self._put({"pk": ANNOUNCE, "sk": after.name, "version": after.version, "at": seconds})
        self._store(after, before)
        self.announce(after, default, now)

    def announce(self, config: Config, default: Tenant, now: datetime) -> None:
        """Tell the ledgers of a stored configuration, and delete its mark. May be repeated. Raises NotAnnounced."""
        try:
            for month in months_around(config, default, now):
                self._raise_version(config.name, month, config.version)
            self._unmark(ANNOUNCE, config.name, "version", config.version)
        except StoreError as e:
            raise NotAnnounced(str(e)) from e

    # What was left undone.

    def announce_pending(self, default: Callable[[str], Tenant], now: datetime) -> int:
        """Announce what is stored of tenants whose changes may have lost their makers; how many.

        A change that is not stored may still be under way: its mark stays for a while.
        """
        return _each(self._items(ANNOUNCE), lambda mark: self._announce_marked(mark, default, now))

    def _announce_marked(self, mark: Item, default: Callable[[str], Tenant], now: datetime) -> bool:
        name = str(mark["sk"])
        config = self.read(name)
        if config is not None:  # of an older version, too: the mark may stand in the place of that one's
            self.announce(config, default(name), now)
        if _is_old(mark, now):
            self._unmark(ANNOUNCE, name, "at", int(mark["at"]))
        return config is not None

    def purge_pending(self, default: Callable[[str], Tenant], now: datetime) -> int:
        """Empty what was deleted and is past its time; how many."""
        return _each(self._items(PURGES), lambda mark: self._purge_marked(mark, default, now))

    def _purge_marked(self, mark: Item, default: Callable[[str], Tenant], now: datetime) -> bool:
        if int(mark["purge_at"]) > now.timestamp() or not _is_old(mark, now):
            return False
        name, is_purged = str(mark["sk"]), False
        config = self.read(name)
        if config is not None and is_gone(config, now):
            with suppress(Overtaken):  # its name was taken again
                self._purge(config, default(name), now)
                is_purged = True
        elif config is not None and config.purge_at is not None:  # the mark is of a deletion that was not stored
            self._put({**mark, "purge_at": config.purge_at})
            return False
        if config is not None and not is_purged:  # what `_purge` has taken out, now or before it died
            self.enrol(name)
        self._unmark(PURGES, name, "at", int(mark["at"]))
        return is_purged

    def _purge(self, config: Config, default: Tenant, now: datetime) -> None:
        """As an empty item, since ledgers know its version; it goes when they are over.

        The name leaves the list before: who has read the empty item enrols it after that, and who has read the one
        before is overtaken, or overtakes this.
        """
        empty = purged(config, now)
        self._delete(TENANTS, empty.name)
        self._put({"pk": ANNOUNCE, "sk": empty.name, "version": empty.version, "at": int(now.timestamp())})
        self._store(empty, config, ttl=int(now.timestamp()) + REMEMBERED_DAYS * DAY_S)
        self.announce(empty, default, now)

    # Requests.

    def _store(self, after: Config, before: Config | None, **more: int) -> None:
        item = {"pk": f"TENANT#{after.name}", "sk": "CONFIG", **after.item(), **more}
        # Nobody has changed it since it was read.
        asked: Any = {"ConditionExpression": "attribute_not_exists(pk)"}
        if before is not None:
            values = to_dynamodb({":before": before.version})
            asked = {"ConditionExpression": "version = :before", "ExpressionAttributeValues": values}
        try:
            with answered():
                self._client.put_item(
                    TableName=self._table,
                    Item=to_dynamodb(item),
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    **asked,
                )
        except ConditionFailed as e:
            if e.item != item:  # the SDK repeats after a lost answer, and finds what it has written itself
                raise Overtaken from None

    def _raise_version(self, name: str, month: str, version: int) -> None:
        with suppress(ConditionFailed), answered():
            self._client.update_item(
                TableName=self._table,
                Key=_key(f"TENANT#{name}", f"LEDGER#{month}"),
                UpdateExpression="SET v = :version",
                ConditionExpression="attribute_not_exists(v) OR v < :version",  # it never goes back
                ExpressionAttributeValues=to_dynamodb({":version": version}),
            )

    def _unmark(self, pk: str, name: str, field: str, value: int) -> None:
        """Delete a mark, unless it is another one by now."""
        with suppress(ConditionFailed), answered():
            self._client.delete_item(
                TableName=self._table,
                Key=_key(pk, name),
                ConditionExpression="#field = :value",
                ExpressionAttributeNames={"#field": field},
                ExpressionAttributeValues=to_dynamodb({":value": value}),
            )

    def _delete(self, pk: str, sk: str) -> None:
        with answered():
            self._client.delete_item(TableName=self._table, Key=_key(pk, sk))

    def _put(self, item: Item) -> None:
        with answered():
            self._client.put_item(TableName=self._table, Item=to_dynamodb(item))

    def _get(self, pk: str, sk: str) -> Item:
        with answered():
            answer = self._client.get_item(TableName=self._table, Key=_key(pk, sk), ConsistentRead=True)
        return from_dynamodb(answer.get("Item", {}))

    def _items(self, pk: str) -> Iterator[Item]:
        return self._query("pk = :pk", {":pk": pk}, page=1000)

    def _sks(self, pk: str, after: str, page: int) -> Iterator[str]:
        condition = "pk = :pk AND sk > :after"
        return (str(item["sk"]) for item in self._query(condition, {":pk": pk, ":after": after or " "}, page))

    def _query(self, condition: str, values: Item, page: int) -> Iterator[Item]:
        found = query(self._client, self._table, condition, values, PaginationConfig={"PageSize": page})
        return map(from_dynamodb, found)


def _key(pk: str, sk: str) -> dict[str, Any]:
    return to_dynamodb({"pk": pk, "sk": sk})


def _each(marks: Iterable[Item], do: Callable[[Item], bool]) -> int:
    """Do what is left to do for each mark; how often that was something. One that fails keeps no other waiting."""
    count, failed = 0, None
    for mark in marks:
        try:
            count += do(mark)
        except StoreError as e:
            failed = e
    if failed is not None:
        raise failed
    return count


def _is_old(mark: Item, now: datetime) -> bool:
    return now.timestamp() - int(mark["at"]) > SLACK_S
