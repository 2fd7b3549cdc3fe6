"""What a tenant's rules say of a call: how dear it may be, how many at once, which models; and what costs nothing."""

from typing import Any

import pytest

from farebox.ledger import Limits
from local.catalogue import FREE, Endpoint, Model, catalogue
from local.scenarios import SCRIPTS
from local.simulator import Simulator
from tests.bank import DOWN, MONTH, USD, MakeBank, bank_maker, cent, hold_of, told
from tests.conftest import Answered, MakeDoor
from tests.test_directory import Office

RICH: dict[str, Any] = {"daily": 50}


@pytest.fixture
def make_bank(make_door: MakeDoor, simulator: Simulator, store_url: str) -> MakeBank:
    """On each store."""
    return bank_maker(make_door, simulator, store_url)


@pytest.fixture
def plain_bank(make_door: MakeDoor, simulator: Simulator, embedded_url: str) -> MakeBank:
    """Where the store does not matter."""
    return bank_maker(make_door, simulator, embedded_url)


def usd(nanousd: int) -> str:
    return f"{nanousd / USD:.9f}"


# The cap of one request.


@pytest.mark.parametrize(("tokens", "said"), [(900, {}), (899, {"Max-Tokens": "899"}), (256, {"Max-Tokens": "256"})])
def test_the_cap_of_a_request_clamps(tokens: int, said: dict[str, str], make_bank: MakeBank) -> None:
    bank = make_bank({**RICH, "per_request": usd(hold_of(tokens, cent(900)))})
    assert told(bank.chat(cent(900))) == {"Model": "sim/cent", **said}
    assert bank.last == ("sim/cent", tokens)


def test_a_request_whose_smallest_answer_is_above_the_cap_is_refused_before_anything_is_held(
    make_bank: MakeBank,
) -> None:
    bank = make_bank({**RICH, "per_request": usd(hold_of(256, cent(900)) - 1)})
    answered = bank.chat(cent(900))
    assert (answered.status, answered.reason) == (402, "request_too_expensive")
    assert answered.headers["x-should-retry"] == "false"
    assert answered.json["error"]["metadata"] == {
        "reason": "request_too_expensive",
        "scope": "tenant",
        "tenant": "default",
        "limit_usd": (hold_of(256, cent(900)) - 1) / USD,
        "needed_usd": hold_of(256, cent(900)) / USD,
    }
    assert (bank.sent, bank.naps, bank.ledger.committed_nanousd) == ([], [], 0)


def test_above_the_cap_a_cheaper_model_is_tried_first(make_bank: MakeBank) -> None:
    bank = make_bank({**RICH, "per_request": usd(hold_of(256, cent(900)) - 1), "downgrade": DOWN})
    assert told(bank.chat(cent(900))) == {"Model": "sim/ok", "Downgraded-From": "sim/cent"}


def test_a_request_that_is_too_expensive_is_so_also_when_money_is_short(make_bank: MakeBank) -> None:
    bank = make_bank({"per_request": "0.001"})
    bank.hold(10**8)
    assert bank.chat(cent(900)).reason == "request_too_expensive"
    assert bank.naps == []


def test_the_cap_of_a_request_is_a_tenants_own(make_bank: MakeBank) -> None:
    bank = make_bank(RICH, FAREBOX_REQUEST_CAP_USD="0.001")
    assert bank.chat(cent(900)).status == 402
    assert bank.chat({**cent(900), "model": "sim/ok"}).status == 200
    bank = make_bank({**RICH, "per_request": 1}, FAREBOX_REQUEST_CAP_USD="0.001")
    assert bank.chat(cent(900)).status == 200


# Calls in flight.


def test_above_its_calls_in_flight_a_tenant_waits_and_the_next_one_passes_when_one_has_ended(
    make_bank: MakeBank,
) -> None:
    bank, inner = make_bank({**RICH, "in_flight": 2}), list[Answered]()

    def another() -> None:
        if len(inner) < 2:
            inner.append(Answered(0, {}, b""))
            inner.append(bank.chat(cent(300)))

    bank.hold(1)
    bank.upstream.before = another
    assert bank.chat(cent(300)).status == 200
    refused = inner[-1]
    assert (refused.status, refused.reason) == (429, "too_many_in_flight")
    assert refused.headers["Retry-After"] == "7"
    assert "x-should-retry" not in refused.headers
    assert refused.json["error"]["metadata"]["in_flight"] == 2
    assert len(bank.sent) == 1
    assert bank.chat(cent(300)).status == 200


def test_free_calls_count_as_in_flight_too(make_bank: MakeBank) -> None:
    bank = make_bank({**RICH, "in_flight": 1})
    rival = bank.hold(0)
    assert bank.chat(cent(model="sim/free:free")).reason == "too_many_in_flight"
    bank.release(rival)
    assert bank.chat(cent(model="sim/free:free")).status == 200


# Lists of models.


@pytest.mark.parametrize(
    ("rules", "models", "refused"),
    [
        ({"deny": ["sim/cent"]}, ["sim/cent"], "sim/cent"),
        ({"deny": ["sim/c*"]}, ["sim/cent:nitro"], "sim/cent:nitro"),
        ({"allow": ["sim/ok"]}, ["sim/cent"], "sim/cent"),
        ({"allow": ["sim/*"], "deny": ["sim/cent"]}, ["sim/ok", "sim/cent"], "sim/cent"),
        ({"allow": ["sim/ok"]}, ["sim/ok", "sim/agent", "sim/cent"], "sim/agent"),
        ({"deny": ["sim/family-2"]}, ["~sim/family-latest"], "~sim/family-latest"),
    ],
    ids=["denied", "with a suffix", "not allowed", "one of a list", "the first of a list", "by another name"],
)
def test_a_model_that_a_tenant_may_not_use_is_refused_wherever_it_is_named(
    rules: dict[str, Any], models: list[str], refused: str, plain_bank: MakeBank
) -> None:
    bank = plain_bank({**RICH, **rules})
    answered = bank.chat(cent(300, model=models[0], models=models))
    assert (answered.status, answered.reason) == (403, "model_not_allowed")
    assert answered.json["error"]["metadata"]["model"] == refused
    assert refused in answered.json["error"]["message"]
    assert (bank.sent, bank.ledger.committed_nanousd) == ([], 0)


