"""Random requests to a table, of every kind that is used: for comparing tables with each other."""

import random
from collections.abc import Mapping
from typing import Any

KEYS = tuple((pk, sk) for pk in ("a", "b") for sk in ("1", "12", "2"))
NAMES = ("n", "m", "d01", "s", "map")
COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")


class Requests:
    """A stream of them; most touch the same few items."""

    def __init__(self, chance: random.Random, table: str) -> None:
        self._chance = chance
        self._table = table
        self._names: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def next(self) -> tuple[str, dict[str, Any]]:
        """An operation, and what it is asked for."""
        self._names, self._values = {}, {}
        operation = self._chance.choice(("update_item",) * 5 + ("put_item", "get_item", "delete_item", "query"))
        request = {"TableName": self._table, **getattr(self, f"_{operation}")()}
        given = {"ExpressionAttributeNames": self._names, "ExpressionAttributeValues": self._values}
        return operation, {**request, **{name: value for name, value in given.items() if value}}

    def _update_item(self) -> dict[str, Any]:
        paths = self._chance.sample(NAMES, self._chance.randint(1, 4))
        clauses = {"SET": [], "ADD": [], "REMOVE": []}  # type: dict[str, list[str]]
        for name in paths:
            match self._chance.randrange(6):
                case 0:
                    clauses["REMOVE"].append(self._name(name))
                case 1 | 2:
                    number = {"N": str(self._chance.randint(-9, 9))}
                    clauses["ADD"].append(f"{self._name(name)} {self._value(number)}")
                case 3:
                    inner = f"{self._name(name)}.{self._name('inner')}"
                    clauses["SET"].append(f"{inner} = {self._value(self._any())}")
                case _:
                    clauses["SET"].append(f"{self._name(name)} = {self._operand()}")
        update = " ".join(f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts)
        returned = self._chance.choice(("NONE", "ALL_NEW", "ALL_OLD", "UPDATED_NEW", "UPDATED_OLD"))
        return {"Key": self._key(), "UpdateExpression": update, "ReturnValues": returned, **self._condition()}

    def _put_item(self) -> dict[str, Any]:
        item = {name: self._any() for name in self._chance.sample(NAMES, 2)}
        returned = self._chance.choice(("NONE", "ALL_OLD"))
        return {"Item": {**self._key(), **item}, "ReturnValues": returned, **self._condition()}

    def _get_item(self) -> dict[str, Any]:
        return {"Key": self._key(), "ConsistentRead": True}

    def _delete_item(self) -> dict[str, Any]:
        return {"Key": self._key(), **self._condition()}

    def _query(self) -> dict[str, Any]:
        pk = self._value({"S": self._chance.choice("ab")})
        more = self._chance.choice(("", " AND begins_with(sk, {})", " AND sk > {}", " AND sk <= {}"))
        text = f"pk = {pk}" + (more.format(self._value({"S": self._chance.choice(("1", "12"))})) if more else "")
        return {"KeyConditionExpression": text, "ConsistentRead": True}

    def _key(self) -> Mapping[str, Any]:
        pk, sk = self._chance.choice(KEYS)
        return {"pk": {"S": pk}, "sk": {"S": sk}}

    def _condition(self) -> dict[str, Any]:
        if self._chance.random() < 0.4:
            return {}
        shown = {"ReturnValuesOnConditionCheckFailure": self._chance.choice(("ALL_OLD", "NONE"))}
        return {"ConditionExpression": self._clause(self._chance.randint(0, 2)), **shown}

    def _clause(self, depth: int) -> str:
        if depth:
            word = self._chance.choice(("AND", "OR", "OR"))
            return f"({self._clause(depth - 1)} {word} {self._clause(depth - 1)})"
        name = self._name(self._chance.choice((*NAMES, "pk")))
        value = self._value(self._any())
        match self._chance.randrange(5):
            case 0:
                del self._values[value]
                return f"attribute_exists({name})"
            case 1:
                del self._values[value]
                return f"attribute_not_exists({name})"
            case 2:
                return f"NOT {name} = {value}"
            case _:
                # Only numbers and texts have an order: with anything else DynamoDB refuses the request itself.
                is_ordered = self._values[value].keys() & {"N", "S"}
                return f"{name} {self._chance.choice(COMPARISONS if is_ordered else COMPARISONS[:2])} {value}"

    def _operand(self) -> str:
        match self._chance.randrange(4):
            case 0:
                return f"if_not_exists({self._name(self._chance.choice(NAMES))}, {self._value(self._any())})"
            case 1:
                number = {"N": str(self._chance.randint(0, 5))}
                sign = self._chance.choice("+-")
                return f"{self._name(self._chance.choice(NAMES))} {sign} {self._value(number)}"
            case _:
                return self._value(self._any())

    def _any(self) -> dict[str, Any]:
        kinds: tuple[dict[str, Any], ...] = (
            {"N": str(self._chance.randint(-3, 12))},
            {"N": str(10**17 + self._chance.randint(0, 3))},
            {"S": self._chance.choice(("", "x", "yy"))},
            {"M": {"inner": {"N": "1"}, "other": {"BOOL": True}}},
            {"BOOL": self._chance.random() < 0.5},
        )
        return self._chance.choice((*kinds[:1], *kinds))

    def _name(self, name: str) -> str:
        self._names[f"#{name}"] = name
        return f"#{name}"

    def _value(self, value: Mapping[str, Any]) -> str:
        token = f":v{len(self._values)}_{self._chance.randrange(10**6)}"
        self._values[token] = value
        return token
