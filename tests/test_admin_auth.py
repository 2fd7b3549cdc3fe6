"""Who gets in at the admin's side: the admin key, or with FAREBOX_ADMIN_AUTH=iam a signature, and nobody else."""

from dataclasses import replace
from typing import Any

import pytest

from farebox.admin import open_admin
from farebox.settings import SettingsError
from tests.conftest import GATEWAY_KEY, Answered
from tests.owners import ADMIN_KEY, MakeOwner, Owner
from tests.test_events import event

OLGA = "arn:aws:iam::123456789012:user/olga"
PATHS = ["/tenants", "/tenants/acme", "/openapi.json", "/docs", "/nothing", ""]


def send(owner: Owner, path: str = "/tenants", authorization: str | None = None, **identity: Any) -> Answered:
    headers = {} if authorization is None else {"Authorization": authorization}
    context = {"requestId": "r", "identity": identity}
    return owner.answer({"path": f"/admin{path}", "httpMethod": "GET", "headers": headers, "requestContext": context})


@pytest.fixture
def signed(make_owner: MakeOwner) -> Owner:
    return make_owner(FAREBOX_ADMIN_AUTH="iam")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Basic {ADMIN_KEY}", ADMIN_KEY, f"Bearer {GATEWAY_KEY}", "Bearer no client",
     f"Bearer {ADMIN_KEY}x", f"Bearer {ADMIN_KEY[:-1]}"],
)  # fmt: skip
def test_without_the_admin_key_nothing_is_told(owner: Owner, path: str, authorization: str | None) -> None:
    refused = send(owner, path, authorization)
    assert (refused.status, refused.reason) == (401, "unauthenticated")
    assert "acme" not in refused.body.decode()


def test_a_tenant_s_own_key_is_none_of_the_admin_s(owner: Owner) -> None:
    owner.create()
    assert send(owner, authorization=f"Bearer {owner.key()['key']}").status == 401


def test_with_the_admin_key_everything_is(owner: Owner) -> None:
    owner.create()
    for path in ("/tenants", "/tenants/acme", "/openapi.json", "/docs"):
        assert send(owner, path, f"Bearer {ADMIN_KEY}").status == 200
    assert send(owner, "/nothing", f"Bearer {ADMIN_KEY}").status == 404


def test_a_signature_is_no_key(owner: Owner) -> None:
    assert send(owner, userArn=OLGA).status == 401


def test_where_requests_are_signed_the_key_opens_nothing(signed: Owner) -> None:
    for path in PATHS:
        assert send(signed, path, f"Bearer {ADMIN_KEY}").status == 401
        assert send(signed, path, f"Bearer {ADMIN_KEY}", userArn=None).status == 401
        assert send(signed, path, userArn="").status == 401
    assert send(signed, userArn=OLGA).status == 200


def test_an_event_without_identity_is_nobody(signed: Owner) -> None:
    bare: dict[str, Any] = {"path": "/admin/tenants", "httpMethod": "GET", "headers": {}}
    for context in ({}, {"identity": None}, None):
        assert signed.answer({**bare, "requestContext": context}).status == 401
    assert signed.answer(bare).status == 401


def test_the_line_of_a_signed_change_has_who_signed_it(signed: Owner, caplog: pytest.LogCaptureFixture) -> None:
    made = event("admin-signed")
    made |= {"httpMethod": "POST", "path": "/admin/tenants", "body": '{"name": "acme"}'}
    assert signed.answer(made).status == 201
    (line,) = [vars(record) for record in caplog.records if record.message == "changed"]
    assert line["who"] == OLGA


def test_two_authorizations_are_refused(owner: Owner) -> None:
    twice = {"Authorization": [f"Bearer {ADMIN_KEY}", "Bearer other"]}
    refused = owner.answer({"path": "/admin/tenants", "httpMethod": "GET", "multiValueHeaders": twice})
    assert refused.status == 400


def test_the_admin_s_side_does_not_start_without_a_key_or_with_another_kind_of_auth() -> None:
    with pytest.raises(SettingsError, match="FAREBOX_ADMIN_KEY is not set"):
        open_admin({})
    with pytest.raises(SettingsError, match="FAREBOX_ADMIN_AUTH must be key or iam, not 'none'"):
        open_admin({"FAREBOX_ADMIN_KEY": ADMIN_KEY, "FAREBOX_ADMIN_AUTH": "none"})


def test_who_is_refused_is_told_nothing_of_the_table(owner: Owner) -> None:
    gone = replace(owner, clerk=replace(owner.clerk, office=type(owner.office)(owner.office._client, "no-such-table")))
    assert send(gone).status == 401
