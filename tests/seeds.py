"""Tenants that somebody has configured, for tests that are not about how."""

from typing import Any, cast

from farebox.aws import to_dynamodb
from farebox.configs import Config
from farebox.store import Store
from farebox.tenants import Tenant


def config_of(tenant: Tenant) -> Config:
    """With everything set."""
    limits = tenant.limits
    return Config(
        tenant.name,
        limits.version,
        limits.day_nanousd,
        limits.month_nanousd,
        tenant.time_zone,
        rules=tenant.rules.content(),
        keys=tenant.keys,
    )


def seed(store: Store, tenant: Tenant) -> None:
    """Past everything that announces a change."""
    item = {"pk": f"TENANT#{tenant.name}", "sk": "CONFIG", **config_of(tenant).item()}
    store = cast("Any", store)
    store._client.put_item(TableName=store._table, Item=to_dynamodb(item))
