"""The admin's side over HTTP: what it takes, what it answers, and that the next call obeys."""

import base64
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from farebox.admin import MAX_BODY
from tests.conftest import MakeDoor
from tests.owners import ADMIN_KEY, MONTH, NOW, USD, MakeOwner, Owner, owner_maker

SEEDS = '{"seed": {"daily": 3, "deny": ["*-pro"]}}'


# Created.


def test_a_tenant_that_is_created_twice_with_the_same_content_is_there_once(owner: Owner) -> None:
    content = {"name": "acme", "daily": 5, "deny": ["*-pro"], "note": "x"}
    first = owner.call("POST", "/tenants", content)
    again = owner.call("POST", "/tenants", {**content, "daily": "5.00", "monthly": None})
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json
    other = owner.call("POST", "/tenants", {**content, "daily": 6})
    assert (other.status, other.reason) == (409, "conflict")
    assert owner.config().version == 1


def test_what_is_left_out_is_the_default_s_and_that_is_said(make_owner: MakeOwner) -> None:
    owner = make_owner(TENANT_BUDGETS=SEEDS)
    made = owner.create("seed", monthly=9)
    assert made["configured"] == {"monthly": 9.0}
    assert (made["effective"]["daily"], made["effective"]["monthly"], made["effective"]["deny"]) == (
        3.0,
        9.0,
        ["*-pro"],
    )
    told = {name: made["set_by"][name] for name in ("daily", "monthly", "deny", "allow")}
    assert told == {"daily": "tenant_budgets", "monthly": "tenant", "deny": "tenant_budgets", "allow": "default"}


def test_amounts_are_exact_as_numbers_and_as_text(owner: Owner) -> None:
    raw = b'{"name": "acme", "daily": 0.1, "monthly": "9999999.123456789", "per_request": 0.000000001}'
    assert owner.call("POST", "/tenants", raw).status == 201
    config = owner.config()
    assert (config.day_nanousd, config.month_nanousd) == (100_000_000, 9_999_999_123_456_789)
    assert config.tenant(owner.clerk.settings.tenant("acme")).rules.request_nanousd == 1


def test_a_budget_of_zero_closes_a_tenant(owner: Owner) -> None:
    owner.create(daily=0)
    assert owner.chat().reason == "budget_exhausted"


def test_a_day_above_the_month_is_allowed_and_said(owner: Owner) -> None:
    assert owner.create(daily=60, monthly=50)["warnings"] == [
        "daily is above monthly, so a month's budget can be spent in a day"
    ]


def test_a_new_tenant_is_in_its_zone_at_once_and_one_that_has_called_from_next_month_on(owner: Owner) -> None:
    made = owner.create("new", time_zone="Asia/Kathmandu")
    assert (made["effective"]["time_zone"], made["time_zone_next"]) == ("Asia/Kathmandu", None)
    assert owner.chat("old").status == 200
    made = owner.create("old", time_zone="Asia/Kathmandu")
    assert (made["effective"]["time_zone"], made["time_zone_next"], made["time_zone_from"]) == (
        "UTC",
        "Asia/Kathmandu",
        "2026-12-01",
    )


# Which tenants there are.


def test_a_tenant_that_has_only_called_is_there_and_is_stored_when_it_is_changed(owner: Owner) -> None:
    assert owner.call("GET", "/tenants/acme").status == 404
    assert owner.chat().status == 200
    known = owner.call("GET", "/tenants/acme")
    assert (known.json["source"], known.json["version"], known.headers["ETag"]) == ("calls", 0, '"0"')
    assert owner.office.read("acme") is None
    assert owner.change(daily=0)["source"] == "created"
    assert owner.chat().reason == "budget_exhausted"


def test_a_tenant_that_was_only_changed_is_listed_long_after_its_last_call(owner: Owner) -> None:
    for name in ("changed", "keyed", "neither"):
        assert owner.chat(name).status == 200
    owner.change("changed", daily=1)
    owner.key("keyed")
    owner.clock.passes(days=70)
    assert [row["name"] for row in owner.call("GET", "/tenants").json["data"]] == ["changed", "default", "keyed"]


def test_a_seeded_tenant_gets_a_key_without_being_created(make_owner: MakeOwner) -> None:
    owner = make_owner(TENANT_BUDGETS=SEEDS)
    assert owner.read("seed")["source"] == "settings"
    assert owner.chat_with(owner.key("seed")["key"]).status == 200
    assert owner.read("seed")["effective"]["daily"] == 3.0


def test_the_default_tenant_is_there_where_tenants_are_created_by_their_calls_only(make_owner: MakeOwner) -> None:
    assert make_owner().call("GET", "/tenants/default").status == 200
    assert make_owner(AUTO_CREATE_TENANTS="false").call("GET", "/tenants/default").status == 404


