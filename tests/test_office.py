"""How a change of a tenant is stored and heard of, on both stores, whatever happens on the way."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.config import Config as ClientConfig

from farebox.changes import is_gone
from farebox.clerk import recent_months
from farebox.configs import Config
from farebox.ledger import Hold, Ledger, Limits
from farebox.office import ANNOUNCE, PURGES, SLACK_S, TENANTS, NotAnnounced, Office, Overtaken
from farebox.store import StoreError
from farebox.tenants import Status, Tenant
from local.child import connect
from tests.conftest import MakeDoor, connected
from tests.owners import MONTH, NOW, Owner, owner_maker
from tests.wire import Fault, Plan, Seen, Wire, no_faults

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DEFAULT = Tenant("acme", Limits(10**10, 10**11, 0))
FIRST = Config("acme", 1, day_nanousd=10**9, created_at=1, changed_at=1)
SECOND = replace(FIRST, version=2, day_nanousd=0)
ONCE = ClientConfig(retries={"total_max_attempts": 1})


@pytest.fixture
def wire(store_url: str) -> Iterator[Wire]:
    """To each store."""
    with Wire(store_url) as wire:
        yield wire


@pytest.fixture
def client(wire: Wire) -> Iterator["DynamoDBClient"]:
    """Behind the wire; each request is sent once."""
    client = connect(wire.url, ONCE)
    yield client
    client.close()


@pytest.fixture
def owner(client: "DynamoDBClient", make_door: MakeDoor, store_url: str) -> Owner:
    """The admin's side behind the wire."""
    return owner_maker(make_door, store_url)(client=client)


def marks(owner: Owner, pk: str = ANNOUNCE) -> list[str]:
    return [str(item["sk"]) for item in Office(connected_of(owner), owner.office._table)._items(pk)]


def connected_of(owner: Owner) -> "DynamoDBClient":
    """Past the wire."""
    return owner.store._client


def at(operation: str, begin: str, fault: Fault) -> Plan:
    """Every request of an operation on keys that begin so."""
    return lambda seen: fault if seen.operation == operation and "/".join(key(seen)).startswith(begin) else None


def key(seen: Seen) -> tuple[str, str]:
    return ("", "") if seen.operation == "BatchGetItem" else seen.key


DIES_BEFORE_IT_ANNOUNCES = at("UpdateItem", "TENANT#acme/LEDGER#", Fault.DROPPED)


# One change.


def test_a_change_is_marked_then_stored_then_announced_and_the_mark_goes_last(owner: Owner, wire: Wire) -> None:
    owner.office.write(FIRST, None, DEFAULT, NOW)
    assert [(seen.operation, *seen.key) for seen in wire.seen] == [
        ("PutItem", ANNOUNCE, "acme"),
        ("PutItem", "TENANT#acme", "CONFIG"),
        ("UpdateItem", "TENANT#acme", f"LEDGER#{MONTH}"),
        ("DeleteItem", ANNOUNCE, "acme"),
    ]
    assert owner.office.read("acme") == FIRST
    assert owner.store.ledger("acme", MONTH).version == 1
    assert marks(owner) == []


def test_who_read_an_older_version_stores_nothing(owner: Owner) -> None:
    owner.office.write(FIRST, None, DEFAULT, NOW)
    owner.office.write(SECOND, FIRST, DEFAULT, NOW)
    for after, before in ((replace(SECOND, note="x"), FIRST), (replace(FIRST, note="x"), None)):
        with pytest.raises(Overtaken):
            owner.office.write(after, before, DEFAULT, NOW)
    assert owner.office.read("acme") == SECOND


@pytest.mark.parametrize("fault", [Fault.TWICE, Fault.LOST])
def test_a_write_that_arrives_twice_is_no_race_with_itself(owner: Owner, wire: Wire, fault: Fault) -> None:
    faults = iter([fault])
    wire.plan = lambda seen: next(faults, None) if key(seen)[1] == "CONFIG" and seen.operation == "PutItem" else None
    office = Office(connected(wire.url), owner.office._table)  # sends again what was not answered
    office.write(FIRST, None, DEFAULT, NOW)
    assert office.read("acme") == FIRST
    assert marks(owner) == []


