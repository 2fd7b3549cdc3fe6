"""The cut-off, small enough for every run: `python -m tests.cutoff` is the full one."""

from collections.abc import Iterator

import pytest

from tests.conftest import connected
from tests.cutoff import ADMITTED, cut_off, open_town
from tests.wire import Wire

TRIES = 30


@pytest.fixture
def wire(store_url: str) -> Iterator[Wire]:
    """To each store."""
    with Wire(store_url) as wire:
        yield wire


def test_the_very_next_call_obeys_and_calls_without_a_change_cost_nothing_more(
    wire: Wire, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(variables: dict[str, str]) -> None:
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    result = cut_off(open_town(wire, connected(store_url), update), TRIES)
    assert result.is_right(TRIES), str(result)
    assert result.without_one == {ADMITTED: TRIES}
