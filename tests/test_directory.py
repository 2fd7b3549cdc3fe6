"""Limits are kept in memory and yet never outlive a change: the ledger tells every gate, at no extra request."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from farebox.ledger import Hold, Ledger, Limits
from farebox.store import Store
from local.simulator import Simulator
from tests.conftest import Answered, Door, MakeDoor, connected
from tests.test_exactly_once import at as by_clock
from tests.test_exactly_once import chats_sent
from tests.wire import Fault, Wire, always, no_faults

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

NOVEMBER = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ADMITTED = ["reserve", "put_span", "settle"]
MET = ["GetItem", "register"]
"""The first call of a tenant in a month: it is read, and its ledger registered."""
TOLD = ["put_event", "mark"]
"""A change of a budget's state."""
USD = 10**9
OPEN = Limits(10 * USD, 100 * USD, 1)
SHUT = Limits(0, 100 * USD, 2)


@pytest.fixture
def wire(store_url: str) -> Iterator[Wire]:
    """To each store."""
    with Wire(store_url) as wire:
        yield wire


@dataclass(slots=True)
class Clock:
    """A moment that tests move."""

    now: datetime = NOVEMBER

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True, slots=True)
class Office:
    """Changes tenants as the admin side does, past the wire."""

    client: "DynamoDBClient"
    table: str

    def configure(self, limits: Limits, *, tenant: str = "acme", time_zone: str = "UTC", **rules: Any) -> None:
        """The tenant's own item."""
        item = {"day_nanousd": limits.day_nanousd, "month_nanousd": limits.month_nanousd, "version": limits.version}
        self.client.put_item(
            TableName=self.table,
            Item={
                "pk": {"S": f"TENANT#{tenant}"},
                "sk": {"S": "CONFIG"},
                "time_zone": {"S": time_zone},
                **({"rules": {"S": json.dumps(rules)}} if rules else {}),
                **{name: {"N": str(value)} for name, value in item.items()},
            },
        )

    def announce(self, limits: Limits, *, tenant: str = "acme", month: str = "2026-11") -> None:
        """The version in the ledger: from here on nothing is held by older limits."""
        self.client.update_item(
            TableName=self.table,
            Key={"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": f"LEDGER#{month}"}},
            UpdateExpression="SET #v = :v",
            ExpressionAttributeNames={"#v": "v"},
            ExpressionAttributeValues={":v": {"N": str(limits.version)}},
        )

    def change(self, limits: Limits, **rules: Any) -> None:
        self.configure(limits, **rules)
        self.announce(limits)


@dataclass(frozen=True, slots=True)
class Town:
    """Gates on one table behind one wire, with one clock, and the office that changes tenants."""

    door: Door
    other_door: Door
    wire: Wire
    clock: Clock
    office: Office

    @property
    def store(self) -> Store:
        """Past the wire."""
        return Store(self.office.client, self.office.table)

    def asked(self) -> list[str]:
        """The steps that came over the wire since the last time; circuits are known from the beginning."""
        steps = self.wire.steps
        self.wire.seen.clear()
        return steps


@pytest.fixture
def town(wire: Wire, make_door: MakeDoor, store_url: str) -> Town:
    """A table with the tenant `acme`, and two gates that have not met it yet."""
    clock = Clock()
    first = make_door(store_url=wire.url)
    table = first.gate.settings.farebox_table
    second = make_door(store_url=wire.url, FAREBOX_TABLE=table)
    office = Office(connected(store_url), table)
    office.configure(OPEN)
    door, other_door = (at(clock, each, wire) for each in (first, second))
    for each in (door, other_door):
        each.gate.breakers.wait_s("sim/ok")
        each.gate.catalogue.model("sim/ok")
    wire.seen.clear()
    return Town(door, other_door, wire, clock, office)


def at(clock: Clock, door: Door, wire: Wire) -> Door:
    """By this clock; only circuits stand still, so that they are known for ever."""
    gate = by_clock(NOVEMBER.timestamp, door, wire).gate
    return Door(replace(gate, now=clock, desk=replace(gate.desk, now=clock)))


def call(door: Door, tenant: str = "acme") -> Answered:
    return door.chat(headers={"X-Tenant-Id": tenant})


def test_limits_that_do_not_change_are_read_once(town: Town) -> None:
    assert [call(town.door).status for _ in range(5)] == [200] * 5
    assert town.asked() == [*MET, *ADMITTED * 5]


def test_a_lowered_limit_stops_the_very_next_call_of_a_warm_gate(town: Town, simulator: Simulator) -> None:
    assert call(town.door).status == 200
    town.office.change(SHUT)
    town.asked()
    refused = call(town.door)
    assert (refused.status, refused.reason) == (429, "budget_exhausted")
    assert refused.json["error"]["metadata"]["limit_usd"] == 0
    assert town.asked() == ["reserve", "GetItem", "GetItem", *TOLD]  # stale; the tenant; the ledger: nothing ever fits
    assert call(town.door).status == 429
    assert town.asked() == ["GetItem"]
    assert chats_sent(simulator) == 1


