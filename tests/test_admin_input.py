"""Bad input at the admin's side: each with a clear sentence and the field's name, and nothing half written."""

import json
from typing import Any

import pytest

from tests.owners import Owner

CIRCLE = [{"from": ["a/b"], "to": "c/d"}, {"from": "c/d", "to": "a/b"}]
BAD: list[tuple[str, str, str]] = [
    # JSON of a field, the field that is named, and a part of the sentence
    ('"daily": -0.01', "daily", "US dollars from 0 to 10,000,000"),
    ('"daily": 10000000.01', "daily", "US dollars from 0 to 10,000,000"),
    ('"monthly": 1e300', "monthly", "US dollars"),
    ('"daily": true', "daily", "US dollars"),
    ('"daily": "five"', "daily", "US dollars"),
    ('"daily": " 5"', "daily", "US dollars"),
    ('"daily": []', "daily", "US dollars"),
    ('"per_request": -1', "per_request", "US dollars"),
    ('"server_tools": "NaN"', "server_tools", "US dollars"),
    ('"in_flight": 0', "in_flight", "greater than or equal to 1"),
    ('"in_flight": 2001', "in_flight", "less than or equal to 2000"),
    ('"in_flight": 1.5', "in_flight", "valid integer"),
    ('"in_flight": "5"', "in_flight", "valid integer"),
    ('"warn_at": 0', "warn_at", "above 0 and at most 1"),
    ('"degrade_at": 1.1', "degrade_at", "above 0 and at most 1"),
    ('"warn_at": 0.95', "rules", "must not be above degrade_at"),
    ('"time_zone": "Mars/Olympus"', "time_zone", "zone like Europe/Berlin"),
    ('"time_zone": "/etc/passwd"', "time_zone", "zone like Europe/Berlin"),
    ('"time_zone": 5', "time_zone", "valid string"),
    ('"allow": "openai/*"', "allow", "valid list"),
    ('"allow": [""]', "allow.0", "at least 1 character"),
    (f'"deny": {json.dumps(["a/b"] * 51)}', "deny", "at most 50 items"),
    (f'"downgrade": {json.dumps(CIRCLE)}', "downgrade", "circle"),
    ('"downgrade": [{"to": "a/b"}]', "downgrade.0.from", "is missing"),
    ('"downgrade": [{"from": "a/b", "to": "c/d", "x": 1}]', "downgrade.0.x", "is not known here"),
    ('"fallback": ["@preset/x"]', "fallback", ""),
    ('"note": "' + "x" * 1001 + '"', "note", "at most 1000 characters"),
    ('"note": "\\ud800"', "note", "valid string"),
    ('"dayly": 5', "dayly", "is not known here"),
    ('"status": "deleted"', "status", ""),
    ('"raise": {"daily": 5}', "raise", ""),
]
OF_A_CHANGE = [
    ('"raise": {"daily": 5}', "raise.until", "is missing"),
    ('"raise": {"until": "2026-12-01T00:00:00Z"}', "raise", "daily, monthly or both"),
    ('"raise": {"daily": 5, "until": "2026-11-23T12:00:00Z"}', "raise.until", "a moment to come"),
    ('"raise": {"daily": 5, "until": "2028-12-01T00:00:00Z"}', "raise.until", "366 days"),
    ('"raise": {"daily": 5, "until": "2026-12-01"}', "raise.until", "a moment with its zone"),
    ('"raise": {"daily": 5, "until": "2026-12-01T00:00:00"}', "raise.until", "a moment with its zone"),
    ('"raise": {"daily": 5, "until": "0001-01-01T00:00:00+23:59"}', "raise.until", "moment"),
    ('"raise": {"daily": 5, "until": 1795435200}', "raise.until", "a moment with its zone"),
    ('"raise": {"daily": -5, "until": "2026-12-01T00:00:00Z"}', "raise.daily", "US dollars"),
    ('"raise": 5', "raise", ""),
    ('"status": "deleted"', "status", "'active' or 'disabled'"),
    ('"status": null', "status", "'active' or 'disabled'"),
    ('"name": "zeta"', "name", "is not known here"),
    *[case for case in BAD if '"status"' not in case[0] and '"raise"' not in case[0]],
]
NOT_JSON = [
    b"", b"{", b"null", b"5", b'"acme"', b"[]", b'[{"name": "acme"}]', b'{"name": "acme", "daily": NaN}',
    b'{"name": "acme", "daily": Infinity}', b'{"name": "acme", "daily": 1e999999999}', b'{"name": "acme", "name": "b"}',
    b'{"name": "\xff"}', b"[" * 5000,
]  # fmt: skip
NAMES = ["", "a b", "a/b", "a#b", "-a", ".", "a\n", "x" * 65, "é", "a%20b", "LEDGERS#2026-11"]


