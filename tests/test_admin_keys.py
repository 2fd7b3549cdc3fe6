"""API keys over the admin's side: shown once, bound to their tenant, and no good on the next call once revoked."""

from typing import Any

import pytest

from farebox.keys import MAX_KEYS, SECRET_LENGTH, ApiKey, digest, presented
from tests.conftest import Answered
from tests.owners import NOW, USD, MakeOwner, Owner


def create(owner: Owner, again: str, **fields: Any) -> Answered:
    return owner.call("POST", "/tenants/acme/keys", {"name": "laptop", **fields}, Idempotency_Key=again)


def listed(owner: Owner) -> dict[str, Any]:
    return {row["id"]: row for row in owner.call("GET", "/tenants/acme/keys").json["data"]}


def test_a_key_calls_for_its_tenant_and_is_kept_as_a_digest_only(owner: Owner) -> None:
    owner.create()
    made = owner.key(feature="search", monthly=5)
    parts = presented(made["key"])
    assert parts is not None
    assert (parts.tenant, parts.id, len(parts.secret)) == ("acme", made["id"], SECRET_LENGTH)
    assert owner.config().keys[made["id"]] == ApiKey(
        made["id"], digest(parts.secret), "laptop", int(NOW.timestamp()), None, None, 5 * USD, "search"
    )
    assert owner.chat_with(made["key"]).status == 200
    assert owner.chat_with(made["key"][:-1] + ("A" if made["key"][-1] != "A" else "B")).status == 401
    shown = owner.call("GET", "/tenants/acme/keys").body.decode()
    assert parts.secret not in shown
    assert digest(parts.secret) not in shown


def test_two_keys_are_two(owner: Owner) -> None:
    owner.create()
    first, second = owner.key(), owner.key()
    assert first["id"] != second["id"]
    assert first["key"] != second["key"]
    assert owner.read()["keys"] == 2


def test_a_key_of_a_tenant_that_is_not_there_is_not_found(owner: Owner) -> None:
    refused = owner.call("POST", "/tenants/nobody/keys", {"name": "x"})
    assert (refused.status, refused.reason) == (404, "not_found")
    assert owner.office.read("nobody") is None


def test_the_next_call_with_a_revoked_key_is_refused_though_its_gate_is_warm(owner: Owner) -> None:
    owner.create()
    key, other = owner.key(), owner.key()
    assert [owner.chat_with(each["key"]).status for each in (key, other)] == [200, 200]
    assert owner.call("DELETE", f"/tenants/acme/keys/{key['id']}").json["status"] == "revoked"
    assert [owner.chat_with(each["key"]).status for each in (key, other)] == [401, 200]


def test_a_key_is_good_until_it_expires(owner: Owner) -> None:
    owner.create()
    key = owner.key(expires_at="2026-11-23T13:00:00Z")
    owner.clock.passes(minutes=59, seconds=59)
    assert owner.chat_with(key["key"]).status == 200
    owner.clock.passes(seconds=1)
    assert owner.chat_with(key["key"]).status == 401
    assert listed(owner)[key["id"]]["status"] == "expired"


def test_a_changed_cap_counts_on_the_next_call(owner: Owner) -> None:
    owner.create()
    key = owner.key()
    assert owner.chat_with(key["key"]).status == 200
    owner.call("PATCH", f"/tenants/acme/keys/{key['id']}", {"monthly": 0})
    assert owner.chat_with(key["key"]).status == 429
    owner.call("PATCH", f"/tenants/acme/keys/{key['id']}", {"monthly": None})
    assert owner.chat_with(key["key"]).status == 200


def test_both_keys_of_a_rotation_are_good_for_the_overlap_and_then_the_new_one(owner: Owner) -> None:
    owner.create()
    old = owner.key(feature="search", monthly=5)
    new = owner.call("POST", f"/tenants/acme/keys/{old['id']}/rotate").json
    assert (new["feature"], new["monthly"], new["expires_at"]) == ("search", 5.0, None)
    owner.clock.passes(hours=23, minutes=59)
    assert [owner.chat_with(each["key"]).status for each in (old, new)] == [200, 200]
    owner.clock.passes(minutes=1)
    assert [owner.chat_with(each["key"]).status for each in (old, new)] == [401, 200]


def test_a_rotation_without_overlap_ends_the_old_key_on_the_next_call(owner: Owner) -> None:
    owner.create()
    old = owner.key()
    assert owner.chat_with(old["key"]).status == 200
    new = owner.call("POST", f"/tenants/acme/keys/{old['id']}/rotate", {"overlap_hours": 0}).json
    assert [owner.chat_with(each["key"]).status for each in (old, new)] == [401, 200]