def test_without_automatic_creation_a_tenant_calls_once_it_is_created(make_owner: MakeOwner) -> None:
    owner = make_owner(AUTO_CREATE_TENANTS="false")
    refused = owner.chat()
    assert (refused.status, refused.reason) == (403, "unknown_tenant")
    owner.create()
    assert owner.chat().status == 200


def test_tenants_are_listed_page_by_page(make_owner: MakeOwner) -> None:
    owner = make_owner(TENANT_BUDGETS=SEEDS)
    for name in ("c", "a", "e"):
        owner.create(name)
    owner.store.register("b", MONTH)
    assert owner.call("DELETE", "/tenants/e?grace_days=0").status == 200
    owner.clock.passes(seconds=1)
    pages, after = [], ""
    while after is not None:
        page = owner.call("GET", f"/tenants?limit=2&after={after}").json
        pages.append([(row["name"], row["source"]) for row in page["data"]])
        after = page["next"]
    assert pages == [[("a", "created"), ("b", "calls")], [("c", "created"), ("default", "settings")],
                     [("seed", "settings")]]  # fmt: skip


def test_a_page_that_ends_with_the_last_tenant_has_no_next(owner: Owner) -> None:
    owner.create("a")
    assert owner.call("GET", "/tenants?limit=2").json["next"] is None
    assert owner.call("GET", "/tenants?limit=1").json["next"] == "a"


# Changed.


def test_the_next_call_obeys_a_lower_limit_though_its_gate_is_warm(owner: Owner) -> None:
    owner.create(daily=1)
    assert [owner.chat().status for _ in range(2)] == [200, 200]
    owner.change(daily=0)
    assert owner.chat().reason == "budget_exhausted"
    owner.change(daily=1)
    assert owner.chat().status == 200


def test_null_is_the_default_again_and_what_is_left_out_stays(owner: Owner) -> None:
    owner.create(daily=1, monthly=9, deny=["*-pro"], note="x")
    after = owner.change(daily=None, deny=None)
    assert (after["configured"], after["note"]) == ({"monthly": 9.0}, "x")
    assert after["effective"]["daily"] == 10.0


def test_a_change_that_changes_nothing_is_no_new_version(owner: Owner) -> None:
    owner.create(daily=1)
    assert owner.change(daily="1.0")["version"] == 1
    assert owner.change()["version"] == 1


def test_a_disabled_tenant_is_refused_until_it_is_active_again(owner: Owner) -> None:
    owner.create()
    assert owner.chat().status == 200
    assert owner.change(status="disabled")["status"] == "disabled"
    assert owner.chat().reason == "tenant_closed"
    owner.change(status="active")
    assert owner.chat().status == 200


def test_a_raise_counts_until_its_end_and_can_be_ended_before(owner: Owner) -> None:
    owner.create(daily=1e-9)
    assert owner.chat().status == 429
    more = {"daily": 5, "until": "2026-11-23T13:00:00+00:00"}
    raised = owner.change(**{"raise": more})
    assert (raised["effective"]["daily"], raised["set_by"]["daily"]) == (5.0, "raise")
    assert owner.chat().status == 200
    owner.clock.passes(hours=1)
    assert owner.chat().status == 429
    assert (owner.read()["effective"]["daily"], owner.read()["raise"]) == (1e-9, None)
    owner.change(**{"raise": {**more, "until": "2026-11-24T13:00:00Z"}})
    assert owner.chat().status == 200
    owner.change(**{"raise": None})
    assert owner.chat().status == 429


def test_a_budget_of_nothing_closes_also_while_it_is_raised_which_is_said(owner: Owner) -> None:
    owner.create()
    owner.change(**{"raise": {"daily": 50, "until": "2026-11-23T13:00:00+00:00"}})
    assert owner.chat().status == 200
    said = owner.change(daily=0)
    assert (said["effective"]["daily"], len(said["warnings"])) == (0.0, 1)
    assert owner.chat().status == 429