def is_clear(refused: Any, field: str, sentence: str) -> None:
    assert (refused.status, refused.reason) == (400, "malformed"), refused.body
    error = refused.json["error"]
    assert error["metadata"]["field"] == field
    assert error["message"].startswith(f"{field}: ")
    assert sentence in error["message"]


def items(owner: Owner) -> list[Any]:
    return list(owner.office._client.scan(TableName=owner.office._table)["Items"])


@pytest.mark.parametrize(("field", "named", "sentence"), BAD, ids=[f"{case[0]:.40}" for case in BAD])
def test_a_tenant_is_not_created_of_what_can_never_be(owner: Owner, field: str, named: str, sentence: str) -> None:
    refused = owner.call("POST", "/tenants", f'{{"name": "acme", {field}}}'.encode())
    is_clear(refused, named, sentence)
    assert items(owner) == []


def test_no_change_is_made_of_what_can_never_be(owner: Owner) -> None:
    owner.create(daily=1)
    before = items(owner)
    for field, named, sentence in OF_A_CHANGE:
        refused = owner.call("PATCH", "/tenants/acme", f'{{"per_request": 7, {field}}}'.encode())
        if '"per_request"' in field:  # given twice
            assert refused.reason == "malformed"
        else:
            is_clear(refused, named, sentence)
    assert items(owner) == before


@pytest.mark.parametrize("body", NOT_JSON, ids=[repr(body[:30]) for body in NOT_JSON])
def test_a_body_that_is_no_json_object_is_malformed(owner: Owner, body: bytes) -> None:
    refused = owner.call("POST", "/tenants", body)
    assert (refused.status, refused.reason) == (400, "malformed"), refused.body
    assert "body" in refused.json["error"]["message"]
    assert items(owner) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_reserved_characters_is_none(owner: Owner, name: str) -> None:
    refused = owner.call("POST", "/tenants", {"name": name})
    assert (refused.status, refused.reason) == (400, "invalid_tenant")
    assert "1 to 64 letters, digits, dots, dashes and underscores" in refused.json["error"]["message"]
    assert items(owner) == []


@pytest.mark.parametrize("path", ["/tenants/a%20b", "/tenants/a%23b/keys", "/tenants/-a", f"/tenants/{'x' * 65}"])
def test_a_path_with_such_a_name_is_refused_or_not_there(owner: Owner, path: str) -> None:
    refused = owner.call("GET", path)
    assert (refused.status, refused.reason) in ((400, "invalid_tenant"), (404, "not_found"))


@pytest.mark.parametrize(
    ("body", "named", "sentence"),
    [
        ({}, "name", "is missing"),
        ({"name": ""}, "name", "at least 1 character"),
        ({"name": "x" * 101}, "name", "at most 100 characters"),
        ({"name": "x", "monthly": -1}, "monthly", "US dollars"),
        ({"name": "x", "expires_at": "2026-11-23T12:00:00Z"}, "expires_at", "a moment to come"),
        ({"name": "x", "expires_at": "tomorrow"}, "expires_at", "a moment with its zone"),
        ({"name": "x", "expires_at": "9999-12-31T23:59:59Z"}, "expires_at", "before 2100"),
        ({"name": "x", "secret": "y"}, "secret", "is not known here"),
    ],
)
def test_a_key_is_not_made_of_what_can_never_be(owner: Owner, body: Any, named: str, sentence: str) -> None:
    owner.create()
    is_clear(owner.call("POST", "/tenants/acme/keys", body), named, sentence)
    assert owner.config().keys == {}