def test_a_key_that_is_about_to_end_can_be_followed_by_one_that_is_not(owner: Owner) -> None:
    owner.create()
    old = owner.key(expires_at="2026-11-24T12:00:00Z")
    path = f"/tenants/acme/keys/{old['id']}/rotate"
    assert owner.call("POST", path).json["expires_at"] == "2026-11-24T12:00:00Z"
    assert owner.call("POST", path, {"expires_at": None}).json["expires_at"] is None


def test_a_key_that_is_asked_for_again_is_the_same_one_with_another_secret(owner: Owner) -> None:
    owner.create()
    first, again = create(owner, "order-7").json, create(owner, "order-7").json
    assert first["id"] == again["id"]
    assert owner.chat_with(first["key"]).status == 401
    assert owner.chat_with(again["key"]).status == 200
    assert create(owner, "order-8").json["id"] != first["id"]
    assert owner.read()["keys"] == 2


@pytest.mark.parametrize(("minutes", "status"), [(10, 201), (11, 409)])
def test_it_is_made_again_for_ten_minutes(owner: Owner, minutes: int, status: int) -> None:
    owner.create()
    create(owner, "order-7")
    owner.clock.passes(minutes=minutes)
    assert create(owner, "order-7").status == status


def test_it_is_not_made_again_with_other_content_or_after_it_was_revoked(owner: Owner) -> None:
    owner.create()
    first = create(owner, "order-7").json
    other = create(owner, "order-7", monthly=5)
    assert (other.status, other.reason) == (409, "conflict")
    owner.call("DELETE", f"/tenants/acme/keys/{first['id']}")
    assert create(owner, "order-7").status == 409
    assert owner.chat_with(first["key"]).status == 401


def test_the_same_word_is_another_key_of_another_tenant(owner: Owner) -> None:
    owner.create()
    owner.create("zeta")
    ids = [
        owner.call("POST", f"/tenants/{name}/keys", {"name": "x"}, Idempotency_Key="order-7").json["id"]
        for name in ("acme", "zeta")
    ]
    assert len(set(ids)) == 2


def test_a_rotation_that_is_asked_for_again_is_the_same_one_with_another_secret(owner: Owner) -> None:
    owner.create()
    old, other = owner.key(), owner.key()

    def rotate(key: Any, **fields: Any) -> Answered:
        return owner.call("POST", f"/tenants/acme/keys/{key['id']}/rotate", fields or None, Idempotency_Key="order-7")

    first = rotate(old).json
    owner.clock.passes(minutes=10)
    again = rotate(old).json
    assert first["id"] == again["id"]
    assert listed(owner)[old["id"]]["expires_at"] == "2026-11-24T12:00:00Z"
    assert [owner.chat_with(each["key"]).status for each in (old, first, again)] == [200, 401, 200]
    assert rotate(old, overlap_hours=1).reason == "conflict"
    assert rotate(other).json["id"] != first["id"]
    owner.clock.passes(seconds=1)
    assert rotate(old).reason == "conflict"
    assert owner.read()["keys"] == 4


def test_a_hundred_good_keys_are_a_conflict_and_one_that_was_revoked_gives_way(owner: Owner) -> None:
    owner.create()
    ids = [owner.key()["id"] for _ in range(MAX_KEYS)]
    refused = owner.call("POST", "/tenants/acme/keys", {"name": "x"})
    assert (refused.status, refused.reason) == (409, "conflict")
    assert "100 keys" in refused.json["error"]["message"]
    owner.call("DELETE", f"/tenants/acme/keys/{ids[0]}")
    assert owner.call("POST", "/tenants/acme/keys", {"name": "x"}).status == 201
    assert ids[0] not in listed(owner)


@pytest.mark.parametrize(("method", "end"), [("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")])
def test_a_key_that_is_not_there_is_not_found(owner: Owner, method: str, end: str) -> None:
    owner.create()
    refused = owner.call(method, f"/tenants/acme/keys/nothing{end}", {"name": "x"} if method == "PATCH" else None)
    assert (refused.status, refused.reason) == (404, "not_found")
    assert owner.config().version == 1


def test_keys_are_listed_with_the_newest_first(owner: Owner) -> None:
    owner.create()
    made = []
    for _ in range(3):
        made.append(owner.key()["id"])
        owner.clock.passes(seconds=1)
    assert list(listed(owner)) == made[::-1]


def test_a_tenant_without_keys_has_an_empty_list_though_it_only_calls(make_owner: MakeOwner) -> None:
    owner = make_owner()
    assert owner.chat().status == 200
    assert owner.call("GET", "/tenants/acme/keys").json == {"data": []}


def test_a_key_s_moment_may_be_in_any_zone(owner: Owner) -> None:
    owner.create()
    assert owner.key(expires_at="2026-11-24T00:00:00+05:45")["expires_at"] == "2026-11-23T18:15:00Z"
