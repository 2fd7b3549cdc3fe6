"""store.py loses nothing in translation, and hides no failure. What it does to ledgers is in test_oracle.py, too."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from botocore.config import Config

from farebox import ledger as oracle
from farebox.ledger import Hold, Ledger, Limits, No
from farebox.rules import Downgrade, Rules
from farebox.store import Refused, Store, StoreError
from farebox.tenants import Tenant
from local.child import connect
from local.simulator import Simulator
from tests.conftest import Door, MakeDoor, connected, new_table
from tests.seeds import seed
from tests.test_exactly_once import chats_sent
from tests.wire import Fault, Wire, always, name_of, no_faults

MONTH = "2026-11"
AMPLE = Limits(10**17, 10**17, 0)
HOLD = Hold("5a1e", 7_000, 23, 1_795_435_200, 1_795_436_160, "sim/ok")
ONE_TRY = Config(retries={"total_max_attempts": 1})


# The ledger.


def test_repeating_a_hold_changes_nothing_also_under_limits_that_it_does_not_fit_into_any_more(store: Store) -> None:
    held = store.reserve("acme", MONTH, HOLD, AMPLE)
    lowered = Limits(1, 1, 0)
    assert isinstance(held, Ledger)
    assert oracle.reserve(held, HOLD, lowered) == held
    assert store.reserve("acme", MONTH, HOLD, lowered) == held


def test_a_hold_that_can_never_fit_writes_nothing(store: Store) -> None:
    for limits in (Limits(6_999, 10**9, 0), Limits(10**9, 6_999, 0), Limits(0, 0, 0)):
        assert store.reserve("acme", MONTH, HOLD, limits) == Refused(No.NO_ROOM, Ledger())
    assert store.ledger("acme", MONTH) == Ledger()


@pytest.mark.parametrize("limits", [Limits(7_000, 9_000, 0), Limits(9_000, 7_000, 0)], ids=["day", "month"])
def test_a_window_is_filled_to_the_last_nanodollar_and_then_takes_only_free_calls(limits: Limits, store: Store) -> None:
    def hold(name: str, amount: int) -> Ledger | Refused:
        return store.reserve("acme", MONTH, replace(HOLD, id=name, amount_nanousd=amount), limits)

    assert isinstance(hold("most", 6_999), Ledger)
    full = hold("last", 1)
    assert isinstance(full, Ledger)
    assert full.committed_nanousd == full.committed_on(23) == 7_000
    assert hold("more", 1) == Refused(No.NO_ROOM, full)
    free = hold("free", 0)
    assert isinstance(free, Ledger)
    assert free.committed_nanousd == 7_000


def test_tenants_and_months_have_ledgers_of_their_own(store: Store) -> None:
    for tenant, month in (("acme", MONTH), ("acme", "2026-12"), ("acme.2", MONTH)):
        assert store.reserve(tenant, month, HOLD, AMPLE) == Ledger(7_000, {23: 7_000}, {HOLD.id: HOLD}, 0)
    store.settle("acme", MONTH, HOLD, 1)
    assert store.ledger("acme", MONTH).held_nanousd == 0
    assert store.ledger("acme", "2026-12").held_nanousd == store.ledger("acme.2", MONTH).held_nanousd == 7_000


def test_settling_where_nothing_was_ever_held_makes_no_ledger(store: Store) -> None:
    assert store.settle("acme", MONTH, HOLD, 1) == Ledger()
    assert store.ledger("acme", MONTH) == Ledger()


# Which ledgers there are, and what they say of holds.


def test_ledgers_are_registered_once_by_month_and_read_in_order_behind_a_name(store: Store) -> None:
    for tenant in ("bolt", "acme", "acme.2", "bolt", "Zed"):
        store.register(tenant, MONTH)
    store.register("later", "2026-12")
    assert list(store.registered(MONTH, "")) == ["Zed", "acme", "acme.2", "bolt"]
    assert list(store.registered(MONTH, "acme")) == ["acme.2", "bolt"]
    assert list(store.registered(MONTH, "bolt")) == []
    assert list(store.registered("2026-12", "")) == ["later"]


def test_the_walk_goes_on_where_it_was_moved_to_and_begins_at_the_beginning(store: Store) -> None:
    assert store.cursor() == ""
    for at in (f"{MONTH}#acme", f"{MONTH}#bolt", ""):
        store.move_cursor(at)
        assert store.cursor() == at


def test_a_hold_keeps_its_feature_and_the_id_that_is_noted_in_it(store: Store) -> None:
    held = [HOLD, replace(HOLD, id="b", feature="search")]
    for hold in held:
        store.reserve("acme", MONTH, hold, AMPLE)
    store.note("acme", MONTH, "b", "gen-1")
    assert store.ledger("acme", MONTH).holds == {HOLD.id: HOLD, "b": replace(held[1], generation_id="gen-1")}


# Budget states.


@pytest.mark.parametrize("window", ["month", "1", "9", "31"])
def test_a_mark_comes_back_as_it_was_made_and_changes_no_money(window: str, store: Store) -> None:
    held = store.reserve("acme", MONTH, HOLD, AMPLE)
    assert isinstance(held, Ledger)
    store.mark_state("acme", MONTH, window, None, "warned@0")
    assert store.ledger("acme", MONTH) == replace(held, states={window: "warned@0"})
    store.mark_state("acme", MONTH, window, "warned@0", "stopped@0")
    assert store.settle("acme", MONTH, HOLD, 0).states == {window: "stopped@0"}


def test_of_two_writers_of_a_mark_the_slower_one_changes_nothing(store: Store) -> None:
    store.mark_state("acme", MONTH, "23", None, "stopped@1")
    store.mark_state("acme", MONTH, "23", None, "warned@1")
    store.mark_state("acme", MONTH, "23", "warned@1", "degraded@1")
    assert store.ledger("acme", MONTH) == Ledger(states={"23": "stopped@1"})


def test_marks_do_not_stand_in_each_others_way(store: Store) -> None:
    windows = ["month", *(str(day) for day in range(1, 32))]
    for window in windows:
        store.mark_state("acme", MONTH, window, None, f"{window}@1")
    assert store.ledger("acme", MONTH).states == {window: f"{window}@1" for window in windows}


def test_a_month_that_has_only_a_mark_takes_holds(store: Store) -> None:
    store.mark_state("acme", MONTH, "month", None, "stopped@0")
    held = store.reserve("acme", MONTH, HOLD, Limits(7_000, 7_000, 1))
    assert held == Ledger(7_000, {23: 7_000}, {HOLD.id: HOLD}, 1, {"month": "stopped@0"})


def test_an_event_is_kept_once_and_only_the_first_writer_hears_that_it_was_the_first(store: Store) -> None:
    assert store.put_event("2026-11#acme#1#warned", {"to": "warned", "spent_nanousd": 1}) is True
    assert store.put_event("2026-11#acme#1#warned", {"to": "warned", "spent_nanousd": 2}) is False
    assert store.put_event("2026-11#acme#1#stopped", {"to": "stopped", "spent_nanousd": 3}) is True
    assert [(event["to"], event["spent_nanousd"]) for event in store.events()] == [("stopped", 3), ("warned", 1)]


# Conversions.


@pytest.mark.parametrize("amount", [1, 2**53 + 1, 10**16 - 1, 10**16])
def test_amounts_up_to_ten_million_dollars_are_exact(amount: int, store: Store) -> None:
    holds = [replace(HOLD, id=f"{number}", amount_nanousd=amount) for number in range(3)]
    for hold in holds:
        store.reserve("acme", MONTH, hold, AMPLE)
    ledger = store.ledger("acme", MONTH)
    assert ledger.held_nanousd == ledger.committed_nanousd == ledger.committed_on(23) == 3 * amount
    for hold in holds:
        store.settle("acme", MONTH, hold, amount - 1)
    assert store.ledger("acme", MONTH).spent_nanousd == 3 * amount - 3


def test_a_hold_comes_back_as_it_was_made_on_every_day_of_a_month(store: Store) -> None:
    made = {
        hold.id: hold
        for day in range(1, 32)
        for hold in [Hold(f"0198ab{day:02x}", 10**16 - day, day, 1_795_435_200 + day, 1_795_436_160, f"sim/{day}é#:x")]
    }
    for hold in made.values():
        assert isinstance(store.reserve("acme", MONTH, hold, replace(AMPLE, month_nanousd=10**18)), Ledger)
    ledger = store.ledger("acme", MONTH)
    assert ledger.holds == made
    assert ledger.committed_by_day == {hold.day: hold.amount_nanousd for hold in made.values()}


def test_a_month_without_calls_is_an_empty_ledger(store: Store) -> None:
    assert store.ledger("nobody", MONTH) == Ledger(0, {}, {}, None)


SPAN: Mapping[str, Any] = {"tenant": "acme", "cost_nanousd": 10**16, "streamed": True, "model": "sim/ok", "note": "é"}


def test_a_span_comes_back_as_it_was_written(store: Store) -> None:
    store.put_span("SPANS#2026-11-23T12#0", "a", SPAN)
    assert list(store.spans("SPANS#2026-11-23T12#0")) == [{"pk": "SPANS#2026-11-23T12#0", "sk": "a", **SPAN}]


def test_a_span_is_written_once_and_a_second_one_changes_nothing(store: Store) -> None:
    store.put_span("SPANS#1", "a", {"cost_nanousd": 1})
    store.put_span("SPANS#1", "a", {"cost_nanousd": 2, "more": "x"})
    assert list(store.spans("SPANS#1")) == [{"pk": "SPANS#1", "sk": "a", "cost_nanousd": 1}]


def test_all_spans_of_a_shard_are_read_in_order_over_many_pages(store_url: str) -> None:
    client = connect(store_url)
    pages: list[str] = []
    client.meta.events.register("before-parameter-build.dynamodb.Query", lambda params, **_: params.update(Limit=3))
    client.meta.events.register("before-send.dynamodb.Query", lambda **_: pages.append("page"))
    store = Store(client, new_table(store_url))
    for name in "gcaefbd":
        store.put_span("SPANS#1", name, {"cost_nanousd": 1})
    store.put_span("SPANS#2", "of another shard", {})
    assert "".join(str(span["sk"]) for span in store.spans("SPANS#1")) == "abcdefg"
    assert len(pages) == 3


def test_spans_of_more_than_a_megabyte_are_all_read(store: Store) -> None:
    for number in range(5):  # of 300 KB; a page has 1 MB
        store.put_span("SPANS#1", f"{number}", {"text": "x" * 300_000})
    assert [str(span["sk"]) for span in store.spans("SPANS#1")] == ["0", "1", "2", "3", "4"]


def test_an_hour_without_calls_has_no_spans(store: Store) -> None:
    assert list(store.spans("SPANS#1")) == []


TENANT = Tenant(
    "acme",
    Limits(10**16, 10**17 + 1, 3, in_flight=17),
    "Europe/Berlin",
    Rules(
        request_nanousd=1_500_000_001,
        in_flight=17,
        warn_at=Decimal("0.715"),
        degrade_at=Decimal("0.999"),
        allow=("acme/*", "sim/*"),
        deny=("*-pro",),
        downgrades=(Downgrade(("sim/a*", "sim/b"), "sim/c"),),
        fallbacks=("sim/c", "sim/d"),
        server_tools_nanousd=7,
    ),
)
RULES = {"#rules": "rules"}
DEFAULT = Tenant("acme", Limits(5, 6, 0), "Asia/Tokyo")


def test_a_tenant_is_read_as_it_was_seeded(store: Store) -> None:
    assert store.tenant(DEFAULT) is None
    seed(store, TENANT)
    assert store.tenant(DEFAULT) == TENANT


def test_a_tenant_without_rules_of_its_own_has_those_that_are_given(store_url: str) -> None:
    client, table = connected(store_url), new_table(store_url)
    store = Store(client, table)
    seed(store, TENANT)
    key = {"pk": {"S": "TENANT#acme"}, "sk": {"S": "CONFIG"}}
    client.update_item(TableName=table, Key=key, UpdateExpression="REMOVE #rules", ExpressionAttributeNames=RULES)
    given = replace(TENANT.rules, in_flight=3)
    assert store.tenant(replace(DEFAULT, rules=given)) == replace(
        TENANT, limits=replace(TENANT.limits, in_flight=3), rules=given
    )


def test_rules_of_a_tenant_are_laid_over_those_that_are_given(store_url: str) -> None:
    client, table = connected(store_url), new_table(store_url)
    store = Store(client, table)
    seed(store, TENANT)
    client.update_item(
        TableName=table,
        Key={"pk": {"S": "TENANT#acme"}, "sk": {"S": "CONFIG"}},
        UpdateExpression="SET #rules = :rules",
        ExpressionAttributeNames=RULES,
        ExpressionAttributeValues={":rules": {"S": '{"in_flight": 5, "warn_at": 0.55}'}},
    )
    found = store.tenant(replace(DEFAULT, rules=Rules(fallbacks=("b",), in_flight=9)))
    assert found is not None
    assert found.rules == Rules(fallbacks=("b",), in_flight=5, warn_at=Decimal("0.55"))
    assert found.limits.in_flight == 5


def test_a_tenant_that_has_only_called_has_no_configuration(store: Store) -> None:
    store.reserve("acme", MONTH, HOLD, AMPLE)
    assert store.tenant(DEFAULT) is None
    seed(store, TENANT)
    assert store.ledger("acme", MONTH).held_nanousd == HOLD.amount_nanousd


# Failures of the store.

CALLS: Mapping[str, Callable[[Store], object]] = {
    "reserve": lambda store: store.reserve("acme", MONTH, HOLD, AMPLE),
    "reserve what never fits": lambda store: store.reserve("acme", MONTH, HOLD, Limits(0, 0, 0)),
    "swap": lambda store: store.swap("acme", MONTH, HOLD, replace(HOLD, id="b"), AMPLE),
    "settle": lambda store: store.settle("acme", MONTH, HOLD, 1),
    "put_event": lambda store: store.put_event("a", {"to": "warned"}),
    "mark_state": lambda store: store.mark_state("acme", MONTH, "month", None, "warned@1"),
    "note": lambda store: store.note("acme", MONTH, HOLD.id, "gen-1"),
    "correct": lambda store: store.correct("acme", MONTH, HOLD.id, 1),
    "unmark": lambda store: store.unmark("acme", MONTH, HOLD.id),
    "register": lambda store: store.register("acme", MONTH),
    "registered": lambda store: list(store.registered(MONTH, "")),
    "cursor": lambda store: store.cursor(),
    "move_cursor": lambda store: store.move_cursor("2026-11#acme"),
    "span": lambda store: store.span("SPANS#1", "a"),
    "correct_span": lambda store: store.correct_span("SPANS#1", "a", 1),
    "resolve_span": lambda store: store.resolve_span("SPANS#1", "a", 1, is_estimated=False, known={"day": 1}),
    "remind": lambda store: store.remind("a", {}),
    "reminders": lambda store: list(store.reminders()),
    "look_again": lambda store: store.look_again("a", 1),
    "forget": lambda store: store.forget("a"),
    "events": lambda store: list(store.events()),
    "ledger": lambda store: store.ledger("acme", MONTH),
    "put_span": lambda store: store.put_span("SPANS#1", "a", SPAN),
    "spans": lambda store: list(store.spans("SPANS#1")),
    "tenant": lambda store: store.tenant(DEFAULT),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
def test_a_store_that_cannot_be_reached_is_an_error(call: Callable[[Store], object]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        store = Store(connect(f"http://127.0.0.1:{nobody.getsockname()[1]}", ONE_TRY), "farebox")
        with pytest.raises(StoreError, match="DynamoDB did not answer: EndpointConnectionError"):
            call(store)


@each_call
def test_a_table_that_is_missing_is_an_error(call: Callable[[Store], object], store_url: str) -> None:
    with pytest.raises(StoreError, match="DynamoDB answered ResourceNotFoundException"):
        call(Store(connected(store_url), "no-such-table"))


SENTENCES = {
    Fault.THROTTLED: "DynamoDB answered ProvisionedThroughputExceededException",
    Fault.FAILED: "DynamoDB answered InternalServerError",
    Fault.DROPPED: "DynamoDB did not answer: ConnectionClosedError",
    Fault.LOST: "DynamoDB did not answer: ConnectionClosedError",
}


@each_call
@pytest.mark.parametrize("fault", SENTENCES, ids=name_of)
def test_a_store_that_does_not_do_its_work_is_an_error(
    fault: Fault, call: Callable[[Store], object], wire: Wire, embedded_url: str
) -> None:
    store = Store(connect(wire.url, ONE_TRY), new_table(embedded_url))
    wire.plan = lambda _: fault
    with pytest.raises(StoreError, match=SENTENCES[fault]):
        call(store)
    assert len(wire.seen) == 1


def test_a_store_that_is_silent_is_an_error_when_the_time_is_over(wire: Wire) -> None:
    impatient = ONE_TRY.merge(Config(read_timeout=0.1))
    wire.plan = lambda _: Fault.SILENT
    with pytest.raises(StoreError, match="DynamoDB did not answer: ReadTimeoutError"):
        Store(connect(wire.url, impatient), "farebox").settle("acme", MONTH, HOLD, 1)


JUNK_IS_SEEN = ["reserve", "swap", "settle", "note", "unmark", "correct_span", "resolve_span", "registered", "spans"]


@pytest.mark.parametrize("name", JUNK_IS_SEEN)
def test_a_200_that_does_not_come_from_the_store_is_an_error(name: str, wire: Wire, embedded_url: str) -> None:
    store = Store(connect(wire.url, ONE_TRY), new_table(embedded_url))
    wire.plan = lambda _: Fault.JUNK
    with pytest.raises(StoreError):
        CALLS[name](store)


def refused_for_the_store(door: Door, simulator: Simulator) -> None:
    answered = door.chat()
    assert chats_sent(simulator) == 0
    assert (answered.status, answered.reason) == (503, "store_unavailable")
    assert int(answered.headers["Retry-After"]) > 0
    assert "nothing was spent" in answered.json["error"]["message"]


@pytest.mark.parametrize(
    ("step", "fault"), [("GetItem", Fault.DROPPED), ("reserve", Fault.THROTTLED)], ids=["lost reads", "throttled"]
)
def test_a_call_is_refused_after_three_tries_and_nothing_is_sent_while_the_store_fails(
    step: str, fault: Fault, wire: Wire, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(store_url=wire.url)
    wire.plan = always(step, fault)
    refused_for_the_store(door, simulator)
    assert wire.steps.count(step) == 3
    wire.plan = no_faults
    assert door.chat().status == 200


def test_a_call_is_refused_and_nothing_is_sent_when_the_store_is_gone(
    wire: Wire, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(store_url=wire.url)
    wire.hang_up()
    refused_for_the_store(door, simulator)


def test_a_call_is_refused_and_nothing_is_sent_without_a_table(make_door: MakeDoor, simulator: Simulator) -> None:
    refused_for_the_store(make_door(FAREBOX_TABLE="no-such-table"), simulator)


def test_a_call_is_refused_and_nothing_is_sent_when_something_else_answers_in_place_of_the_store(
    wire: Wire, make_door: MakeDoor, simulator: Simulator
) -> None:
    door = make_door(store_url=wire.url)
    wire.plan = lambda _: Fault.JUNK
    refused_for_the_store(door, simulator)


def test_usage_is_refused_too_while_the_store_fails(make_door: MakeDoor) -> None:
    answered = make_door(FAREBOX_TABLE="no-such-table").call("GET", "/api/usage/acme")
    assert (answered.status, answered.reason) == (503, "store_unavailable")