@pytest.mark.parametrize("zone", ["Pacific/Chatham", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Los_Angeles"])
def test_a_changed_zone_is_said_now_and_counts_from_next_month_on(owner: Owner, zone: str) -> None:
    owner.create()
    said = owner.change(time_zone=zone)
    assert (said["effective"]["time_zone"], said["time_zone_next"], said["time_zone_from"]) == (
        "UTC",
        zone,
        "2026-12-01",
    )
    owner.clock.now = datetime.fromisoformat("2026-12-02T00:00:00+00:00")
    said = owner.read()
    assert (said["effective"]["time_zone"], said["time_zone_next"], said["time_zone_from"]) == (zone, None, None)
    assert (said["configured"]["time_zone"], said["set_by"]["time_zone"]) == (zone, "tenant")


def test_a_change_of_an_older_version_is_refused_and_one_of_this_version_is_made(owner: Owner) -> None:
    owner.create(daily=1)
    owner.change(daily=2)
    stale = owner.call("PATCH", "/tenants/acme", {"daily": 3}, If_Match='"1"')
    assert (stale.status, stale.reason, stale.json["error"]["metadata"]["version"]) == (412, "stale_version", 2)
    assert owner.config().day_nanousd == 2 * USD
    for accepted in ('"2"', "*", '"7", W/"4"'):
        assert (
            owner.call("PATCH", "/tenants/acme", {"daily": owner.config().version + 5}, If_Match=accepted).status == 200
        )


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/tenants", {"name": "acme"}),
        ("PATCH", "/tenants/acme", {"daily": 3}),
        ("DELETE", "/tenants/acme", None),
        ("POST", "/tenants/acme/keys", {"name": "x"}),
        ("PATCH", "/tenants/acme/keys/KEY", {"name": "x"}),
        ("POST", "/tenants/acme/keys/KEY/rotate", None),
        ("DELETE", "/tenants/acme/keys/KEY", None),
    ],
)
def test_no_change_is_made_of_an_older_version(owner: Owner, method: str, path: str, body: Any) -> None:
    owner.create(daily=1)
    path = path.replace("KEY", owner.key()["id"])
    before = owner.config()
    stale = owner.call(method, path, body, If_Match='"1"')
    assert (stale.status, stale.reason) == (412, "stale_version")
    assert owner.config() == before


def test_a_change_that_somebody_else_overtakes_is_made_anew(owner: Owner) -> None:
    owner.create(daily=1)
    rival = iter(range(3))
    office = owner.office

    class Beaten(type(office)):  # type: ignore[misc]
        """Whose table is changed by others whenever it is about to write, three times."""

        def _store(self, after: Any, before: Any, **more: int) -> None:
            if next(rival, None) is not None:
                known = office.read("acme")
                assert known is not None
                office._store(replace(known, version=known.version + 1, note=f"{known.version}"), known)
            super()._store(after, before, **more)

    beaten = replace(owner, clerk=replace(owner.clerk, office=Beaten(office._client, office._table)))
    after = beaten.change(daily=2)
    assert (after["version"], after["note"], after["effective"]["daily"]) == (5, "3", 2.0)
    rival = iter(range(1))
    refused = beaten.call("PATCH", "/tenants/acme", {"daily": 3}, If_Match='"5"')
    assert (refused.status, refused.reason) == (412, "stale_version")
    rival = iter(range(100))
    refused = beaten.call("PATCH", "/tenants/acme", {"daily": 3})
    assert (refused.status, refused.reason) == (409, "conflict")


# Deleted.


def test_a_deleted_tenant_is_refused_and_can_be_brought_back_with_its_keys(owner: Owner) -> None:
    owner.create()
    key = owner.key()["key"]
    assert owner.chat_with(key).status == 200
    deleted = owner.call("DELETE", "/tenants/acme")
    assert (deleted.status, deleted.json["status"], deleted.json["purge_at"]) == (
        200,
        "deleted",
        "2026-12-23T12:00:00Z",
    )
    assert owner.chat_with(key).reason == owner.chat().reason == "tenant_closed"
    assert owner.call("POST", "/tenants", {"name": "acme"}).status == 409
    assert owner.call("PATCH", "/tenants/acme", {"daily": 1}).status == 409
    assert owner.change(status="active")["purge_at"] is None
    assert owner.chat_with(key).status == 200


def test_who_deletes_twice_moves_nothing(owner: Owner) -> None:
    owner.create()
    first = owner.call("DELETE", "/tenants/acme?grace_days=3").json
    owner.clock.passes(hours=1)
    assert owner.call("DELETE", "/tenants/acme").json == first


# Rules that the settings contradict by now.


def test_a_tenant_whose_rules_contradict_new_defaults_is_shown_and_can_be_put_right(
    make_door: MakeDoor, embedded_url: str
) -> None:
    make = owner_maker(make_door, embedded_url)
    owner = make()
    owner.create(degrade_at=0.85)
    later = make(FAREBOX_WARN_AT="0.88", FAREBOX_TABLE=owner.office._table)
    said = later.read()
    assert said["warnings"][0].startswith("the rules of tenant acme cannot be read, so nothing is admitted")
    assert later.chat().reason == "tenant_closed"
    assert later.change(note="to be put right")["warnings"] == said["warnings"]
    assert later.change(warn_at=0.5)["warnings"] == []
    assert later.chat().status == 200


