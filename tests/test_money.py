"""Money is whole nano-dollars, rounding has a direction, and JSON numbers never become floats."""

import json
import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.money import (
    NANOUSD_PER_USD,
    ceil,
    decimal_of,
    dumps,
    floor,
    loads_exact,
    nanousd_ceil,
    product,
    times,
    total,
    usd_number,
    usd_text,
)

JUST_ABOVE_ONE = Decimal("1." + "0" * 70 + "1")

decimals = st.builds(
    lambda sign, digits, exponent: Decimal((sign, digits, exponent)),
    st.sampled_from((0, 1)),
    st.lists(st.integers(0, 9), min_size=1, max_size=30).map(tuple),
    st.integers(-50, 6),
)
amounts = st.integers(-(10**25), 10**25)


@given(decimals)
@example(JUST_ABOVE_ONE)
@settings(max_examples=200, deadline=None)
def test_rounding_up_gives_the_least_whole_amount_that_is_not_below(exact: Decimal) -> None:
    assert Fraction(ceil(exact)) - 1 < Fraction(exact) <= ceil(exact)


@given(decimals)
@example(-JUST_ABOVE_ONE)
@settings(max_examples=200, deadline=None)
def test_rounding_down_gives_the_largest_whole_amount_that_is_not_above(exact: Decimal) -> None:
    assert floor(exact) <= Fraction(exact) < floor(exact) + 1


@given(decimals)
@example(Decimal("0.0000000375"))
@example(Decimal("1e-9999"))
@example(JUST_ABOVE_ONE)
@settings(max_examples=200, deadline=None)
def test_a_fraction_of_a_nanodollar_is_owed_as_a_whole_one(usd: Decimal) -> None:
    assert nanousd_ceil(usd) == math.ceil(Fraction(usd) * NANOUSD_PER_USD)


@given(decimals, decimals)
@settings(max_examples=200, deadline=None)
def test_a_product_loses_no_digits(a: Decimal, b: Decimal) -> None:
    assert Fraction(product(a, b)) == Fraction(a) * Fraction(b)


@given(st.lists(decimals, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_sum_loses_no_digits(summands: list[Decimal]) -> None:
    assert Fraction(total(*summands)) == sum(map(Fraction, summands))


@given(decimals, decimals.filter(lambda price: price > 0))
@example(Decimal(300), Decimal("3." + "0" * 60 + "1"))
@settings(max_examples=200, deadline=None)
def test_an_amount_pays_for_as_many_as_fit_into_it_and_a_negative_one_for_none(amount: Decimal, price: Decimal) -> None:
    count = times(amount, price)
    assert count == (math.floor(Fraction(amount) / Fraction(price)) if amount >= 0 else -1)


@given(amounts)
@example(0)
@example(10_000_000)
@example(100 * NANOUSD_PER_USD)
@example(-1)
@settings(max_examples=200, deadline=None)
def test_an_amount_written_as_usd_reads_back_as_the_same_amount(nanousd: int) -> None:
    text = usd_text(nanousd)
    assert Fraction(text) * NANOUSD_PER_USD == nanousd
    assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d*[1-9])?", text)


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [(0, "0"), (1, "0.000000001"), (10_000_000, "0.01"), (10**9, "1"), (250 * 10**9, "250"), (-37, "-0.000000037")],
)
def test_usd_is_written_in_plain_decimals(nanousd: int, text: str) -> None:
    assert usd_text(nanousd) == text


@given(st.integers(-8 * 10**15, 8 * 10**15))
@settings(max_examples=200, deadline=None)
def test_a_json_number_for_people_is_exact_to_the_nanodollar_below_eight_million_usd(nanousd: int) -> None:
    assert round(Fraction(usd_number(nanousd)) * NANOUSD_PER_USD) == nanousd


def floats_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [found for inner in value.values() for found in floats_in(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in floats_in(inner)]
    return [value] if isinstance(value, float) else []


@given(
    st.recursive(
        st.floats(-1e300, 1e300).filter(lambda number: number == 0 or abs(number) > 1e-300)
        | st.integers()
        | st.booleans()
        | st.none()
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
@settings(max_examples=200, deadline=None)
def test_no_float_comes_out_of_json(value: Any) -> None:
    found = loads_exact(json.dumps(value))
    assert not floats_in(found)
    assert found == json.loads(json.dumps(value), parse_float=Decimal)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "\\u0061": 2}}]'])
def test_a_key_may_be_required_to_appear_once_at_any_depth(text: str) -> None:
    with pytest.raises(ValueError, match="a key appears twice"):
        loads_exact(text, once=True)
    assert loads_exact(text)
    assert loads_exact('{"a": {"a": 1}}', once=True) == {"a": {"a": 1}}


def test_json_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        loads_exact("[" * 200_000)


def test_every_digit_of_a_json_number_is_kept() -> None:
    digits = "0.1234567890123456789012345678901234567890"
    assert loads_exact(digits) == Decimal(digits)


@pytest.mark.parametrize(
    "text",
    ["NaN", "-Infinity", '{"a": Infinity}', "{", "", b"\xff", "1" * 5000, "1e99999999999999999999", "1e999", "-1e-999",
     f"0.{'1' * 1000}"],
    ids=["nan", "infinity", "inner", "cut", "empty", "not-utf8", "too-many-digits", "beyond-decimal", "beyond-doubles",
         "too-close-to-zero", "too-long"],
)  # fmt: skip
def test_what_is_not_a_number_is_a_value_error_and_nothing_else(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        loads_exact(text)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, Decimal(0)),
        (-5, Decimal(-5)),
        ("0.0000025", Decimal("0.0000025")),
        ("-1", Decimal(-1)),
        (Decimal("1e-7"), Decimal("1e-7")),
        ("1e3", Decimal(1000)),
        (999_999_999_999_999, Decimal(999_999_999_999_999)),
        ("0.1234567890123456789012345678901234567890", Decimal("0.1234567890123456789012345678901234567890")),
        ("1e-300", Decimal("1e-300")),
    ],
)
def test_numbers_and_the_strings_that_openrouter_writes_prices_in_are_numbers(value: object, number: Decimal) -> None:
    assert decimal_of(value) == number


@pytest.mark.parametrize(
    "value",
    [True, False, None, 0.1, [], {}, b"1", "", "abc", "NaN", "sNaN", "Infinity", "-Infinity", Decimal("Infinity"),
     10**15, "-1e15", "1e999",
     "1e9999999", "-1e9999999", "1e99999999999999999999", "1e-9999", "9" * 400, 10**4000, "1_0", " 1",
     "1\n", "+1", ".5", "1.", "0x1", "\uff11\uff12", "1,5"],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_anything_else_is_no_number(value: object) -> None:
    assert decimal_of(value) is None


@pytest.mark.parametrize("number", ["2.55", "1E-7", "0", "1e3"])
def test_a_decimal_is_written_as_the_number_that_it_is(number: str) -> None:
    assert loads_exact(dumps({"a": [Decimal(number)]})) == {"a": [Decimal(number)]}


def test_json_is_written_in_ascii_without_spaces() -> None:
    assert dumps({"a": [1, "\u00e9", None]}) == r'{"a":[1,"\u00e9",null]}'


def test_what_is_not_json_is_not_written() -> None:
    with pytest.raises(TypeError, match="set is not JSON"):
        dumps({1})
