"""A tenant's API key: it opens its own tenant only, and what an owner changes counts from the very next call on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from farebox.aws import to_dynamodb
from farebox.configs import Config
from farebox.keys import SECRET_LENGTH, ApiKey, digest, written
from farebox.tenants import Status
from local.simulator import Simulator
from tests.conftest import Answered, Door, MakeDoor, connected

SECRET, OTHER_SECRET = "s" * SECRET_LENGTH, "t" * SECRET_LENGTH
KEY = ApiKey("k1", digest(SECRET), "for the shop", created_at=1000)
ACME = Config("acme", 1, 10**10, 10**11, keys={"k1": KEY})
WHOLE = written("acme", "k1", SECRET)
LIMITED = Config("acme", 2, 0, 10**11, keys={"k1": KEY})


@dataclass(frozen=True, slots=True)
class Shop:
    """A gate, and the table behind it as the admin side changes it."""

    door: Door
    url: str

    def change(self, config: Config) -> None:
        """The configuration, and then its version in the month's ledger, which makes it count."""
        client, table = connected(self.url), self.door.gate.settings.farebox_table
        key = {"pk": f"TENANT#{config.name}", "sk": "CONFIG"}
        client.put_item(TableName=table, Item=to_dynamodb({**key, **config.item()}))
        month = self.door.gate.desk.directory.at(config.name, self.door.gate.now())[1].month
        client.update_item(
            TableName=table,
            Key=to_dynamodb({"pk": f"TENANT#{config.name}", "sk": f"LEDGER#{month}"}),
            UpdateExpression="SET v = :v",
            ExpressionAttributeValues=to_dynamodb({":v": config.version}),
        )

    def chat(self, key: str = WHOLE, headers: Mapping[str, str] | None = None, **fields: Any) -> Answered:
        return self.door.chat(headers={"Authorization": f"Bearer {key}", **(headers or {})}, **fields)

    def get(self, path: str, key: str = WHOLE) -> Answered:
        return self.door.call("GET", path, headers={"Authorization": f"Bearer {key}"})

    def spans(self) -> list[Mapping[str, Any]]:
        scanned = connected(self.url).scan(TableName=self.door.gate.settings.farebox_table)["Items"]
        return [item for item in scanned if item["pk"]["S"].startswith("SPANS#")]


MakeShop = Callable[..., Shop]


@pytest.fixture
def make_shop(make_door: MakeDoor, embedded_url: str) -> MakeShop:
    def make(**settings: str) -> Shop:
        return Shop(make_door(**settings), embedded_url)

    return make


@pytest.fixture
def shop(make_shop: MakeShop) -> Shop:
    """With the tenant acme and its key."""
    shop = make_shop()
    shop.change(ACME)
    return shop


# Whom a key opens.


def test_a_tenants_key_names_its_tenant_by_itself_and_its_calls_are_booked_with_it(shop: Shop) -> None:
    assert shop.chat().status == 200
    (span,) = shop.spans()
    assert (span["tenant"]["S"], span["key"]["S"], span["feature"]["S"]) == ("acme", "k1", "default")
    ledger = shop.door.gate.store.ledger("acme", span["month"]["S"])
    assert ledger.spent_with("k1") == ledger.spent_nanousd > 0


def test_naming_its_own_tenant_in_the_header_is_no_mistake(shop: Shop) -> None:
    assert shop.chat(headers={"X-Tenant-Id": "acme", "X-Feature": "search"}).status == 200


@pytest.mark.parametrize("tenant", ["default", "ACME", "acme2"])
def test_another_tenant_in_the_header_is_refused_and_nothing_is_called(
    tenant: str, shop: Shop, simulator: Simulator
) -> None:
    refused = shop.chat(headers={"X-Tenant-Id": tenant})
    assert (refused.status, refused.reason) == (403, "key_mismatch")
    assert simulator.billed_nanousd == 0


