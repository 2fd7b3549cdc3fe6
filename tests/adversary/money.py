"""Amounts as they are compared: whole nano-dollars."""

from decimal import ROUND_HALF_EVEN, Decimal

NANO = 10**9


def nanousd(usd: object) -> int:
    """Of a number of JSON, which may be a float."""
    return int((Decimal(str(usd)) * NANO).to_integral_value(rounding=ROUND_HALF_EVEN))


def shown(amount: int) -> str:
    """For people."""
    return f"{amount / NANO:.6f}"