def test_a_ledger_s_version_never_goes_back(owner: Owner) -> None:
    owner.office.write(SECOND, None, DEFAULT, NOW)
    owner.office.announce(FIRST, DEFAULT, NOW)
    assert owner.store.ledger("acme", MONTH).version == 2


def test_around_the_turn_of_a_month_both_ledgers_hear_of_it(owner: Owner) -> None:
    owner.office.write(FIRST, None, DEFAULT, NOW.replace(day=30, hour=23, minute=30))
    assert [owner.store.ledger("acme", month).version for month in ("2026-10", "2026-11", "2026-12")] == [None, 1, 1]


def test_a_ledger_with_money_in_it_keeps_it(owner: Owner) -> None:
    hold = Hold("h", 5, 23, int(NOW.timestamp()), int(NOW.timestamp()) + 900, "sim/ok")
    assert isinstance(owner.store.reserve("acme", MONTH, hold, DEFAULT.limits), Ledger)
    owner.office.write(FIRST, None, DEFAULT, NOW)
    ledger = owner.store.ledger("acme", MONTH)
    assert (ledger.version, ledger.committed_nanousd, list(ledger.holds)) == (1, 5, ["h"])


def test_an_item_that_cannot_be_read_is_an_error_of_the_store(owner: Owner) -> None:
    item = {"pk": {"S": "TENANT#acme"}, "sk": {"S": "CONFIG"}, "version": {"S": "x"}}
    connected_of(owner).put_item(TableName=owner.office._table, Item=item)
    for read in (lambda: owner.office.read("acme"), lambda: owner.office.read_many(["acme"])):
        with pytest.raises(StoreError, match="the configuration of tenant acme cannot be read"):
            read()


# Somebody dies on the way.


def test_a_change_that_was_not_stored_leaves_everything_as_it_was(owner: Owner, wire: Wire) -> None:
    owner.create(daily=1)
    assert owner.chat().status == 200
    wire.plan = at("PutItem", "TENANT#acme/CONFIG", Fault.DROPPED)
    refused = owner.call("PATCH", "/tenants/acme", {"daily": 0})
    assert (refused.status, refused.reason) == (503, "store_unavailable")
    wire.plan = no_faults
    assert owner.config().version == 1
    assert owner.chat().status == 200


def test_a_change_that_was_not_announced_says_so_and_the_next_rollup_announces_it(owner: Owner, wire: Wire) -> None:
    owner.create(daily=1)
    assert owner.chat().status == 200
    wire.plan = DIES_BEFORE_IT_ANNOUNCES
    refused = owner.call("PATCH", "/tenants/acme", {"daily": 0})
    assert (refused.status, refused.reason, refused.json["error"]["metadata"]["stored"]) == (
        503,
        "store_unavailable",
        True,
    )
    assert "stored, but not announced yet" in refused.json["error"]["message"]
    wire.plan = no_faults
    assert owner.config().version == 2
    assert owner.chat().status == 200  # a warm gate cannot know
    assert marks(owner) == ["acme"]
    owner.rollup()
    assert owner.chat().reason == "budget_exhausted"
    assert marks(owner) == []


def test_who_repeats_a_change_that_was_not_announced_announces_it(owner: Owner, wire: Wire) -> None:
    owner.create(daily=1)
    assert owner.chat().status == 200
    wire.plan = DIES_BEFORE_IT_ANNOUNCES
    assert owner.call("PATCH", "/tenants/acme", {"daily": 0}).status == 503
    wire.plan = no_faults
    assert owner.change(daily=0)["version"] == 2
    assert owner.chat().reason == "budget_exhausted"
    assert marks(owner) == []


def test_who_repeats_a_creation_that_was_not_announced_announces_it(owner: Owner, wire: Wire) -> None:
    assert owner.chat().status == 200  # by the default budgets
    wire.plan = DIES_BEFORE_IT_ANNOUNCES
    assert owner.call("POST", "/tenants", {"name": "acme", "daily": 0}).status == 503
    assert owner.chat().status == 200
    wire.plan = no_faults
    assert owner.call("POST", "/tenants", {"name": "acme", "daily": 0}).status == 200
    assert owner.chat().reason == "budget_exhausted"