def test_a_list_of_models_that_are_all_allowed_goes_upstream_whole(plain_bank: MakeBank) -> None:
    bank = plain_bank({**RICH, "allow": ["sim/ok", "sim/c*"]})
    assert bank.chat(cent(300, model="sim/ok", models=["sim/ok", "sim/cent"])).status == 200
    assert bank.sent[-1]["models"] == ["sim/ok", "sim/cent"]


def test_rules_do_not_lead_to_a_model_that_is_not_allowed(plain_bank: MakeBank) -> None:
    bank = plain_bank({"deny": ["sim/cent"], "downgrade": DOWN})
    body = cent(300, model="sim/agent")
    bank.hold(10**8 - 4 * hold_of(300, body))
    assert told(bank.chat(body)) == {"Model": "sim/ok", "Downgraded-From": "sim/agent"}


# What costs nothing.


def test_a_free_model_passes_when_the_budget_is_out(make_bank: MakeBank) -> None:
    bank = make_bank({"downgrade": [{"from": ["*"], "to": "sim/ok"}]})
    bank.spend(10**8)
    assert bank.chat(cent()).reason == "budget_exhausted"
    answered = bank.chat(cent(16_000, model="sim/free:free"))
    assert (answered.status, told(answered)) == (200, {"Model": "sim/free:free"})
    assert answered.headers["X-Farebox-Cost-Usd"] == "0"
    assert answered.headers["X-Farebox-Budget-State"] == "stopped"
    assert bank.last == ("sim/free:free", 16_000)
    assert (bank.ledger.spent_nanousd, bank.ledger.holds) == (10**8, {})


def test_a_free_model_that_fails_has_only_free_ones_behind_it(make_bank: MakeBank) -> None:
    """Also where there is money."""
    down = Model("sim/down:free", SCRIPTS["sim/502"], (Endpoint(FREE),))
    simulator = Simulator(sleep=lambda _: None, models={**catalogue(), down.id: down})
    bank = make_bank({**RICH, "fallback": ["sim/cent", "sim/free:free"]}, simulator=simulator)
    answered = bank.chat(cent(model=down.id))
    assert told(answered) == {"Model": "sim/free:free", "Fallback-From": "sim/down:free"}
    assert [sent["model"] for sent in bank.sent] == ["sim/down:free", "sim/free:free"]
    bank = make_bank({**RICH, "fallback": ["sim/cent"]}, simulator=simulator)
    assert bank.chat(cent(model=down.id)).status == 502
    assert bank.sent[-1]["model"] == "sim/down:free"


# A tenant that was changed behind a warm cache.


def office_of(bank: Any) -> Office:
    return Office(bank.store._client, bank.store._table)


def test_a_call_is_planned_anew_by_limits_that_were_changed_meanwhile(make_bank: MakeBank) -> None:
    bank = make_bank(RICH)
    assert bank.chat(cent(300)).status == 200
    office, limits = office_of(bank), Limits(0, 10**11, 1)
    office.configure(limits, tenant="default")
    office.announce(limits, tenant="default", month=MONTH)
    assert bank.chat(cent(300)).reason == "budget_exhausted"
    assert bank.quote(cent(300)).json["reason"] == "budget_exhausted"


def test_a_model_that_was_allowed_meanwhile_is_not_refused_by_older_rules(make_bank: MakeBank) -> None:
    bank = make_bank({**RICH, "allow": ["sim/ok"]})
    assert bank.chat(cent(300)).reason == "model_not_allowed"
    office, limits = office_of(bank), Limits(10**10, 10**11, 1)
    office.configure(limits, tenant="default", allow=["*"])
    office.announce(limits, tenant="default", month=MONTH)
    assert bank.chat(cent(300)).status == 200


def test_a_model_that_was_denied_meanwhile_is_refused(make_bank: MakeBank) -> None:
    """It was allowed to this tenant in spite of the default."""
    bank = make_bank({**RICH, "deny": []}, FAREBOX_DENIED_MODELS="sim/cent")
    assert bank.chat(cent(300)).status == 200
    office, limits = office_of(bank), Limits(10**10, 10**11, 1)
    office.configure(limits, tenant="default", deny=["sim/cent"])
    office.announce(limits, tenant="default", month=MONTH)
    assert bank.chat(cent(300)).reason == "model_not_allowed"
    assert bank.quote(cent(300)).reason == "model_not_allowed"


def test_limits_that_are_raised_while_a_call_waits_let_it_in(make_bank: MakeBank) -> None:
    bank = make_bank()
    bank.hold(10**8)
    office, limits = office_of(bank), Limits(10**10, 10**11, 1)

    def raise_them() -> None:
        office.configure(limits, tenant="default")
        office.announce(limits, tenant="default", month=MONTH)

    bank.on_nap.append(raise_them)
    answered = bank.chat(cent(300))
    assert (answered.status, len(bank.naps)) == (200, 1)
