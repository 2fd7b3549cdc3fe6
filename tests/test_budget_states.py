"""Budget states: each change is seen by the call that caused it, shown in its header, and told of once."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from farebox.ledger import Limits
from farebox.reminders import KEPT_DAYS
from local.simulator import Simulator
from tests.bank import DAY, MONTH, NOW, Bank, MakeBank, bank_maker, cent
from tests.conftest import MakeDoor
from tests.test_directory import Office

CENT = 10_000_000
"""What a whole answer of sim/cent costs, exactly."""
DOWN = [{"from": ["sim/cent"], "to": "sim/ok"}]
WHOLE = {"FAREBOX_HOLD_FRACTION": "1", "FAREBOX_MIN_OUTPUT_TOKENS": "1000"}
"""No answer is cut short, so that each costs one cent."""


@pytest.fixture
def make_bank(make_door: MakeDoor, simulator: Simulator, store_url: str) -> MakeBank:
    """On each store."""
    return bank_maker(make_door, simulator, store_url)


def events(bank: Bank, window: str = "day") -> list[tuple[str, str, int]]:
    """In the order of the states: from, to, and what was spent."""
    found = [
        (event["from"], event["to"], int(event["spent_nanousd"]))
        for event in bank.store.events()
        if event["window"] == window
    ]
    return sorted(found, key=lambda event: event[2])


def header(bank: Bank, **fields: Any) -> str:
    answered = bank.chat(cent(1000, **fields))
    assert answered.status == 200
    return answered.headers["X-Farebox-Budget-State"]


def test_the_states_of_a_window_by_the_cent(make_bank: MakeBank) -> None:
    """The ninth cent degrades it; the tenth call is downgraded, and goes on until the window is stopped."""
    bank = make_bank({"downgrade": DOWN}, **WHOLE)
    shown = [header(bank) for _ in range(9)]
    assert shown == ["active"] * 7 + ["warned", "degraded"]
    assert bank.ledger.spent_nanousd == 9 * CENT
    assert events(bank) == [("active", "warned", 8 * CENT), ("warned", "degraded", 9 * CENT)]
    assert header(bank) == "degraded"
    assert bank.sent[-1]["model"] == "sim/ok"
    left = 10 * CENT - bank.ledger.spent_nanousd
    bank.spend(left)
    assert bank.chat(cent(1000)).reason == "budget_exhausted"
    assert events(bank)[2:] == [("degraded", "stopped", 10 * CENT)]
    assert bank.chat(cent(1000)).reason == "budget_exhausted"
    assert len(events(bank)) == 3


def test_an_event_says_all_that_an_alert_needs(make_bank: MakeBank) -> None:
    bank = make_bank({"monthly": "0.10", "daily": 5}, **WHOLE)
    bank.spend(7 * CENT)
    header(bank)
    (event,) = bank.store.events()
    assert event == {
        "pk": "EVENTS",
        "sk": "2026-11#default#0.100000000#warned",
        "tenant": "default",
        "window": "month",
        "period": "2026-11",
        "from": "active",
        "to": "warned",
        "spent_nanousd": 8 * CENT,
        "limit_nanousd": 10 * CENT,
        "version": 0,
        "at": "2026-11-23T12:00:00Z",
        "ttl": int(NOW.timestamp()) + KEPT_DAYS * 86_400,
    }


def test_day_and_month_have_states_of_their_own_and_the_header_has_the_fuller_ones(make_bank: MakeBank) -> None:
    bank = make_bank({"daily": "0.10", "monthly": "0.04"}, **WHOLE)
    assert [header(bank) for _ in range(3)] == ["active"] * 3
    bank.spend(CENT // 2)
    assert header(bank, model="sim/free:free") == "warned"
    assert (events(bank, "month"), events(bank)) == ([("active", "warned", 35_000_000)], [])
    bank.spend(45_000_000, "over")
    assert header(bank, model="sim/free:free") == "stopped"
    assert events(bank) == [("active", "warned", 8 * CENT)]
    assert events(bank, "month")[1:] == [("warned", "stopped", 8 * CENT)]


def test_a_window_without_downgrade_rules_is_never_degraded(make_bank: MakeBank) -> None:
    bank = make_bank(**WHOLE)
    assert [header(bank) for _ in range(9)] == ["active"] * 7 + ["warned"] * 2


def test_a_window_whose_rest_pays_for_no_call_is_stopped_by_the_first_one_that_is_refused(make_bank: MakeBank) -> None:
    """Which it stays, also for a smaller call that fits."""
    bank = make_bank(**WHOLE)
    bank.spend(9 * CENT)
    assert bank.chat(cent(1000)).reason == "budget_exhausted"
    assert events(bank) == [("active", "stopped", 9 * CENT)]
    assert header(bank, max_tokens=16) == "stopped"
    assert len(events(bank)) == 1


def test_a_call_that_is_too_large_for_a_window_that_is_not_nearly_spent_stops_nothing(make_bank: MakeBank) -> None:
    bank = make_bank(**WHOLE)
    bank.spend(9 * CENT - 1)
    assert bank.chat(cent(1000)).reason == "budget_exhausted"
    assert "stopped" not in {to for _, to, _ in events(bank)}
    assert bank.door.usage()["state"] == "warned"


def test_what_is_only_held_changes_no_state(make_bank: MakeBank) -> None:
    bank = make_bank({"downgrade": DOWN}, **WHOLE)
    bank.hold(99_000_000)
    assert bank.chat(cent(1000, model="sim/agent")).reason == "budget_held"
    assert (list(bank.store.events()), bank.door.usage()["state"]) == ([], "active")


def test_a_window_that_is_nearly_spent_is_not_stopped_by_calls_in_flight(make_bank: MakeBank) -> None:
    bank = make_bank()
    bank.spend(9 * CENT)
    bank.hold(CENT)
    assert bank.chat(cent(1000)).reason == "budget_held"
    assert (list(bank.store.events()), bank.door.usage()["state"]) == ([], "warned")


@pytest.mark.parametrize(
    ("thresholds", "settings", "states"),
    [
        ({"warn_at": 0.2, "degrade_at": 0.4}, {}, "active warned warned degraded degraded"),
        ({}, {"FAREBOX_WARN_AT": "0.3", "FAREBOX_DEGRADE_AT": "0.5"}, "active active warned warned degraded"),
        (
            {"warn_at": 0.1},
            {"FAREBOX_WARN_AT": "0.3", "FAREBOX_DEGRADE_AT": "0.5"},
            "warned warned warned warned degraded",
        ),
        ({"warn_at": 0.4, "degrade_at": 0.4}, {}, "active active active degraded degraded"),
    ],
    ids=["the tenant's", "the defaults", "one of each", "both at once"],
)
def test_thresholds_are_configurable(
    thresholds: dict[str, Any], settings: dict[str, str], states: str, make_bank: MakeBank
) -> None:
    bank = make_bank({"downgrade": [{"from": ["sim/cent"], "to": "sim/ok"}], **thresholds}, **WHOLE, **settings)
    shown = [header(bank) for _ in range(5)]
    assert shown == states.split()
    changes = [(old, new) for old, new in pairwise(["active", *shown]) if old != new]
    assert [(old, new) for old, new, _ in events(bank)] == changes


def test_the_usage_route_shows_the_state_and_what_it_comes_from(make_bank: MakeBank) -> None:
    bank = make_bank({"downgrade": DOWN}, **WHOLE)
    for spent, state in ((0, "active"), (8 * CENT, "warned"), (CENT, "degraded"), (CENT, "stopped")):
        bank.spend(spent)
        usage = bank.door.usage()
        assert usage["state"] == state
        assert usage["daily"]["spent_usd"] == bank.ledger.spent_on(DAY) / 10**9
        assert usage["daily"]["limit_usd"] == 0.1
    assert list(bank.store.events()) == []  # looking tells nobody


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The states that the log tells of, for whoever makes alerts of it."""
    return [getattr(record, "to") for record in caplog.records if record.msg == "state"]  # noqa: B009