def test_the_mark_of_a_change_that_is_under_way_is_left_alone(owner: Owner) -> None:
    """A rollup comes between the mark and the change, whose maker dies before it announces it."""
    office = owner.office
    office._put({"pk": ANNOUNCE, "sk": "acme", "version": 1, "at": int(NOW.timestamp())})
    assert office.announce_pending(lambda _: DEFAULT, NOW + timedelta(seconds=SLACK_S)) == 0
    office._store(FIRST, None)
    assert office.announce_pending(lambda _: DEFAULT, NOW + timedelta(seconds=SLACK_S)) == 1
    assert owner.store.ledger("acme", MONTH).version == 1
    assert marks(owner) == []


def test_the_mark_of_a_change_that_never_came_goes_after_a_while(owner: Owner) -> None:
    owner.office._put({"pk": ANNOUNCE, "sk": "acme", "version": 1, "at": int(NOW.timestamp())})
    assert owner.office.announce_pending(lambda _: DEFAULT, NOW + timedelta(seconds=SLACK_S + 1)) == 0
    assert marks(owner) == []
    assert owner.store.ledger("acme", MONTH).version is None


def test_who_announces_late_leaves_the_mark_of_a_later_change(owner: Owner) -> None:
    owner.office.write(FIRST, None, DEFAULT, NOW)
    owner.office._put({"pk": ANNOUNCE, "sk": "acme", "version": 2, "at": int(NOW.timestamp())})
    owner.office.announce(FIRST, DEFAULT, NOW)
    assert marks(owner) == ["acme"]


def test_a_change_that_was_not_announced_is_announced_though_the_next_one_was_not_stored(
    owner: Owner, wire: Wire
) -> None:
    owner.create(daily=1)
    assert owner.chat().status == 200
    wire.plan = DIES_BEFORE_IT_ANNOUNCES
    assert owner.call("PATCH", "/tenants/acme", {"daily": 0}).status == 503
    wire.plan = at("PutItem", "TENANT#acme/CONFIG", Fault.DROPPED)
    assert owner.call("PATCH", "/tenants/acme", {"note": "x"}).status == 503
    wire.plan = no_faults
    owner.rollup()
    assert owner.chat().reason == "budget_exhausted"
    assert marks(owner) == ["acme"]  # that one may be under way