def test_a_limit_lowered_below_what_is_spent_stops_the_next_call_and_keeps_the_books(town: Town) -> None:
    assert call(town.door).status == 200
    spent = town.store.ledger("acme", "2026-11").spent_nanousd
    town.office.change(Limits(spent + 1, spent + 1, 2))
    town.asked()
    refused = call(town.door)
    assert (refused.status, refused.reason) == (429, "budget_exhausted")
    ledger = town.store.ledger("acme", "2026-11")
    assert (ledger.spent_nanousd, ledger.held_nanousd) == (spent, 0)


def test_a_change_costs_each_gate_one_more_update_and_one_read_and_then_nothing(town: Town) -> None:
    assert [call(door).status for door in (town.door, town.other_door)] == [200, 200]
    town.office.change(Limits(9 * USD, 90 * USD, 2))
    town.asked()
    for door in (town.door, town.other_door):
        assert call(door).status == 200
        assert town.asked() == ["reserve", "GetItem", *ADMITTED]
        assert call(door).status == 200
        assert town.asked() == ADMITTED


def test_a_raised_limit_lets_the_very_next_call_pass(town: Town) -> None:
    town.office.change(SHUT)
    assert [call(town.door).status for _ in range(2)] == [429, 429]
    town.office.change(replace(OPEN, version=3))
    town.asked()
    assert call(town.door).status == 200
    assert town.asked() == ["GetItem", "GetItem", *ADMITTED, *TOLD]  # the ledger, since it never fitted; the tenant


def test_a_gate_that_knows_newer_limits_tells_the_others_through_the_ledger(town: Town) -> None:
    assert call(town.door).status == 200
    town.office.configure(replace(SHUT, day_nanousd=USD))
    assert call(town.other_door).status == 200  # reads the tenant for the first time, and holds with version 2
    assert town.store.ledger("acme", "2026-11").version == 2
    town.office.configure(SHUT)
    town.asked()
    assert call(town.door).status == 429
    assert town.asked()[:2] == ["reserve", "GetItem"]


def test_a_change_between_two_calls_reaches_calls_that_are_refused_too(town: Town) -> None:
    spent = Limits(1, 1, 1)
    town.office.configure(spent)
    assert call(town.door).status == 429
    town.office.change(replace(OPEN, version=2))
    assert call(town.door).status == 200


def test_a_change_for_one_tenant_costs_no_other_tenant_anything(town: Town) -> None:
    assert [call(town.door, tenant).status for tenant in ("acme", "zebra")] == [200, 200]
    town.office.change(SHUT)
    town.asked()
    assert call(town.door, "zebra").status == 200
    assert town.asked() == ADMITTED


def test_changed_rules_reach_the_very_next_call_like_changed_limits(town: Town) -> None:
    assert call(town.door).status == 200
    town.office.change(replace(OPEN, version=2), deny=["sim/*"])
    town.asked()
    refused = call(town.door)
    assert (refused.status, refused.reason) == (403, "model_not_allowed")
    assert town.asked() == ["reserve", "GetItem", "GetItem"]  # stale; the tenant; whether the ledger knows newer rules
    assert call(town.door).status == 403
    assert town.asked() == ["GetItem"]


def test_rules_that_allow_more_reach_the_very_next_call(town: Town) -> None:
    town.office.configure(OPEN, deny=["sim/*"])
    assert call(town.door).status == 403
    town.office.change(replace(OPEN, version=2))
    assert call(town.door).status == 200


def test_a_tenant_has_its_own_cap_of_calls_in_flight(town: Town) -> None:
    town.office.configure(OPEN, in_flight=1)
    in_flight = Hold("f" * 21, 0, 23, 0, 960, "sim/ok")
    assert isinstance(town.store.reserve("acme", "2026-11", in_flight, OPEN), Ledger)
    refused = call(town.door)
    assert (refused.status, refused.reason) == (429, "too_many_in_flight")
    assert town.asked() == [*MET, "reserve"]
    town.store.settle("acme", "2026-11", in_flight, 0)
    assert call(town.door).status == 200


def test_what_a_tenants_rules_leave_out_is_the_settings(make_door: MakeDoor, embedded_url: str) -> None:
    door = make_door(FALLBACK_MODEL_CHAIN="sim/cent,sim/ok")
    office = Office(connected(embedded_url), door.gate.settings.farebox_table)
    office.configure(OPEN, in_flight=3)
    tenant, _ = door.gate.desk.directory.at("acme", NOVEMBER)
    assert (tenant.limits.in_flight, tenant.rules.in_flight) == (3, 3)
    assert tenant.rules.fallbacks == ("sim/cent", "sim/ok")


# Months.


def test_a_new_month_reads_the_tenant_again_once(town: Town) -> None:
    assert call(town.door).status == 200
    town.clock.now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    town.asked()
    assert call(town.door).status == 200
    assert town.asked() == ADMITTED
    town.clock.now += timedelta(seconds=1)
    assert [call(town.door).status for _ in range(2)] == [200, 200]
    assert town.asked() == [*MET, *ADMITTED * 2]
    assert town.store.ledger("acme", "2026-12").committed_by_day.keys() == {1}


