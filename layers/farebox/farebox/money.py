"""Nano-dollars, and the one parser through which JSON numbers enter.

Amounts are `int` nano-dollars (1 USD = 10^9): OpenRouter sells tokens at 37.5 nano-dollars and less, so micro-dollars
would be coarser than one cheap token. Rates are `Decimal`. Fractions of a nano-dollar are rounded up, once an amount.
Floats appear only in what is shown to people.
"""

import json
import re
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation, localcontext
from typing import Any, NoReturn

NANOUSD_PER_USD = 10**9
MAX_USD = 10_000_000
"""No budget and no price is above this; it keeps every sum far inside DynamoDB's 38 digits."""

_EXACT = Context(prec=4000)
"""More digits than two numbers of `_MAX_LENGTH` have when multiplied: products and sums lose nothing."""
_CEILING = Context(prec=60, rounding=ROUND_CEILING)
_MAX_LENGTH = 1000
_ABSURD = Decimal(10**15)
_MAX_EXPONENT = 300
_JSON_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,4})?")


def number(text: str) -> Decimal:
    """A JSON number with a fraction or an exponent. Raises ValueError for what no amount can be: 1e999999999."""
    try:
        exact = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text[:40]} is out of range") from None
    if len(text) > _MAX_LENGTH or abs(exact.adjusted()) > _MAX_EXPONENT:
        raise ValueError(f"{text[:40]} is out of range")
    return exact


def no_constant(name: str) -> NoReturn:
    """NaN, Infinity and -Infinity, which Python's parser would take. Raises ValueError."""
    raise ValueError(f"{name} is not a JSON number")


def loads_exact(text: str | bytes, *, once: bool = False) -> Any:
    """JSON with exact numbers: fractions become `Decimal`. Raises ValueError: not JSON, NaN or Infinity, nested too
    deeply, or with `once` a key that appears twice in one object."""
    hook = _each_once if once else None
    try:
        return json.loads(text, parse_float=number, parse_constant=no_constant, object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def dumps(value: Any) -> str:
    """JSON in ASCII, without spaces, with `Decimal` as the number that it is."""
    return json.dumps(value, separators=(",", ":"), default=_shown)


def _shown(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def decimal_of(value: object) -> Decimal | None:
    """A number out of JSON (or a string of one, as OpenRouter writes prices), else None.

    Numbers of 10^15 and more are None too: no amount and no price here is that large. Strings are taken only as JSON
    spells numbers: what we read must be what upstream reads.
    """
    if isinstance(value, str) and _JSON_NUMBER.fullmatch(value):
        try:
            value = number(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    exact = Decimal(value)
    return exact if abs(exact) < _ABSURD else None


def nanousd_ceil(usd: Decimal) -> int:
    """US dollars to nano-dollars, a fraction rounded up."""
    return ceil(product(usd, Decimal(NANOUSD_PER_USD)))


def ceil(nanousd: Decimal) -> int:
    """Round an amount of nano-dollars up: what is owed is never understated."""
    return int(nanousd.to_integral_value(rounding=ROUND_CEILING, context=_EXACT))


def floor(number: Decimal) -> int:
    """Round down: what is affordable is never overstated."""
    return int(number.to_integral_value(rounding=ROUND_FLOOR, context=_EXACT))


def times(amount: Decimal, price: Decimal) -> int:
    """How many of a price an amount pays for, rounded down; -1 where it pays for none because it is negative."""
    return int(_EXACT.divide_int(amount, price)) if amount >= 0 else -1


def total(*amounts: Decimal) -> Decimal:
    """A sum without the 28 digits of the default context."""
    with localcontext(_EXACT):
        return sum(amounts, Decimal(0))


def product(a: Decimal, b: Decimal) -> Decimal:
    """a x b without the 28 digits of the default context."""
    with localcontext(_EXACT):
        return a * b


def ceil_quotient(amount: int, part: Decimal) -> int:
    """amount / part, rounded up: what the amount is that part of."""
    return ceil(_CEILING.divide(Decimal(amount), part))


def usd_text(nanousd: int) -> str:
    """Plain decimals for headers: 10_000_000 -> "0.01"."""
    return f"{Decimal(nanousd).scaleb(-9, _EXACT).normalize(_EXACT):f}"


def usd_number(nanousd: int) -> float:
    """A JSON number for people and dashboards; exact to the nano-dollar below 8 million USD, never calculated with."""
    return nanousd / NANOUSD_PER_USD