def test_a_change_that_was_not_announced_stands_in_the_log(
    owner: Owner, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    owner.create()
    caplog.clear()
    wire.plan = DIES_BEFORE_IT_ANNOUNCES
    assert owner.call("PATCH", "/tenants/acme", {"daily": 9}).status == 503
    lines: list[Any] = [vars(record) for record in caplog.records if record.message == "changed"]
    assert [(line["what"], line["version"]) for line in lines] == [("tenant changed", 2)]


def test_one_mark_that_fails_keeps_no_other_waiting(owner: Owner, wire: Wire) -> None:
    other = Config("zeta", 1)
    for config in (FIRST, other):
        owner.office._put({"pk": ANNOUNCE, "sk": config.name, "version": 1, "at": int(NOW.timestamp())})
        owner.office._store(config, None)
    wire.plan = DIES_BEFORE_IT_ANNOUNCES
    with pytest.raises(NotAnnounced):
        owner.office.announce_pending(lambda name: replace(DEFAULT, name=name), NOW)
    assert owner.store.ledger("zeta", MONTH).version == 1
    assert marks(owner) == ["acme"]


def test_the_rollup_does_its_other_work_whatever_becomes_of_the_office(owner: Owner) -> None:
    table = owner.office._table
    poisoned = {"pk": {"S": ANNOUNCE}, "sk": {"S": "bad"}, "version": {"N": "1"}, "at": {"N": "1"}}
    config = {"pk": {"S": "TENANT#bad"}, "sk": {"S": "CONFIG"}, "version": {"S": "x"}}
    for item in (poisoned, config):
        connected_of(owner).put_item(TableName=table, Item=item)
    owner.create(daily=1)
    owner.call("DELETE", "/tenants/acme?grace_days=0")
    owner.clock.passes(seconds=SLACK_S + 1)
    with pytest.raises(StoreError):
        owner.rollup()
    assert owner.config().version == 3  # purged


# Deleted and purged.


def test_a_deleted_tenant_is_emptied_when_its_time_is_over_and_its_name_is_free(owner: Owner) -> None:
    owner.create(daily=1, note="x")
    made = owner.key()
    assert owner.chat_with(made["key"]).status == 200
    assert owner.call("DELETE", "/tenants/acme?grace_days=1").json["purge_at"] == "2026-11-24T12:00:00Z"
    assert owner.chat_with(made["key"]).reason == "tenant_closed"
    owner.rollup()
    assert owner.config().keys  # it could still be brought back
    owner.clock.passes(days=1)
    assert owner.call("GET", "/tenants/acme").status == 404
    owner.rollup()
    empty = owner.config()
    assert (empty.status, empty.keys, empty.note, empty.version) == (Status.DELETED, {}, "", 4)
    assert is_gone(empty, owner.clock())
    assert marks(owner, PURGES) == marks(owner) == []
    raw = owner.office._get("TENANT#acme", "CONFIG")
    assert raw["ttl"] == int(owner.clock().timestamp()) + 62 * 86_400
    assert owner.chat_with(made["key"]).reason == "tenant_closed"
    again = owner.create(daily=2)
    assert again["version"] == 5
    assert "ttl" not in owner.office._get("TENANT#acme", "CONFIG")
    assert owner.chat().status == 200


def test_a_tenant_that_was_brought_back_is_not_purged(owner: Owner) -> None:
    owner.create(daily=1)
    owner.call("DELETE", "/tenants/acme?grace_days=1")
    owner.change(status="active")
    owner.clock.passes(days=2)
    owner.rollup()
    assert (owner.config().status, owner.config().version) == (Status.ACTIVE, 3)
    assert marks(owner, PURGES) == []


def test_the_mark_of_a_deletion_that_is_under_way_is_left_alone(owner: Owner) -> None:
    """A rollup comes between the mark and the deletion, which asks for no time of grace."""
    owner.create(daily=1)
    seconds = int(NOW.timestamp())
    owner.office._put({"pk": PURGES, "sk": "acme", "purge_at": seconds, "at": seconds})
    owner.rollup()
    before = owner.config()
    owner.office._store(replace(before, version=2, status=Status.DELETED, purge_at=seconds), before)
    owner.clock.passes(seconds=SLACK_S + 1)
    owner.rollup()
    assert owner.config().version == 3


def test_a_deletion_that_was_not_stored_does_not_take_the_mark_of_the_one_before(owner: Owner) -> None:
    owner.create()
    owner.call("DELETE", "/tenants/acme?grace_days=30")
    seconds = int(NOW.timestamp())
    owner.office._put({"pk": PURGES, "sk": "acme", "purge_at": seconds, "at": seconds})
    owner.clock.passes(days=1)
    owner.rollup()
    assert (owner.config().version, marks(owner, PURGES)) == (2, ["acme"])
    owner.clock.passes(days=29)
    owner.rollup()
    assert (owner.config().version, marks(owner, PURGES)) == (3, [])


def test_a_purged_name_is_in_the_list_no_more_unless_it_is_taken_again_on_the_way(owner: Owner, wire: Wire) -> None:
    for name in ("acme", "zeta"):
        owner.create(name)
        owner.call("DELETE", f"/tenants/{name}?grace_days=0")
    gone = owner.config()
    owner.clock.passes(seconds=SLACK_S + 1)
    past = Office(connected_of(owner), owner.office._table)

    def taken_again(seen: Seen) -> None:
        if key(seen) == (ANNOUNCE, "acme") and seen.operation == "PutItem":
            past._store(Config("acme", 3), gone)  # whoever does has enrolled it before

    wire.plan = taken_again
    owner.office.purge_pending(lambda name: replace(DEFAULT, name=name), owner.clock())
    assert marks(owner, TENANTS) == ["acme"]
    assert (owner.config().status, marks(owner, PURGES)) == (Status.ACTIVE, [])


# Everybody.


def test_the_list_is_everybody_who_was_created_seeded_or_has_called_each_once_and_in_order(owner: Owner) -> None:
    for name in ("zeta", "acme", "Mint"):
        owner.create(name)
    for name, month in (("acme", MONTH), ("called", MONTH), ("last-month", "2026-10"), ("long-ago", "2026-09")):
        owner.store.register(name, month)
    names = list(owner.office.names("", recent_months(NOW), {"seed", "acme"}, 2))
    assert names == [("Mint", False), ("acme", True), ("called", True), ("last-month", True), ("seed", True),
                     ("zeta", False)]  # fmt: skip
    assert [name for name, _ in owner.office.names("called", recent_months(NOW), {"seed"}, 2)] == [
        "last-month",
        "seed",
        "zeta",
    ]


def test_configurations_of_many_are_read_in_batches(owner: Owner, wire: Wire) -> None:
    owner.office.write(FIRST, None, DEFAULT, NOW)
    wire.seen.clear()
    found = owner.office.read_many(["acme", *(f"t{number}" for number in range(100))])
    assert found == {"acme": FIRST}
    assert wire.operations == ["BatchGetItem"] * 2


def test_ten_thousand_tenants_are_listed_page_by_page(make_door: MakeDoor, embedded_url: str) -> None:
    """Every tenth was created, the others have called. The embedded store reads its whole index for each page."""
    owner = owner_maker(make_door, embedded_url)()
    names = [f"t{number:05}" for number in range(10_000)]
    keys = [(f"LEDGERS#{MONTH}", name) for name in names if not name.endswith("0")]
    keys += [key for name in names[::10] for key in ((TENANTS, name), (f"TENANT#{name}", "CONFIG"))]
    for begin in range(0, len(keys), 25):
        made = [{"pk": {"S": pk}, "sk": {"S": sk}, "version": {"N": "1"}} for pk, sk in keys[begin : begin + 25]]
        puts: Any = {owner.office._table: [{"PutRequest": {"Item": item}} for item in made]}
        connected(embedded_url).batch_write_item(RequestItems=puts)
    found: list[Any] = []
    after: str | None = ""
    while after is not None:
        answered = owner.call("GET", f"/tenants?limit=500&after={after}").json
        found += answered["data"]
        after = answered["next"]
        assert len(answered["data"]) == 500 or after is None
    assert [row["name"] for row in found] == ["default", *names]
    assert [row["source"] == "created" for row in found[1:]] == [name.endswith("0") for name in names]


def test_many_names_of_no_tenants_are_passed_over_in_few_requests(owner: Owner, wire: Wire) -> None:
    for number in range(150):
        owner.office.enrol(f"t{number:03}")
    owner.create("zeta")
    wire.seen.clear()
    found = owner.call("GET", "/tenants?limit=1&after=default").json
    assert [row["name"] for row in found["data"]] == ["zeta"]
    assert len(wire.seen) <= 10


def test_a_name_that_was_about_to_be_created_is_no_tenant(owner: Owner) -> None:
    owner.office.enrol("half")
    assert owner.call("GET", "/tenants/half").status == 404
    assert "half" not in {row["name"] for row in owner.call("GET", "/tenants").json["data"]}


def test_the_rollup_notes_when_a_key_was_used_last(owner: Owner) -> None:
    owner.create()
    made, other = owner.key(), owner.key()
    for minutes in (0, 2, 90):
        owner.clock.passes(minutes=minutes)
        assert owner.chat_with(made["key"]).status == 200
        assert owner.chat().status == 200
    for _ in range(2):
        owner.rollup(folds=True)
        assert owner.office.last_used("acme") == {made["id"]: int(NOW.timestamp()) + 92 * 60}
    shown = {row["id"]: row["last_used"] for row in owner.call("GET", "/tenants/acme/keys").json["data"]}
    assert shown == {made["id"]: "2026-11-23T13:32:00Z", other["id"]: None}
