"""Admission says yes as long as it can: clamped, then another model, then after a short wait; and only then no."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from farebox.admission import WAITS_S
from farebox.ledger import Ledger
from local.simulator import Simulator
from tests.bank import DAY, DOWN, USD, MakeBank, bank_maker, cent, hold_of, told
from tests.conftest import Answered, MakeDoor


@pytest.fixture
def make_bank(make_door: MakeDoor, simulator: Simulator, store_url: str) -> MakeBank:
    """On each store."""
    return bank_maker(make_door, simulator, store_url)


# The order of degradation: at each step what the answer says is what was sent.


def test_a_call_that_is_a_part_of_what_is_left_goes_as_asked(make_bank: MakeBank) -> None:
    bank, body = make_bank({"downgrade": DOWN}), cent(900)
    bank.hold(10**8 - 4 * hold_of(900, body))
    answered = bank.chat(body)
    assert (answered.status, told(answered)) == (200, {"Model": "sim/cent"})
    assert bank.last == ("sim/cent", 900)


@pytest.mark.parametrize("tokens", [899, 600, 256])
def test_then_the_output_is_clamped_to_what_is_affordable_and_that_is_what_is_sent_and_held(
    tokens: int, make_bank: MakeBank
) -> None:
    bank, body = make_bank({"downgrade": DOWN}), cent(900)
    rival = bank.hold(10**8 - 4 * hold_of(tokens, body))
    during: list[int] = []
    bank.upstream.before = lambda: during.append(bank.ledger.held_nanousd - rival.amount_nanousd)
    answered = bank.chat(body)
    assert told(answered) == {"Model": "sim/cent", "Max-Tokens": str(tokens)}
    assert bank.last == ("sim/cent", tokens)
    assert during == [hold_of(tokens, body)]
    assert answered.json["usage"]["completion_tokens"] == tokens


def test_never_below_the_floor_which_is_held_wherever_it_fits(make_bank: MakeBank) -> None:
    bank, body = make_bank(), cent(900)
    bank.hold(10**8 - hold_of(256, body))
    assert told(bank.chat(body)) == {"Model": "sim/cent", "Max-Tokens": "256"}
    assert bank.last == ("sim/cent", 256)


def test_the_floor_can_be_set_and_less_may_be_asked_for(make_bank: MakeBank) -> None:
    bank = make_bank(FAREBOX_MIN_OUTPUT_TOKENS="500")
    bank.hold(10**8 - hold_of(499, cent(900)))
    assert bank.chat(cent(900)).reason == "budget_held"
    assert told(bank.chat(cent(100))) == {"Model": "sim/cent"}
    assert bank.last == ("sim/cent", 100)


def test_then_the_next_model_that_fits_as_asked(make_bank: MakeBank) -> None:
    bank, body = make_bank({"downgrade": DOWN}), cent(300, model="sim/agent")
    bank.hold(10**8 - 4 * hold_of(300, body))
    answered = bank.chat(body)
    assert told(answered) == {"Model": "sim/cent", "Downgraded-From": "sim/agent"}
    assert bank.last == ("sim/cent", 300)


def test_or_clamped(make_bank: MakeBank) -> None:
    bank, body = make_bank({"downgrade": DOWN}), cent(900, model="sim/agent")
    bank.hold(10**8 - 4 * hold_of(300, body))
    answered = bank.chat(body)
    assert told(answered) == {"Model": "sim/cent", "Downgraded-From": "sim/agent", "Max-Tokens": "300"}
    assert bank.last == ("sim/cent", 300)


def test_or_the_one_after_that(make_bank: MakeBank) -> None:
    bank, body = make_bank({"downgrade": DOWN}), cent(900, model="sim/agent")
    bank.hold(10**8 - hold_of(256, body) + 1)
    answered = bank.chat(body)
    assert told(answered) == {"Model": "sim/ok", "Downgraded-From": "sim/agent"}
    assert bank.last == ("sim/ok", 900)


def test_what_calls_in_flight_hold_is_waited_for_a_little_and_then_named(make_bank: MakeBank) -> None:
    bank = make_bank()
    bank.spend(30_000_000)
    bank.hold(69_000_000)
    answered = bank.chat(cent())
    assert (answered.status, answered.reason) == (429, "budget_held")
    assert answered.headers["Retry-After"] == "7"
    assert "x-should-retry" not in answered.headers
    assert answered.json["error"]["metadata"] == {
        "reason": "budget_held",
        "scope": "tenant",
        "tenant": "default",
        "window": "day",
        "limit_usd": 0.1,
        "spent_usd": 0.03,
        "held_usd": 0.069,
        "needed_usd": hold_of(256, cent()) / USD,
        "resets_at": "2026-11-24T00:00:00Z",
    }
    assert bank.naps == list(WAITS_S)
    assert sum(WAITS_S) <= 2
    assert bank.sent == []
    assert bank.ledger.held_nanousd == 69_000_000


@pytest.mark.parametrize("waits", [1, 3, 5])
def test_money_that_is_released_meanwhile_lets_the_call_in(waits: int, make_bank: MakeBank) -> None:
    bank = make_bank()
    rival = bank.hold(99_000_000)
    bank.on_nap.append(lambda: bank.release(rival) if len(bank.naps) == waits else None)
    answered = bank.chat(cent(500))
    assert (answered.status, bank.naps) == (200, list(WAITS_S[:waits]))
    assert bank.last == ("sim/cent", 500)


def test_money_that_is_spent_meanwhile_ends_the_waiting(make_bank: MakeBank) -> None:
    bank = make_bank()
    rival = bank.hold(99_000_000)
    bank.on_nap.append(lambda: bank.release(rival, 98_000_000))
    assert bank.chat(cent()).reason == "budget_exhausted"
    assert bank.naps == [WAITS_S[0]]


@pytest.mark.parametrize(
    ("window", "limits", "resets_at"),
    [
        ("day", {}, "2026-11-24T00:00:00Z"),
        ("month", {"monthly": "0.10", "daily": 5}, "2026-12-01T00:00:00Z"),
        ("month", {"monthly": "0.10"}, "2026-12-01T00:00:00Z"),
    ],
    ids=["day", "month", "both, of which the month is named"],
)
def test_what_is_spent_is_refused_at_once_and_not_to_be_repeated(
    window: str, limits: dict[str, Any], resets_at: str, make_bank: MakeBank
) -> None:
    bank = make_bank({"downgrade": [], **limits})
    bank.spend(98_000_000)
    answered = bank.chat(cent())
    assert (answered.status, answered.reason) == (429, "budget_exhausted")
    assert answered.headers["x-should-retry"] == "false"
    assert "Retry-After" not in answered.headers
    assert answered.json["error"]["type"] == "insufficient_quota"
    assert answered.json["error"]["metadata"] == {
        "reason": "budget_exhausted",
        "scope": "tenant",
        "tenant": "default",
        "window": window,
        "limit_usd": 0.1,
        "spent_usd": 0.098,
        "held_usd": 0,
        "needed_usd": hold_of(256, cent()) / USD,
        "resets_at": resets_at,
    }
    assert (bank.naps, bank.sent) == ([], [])


# The soft cap.


@pytest.mark.parametrize(("spent", "model"), [(89_999_999, "sim/cent"), (90_000_000, "sim/ok")])
@pytest.mark.parametrize("window", ["daily", "monthly"])
def test_downgrade_rules_apply_to_what_fits_from_the_soft_cap_on_and_not_before(
    spent: int, model: str, window: str, make_bank: MakeBank
) -> None:
    bank = make_bank({"daily": 50, window: "0.10", "downgrade": DOWN}, FAREBOX_HOLD_FRACTION="1")
    bank.spend(spent)
    answered = bank.chat(cent(300))
    assert bank.last == (model, 300)
    assert told(answered) == {"Model": model, **({} if model == "sim/cent" else {"Downgraded-From": "sim/cent"})}


def test_a_routing_suffix_does_not_keep_a_model_above_the_soft_cap(make_bank: MakeBank) -> None:
    bank = make_bank({"downgrade": DOWN}, FAREBOX_HOLD_FRACTION="1")
    bank.spend(9 * USD // 100)
    answered = bank.chat({**cent(300), "model": "sim/cent:nitro"})
    assert told(answered) == {"Model": "sim/ok", "Downgraded-From": "sim/cent:nitro"}


def test_without_a_rule_for_it_a_model_stays_itself_above_the_soft_cap(make_bank: MakeBank) -> None:
    bank = make_bank({"downgrade": [{"from": ["sim/agent"], "to": "sim/ok"}]}, FAREBOX_HOLD_FRACTION="1")
    bank.spend(95_000_000)
    assert told(bank.chat(cent(300))) == {"Model": "sim/cent"}


# One call and the others.


@pytest.mark.parametrize(("fraction", "part"), [("0.25", 4), ("0.5", 2), ("0.125", 8)])
def test_one_call_holds_a_fraction_of_what_is_left(fraction: str, part: int, make_bank: MakeBank) -> None:
    bank, body = make_bank(FAREBOX_HOLD_FRACTION=fraction), cent(64_000)
    bank.spend(10**8 - part * hold_of(300, body))
    assert told(bank.chat(body)) == {"Model": "sim/cent", "Max-Tokens": "300"}


def test_calls_that_ask_for_too_much_leave_something_for_each_other(make_bank: MakeBank) -> None:
    """Each one begins while all those before it are in flight."""
    bank, answers = make_bank(), list[Answered]()

    def another() -> None:
        if len(bank.ledger.holds) < 6:
            answers.append(bank.chat(cent(16_000)))

    bank.upstream.before = another
    answers.append(bank.chat(cent(16_000)))
    assert [answered.status for answered in answers] == [200] * 6
    assert bank.naps == []
    tokens = [sent["max_tokens"] for sent in bank.sent]  # the last one came upstream first
    assert tokens == sorted(tokens)
    assert tokens[-1] > 256


def test_twenty_calls_at_once_never_pass_the_limit(make_bank: MakeBank) -> None:
    """Each is in flight or refused before the first one is answered."""
    bank = make_bank()
    books: list[Ledger] = []
    all_there, lock, steps = threading.Event(), threading.Lock(), list[str]()

    def count(step: str) -> None:
        with lock:
            steps.append(step)
            if len(steps) == 20:
                all_there.set()

    def before() -> None:
        count("in flight")
        assert all_there.wait(20)

    def call(_: int) -> Answered:
        answered = bank.chat(cent())
        books.append(bank.ledger)
        if answered.status != 200:
            count("refused")
        return answered

    bank.door.gate.catalogue.model("sim/cent")
    bank.upstream.before = before
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(20)))
    passed = [answered for answered in answers if answered.status == 200]
    assert len(bank.sent) == len(passed) >= 5
    assert {answered.reason for answered in answers if answered not in passed} <= {"budget_held"}
    assert all(0 <= ledger.committed_on(DAY) <= 10**8 for ledger in books)
    assert all(float(answered.headers["X-Farebox-Daily-Remaining-Usd"]) >= 0 for answered in passed)
    assert (bank.ledger.spent_nanousd, bank.ledger.held_nanousd) == (bank.simulator.billed_nanousd, 0)