def test_a_header_that_can_be_no_name_is_refused_as_with_the_gateways_key(shop: Shop) -> None:
    assert shop.chat(headers={"X-Tenant-Id": "a#b"}).reason == "invalid_tenant"


def test_a_key_for_a_feature_books_under_it_and_refuses_another(shop: Shop) -> None:
    shop.change(replace(ACME, version=2, keys={"k1": replace(KEY, feature="search")}))
    assert shop.chat().status == 200
    assert shop.spans()[0]["feature"]["S"] == "search"
    assert shop.chat(headers={"X-Feature": "search"}).status == 200
    refused = shop.chat(headers={"X-Feature": "chat"})
    assert (refused.status, refused.reason) == (403, "key_mismatch")


@pytest.mark.parametrize("key", [
    written("acme", "k1", OTHER_SECRET), written("acme", "k2", SECRET), written("nobody", "k1", SECRET),
    written("default", "k1", SECRET), "fb-acme.k1.short", "fb-", "sk-or-v1-x",
])  # fmt: skip
@pytest.mark.parametrize("create", ["true", "false"])
def test_a_key_that_is_not_the_tenants_opens_nothing_and_is_not_repeated(
    key: str, create: str, make_shop: MakeShop
) -> None:
    shop = make_shop(AUTO_CREATE_TENANTS=create, TENANT_BUDGETS='{"acme": {}}')
    shop.change(ACME)
    refused = shop.chat(key)
    assert (refused.status, refused.reason) == (401, "unauthenticated")
    assert key not in refused.body.decode()


# Changes count from the next call on, also where the tenant is kept in memory.


def test_a_key_that_is_new_opens_at_once(shop: Shop) -> None:
    assert shop.chat().status == 200
    new = written("acme", "k2", OTHER_SECRET)
    assert shop.chat(new).status == 401
    shop.change(replace(ACME, version=2, keys={"k1": KEY, "k2": replace(KEY, id="k2", digest=digest(OTHER_SECRET))}))
    assert shop.chat(new).status == 200


def test_a_key_that_was_revoked_opens_nothing_from_the_next_call_on(shop: Shop, simulator: Simulator) -> None:
    assert shop.chat().status == 200
    billed = simulator.billed_nanousd
    shop.change(replace(ACME, version=2, keys={"k1": replace(KEY, revoked_at=1)}))
    refused = shop.chat()
    assert (refused.status, refused.reason) == (401, "unauthenticated")
    assert "revoked" in refused.json["error"]["message"]
    assert simulator.billed_nanousd == billed
    assert shop.door.gate.store.ledger("acme", shop.spans()[0]["month"]["S"]).held_nanousd == 0


def test_a_key_that_is_gone_opens_nothing_from_the_next_call_on(shop: Shop) -> None:
    assert shop.chat().status == 200
    shop.change(replace(ACME, version=2, keys={}))
    assert shop.chat().status == 401
    assert shop.chat().status == 401


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/key", "/api/usage/acme"])
def test_a_revoked_key_reads_nothing_either(path: str, shop: Shop) -> None:
    assert shop.get(path).status == 200
    shop.change(replace(ACME, version=2, keys={"k1": replace(KEY, revoked_at=1)}))
    assert shop.get(path).status == 401


def test_an_expired_key_opens_nothing(shop: Shop) -> None:
    shop.change(replace(ACME, version=2, keys={"k1": replace(KEY, expires_at=1)}))
    assert shop.chat().reason == "unauthenticated"


def test_a_lowered_budget_stops_the_next_call(shop: Shop) -> None:
    assert shop.chat().status == 200
    shop.change(LIMITED)
    assert shop.chat().reason == "budget_exhausted"


@pytest.mark.parametrize("status", [Status.DISABLED, Status.DELETED])
def test_a_tenant_that_was_closed_is_refused_from_the_next_call_on_and_opened_again_it_is_not(
    status: Status, shop: Shop
) -> None:
    assert shop.chat().status == 200
    shop.change(replace(ACME, version=2, status=status))
    refused = shop.chat()
    assert (refused.status, refused.reason) == (403, "tenant_closed")
    assert status.value in refused.json["error"]["message"]
    shop.change(replace(ACME, version=3))
    assert shop.chat().status == 200


