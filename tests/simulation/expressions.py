"""DynamoDB's condition, key and update expressions, compiled to functions over items in DynamoDB's way of writing."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

Value = Mapping[str, Any]
Item = dict[str, Any]
Path = tuple[str, ...]
Condition = Callable[[Item, "Given"], bool]
Operand = Callable[[Item, "Given"], Value | None]

_TOKEN = re.compile(r"\s*(<>|<=|>=|[=<>(),+.-]|[#:]?[A-Za-z_0-9]+)")
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    "<>": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}


class Invalid(Exception):
    """A request that DynamoDB refuses with a ValidationException."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the placeholders of a request stand for."""

    names: Mapping[str, str]
    values: Mapping[str, Value]

    def name(self, token: str) -> str:
        if not token.startswith("#"):
            return token
        if token not in self.names:
            raise Invalid(f"the name {token} is not given")
        return self.names[token]

    def value(self, token: str) -> Value:
        if token not in self.values:
            raise Invalid(f"the value {token} is not given")
        return self.values[token]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A condition, and the placeholders in it."""

    holds: Condition
    used: frozenset[str]


@dataclass(frozen=True, slots=True)
class Update:
    """An update: what is set to what, removed, and added to."""

    sets: tuple[tuple[Path, Operand], ...]
    removes: tuple[Path, ...]
    adds: tuple[tuple[Path, str], ...]
    used: frozenset[str]

    def applied(self, item: Item, given: Given) -> tuple[Item, tuple[str, ...]]:
        """A new item, and the names of the attributes that were touched. All is read before anything is written."""
        values = [(_named(path, given), operand(item, given)) for path, operand in self.sets]
        added = [(_named(path, given), given.value(token)) for path, token in self.adds]
        gone = [_named(path, given) for path in self.removes]
        paths = [path for path, _ in values] + [path for path, _ in added] + gone
        _refuse_overlaps(paths)
        after = dict(item)
        for path, value in values:
            if value is None:
                raise Invalid("an operand of the update is not in the item")
            _write(after, path, value)
        for path, value in added:
            before = _find(after, path)
            if "N" not in value or (before is not None and "N" not in before):
                raise Invalid("ADD needs numbers")
            _write(after, path, {"N": _plus("0" if before is None else before["N"], value["N"], 1)})
        for path in gone:
            _remove(after, path)
        return after, tuple(path[0] for path in paths)


@lru_cache(maxsize=1000)
def condition(text: str) -> Compiled:
    """A condition or key expression. Raises Invalid."""
    reader = _Reader(text)
    holds = _any(reader)
    reader.end()
    return Compiled(holds, reader.used)


@lru_cache(maxsize=1000)
def update(text: str) -> Update:
    """An update expression. Raises Invalid."""
    reader = _Reader(text)
    sets: list[tuple[Path, Operand]] = []
    removes: list[Path] = []
    adds: list[tuple[Path, str]] = []
    while reader.peek():
        match reader.take().upper():
            case "SET":
                for path in _listed(reader):
                    reader.expect("=")
                    sets.append((path, _sum(reader)))
            case "REMOVE":
                removes += _listed(reader)
            case "ADD":
                adds += [(path, reader.take()) for path in _listed(reader)]
            case other:
                raise Invalid(f"{other} is not supported here")
    return Update(tuple(sets), tuple(removes), tuple(adds), reader.used)


class _Reader:
    """Tokens, one after the other."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self.used = frozenset(token for token in self._tokens if token[0] in "#:")

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise Invalid("the expression ends too early")
        self._at += 1
        return token

    def takes(self, *words: str) -> bool:
        """Whether the next token is one of these words, which is then behind us."""
        if self.peek().upper() not in words:
            return False
        self._at += 1
        return True

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise Invalid(f"{token} is missing")

    def end(self) -> None:
        if self.peek():
            raise Invalid(f"nothing should follow: {self.peek()}")


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Invalid(f"unexpected text in an expression: {text[at:]}")
        found.append(match[1])
        at = match.end()
    return found


# Conditions.


def _any(reader: _Reader) -> Condition:
    first = _all(reader)
    while reader.takes("OR"):
        first = _or(first, _all(reader))
    return first


def _all(reader: _Reader) -> Condition:
    first = _not(reader)
    while reader.takes("AND"):
        first = _and(first, _not(reader))
    return first


def _or(a: Condition, b: Condition) -> Condition:
    return lambda item, given: a(item, given) or b(item, given)


def _and(a: Condition, b: Condition) -> Condition:
    return lambda item, given: a(item, given) and b(item, given)


def _not(reader: _Reader) -> Condition:
    if not reader.takes("NOT"):
        return _one(reader)
    inner = _not(reader)
    return lambda item, given: not inner(item, given)


