"""Sums over spans: exact whatever the order and the names, and never too large for an item."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.aws import from_dynamodb, to_dynamodb
from farebox.tally import DIMENSIONS, MAX_NAME_BYTES, MAX_NAMES, OTHER, READ, Line, Poisoned, Sums, Tally

SPAN: dict[str, Any] = {
    "tenant": "acme",
    "month": "2026-11",
    "day": 23,
    "feature": "search",
    "provider": "Sim",
    "model": "sim/ok",
    "key": "k1",
    "cost_nanousd": 7,
    "prompt_tokens": 2,
    "completion_tokens": 3,
}
NAMES = st.sampled_from(["a", "b", "c", "d", OTHER])
WHOLE = st.integers(0, 10**15)
SPANS = st.lists(
    st.fixed_dictionaries(
        {"tenant": NAMES, "month": st.just("2026-11"), "day": st.just(1), "feature": NAMES, "model": NAMES},
        optional={
            "provider": NAMES,
            "key": NAMES,
            "cost_nanousd": WHOLE,
            "is_estimated": st.booleans(),
            "prompt_tokens": WHOLE,
            "completion_tokens": WHOLE,
        },
    ),
    max_size=20,
)


def tally(*spans: dict[str, Any]) -> Tally:
    result = Tally()
    for span in spans:
        result.add(Line.of(span))
    return result


def without(*names: str, **fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**SPAN, **fields}.items() if name not in names}


def summed(names: dict[str, Sums]) -> Sums:
    total = Sums()
    for sums in names.values():
        total.add(sums)
    return total


def test_a_span_counts_in_total_and_under_each_of_its_names() -> None:
    one = Sums(1, 0, 7, 0, 2, 3)
    assert tally(SPAN) == Tally(
        one, {"feature": {"search": one}, "provider": {"Sim": one}, "model": {"sim/ok": one}, "key": {"k1": one}}
    )


def test_what_a_span_does_not_say_counts_under_a_dash() -> None:
    assert [list(tally(without("provider", "key")).by[name]) for name in ("provider", "key")] == [["-"], ["-"]]


def test_a_call_of_unknown_cost_is_counted_as_such() -> None:
    assert tally(without("cost_nanousd"), SPAN).total == Sums(2, 1, 7, 0, 4, 6)


def test_what_is_estimated_is_part_of_the_cost() -> None:
    assert tally(without(is_estimated=True), without(is_estimated=False)).total == Sums(2, 0, 14, 7, 4, 6)


def test_a_tally_reads_what_it_says_and_no_more() -> None:
    read = set[str]()

    class Watched(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            read.add(name)
            return super().__getitem__(name)

        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

    Line.of(Watched(SPAN))
    assert read == set(READ)


@given(SPANS, st.randoms(use_true_random=False))
def test_the_order_of_spans_does_not_matter(spans: list[dict[str, Any]], chance: Any) -> None:
    mixed = list(spans)
    chance.shuffle(mixed)
    assert tally(*mixed) == tally(*spans)
    assert tally(*mixed).item() == tally(*spans).item()


@given(SPANS, SPANS)
def test_two_tallies_merged_are_one_of_all_their_spans(some: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    merged = tally(*some)
    merged.merge(tally(*more))
    assert merged == tally(*some, *more)


@given(SPANS)
def test_an_item_says_all_that_a_tally_does(spans: list[dict[str, Any]]) -> None:
    whole = tally(*spans)
    assert Tally.of(from_dynamodb(to_dynamodb(whole.item()))) == whole


@given(SPANS)
def test_each_dimension_has_the_total(spans: list[dict[str, Any]]) -> None:
    whole = tally(*spans)
    assert [summed(whole.by[dimension]) for dimension in DIMENSIONS] == [whole.total] * len(DIMENSIONS)


def test_the_dearest_names_stay_and_the_others_are_one() -> None:
    spans = [without(feature=f"f{number:04}", cost_nanousd=number // 2) for number in range(MAX_NAMES + 50)]
    whole = Tally.of(tally(*spans).item())
    names = whole.by["feature"]
    # 50 are too many: the cheapest pairs go, of which the one that comes first by its name stays where one of two does.
    assert set(names) == {OTHER, *(f"f{number:04}" for number in range(50, MAX_NAMES + 50))}
    assert names[OTHER] == summed(tally(*spans[:50]).by["feature"])
    odd = [*spans, without(feature="f9999", cost_nanousd=10**6)]
    kept = Tally.of(tally(*odd).item()).by["feature"]
    assert "f0050" in kept
    assert "f0051" not in kept


def test_what_others_were_before_is_among_the_others_after() -> None:
    spans = [without(feature=f"f{number}", cost_nanousd=number) for number in range(MAX_NAMES + 9)]
    twice = tally()
    for _ in range(2):
        twice.merge(Tally.of(tally(*spans).item()))
    twice.merge(tally(*(without(feature=f"g{number}", cost_nanousd=10**6) for number in range(MAX_NAMES))))
    whole = Tally.of(twice.item())
    assert set(whole.by["feature"]) == {OTHER, *(f"g{number}" for number in range(MAX_NAMES))}
    assert whole.by["feature"][OTHER] == Sums(
        2 * len(spans), 0, 2 * sum(range(len(spans))), 0, 4 * len(spans), 6 * len(spans)
    )
    assert summed(whole.by["feature"]) == whole.total


def test_as_many_names_as_there_is_room_for_need_no_other() -> None:
    spans = [without(feature=f"f{number}") for number in range(MAX_NAMES)]
    assert OTHER not in tally(*spans).item()["feature"]


def test_the_largest_item_has_half_the_room_of_one() -> None:
    largest = 10**37 // (MAX_NAMES + 50)
    whole = Tally()
    for number in range(MAX_NAMES + 50):
        name = f"{number:04}" + "\U0001f4b8" * 500
        sums = Sums(*[largest - number] * 6)
        line = Line.of({**SPAN, "feature": name, "provider": name, "model": name, "key": name})
        whole.add(Line(line.tenant, line.month, line.day, line.names, sums))
    # As written for the wire it is longer than by DynamoDB's rules, where a number has half a byte a digit.
    assert len(json.dumps(to_dynamodb(whole.item()), ensure_ascii=False).encode()) < 400_000
    assert stored_bytes(whole.item()) < 230_000
    assert max(len(name.encode()) for name in whole.item()["model"]) <= MAX_NAME_BYTES


def stored_bytes(value: Any) -> int:
    """DynamoDB's size of an item, at most."""
    if isinstance(value, dict):
        return 3 + sum(1 + len(name.encode()) + stored_bytes(inner) for name, inner in value.items())
    return 2 + len(str(value)) // 2


def test_names_that_differ_too_late_are_one() -> None:
    spans = [without(model="m" * MAX_NAME_BYTES + end) for end in "xy"]
    assert {name: sums.calls for name, sums in tally(*spans).by["model"].items()} == {"m" * MAX_NAME_BYTES: 2}


@pytest.mark.parametrize(
    "span",
    [
        {},
        *(without(name) for name in ("tenant", "month", "day", "feature", "model")),
        *(without(**{name: 5}) for name in ("tenant", "month", "feature", "provider", "model", "key")),
        *(without(**{name: ""}) for name in ("tenant", "month", "feature", "provider", "model", "key")),
        *(without(**{name: "5"}) for name in ("day", "cost_nanousd", "prompt_tokens", "completion_tokens")),
        *(without(**{name: True}) for name in ("day", "cost_nanousd", "prompt_tokens", "completion_tokens")),
        without(is_estimated="yes"),
        without(day=0),
        without(day=32),
        without(month="2026-11-23"),
    ],
)
def test_a_span_that_cannot_be_read_is_refused_without_its_content(span: dict[str, Any]) -> None:
    with pytest.raises(Poisoned) as refused:
        Line.of(span)
    assert str(refused.value).split()[0] in READ