# What it answers to everything else.


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/tenants/nobody", 404, "not_found"),
        ("PATCH", "/tenants/nobody", 404, "not_found"),
        ("DELETE", "/tenants/nobody", 404, "not_found"),
        ("GET", "/tenants/nobody/keys", 404, "not_found"),
        ("GET", "/tenants/a/b/c", 404, "not_found"),
        ("PUT", "/tenants/acme", 405, "method_not_allowed"),
        ("POST", "/tenants/acme", 405, "method_not_allowed"),
        ("HEAD", "/tenants", 405, "method_not_allowed"),
        ("OPTIONS", "/tenants", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_refused_in_the_gateway_s_shape(
    owner: Owner, method: str, path: str, status: int, reason: str
) -> None:
    refused = owner.call(method, path, {} if method == "PATCH" else None)
    assert (refused.status, refused.reason, refused.json["error"]["code"]) == (status, reason, status)
    assert refused.json["error"].keys() == {"code", "message", "type", "metadata"}
    assert refused.headers["Content-Type"] == "application/json"
    assert ("Allow" in refused.headers) is (status == 405)


def test_a_bug_is_a_500_in_the_gateway_s_shape_and_stands_in_the_log(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> datetime:
        raise ZeroDivisionError

    answered = replace(owner, clerk=replace(owner.clerk, now=broken)).call("GET", "/tenants/acme")
    assert (answered.status, answered.reason) == (500, "internal")
    bugs = [record.exc_info for record in caplog.records if record.message == "bug"]
    assert [bug[0] for bug in bugs if bug] == [ZeroDivisionError]


def test_a_table_that_does_not_answer_is_a_503_that_says_so(owner: Owner) -> None:
    gone = type(owner.office)(owner.office._client, "no-such-table")
    answered = replace(owner, clerk=replace(owner.clerk, office=gone)).call("GET", "/tenants/acme")
    assert (answered.status, answered.reason, answered.headers["Retry-After"]) == (503, "store_unavailable", "2")


def test_a_body_is_json_whatever_its_type_is_said_to_be_and_base64_where_that_is_said(owner: Owner) -> None:
    form = "application/x-www-form-urlencoded"  # of curl -d
    assert owner.call("POST", "/tenants", {"name": "acme"}, Content_Type=form).status == 201
    encoded = {"path": "/admin/tenants", "httpMethod": "POST", "headers": {"Authorization": f"Bearer {ADMIN_KEY}"}}
    body = base64.b64encode(b'{"name": "zeta"}').decode()
    assert owner.answer({**encoded, "body": body, "isBase64Encoded": True}).status == 201
    assert owner.answer({**encoded, "body": body[1:], "isBase64Encoded": True}).status == 400
    assert owner.answer({**encoded, "path": "/api/admin/tenants/zeta", "httpMethod": "GET"}).status == 200


def test_a_body_of_64_kb_is_read_and_a_larger_one_is_not(owner: Owner) -> None:
    body = b'{"name": "acme"' + b" " * (MAX_BODY - 16) + b"}"
    assert len(body) == MAX_BODY
    assert owner.call("POST", "/tenants", body).status == 201
    refused = owner.call("POST", "/tenants", body + b" ")
    assert (refused.status, refused.reason) == (413, "body_too_large")


# The log.


def test_every_change_is_one_line_of_who_and_what_and_of_no_secret(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    owner.create(daily=1, note="a customer")
    owner.change(daily=2, monthly=3)
    made = owner.key()
    turned = owner.call("POST", f"/tenants/acme/keys/{made['id']}/rotate").json
    owner.call("PATCH", f"/tenants/acme/keys/{made['id']}", {"monthly": 1})
    owner.call("DELETE", f"/tenants/acme/keys/{made['id']}")
    owner.call("DELETE", "/tenants/acme")
    owner.call("PATCH", "/tenants/acme", {"daily": 9})  # refused
    owner.call("DELETE", "/tenants/acme")  # changes nothing
    lines: list[Any] = [vars(record) for record in caplog.records if record.message == "changed"]
    assert [(line["what"], line["fields"], line["version_before"], line["version"]) for line in lines] == [
        ("tenant created", ["daily", "note"], 0, 1),
        ("tenant changed", ["daily", "monthly"], 1, 2),
        ("key created", ["name"], 2, 3),
        ("key rotated", [], 3, 4),
        ("key changed", ["monthly"], 4, 5),
        ("key revoked", [], 5, 6),
        ("tenant deleted", [], 6, 7),
    ]
    assert {line["who"] for line in lines} == {"admin key"}
    assert {line["tenant"] for line in lines} == {"acme"}
    for secret in (made["key"], turned["key"]):
        assert secret.rpartition(".")[2] not in str(lines)
    assert "a customer" not in str(lines)


def test_times_are_of_the_admin_s_clock(owner: Owner) -> None:
    made = owner.create()
    assert made["created_at"] == made["changed_at"] == "2026-11-23T12:00:00Z"
    owner.clock.now = NOW + timedelta(hours=1)
    assert owner.change(daily=1)["changed_at"] == "2026-11-23T13:00:00Z"