# A key's own cap.


def test_a_key_stops_at_its_cap_and_the_tenant_and_other_keys_go_on(shop: Shop) -> None:
    second = replace(KEY, id="k2", digest=digest(OTHER_SECRET))
    shop.change(replace(ACME, version=2, keys={"k1": replace(KEY, month_nanousd=25_000_000), "k2": second}))
    fields: dict[str, Any] = {"model": "sim/cent", "max_tokens": 1000}
    statuses = [shop.chat(**fields).status for _ in range(4)]
    assert 200 in statuses
    refused = shop.chat(**fields, messages=[{"role": "user", "content": "Say hello " * 200}])
    while refused.status == 200:
        refused = shop.chat(**fields)
    assert refused.reason == "budget_exhausted"
    facts = refused.json["error"]["metadata"]
    assert (facts["scope"], facts["key"], facts["window"], facts["limit_usd"]) == ("key", "k1", "month", 0.025)
    assert "API key k1" in refused.json["error"]["message"]
    ledger = shop.door.gate.store.ledger("acme", shop.spans()[0]["month"]["S"])
    assert ledger.spent_with("k1") <= 25_000_000
    assert list(shop.door.gate.store.events()) == []
    assert shop.chat(written("acme", "k2", OTHER_SECRET), **fields).status == 200
    assert shop.door.chat(headers={"X-Tenant-Id": "acme"}, **fields).status == 200


def test_a_key_in_the_place_of_another_goes_on_where_that_one_was(shop: Shop) -> None:
    first = replace(KEY, month_nanousd=25_000_000)
    shop.change(replace(ACME, version=2, keys={"k1": first}))
    fields: dict[str, Any] = {"model": "sim/cent", "max_tokens": 1000}
    while shop.chat(**fields).status == 200:
        pass
    second = replace(first, id="k2", digest=digest(OTHER_SECRET), counts_as="k1")
    shop.change(replace(ACME, version=3, keys={"k1": first, "k2": second}))
    refused = shop.chat(written("acme", "k2", OTHER_SECRET), **fields)
    assert (refused.reason, refused.json["error"]["metadata"]["key"]) == ("budget_exhausted", "k2")
    shown = shop.get("/api/v1/key", written("acme", "k2", OTHER_SECRET)).json["data"]
    assert (shown["label"], shown["limit_remaining"]) == ("fb-acme.k2", pytest.approx(0, abs=0.01))
    shop.change(replace(ACME, version=4, keys={"k2": replace(second, month_nanousd=10**9)}))
    assert shop.chat(written("acme", "k2", OTHER_SECRET), **fields).status == 200
    assert {span["key"]["S"] for span in shop.spans()} == {"k1", "k2"}


def test_a_key_whose_end_was_put_off_opens_again_where_the_old_end_is_known(shop: Shop) -> None:
    now = int(shop.door.gate.now().timestamp())
    shop.change(replace(ACME, version=2, keys={"k1": replace(KEY, expires_at=now - 1)}))
    assert shop.chat().status == 401
    shop.change(replace(ACME, version=3, keys={"k1": KEY}))
    assert shop.chat().status == 200


# What is closed.


@pytest.mark.parametrize("config", [
    replace(ACME, version=2, day_nanousd=0), replace(ACME, version=2, month_nanousd=0),
    replace(ACME, version=2, keys={"k1": replace(KEY, month_nanousd=0)}),
])  # fmt: skip
def test_a_budget_of_nothing_closes_for_free_models_too(config: Config, shop: Shop) -> None:
    assert shop.chat(model="sim/free:free").status == 200
    shop.change(config)
    assert shop.chat(model="sim/free:free").reason == "tenant_closed"
    assert shop.chat().reason == "budget_exhausted"


