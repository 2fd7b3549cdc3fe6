"""What rollups must say, computed from spans in the plainest way, and what those of a table say."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from farebox.aws import from_dynamodb

Key = tuple[str, str]
Rollup = dict[tuple[str, str], dict[str, int]]
"""Sums by dimension and name; those of all spans are under `total`."""


def expected(items: Iterable[Mapping[str, Any]]) -> dict[Key, Rollup]:
    """Of the spans among the items of a table, by the rollups' keys."""
    rollups: dict[Key, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for item in items:
        if not item["pk"]["S"].startswith("SPANS#"):
            continue
        span = from_dynamodb(item)
        hour, day = span["pk"].split("#")[1], f"{span['day']:02}"
        names = [("total", ""), ("feature", span["feature"]), ("provider", span.get("provider", "-"))]
        names += [("model", span["model"]), ("key", span.get("key", "-"))]
        for sk in (f"H#{day}#{hour}", f"D#{day}", "M"):
            for name in names:
                sums = rollups[f"USAGE#{span['tenant']}#{span['month']}", sk][name]
                sums["n"] += 1
                sums["u"] += "cost_nanousd" not in span
                sums["c"] += span.get("cost_nanousd", 0)
                sums["e"] += span.get("cost_nanousd", 0) if span.get("is_estimated") else 0
                sums["p"] += span.get("prompt_tokens", 0)
                sums["o"] += span.get("completion_tokens", 0)
    return {
        key: {name: {letter: value for letter, value in sums.items() if value} for name, sums in rollup.items()}
        for key, rollup in rollups.items()
    }


def stored(items: Iterable[Mapping[str, Any]]) -> dict[Key, Rollup]:
    """The rollups among the items of a table."""
    found: dict[Key, Rollup] = {}
    for item in items:
        if item["pk"]["S"].startswith("USAGE#"):
            rollup = from_dynamodb(item)
            found[rollup["pk"], rollup["sk"]] = {("total", ""): rollup["total"]} | {
                (dimension, name): sums
                for dimension in ("feature", "provider", "model", "key")
                for name, sums in rollup[dimension].items()
            }
    return found
