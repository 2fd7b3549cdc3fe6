"""functions/admin/handler.py with the events that API Gateway sends (events/admin-*.json), each on a real table."""

import json
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from farebox.configs import Config
from tests.cold_start import cold_start
from tests.conftest import new_table
from tests.owners import Clock
from tests.test_events import event


@pytest.fixture
def handler(embedded_url: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """As at a cold start, with nothing but an environment; then by a clock of 2026-11-23T12:00."""
    environment = {
        "FAREBOX_ADMIN_KEY": "local-admin-key",
        "FAREBOX_TABLE": new_table(embedded_url),
    }
    module = cold_start(monkeypatch, "admin", embedded_url, environment)
    module.clerk = replace(module.clerk, now=Clock())  # type: ignore[attr-defined]
    return module


def answered(handler: ModuleType, name: str, key_id: str = "") -> tuple[int, dict[str, str], Any]:
    """The answer in one piece, as a REST API takes it."""
    sent = event(name)
    answer = handler.handler({**sent, "path": sent["path"].replace("KEY", key_id)}, None)
    assert set(answer) == {"statusCode", "headers", "body", "isBase64Encoded"}
    assert all(isinstance(value, str) for value in answer["headers"].values())
    assert answer["headers"]["X-Request-Id"] == sent["requestContext"]["requestId"]
    is_json = answer["headers"]["Content-Type"] == "application/json"
    return answer["statusCode"], answer["headers"], json.loads(answer["body"]) if is_json else answer["body"]


def config(handler: ModuleType) -> Config:
    found: Config | None = handler.clerk.office.read("acme")
    assert found is not None
    return found


def test_a_tenant_is_created_with_everything_that_was_said_of_it(handler: ModuleType) -> None:
    status, headers, said = answered(handler, "admin-create-tenant")
    assert (status, headers["ETag"], headers["Cache-Control"]) == (201, '"1"', "no-store")
    sent = json.loads(event("admin-create-tenant")["body"])
    expected = {**sent, "daily": 5.0, "monthly": 50.0}
    assert said["configured"] == {name: value for name, value in expected.items() if name not in ("name", "note")}
    assert said["effective"] == said["configured"]
    assert set(said["set_by"].values()) == {"tenant"}
    assert (said["name"], said["status"], said["version"], said["note"]) == ("acme", "active", 1, sent["note"])
    assert (config(handler).day_nanousd, config(handler).month_nanousd) == (5 * 10**9, 50 * 10**9)


def test_tenants_are_listed_behind_a_name(handler: ModuleType) -> None:
    answered(handler, "admin-create-tenant")
    status, _, said = answered(handler, "admin-list-tenants")
    assert status == 200
    assert ([row["name"] for row in said["data"]], said["next"]) == (["acme", "default"], None)


def test_a_tenant_is_read_with_its_version_as_etag(handler: ModuleType) -> None:
    assert answered(handler, "admin-read-tenant")[0] == 404
    _, _, made = answered(handler, "admin-create-tenant")
    status, headers, said = answered(handler, "admin-read-tenant")
    assert (status, headers["ETag"], said) == (200, '"1"', made)


def test_a_tenant_is_changed_in_what_is_said_and_once_for_that_version(handler: ModuleType) -> None:
    answered(handler, "admin-create-tenant")
    status, headers, said = answered(handler, "admin-change-tenant")
    assert (status, headers["ETag"]) == (200, '"2"')
    assert (said["effective"]["daily"], said["effective"]["monthly"], said["effective"]["deny"]) == (7.5, 80.0, [])
    assert (said["set_by"]["monthly"], said["set_by"]["deny"]) == ("raise", "default")
    assert said["raise"] == {"daily": None, "monthly": 80.0, "until": "2026-12-01T00:00:00Z"}
    assert said["configured"]["monthly"] == 50.0
    status, _, said = answered(handler, "admin-change-tenant")
    assert (status, said["error"]["metadata"]) == (412, {"reason": "stale_version", "version": 2})


def test_a_tenant_is_deleted_with_a_time_of_grace(handler: ModuleType) -> None:
    answered(handler, "admin-create-tenant")
    status, _, said = answered(handler, "admin-delete-tenant")
    assert (status, said["status"], said["purge_at"]) == (200, "deleted", "2026-11-30T12:00:00Z")


def test_a_key_is_created_listed_changed_rotated_and_revoked(handler: ModuleType) -> None:
    answered(handler, "admin-create-tenant")
    status, headers, made = answered(handler, "admin-create-key")
    assert (status, headers["Cache-Control"]) == (201, "no-store")
    assert made["key"].startswith(f"{made['prefix']}.")
    assert (made["monthly"], made["feature"], made["expires_at"]) == (10.0, "search", "2027-06-29T22:00:00Z")

    status, _, listed = answered(handler, "admin-list-keys")
    assert (status, listed) == (200, {"data": [{name: made[name] for name in made if name != "key"}]})
    assert made["key"].rpartition(".")[2] not in json.dumps(listed)

    status, _, changed = answered(handler, "admin-change-key", made["id"])
    assert (status, changed["name"], changed["monthly"]) == (200, "old laptop", None)

    status, _, turned = answered(handler, "admin-rotate-key", made["id"])
    assert (status, turned["name"], turned["status"]) == (201, "old laptop", "good")
    _, _, listed = answered(handler, "admin-list-keys")
    ends = {row["id"]: row["expires_at"] for row in listed["data"]}
    assert ends == {made["id"]: "2026-11-25T12:00:00Z", turned["id"]: "2027-06-29T22:00:00Z"}

    for _ in range(2):
        status, _, revoked = answered(handler, "admin-revoke-key", made["id"])
        assert (status, revoked["status"], revoked["revoked_at"]) == (200, "revoked", "2026-11-23T12:00:00Z")


def test_the_document_has_every_route_and_every_status_of_it(handler: ModuleType) -> None:
    status, _, said = answered(handler, "admin-openapi")
    assert status == 200
    routes = {(path, method) for path, methods in said["paths"].items() for method in methods}
    assert routes == {
        ("/tenants", "get"), ("/tenants", "post"),
        ("/tenants/{name}", "get"), ("/tenants/{name}", "patch"), ("/tenants/{name}", "delete"),
        ("/tenants/{name}/keys", "get"), ("/tenants/{name}/keys", "post"),
        ("/tenants/{name}/keys/{key_id}", "patch"), ("/tenants/{name}/keys/{key_id}", "delete"),
        ("/tenants/{name}/keys/{key_id}/rotate", "post"), ("/spans", "get"),
    }  # fmt: skip
    for path, method in routes:
        statuses = said["paths"][path][method]["responses"].keys()
        assert {"400", "401", "413", "500", "503"} <= statuses, (path, method)
        assert "422" not in statuses
    assert said["servers"] == [{"url": "/api/admin"}]
    assert said["security"] == [{"adminKey": []}]


def test_the_page_of_the_document_loads_nothing_from_elsewhere(handler: ModuleType) -> None:
    status, headers, page = answered(handler, "admin-docs")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "SwaggerUIBundle" in page
    assert "/tenants/{name}/keys" in page
    assert "<script src=" not in page
    assert "<link" not in page


def test_a_signed_request_has_no_key(handler: ModuleType) -> None:
    assert answered(handler, "admin-signed")[0] == 401
    answered(handler, "admin-create-tenant")
    handler.clerk = replace(handler.clerk, settings=replace(handler.clerk.settings, farebox_admin_auth="iam"))  # type: ignore[attr-defined]
    status, _, said = answered(handler, "admin-signed")
    assert (status, said["name"]) == (200, "acme")
    assert answered(handler, "admin-read-tenant")[0] == 401
