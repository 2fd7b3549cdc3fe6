"""The race, small enough for every run: real processes over sockets. `make race` is the full one."""

import pytest

from tests.race import CASES, STORES, run


@pytest.mark.parametrize("store", STORES)
def test_a_budget_is_used_but_never_passed_whatever_clients_do(
    store: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    request.getfixturevalue({"embedded": "embedded_url", "dynamodb local": "dynamodb_local_url"}[store])
    results = list(run(store, calls=130, at_once=(50,)))
    with capsys.disabled():
        print(f"\n{store}:", *results, sep="\n  ")  # noqa: T201 - figures worth seeing in every run
    assert [result.case for result in results] == list(CASES)
    assert all(result.is_right for result in results), "\n".join(map(str, results))