def test_limits_lowered_last_month_hold_in_the_new_one_although_its_ledger_does_not_say_so(town: Town) -> None:
    assert call(town.door).status == 200
    town.office.change(SHUT)  # the gate makes no call that would tell it in November
    town.clock.now = datetime(2026, 12, 1, tzinfo=UTC)
    assert town.store.ledger("acme", "2026-12").version is None
    assert call(town.door).status == 429


def test_a_month_begins_in_the_time_zone_of_the_tenant(town: Town) -> None:
    town.office.configure(OPEN, time_zone="Pacific/Auckland")
    town.clock.now = datetime(2026, 11, 30, 10, 59, 59, tzinfo=UTC)
    assert call(town.door).status == 200
    town.clock.now += timedelta(seconds=1)
    town.asked()
    assert call(town.door).status == 200
    assert town.asked() == [*MET, *ADMITTED]
    assert [town.store.ledger("acme", month).committed_by_day.keys() for month in ("2026-11", "2026-12")] == [{30}, {1}]


# Registered ledgers.


def test_every_ledger_that_may_have_holds_is_registered_before_the_first_of_them(town: Town) -> None:
    for tenant in ("acme", "zebra", "acme"):
        assert call(town.door, tenant).status == 200
    town.clock.now = datetime(2026, 12, 1, tzinfo=UTC)
    assert call(town.door).status == 200
    steps = [(seen.step, seen.key) for seen in town.wire.seen if seen.step in ("register", "reserve")]
    expected: list[tuple[str, tuple[str, str]]] = []
    for month, tenant, is_new in [
        ("2026-11", "acme", True),
        ("2026-11", "zebra", True),
        ("2026-11", "acme", False),
        ("2026-12", "acme", True),
    ]:
        expected += [("register", (f"LEDGERS#{month}", tenant))] * is_new
        expected += [("reserve", (f"TENANT#{tenant}", f"LEDGER#{month}"))]
    assert steps == expected
    assert list(town.store.registered("2026-11", "")) == ["acme", "zebra"]


def test_nothing_is_held_or_sent_while_a_ledger_cannot_be_registered(town: Town, simulator: Simulator) -> None:
    town.wire.plan = always("register", Fault.FAILED)
    refused = call(town.door)
    assert (refused.status, refused.reason) == (503, "store_unavailable")
    assert "reserve" not in town.asked()
    assert chats_sent(simulator) == 0
    town.wire.plan = no_faults
    assert call(town.door).status == 200
    assert town.asked() == ["register", *ADMITTED]


# Tenants that the store does not know.


@pytest.fixture
def known_from_settings(make_door: MakeDoor) -> Door:
    """A gate that knows tenants only from its environment."""
    budgets = {
        "both": {"daily": 5, "monthly": 50},
        "daily": {"daily": 0.25},
        "monthly": {"monthly": 7.5},
        "nothing": {"daily": 0},
    }
    return make_door(DEFAULT_DAILY_BUDGET="2", DEFAULT_MONTHLY_BUDGET="20", TENANT_BUDGETS=json.dumps(budgets))


@pytest.mark.parametrize(
    ("tenant", "daily", "monthly"),
    [
        ("nobody", 2, 20),
        ("default", 2, 20),
        ("Both", 2, 20),
        ("both", 5, 50),
        ("daily", 0.25, 20),
        ("monthly", 2, 7.5),
        ("nothing", 0, 20),
    ],
)
def test_a_tenant_has_the_limits_of_tenant_budgets_and_else_the_defaults(
    tenant: str, daily: float, monthly: float, known_from_settings: Door
) -> None:
    usage = known_from_settings.usage(tenant)
    assert (usage["daily"]["limit_usd"], usage["monthly"]["limit_usd"]) == (daily, monthly)


def test_limits_from_settings_are_enforced(known_from_settings: Door) -> None:
    assert call(known_from_settings, "nobody").status == 200
    refused = call(known_from_settings, "nothing")
    assert (refused.status, refused.reason) == (429, "budget_exhausted")


def test_the_store_knows_better_than_the_settings(known_from_settings: Door, embedded_url: str) -> None:
    office = Office(connected(embedded_url), known_from_settings.gate.settings.farebox_table)
    office.configure(OPEN, tenant="nothing")
    assert call(known_from_settings, "nothing").status == 200
    assert known_from_settings.usage("nothing")["daily"]["limit_usd"] == 10


def test_a_tenant_known_from_settings_is_stopped_by_its_first_configuration(
    known_from_settings: Door, embedded_url: str
) -> None:
    office = Office(connected(embedded_url), known_from_settings.gate.settings.farebox_table)
    month = known_from_settings.usage("both")["month"]
    assert call(known_from_settings, "both").status == 200
    office.configure(SHUT, tenant="both")
    office.announce(SHUT, tenant="both", month=month)
    assert call(known_from_settings, "both").status == 429


def test_the_usage_shows_a_changed_limit_at_once(town: Town) -> None:
    assert call(town.door).status == 200
    town.office.change(SHUT)
    assert town.door.usage("acme")["daily"]["limit_usd"] == 0
