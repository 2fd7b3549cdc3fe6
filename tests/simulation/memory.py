"""One DynamoDB table in memory: takes and returns what botocore's client does, each request atomic by itself."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from .expressions import Given, Invalid, Item, condition, update

Key = tuple[str, str]
Request = Mapping[str, Any]
Answer = dict[str, Any]
OnWrite = Callable[[Key, Item, Item], None]
"""Key, and the item before and after; an item that is not there is empty."""

_EXPRESSIONS = ("UpdateExpression", "ConditionExpression", "KeyConditionExpression", "FilterExpression")


def _nobody(_key: Key, _before: Item, _after: Item) -> None:
    pass


class Memory:
    """A table with keys `pk` and `sk`. Items are replaced, never changed."""

    def __init__(self, on_write: OnWrite = _nobody, *, page_size: int = 100) -> None:
        self._items: dict[Key, Item] = {}
        self._partitions: dict[str, dict[Key, Item]] = {}
        self._last: dict[Key, Item] = {}
        self._on_write = on_write
        self.page_size = page_size
        self.writes = 0

    @property
    def items(self) -> Mapping[Key, Item]:
        """All that there is."""
        return self._items

    def do(self, operation: str, request: Request) -> Answer:
        """One request. Raises ClientError."""
        handle = {
            "update_item": self.update_item,
            "put_item": self.put_item,
            "get_item": self.get_item,
            "delete_item": self.delete_item,
            "query": self.query,
            "batch_get_item": self.batch_get_item,
        }[operation]
        return handle(**request)

    def update_item(self, **request: Any) -> Answer:
        """Creates the item when it is new."""
        key, given = _key(request["Key"]), _given(request, "UpdateItem")
        before = self._items.get(key, {})
        self._check("UpdateItem", before, request, given)
        try:
            after, touched = update(request["UpdateExpression"]).applied(before or dict(request["Key"]), given)
        except Invalid as e:
            raise _error("ValidationException", "UpdateItem", str(e)) from None
        if {"pk", "sk"} & set(touched):
            raise _error("ValidationException", "UpdateItem", "the key cannot be changed")
        self._write(key, before, after)
        shown = {
            "NONE": {},
            "ALL_NEW": after,
            "ALL_OLD": before,
            "UPDATED_NEW": {name: after[name] for name in touched if name in after},
            "UPDATED_OLD": {name: before[name] for name in touched if name in before},
        }[request.get("ReturnValues", "NONE")]
        return {"Attributes": dict(shown)} if shown else {}

    def put_item(self, **request: Any) -> Answer:
        """In the place of what was there."""
        item, given = dict(request["Item"]), _given(request, "PutItem")
        key = _key(item)
        before = self._items.get(key, {})
        self._check("PutItem", before, request, given)
        self._write(key, before, item)
        return {"Attributes": dict(before)} if before and request.get("ReturnValues") == "ALL_OLD" else {}

    def delete_item(self, **request: Any) -> Answer:
        """What is not there is deleted too."""
        key, given = _key(request["Key"]), _given(request, "DeleteItem")
        before = self._items.get(key, {})
        self._check("DeleteItem", before, request, given)
        self._write(key, before, {})
        return {"Attributes": dict(before)} if before and request.get("ReturnValues") == "ALL_OLD" else {}

    def get_item(self, **request: Any) -> Answer:
        """As the item is now."""
        item = self._items.get(_key(request["Key"]))
        return {"Item": dict(item)} if item else {}

    def stale_item(self, **request: Any) -> Answer:
        """As an eventually consistent read may still see it."""
        item = self._last.get(_key(request["Key"]))
        return {"Item": dict(item)} if item else {}

    def batch_get_item(self, **request: Any) -> Answer:
        """As the items are now; those that do not fit on a page are for the next request."""
        ((table, asked),) = request["RequestItems"].items()
        keys = asked["Keys"]
        found = [self._items.get(_key(key)) for key in keys[: self.page_size]]
        left = {table: {**asked, "Keys": keys[self.page_size :]}} if len(keys) > self.page_size else {}
        return {"Responses": {table: [dict(item) for item in found if item]}, "UnprocessedKeys": left}

    def query(self, **request: Any) -> Answer:
        """One page."""
        given = _given(request, "Query")
        chosen = condition(request["KeyConditionExpression"]).holds
        after = _key(request["ExclusiveStartKey"]) if "ExclusiveStartKey" in request else None
        # Every one of our conditions begins with the partition.
        partition = given.value(request["KeyConditionExpression"].split()[2])["S"]
        found = sorted(key for key, item in self._partitions.get(partition, {}).items() if chosen(item, given))
        if after is not None:
            found = [key for key in found if key > after]
        size = request.get("Limit", self.page_size)
        page = [self._items[key] for key in found[:size]]
        more = {"LastEvaluatedKey": {name: page[-1][name] for name in ("pk", "sk")}} if len(found) > size else {}
        if "FilterExpression" in request:
            passes = condition(request["FilterExpression"]).holds
            page = [item for item in page if passes(item, given)]
        if "ProjectionExpression" in request:
            names = [given.name(token) for token in request["ProjectionExpression"].split(", ")]
            page = [{name: item[name] for name in names if name in item} for item in page]
        return {"Items": [dict(item) for item in page], "Count": len(page), **more}

    def get_paginator(self, operation: str) -> "Pages":
        """Of `query`."""
        return Pages(lambda request: self.do(operation, request))

    def _check(self, operation: str, before: Item, request: Request, given: Given) -> None:
        text = request.get("ConditionExpression")
        if text is None:
            return
        try:
            holds = condition(text).holds(before, given)
        except Invalid as e:
            raise _error("ValidationException", operation, str(e)) from None
        if not holds:
            is_shown = before and request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
            old = {"Item": dict(before)} if is_shown else {}
            raise _error("ConditionalCheckFailedException", operation, "The conditional request failed", old)

    def _write(self, key: Key, before: Item, after: Item) -> None:
        self._last[key] = before
        partition = self._partitions.setdefault(key[0], {})
        if after:
            self._items[key] = partition[key] = after
        else:
            self._items.pop(key, None)
            partition.pop(key, None)
        if before != after:
            self.writes += 1
            self._on_write(key, before, after)


class Pages:
    """All pages of a query, one request each."""

    def __init__(self, page: Callable[[Request], Answer]) -> None:
        self._page = page

    def paginate(self, **request: Any) -> Iterator[Answer]:
        start: dict[str, Any] = {}
        while True:
            page = self._page({**request, **start})
            yield page
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


def _key(attributes: Mapping[str, Any]) -> Key:
    return attributes["pk"]["S"], attributes["sk"]["S"]


def _given(request: Request, operation: str) -> Given:
    """The placeholders; as in DynamoDB, none may be given that is not used."""
    given = Given(request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {}))
    try:
        used = frozenset[str]().union(
            *(
                (update if name == "UpdateExpression" else condition)(request[name]).used
                for name in _EXPRESSIONS
                if name in request
            ),
            (token for token in request.get("ProjectionExpression", "").split(", ") if token[:1] == "#"),
        )
    except Invalid as e:
        raise _error("ValidationException", operation, str(e)) from None
    if used != given.names.keys() | given.values.keys():
        wrong = used ^ (given.names.keys() | given.values.keys())
        raise _error("ValidationException", operation, f"used and given differ: {sorted(wrong)}")
    return given


def _error(code: str, operation: str, message: str, more: Mapping[str, Any] | None = None) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, **(more or {})}
    return ClientError(response, operation)