def _one(reader: _Reader) -> Condition:
    if reader.takes("("):
        inner = _any(reader)
        reader.expect(")")
        return inner
    token = reader.peek()
    if token in ("attribute_exists", "attribute_not_exists"):
        reader.take()
        reader.expect("(")
        path = _path(reader)
        reader.expect(")")
        wanted = token == "attribute_exists"
        return lambda item, given: (_find(item, _named(path, given)) is not None) is wanted
    if token in ("begins_with", "attribute_type"):
        reader.take()
        reader.expect("(")
        path = _path(reader)
        reader.expect(",")
        other = reader.take()
        reader.expect(")")
        is_so = _begins if token == "begins_with" else _is_of
        return lambda item, given: is_so(_find(item, _named(path, given)), given.value(other))
    return _comparison(reader)


def _comparison(reader: _Reader) -> Condition:
    left = _sum(reader)
    if reader.takes("BETWEEN"):
        low = _sum(reader)
        if not reader.takes("AND"):
            raise Invalid("AND is missing")
        high = _sum(reader)
        return lambda item, given: (
            _compared(left(item, given), low(item, given), ">=")
            and _compared(left(item, given), high(item, given), "<=")
        )
    sign = reader.take()
    if sign not in _COMPARE:
        raise Invalid(f"{sign} is not supported here")
    right = _sum(reader)
    return lambda item, given: _compared(left(item, given), right(item, given), sign)


def _begins(found: Value | None, start: Value) -> bool:
    return found is not None and "S" in found and "S" in start and found["S"].startswith(start["S"])


def _is_of(found: Value | None, kind: Value) -> bool:
    return found is not None and kind["S"] in found


def _compared(a: Value | None, b: Value | None, sign: str) -> bool:
    """Values of different kinds are never in any order; a missing one is another than all others."""
    if a is None or b is None:
        return sign == "<>"
    ((kind, left),), ((other, right),) = a.items(), b.items()
    if kind != other:
        return sign == "<>"
    if kind == "N":
        left, right = _number(left), _number(right)
    elif kind not in ("S", "B") and sign not in ("=", "<>"):
        return False
    return _COMPARE[sign](left, right)


# Operands.


def _sum(reader: _Reader) -> Operand:
    """An operand, or the sum or difference of two."""
    first = _operand(reader)
    if reader.takes("+"):
        return _added(first, _operand(reader), 1)
    return _added(first, _operand(reader), -1) if reader.takes("-") else first


def _added(a: Operand, b: Operand, times: int) -> Operand:
    def value(item: Item, given: Given) -> Value:
        left, right = a(item, given), b(item, given)
        if left is None or right is None or "N" not in left or "N" not in right:
            raise Invalid("a sum needs two numbers")
        return {"N": _plus(left["N"], right["N"], times)}

    return value


def _operand(reader: _Reader) -> Operand:
    token = reader.peek()
    if token.startswith(":"):
        reader.take()
        return lambda _item, given: given.value(token)
    if token == "if_not_exists":
        reader.take()
        reader.expect("(")
        path = _path(reader)
        reader.expect(",")
        other = _sum(reader)
        reader.expect(")")
        return lambda item, given: _first(_find(item, _named(path, given)), other, item, given)
    path = _path(reader)
    return lambda item, given: _find(item, _named(path, given))


def _first(found: Value | None, other: Operand, item: Item, given: Given) -> Value | None:
    return other(item, given) if found is None else found


def _listed(reader: _Reader) -> Iterator[Path]:
    """Paths with commas between them; what belongs to each is read before the next one."""
    yield _path(reader)
    while reader.takes(","):
        yield _path(reader)


def _path(reader: _Reader) -> Path:
    parts = [reader.take()]
    while reader.takes("."):
        parts.append(reader.take())
    if not all(part[0] == "#" or part[0].isalpha() or part[0] == "_" for part in parts):
        raise Invalid(f"{'.'.join(parts)} is not a path")
    return tuple(parts)


def _named(path: Path, given: Given) -> Path:
    return tuple(given.name(part) for part in path)


def _find(item: Mapping[str, Any], path: Path) -> Value | None:
    value: Any = {"M": item}
    for name in path:
        value = value["M"].get(name) if "M" in value else None
        if value is None:
            return None
    found: Value = value
    return found


def _write(item: Item, path: Path, value: Value) -> None:
    """Maps on the way are copied: items of before stay as they were."""
    if len(path) == 1:
        item[path[0]] = value
        return
    inner = item.get(path[0])
    if inner is None or "M" not in inner:
        raise Invalid("the path of the update is not in the item")
    copied = dict(inner["M"])
    _write(copied, path[1:], value)
    item[path[0]] = {"M": copied}


def _remove(item: Item, path: Path) -> None:
    if len(path) == 1:
        item.pop(path[0], None)
        return
    inner = item.get(path[0])
    if inner is None or "M" not in inner:
        raise Invalid("the path of the update is not in the item")
    copied = dict(inner["M"])
    _remove(copied, path[1:])
    item[path[0]] = {"M": copied}


def _refuse_overlaps(paths: list[Path]) -> None:
    for at, path in enumerate(paths):
        for other in paths[at + 1 :]:
            shorter = min(len(path), len(other))
            if path[:shorter] == other[:shorter]:
                raise Invalid("two paths of the update overlap")


def _number(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:
        return Decimal(text)


def _plus(a: str, b: str, times: int) -> str:
    total = _number(a) + times * _number(b)
    return str(total) if isinstance(total, int) else f"{total.normalize():f}"
