"""What the admin's side tells of a tenant and of its keys, in the shapes of admin_shapes.py."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from .changes import BUDGETS, RULES, warnings_of
from .clerk import Known, seeds
from .configs import Config
from .keys import ApiKey, shown
from .money import usd_number
from .settings import Settings
from .tenants import Tenant, timestamp

ZONE = "time_zone"


def tenant_answer(known: Known, settings: Settings, now: datetime) -> dict[str, Any]:
    """A tenant."""
    stored, config = known.stored, known.config
    default = settings.tenant(config.name)
    tenant = config.tenant(default)
    warnings = [] if tenant.fault is None else [tenant.fault]
    current = tenant.at(now)
    raised = config.raised
    is_raised = raised is not None and now.timestamp() < raised.until
    has_moved = config.move is not None and current.time_zone == config.move.zone
    move = None if has_moved else config.move
    configured = _configured(config, current.time_zone if has_moved else config.time_zone)
    return {
        "name": config.name,
        "status": config.status.value,
        "version": config.version,
        "source": _source(stored, config.name, settings),
        "note": config.note,
        "created_at": _moment(config.created_at or None) if stored is not None else None,
        "changed_at": _moment(config.changed_at or None),
        "purge_at": _moment(config.purge_at),
        "configured": configured,
        "effective": _values(current),
        "set_by": _set_by(configured, current, tenant, settings),
        "raise": None
        if raised is None or not is_raised
        else {"daily": _usd(raised.day_nanousd), "monthly": _usd(raised.month_nanousd), "until": _moment(raised.until)},
        "time_zone_next": None if move is None else move.zone,
        "time_zone_from": None if move is None else f"{move.month}-01",
        "keys": len(config.keys),
        "warnings": warnings + warnings_of(config, tenant, now),
    }


def key_answer(tenant: str, key: ApiKey, now: datetime, last_used: int | None = None) -> dict[str, Any]:
    """A key, without its secret."""
    status = "good" if key.is_good(int(now.timestamp())) else "expired" if key.revoked_at is None else "revoked"
    return {
        "id": key.id,
        "tenant": tenant,
        "prefix": shown(tenant, key.id),
        "name": key.name,
        "status": status,
        "feature": key.feature,
        "monthly": _usd(key.month_nanousd),
        "created_at": _moment(key.created_at),
        "expires_at": _moment(key.expires_at),
        "revoked_at": _moment(key.revoked_at),
        "last_used": _moment(last_used),
    }


def span_answer(span: Mapping[str, Any]) -> dict[str, Any]:
    """A span. What was made of a reminder knows less."""
    names = ("feature", "key", "model", "model_asked", "provider", "outcome", "cause", "status")
    rest = ("streamed", "latency_ms", "request_id", "generation_id")
    return {
        "id": span["sk"],
        "admitted_at": _moment(span["admitted_at"]),
        "tenant": span["tenant"],
        **{name: span.get(name) for name in (*names, "prompt_tokens", "completion_tokens")},
        "cost_usd": _usd(span.get("cost_nanousd")),
        "hold_usd": _usd(span.get("hold_nanousd")),
        "estimated": bool(span.get("is_estimated", False)),
        **{name: span.get(name) for name in rest},
    }


def _source(stored: Config | None, name: str, settings: Settings) -> str:
    """`make dev` stores what is in the settings, as version 0."""
    if stored is not None and stored.version > 0:
        return "created"
    return "settings" if stored is not None or name in seeds(settings) else "calls"


def _configured(config: Config, zone: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {name: _usd(getattr(config, field)) for name, field in BUDGETS.items()}
    found[ZONE] = zone
    rules = {name: _shown(value) for name, value in config.rules.items()}
    return {name: value for name, value in found.items() if value is not None} | rules


def _values(tenant: Tenant) -> dict[str, Any]:
    limits = tenant.limits
    return {
        "daily": usd_number(limits.day_nanousd),
        "monthly": usd_number(limits.month_nanousd),
        ZONE: tenant.time_zone,
        **{name: _shown(value) for name, value in tenant.rules.content().items()},
    }


def _set_by(configured: Mapping[str, Any], current: Tenant, tenant: Tenant, settings: Settings) -> dict[str, str]:
    """Where each value that counts comes from."""
    budget = settings.tenant_budgets.get(tenant.name)
    seeded = set() if budget is None else {name for name in BUDGETS if getattr(budget, name) is not None}
    seeded |= set() if budget is None else set(budget.rules)
    found = {
        name: "tenant" if name in configured else "tenant_budgets" if name in seeded else "default"
        for name in (*BUDGETS, ZONE, *RULES)
    }
    raised = {name for name, field in BUDGETS.items() if getattr(current.limits, field) > getattr(tenant.limits, field)}
    return found | dict.fromkeys(raised, "raise")


def _shown(value: Any) -> Any:
    """Amounts and fractions are kept as text."""
    return float(value) if isinstance(value, str | Decimal) else value


def _usd(nanousd: int | None) -> float | None:
    return None if nanousd is None else usd_number(nanousd)


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else timestamp(datetime.fromtimestamp(seconds, UTC))