def test_calls_that_end_at_once_tell_of_a_change_once(make_bank: MakeBank, caplog: pytest.LogCaptureFixture) -> None:
    bank = make_bank({"daily": "1"}, **WHOLE)
    bank.spend(75 * CENT)
    bank.door.gate.catalogue.model("sim/cent")
    with ThreadPoolExecutor(10) as pool:
        assert {answered.status for answered in pool.map(lambda _: bank.chat(cent(1000)), range(10))} == {200}
    ((old, new, spent),) = events(bank)
    assert (old, new) == ("active", "warned")
    assert 80 * CENT <= spent <= 85 * CENT
    assert lines(caplog) == ["warned"]
    assert bank.ledger.states == {str(DAY): "warned@0.1000000000"}


def test_raised_limits_begin_anew_and_what_happens_under_them_is_told_again(make_bank: MakeBank) -> None:
    bank = make_bank(**WHOLE)
    bank.spend(7 * CENT)
    assert header(bank) == "warned"
    office, limits = Office(bank.store._client, bank.store._table), Limits(20 * CENT, 10**12, 1)
    office.configure(limits, tenant="default")
    office.announce(limits, tenant="default", month=MONTH)
    assert [header(bank) for _ in range(8)] == ["active"] * 7 + ["warned"]
    assert events(bank) == [
        ("active", "warned", 8 * CENT),
        ("warned", "active", 9 * CENT),
        ("active", "warned", 16 * CENT),
    ]


def test_a_change_that_was_kept_but_not_marked_is_made_good_by_the_next_call_and_not_told_again(
    make_bank: MakeBank, caplog: pytest.LogCaptureFixture
) -> None:
    bank = make_bank(**WHOLE)
    bank.spend(7 * CENT)
    header(bank)
    (told,) = bank.store.events()
    bank.store._client.update_item(
        TableName=bank.store._table,
        Key={"pk": {"S": "TENANT#default"}, "sk": {"S": f"LEDGER#{MONTH}"}},
        UpdateExpression=f"REMOVE s{DAY}",
    )
    assert bank.ledger.states == {}
    assert header(bank) == "warned"
    assert list(bank.store.events()) == [told]
    assert lines(caplog) == ["warned"]
    assert bank.ledger.states == {str(DAY): "warned@0.100000000"}
