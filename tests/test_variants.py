"""Names of models: what a suffix asks for, and the patterns by which tenants speak of them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farebox.variants import FLEX, PRIORITY, Variant, matches, variant

SUFFIXES = {"nitro": {PRIORITY}, "floor": {FLEX}, "exacto": set[str](), "online": set[str]()}
NONE: frozenset[str] = frozenset()

bases = st.text("abz/.-~@: ", min_size=1, max_size=12).filter(lambda base: base.rpartition(":")[2] not in SUFFIXES)


@pytest.mark.parametrize(
    ("name", "base", "tiers", "is_online"),
    [
        ("acme/m", "acme/m", set(), False),
        ("acme/m:nitro", "acme/m", {PRIORITY}, False),
        ("acme/m:floor", "acme/m", {FLEX}, False),
        ("acme/m:exacto", "acme/m", set(), False),
        ("acme/m:online", "acme/m", set(), True),
        ("acme/m:free:online", "acme/m:free", set(), True),
        ("acme/m:online:nitro", "acme/m", {PRIORITY}, True),
        ("acme/m:nitro:nitro", "acme/m", {PRIORITY}, False),
        ("~acme/latest:floor:nitro", "~acme/latest", {PRIORITY, FLEX}, False),
    ],
)
def test_a_routing_suffix_is_taken_off_and_says_which_tiers_may_serve(
    name: str,
    base: str,
    tiers: set[str],
    is_online: bool,  # noqa: FBT001 - a table's column
) -> None:
    assert variant(name) == Variant(name, base, frozenset(tiers), is_online)


@pytest.mark.parametrize(
    "name",
    [
        "acme/m:free", "acme/m:thinking", "acme/m:extended", "acme/m:batch", "acme/m:nitro:free", "acme/m:NITRO",
        "acme/m:Nitro", "acme/m: nitro", "acme/m:nitro ", "acme/m:", "acme/m:nitro:", "nitro", "acme/nitro",
        "acme/m-nitro", "acme/m:\uff4e\uff49\uff54\uff52\uff4f", "acme/m:nitr\u043e",
    ],
)  # fmt: skip
def test_anything_else_is_a_name_of_its_own_and_needs_a_price_of_its_own(name: str) -> None:
    assert variant(name) == Variant(name, name, NONE, is_online=False)


@given(bases, st.lists(st.sampled_from(sorted(SUFFIXES)), max_size=4))
@example("", ["nitro"]).via("a suffix and no name")
def test_whatever_the_order_and_number_of_suffixes_the_tiers_of_all_of_them_count(
    base: str, suffixes: list[str]
) -> None:
    found = variant("".join((base, *(f":{suffix}" for suffix in suffixes))))
    assert found.base == base
    assert found.service_tiers == set().union(*(SUFFIXES[suffix] for suffix in suffixes))
    assert found.is_online == ("online" in suffixes)
    assert variant(found.base).base == found.base


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "acme/m:free", True),
        ("acme/*", "acme/m", True),
        ("acme/*", "acme-2/m", False),
        ("*:free", "acme/m:free", True),
        ("*:free", "acme/m:free:online", False),
        ("acme/m", "acme/m", True),
        ("acme/m", "acme/m-pro", False),
        ("acme/m?", "acme/m1", True),
        ("acme/m", "ACME/m", False),
        ("ACME/*", "acme/m", False),
        ("", "acme/m", False),
    ],
)
def test_a_pattern_fits_a_whole_name_and_case_counts(pattern: str, name: str, fits: bool) -> None:  # noqa: FBT001
    assert matches(name, (pattern,)) is fits
    assert matches(name, ("no/match", pattern)) is fits


def test_no_pattern_fits_nothing() -> None:
    assert not matches("acme/m", ())
