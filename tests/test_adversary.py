"""The adversarial suite, small enough for every run: our gateway over sockets. `make adversary` is the full one."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.simulator import Simulator
from tests.adversary import farebox, midnight, upstream
from tests.adversary.cases import CASES, named
from tests.adversary.money import nanousd
from tests.adversary.run import Size, run_all
from tests.adversary.targets import Place
from tests.adversary.verdicts import Books, Result
from tests.conftest import MakeDoor

CAP = nanousd("0.20")
SIZE = Size(CAP, 30, (10,), quiet_s=0.3)
SHORT = (
    "prompt of bytes, dropped",
    "hold leak",
)


async def _results(place: Place, names: tuple[str, ...]) -> list[object]:
    return [result async for result in run_all(place, [case for case in CASES if case.name in names], SIZE)]


def test_our_gateway_keeps_its_promise_to_an_adversary(capsys: pytest.CaptureFixture[str]) -> None:
    with upstream.simulator(delay_s=0.1) as root, farebox.started(root, CAP) as place:
        results = asyncio.run(_results(place, SHORT))
    with capsys.disabled():
        print("", *results, sep="\n  ")  # noqa: T201 - figures worth seeing in every run
    assert len(results) == len(SHORT)
    assert [str(result) for result in results if not (isinstance(result, Result) and result.is_right)] == []


def test_a_fee_that_nobody_asked_for_does_not_pass_the_cap(make_door: MakeDoor, simulator: Simulator) -> None:
    door = make_door(DEFAULT_DAILY_BUDGET="0.02")
    for _ in range(2):  # the first one teaches the fee
        door.chat(model="sim/server-tool", max_tokens=100)
    assert 0 < simulator.billed_nanousd <= nanousd("0.02")


# What the verdicts mean: a suite that calls everything ok proves nothing.


def result(
    *, billed: int, spent: int | None, held: int = 0, refused: int = 0, first_refused: int = 0, first: int | None = None
) -> Result:
    return Result(
        case="case",
        at_once=1,
        cap_nanousd=100,
        billed_nanousd=billed,
        books=Books(spent, held),
        told=Counter(),
        first_billed_nanousd=billed if first is None else first,
        first_refused=first_refused,
        refused=refused,
    )


def test_more_billed_than_the_cap_is_a_leak_though_all_is_booked() -> None:
    assert result(billed=101, spent=101).verdict == "LEAK (above the cap)"


def test_less_booked_than_billed_is_a_leak_though_the_cap_holds() -> None:
    assert result(billed=90, spent=89).verdict == "LEAK (not booked)"


def test_what_is_held_is_not_booked() -> None:
    assert result(billed=90, spent=80, held=10).verdict == "LEAK (not booked), HELD"


def test_more_booked_than_billed_is_told() -> None:
    assert result(billed=90, spent=91).verdict == "OVERBOOKED"


def test_a_refusal_is_false_below_95_percent_and_right_from_there_on() -> None:
    assert result(billed=94, spent=94, refused=1).verdict == "FALSE REFUSAL"
    assert result(billed=95, spent=95, refused=1).is_right


def test_a_refusal_is_false_though_the_rest_could_be_spent_later() -> None:
    assert result(billed=99, spent=99, refused=2, first_refused=1, first=20).verdict == "FALSE REFUSAL"


def test_money_that_nobody_wanted_is_no_false_refusal() -> None:
    assert result(billed=10, spent=10).is_right


def test_a_gateway_without_books_is_judged_by_the_bill_alone() -> None:
    assert result(billed=90, spent=None).is_right
    assert not result(billed=101, spent=None).is_right


def test_names_of_cases_are_unlike_and_every_one_can_be_chosen() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert [case for case in CASES if case not in named([case.name])] == []
    assert list(named([])) == list(CASES)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)), st.integers(1, 60))  # noqa: DTZ001 - of UTC
def test_the_zone_of_midnight_ends_its_day_at_that_second_and_no_month(now: datetime, seconds: int) -> None:
    now = now.replace(tzinfo=UTC, microsecond=0)
    shift = midnight.offset(now, seconds)
    assert abs(shift) < timedelta(days=1)
    local = (now + timedelta(seconds=seconds) + shift).replace(tzinfo=None)
    assert (local.hour, local.minute, local.second) == (0, 0, 0)
    assert local.day != 1


def test_a_file_of_a_zone_is_read_as_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "zone"
    path.write_bytes(midnight.zone_file(timedelta(hours=-7, minutes=-3, seconds=-2)))
    with path.open("rb") as file:
        zone = ZoneInfo.from_file(file)
    assert datetime(2026, 11, 24, tzinfo=zone).utcoffset() == timedelta(hours=-7, minutes=-3, seconds=-2)