def test_rules_that_contradict_the_default_ones_close_a_tenant_and_say_why(shop: Shop) -> None:
    shop.change(replace(ACME, version=2, rules={"warn_at": "0.95"}))
    refused = shop.chat()
    assert (refused.status, refused.reason) == (403, "tenant_closed")
    assert "warn_at" in refused.json["error"]["message"]


def test_a_tenant_that_may_send_no_media_is_told_so(shop: Shop, simulator: Simulator) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    messages = [{"role": "user", "content": parts}]
    assert shop.chat(messages=messages).status == 200
    shop.change(replace(ACME, version=2, rules={"media": False}))
    billed = simulator.billed_nanousd
    assert shop.chat(messages=messages).reason == "unsupported_field"
    assert simulator.billed_nanousd == billed
    assert shop.chat().status == 200


# Tenants that nobody has created.


def test_with_the_gateways_key_an_unknown_tenant_has_the_default_budgets(make_shop: MakeShop) -> None:
    assert make_shop().door.chat(headers={"X-Tenant-Id": "new"}).status == 200


def test_unless_tenants_must_be_created_first(make_shop: MakeShop) -> None:
    shop = make_shop(AUTO_CREATE_TENANTS="false", TENANT_BUDGETS='{"seeded": {"daily": 1}}')
    refused = shop.door.chat(headers={"X-Tenant-Id": "new"})
    assert (refused.status, refused.reason) == (403, "unknown_tenant")
    assert shop.door.chat(headers={"X-Tenant-Id": "seeded"}).status == 200
    shop.door.gate.desk.directory.forget("acme")
    client, table = connected(shop.url), shop.door.gate.settings.farebox_table
    client.put_item(TableName=table, Item=to_dynamodb({"pk": "TENANT#acme", "sk": "CONFIG", **ACME.item()}))
    assert shop.chat().status == 200


# GET /api/v1/key.


def test_a_key_shows_what_it_has_used_and_what_is_left_in_openrouters_shape(shop: Shop) -> None:
    shop.change(replace(ACME, version=2, keys={"k1": replace(KEY, month_nanousd=10**9, expires_at=2_000_000_000)}))
    cost = float(shop.chat().headers["X-Farebox-Cost-Usd"])
    data = shop.get("/api/v1/key").json["data"]
    assert data["label"] == "fb-acme.k1"
    assert (data["limit"], data["limit_reset"], data["expires_at"]) == (1.0, "monthly", "2033-05-18T03:33:20Z")
    assert data["usage"] == data["usage_daily"] == data["usage_monthly"] == pytest.approx(cost, abs=1e-12)
    assert data["limit_remaining"] == pytest.approx(1 - cost, abs=1e-12)
    assert data["is_free_tier"] is False


def test_the_gateways_key_shows_the_tenants(shop: Shop) -> None:
    shop.chat()
    data = shop.door.call("GET", "/api/v1/key", headers={"X-Tenant-Id": "acme"}).json["data"]
    assert (data["label"], data["limit"], data["expires_at"]) == ("tenant acme", 100.0, None)
    assert 0 < data["usage"] == data["usage_weekly"]
    assert data["limit_remaining"] == pytest.approx(10 - data["usage"], abs=1e-9)  # the day's budget is the smaller one


def test_a_limit_that_was_changed_is_shown_to_the_gateways_key_at_once(shop: Shop) -> None:
    shop.chat()
    shop.change(replace(ACME, version=2, month_nanousd=7 * 10**9))
    data = shop.door.call("GET", "/api/v1/key", headers={"X-Tenant-Id": "acme"}).json["data"]
    assert data["limit"] == 7.0


# Usage.


def test_a_tenants_key_reads_its_own_usage_and_no_other(shop: Shop) -> None:
    assert shop.get("/api/usage/acme").json["tenant"] == "acme"
    refused = shop.get("/api/usage/default")
    assert (refused.status, refused.reason) == (403, "key_mismatch")