def test_a_feature_of_a_key_is_a_name(owner: Owner) -> None:
    owner.create()
    refused = owner.call("POST", "/tenants/acme/keys", {"name": "x", "feature": "a b"})
    assert (refused.status, refused.reason) == (400, "invalid_tenant")
    assert "the feature must be" in refused.json["error"]["message"]


@pytest.mark.parametrize("target", ["?limit=0", "?limit=501", "?limit=x", "?limit=", f"?after={'x' * 101}"])
def test_a_page_has_its_limits(owner: Owner, target: str) -> None:
    assert owner.call("GET", f"/tenants{target}").reason == "malformed"


@pytest.mark.parametrize("grace", ["-1", "91", "x", "1.5"])
def test_a_time_of_grace_has_its_limits(owner: Owner, grace: str) -> None:
    owner.create()
    is_clear(owner.call("DELETE", f"/tenants/acme?grace_days={grace}"), "grace_days", "")
    assert owner.config().version == 1


@pytest.mark.parametrize(
    ("method", "target", "named"),
    [
        ("GET", "/tenants?limt=5", "limt"),
        ("GET", "/tenants?limit=5&b=1&a=", "a"),
        ("GET", "/tenants/acme?limit=5", "limit"),
        ("DELETE", "/tenants/acme?grace_day=90", "grace_day"),
        ("PATCH", "/tenants/acme?if_match=1", "if_match"),
        ("GET", "/spans?limit=5&tenants=acme", "tenants"),
        ("GET", "/openapi.json?x=", "x"),
    ],
)
def test_a_query_parameter_that_the_route_does_not_know_is_named(
    owner: Owner, method: str, target: str, named: str
) -> None:
    owner.create()
    refused = owner.call(method, target, {"daily": 3} if method == "PATCH" else None)
    assert (refused.status, refused.reason) == (400, "malformed")
    assert refused.json["error"]["metadata"]["field"] == named
    assert "not known here" in refused.json["error"]["message"]
    assert owner.config().version == 1


def test_the_parameters_of_a_url_that_was_signed_beforehand_are_passed_over(owner: Owner) -> None:
    assert owner.call("GET", "/tenants?limit=5&X-Amz-Signature=abc").status == 200


@pytest.mark.parametrize("overlap", [-1, 721, 1.5, "24", None])
def test_an_overlap_has_its_limits(owner: Owner, overlap: Any) -> None:
    owner.create()
    path = f"/tenants/acme/keys/{owner.key()['id']}/rotate"
    is_clear(owner.call("POST", path, {"overlap_hours": overlap}), "overlap_hours", "")
    assert owner.config().version == 2


@pytest.mark.parametrize("etag", ["2", '"x"', '"1" "2"', "", '"' + "9" * 16 + '"'])
def test_an_if_match_that_is_no_etag_is_malformed(owner: Owner, etag: str) -> None:
    owner.create()
    refused = owner.call("PATCH", "/tenants/acme", {"daily": 3}, If_Match=etag)
    assert (refused.status, refused.reason) == (400, "malformed")
    assert owner.config().version == 1


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_an_idempotency_key_has_its_length(owner: Owner, key: str) -> None:
    owner.create()
    assert owner.call("POST", "/tenants/acme/keys", {"name": "x"}, Idempotency_Key=key).reason == "malformed"


def test_what_was_given_is_not_repeated_where_pydantic_refuses_it(owner: Owner) -> None:
    given = "something-private"
    for body in (
        {"name": "acme", "daily": given},
        {"name": "acme", "in_flight": given},
        {"name": "acme", "warn_at": given},
    ):
        assert given not in owner.call("POST", "/tenants", body).body.decode()
