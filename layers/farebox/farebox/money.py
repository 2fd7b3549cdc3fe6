"""Nano-dollars, and the one parser through which JSON numbers enter.

Amounts are `int` nano-dollars (1 USD = 10^9): OpenRouter sells tokens at 37.5 nano-dollars and less, so micro-dollars
would be coarser than one cheap token. Rates are `Decimal`. Fractions of a nano-dollar are rounded up, once an amount.
Floats appear only in what is shown to people.
"""

import json
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation, localcontext
from typing import Any, NoReturn

NANOUSD_PER_USD = 10**9
MAX_USD = 10_000_000
"""No budget and no price is above this; it keeps every sum far inside DynamoDB's 38 digits."""

_EXACT = Context(prec=60)
_ABSURD = Decimal(10**15)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def loads_exact(text: str | bytes) -> Any:
    """JSON with exact numbers: fractions become `Decimal`. Raises ValueError (also for NaN and Infinity)."""
    return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)


def decimal_of(value: object) -> Decimal | None:
    """A finite number out of JSON (a number, or a string as OpenRouter writes prices), else None.

    Numbers of 10^15 and more are None too: nothing here is that large, and 1e999999 would take a megabyte as an int.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < _ABSURD else None


def nanousd_ceil(usd: Decimal) -> int:
    """US dollars to nano-dollars, a fraction rounded up."""
    return ceil(product(usd, Decimal(NANOUSD_PER_USD)))


def ceil(nanousd: Decimal) -> int:
    """Round an amount of nano-dollars up: what is owed is never understated."""
    return int(nanousd.to_integral_value(rounding=ROUND_CEILING, context=_EXACT))


def floor(number: Decimal) -> int:
    """Round down: what is affordable is never overstated."""
    return int(number.to_integral_value(rounding=ROUND_FLOOR, context=_EXACT))


def product(a: Decimal, b: Decimal) -> Decimal:
    """a x b without the 28 digits of the default context."""
    with localcontext(_EXACT):
        return a * b


def usd_text(nanousd: int) -> str:
    """Plain decimals for headers: 10_000_000 -> "0.01"."""
    return f"{Decimal(nanousd).scaleb(-9, _EXACT).normalize(_EXACT):f}"


def usd_number(nanousd: int) -> float:
    """A JSON number for people and dashboards; exact to the nano-dollar below 9 million USD, never calculated with."""
    return nanousd / NANOUSD_PER_USD
