"""Settings: environment variables under the names of the original recipe, checked once at start.

A wrong value ends the start with one sentence that names the variable; a gateway that guessed would guess with money.
(No pydantic here: building its models costs a quarter of a cold start, see `make bench-cold`.)
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .errors import InvalidTenant
from .ledger import MAX_IN_FLIGHT, Limits
from .money import MAX_USD, decimal_of, loads_exact, nanousd_ceil
from .rules import Rules, RulesError, rules_of
from .tenants import Tenant, checked_name


class SettingsError(Exception):
    """One sentence: which setting is wrong, and how it should be."""


@dataclass(frozen=True, slots=True)
class TenantBudget:
    """One entry of TENANT_BUDGETS in US dollars; None is the default's. `rules` are as written, and checked."""

    daily: Decimal | None = None
    monthly: Decimal | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)


# Each reads a variable's text, and raises SettingsError with the end of a sentence that begins with its name.


def _text(text: str) -> str:
    return text


def _key(text: str) -> str:
    """What cannot stand in a header would fail at every call, and hold its money. The text is not repeated."""
    if not (text.isascii() and text.isprintable()):
        raise SettingsError(" must be a key in one line, of printable ASCII characters")
    return text


def _usd(value: object) -> Decimal:
    usd = decimal_of(value)
    if usd is None or not 0 <= usd <= MAX_USD:
        raise SettingsError(f": must be US dollars from 0 to {MAX_USD:,}, not {value!r}")
    return usd


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
            raise SettingsError(f" must be a whole number from {least} to {most}, not {text[:40]!r}")
        return int(text)

    return read


def _fraction(text: str) -> Decimal:
    part = decimal_of(text)
    if part is None or not 0 < part <= 1:
        raise SettingsError(f" must be above 0 and at most 1, like 0.25, not {text[:40]!r}")
    return part


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise SettingsError(f" must be true or false, not {text[:40]!r}")
    return text.lower() == "true"


def _auth(text: str) -> str:
    if text not in ("key", "iam"):
        raise SettingsError(f" must be key or iam, not {text[:40]!r}")
    return text


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise SettingsError(" must be a URL like https://openrouter.ai/api/v1")
    return text


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise SettingsError(f" must be a zone like Europe/Berlin, not {text[:40]!r}") from None
    return text


_BUDGET_EXAMPLE = '{"acme": {"daily": 5, "monthly": 50}}'
_BUDGET_NAMES = {
    **dict.fromkeys(("daily", "daily_usd", "daily_budget"), "daily"),
    **dict.fromkeys(("monthly", "monthly_usd", "monthly_budget"), "monthly"),
}


def _budgets(text: str) -> dict[str, TenantBudget]:
    try:
        parsed = loads_exact(text, once=True)
    except ValueError as e:
        raise SettingsError(f": must be JSON like {_BUDGET_EXAMPLE}; {e}") from None
    if not isinstance(parsed, Mapping):
        raise SettingsError(f": must be a JSON object like {_BUDGET_EXAMPLE}")
    return {_tenant_name(name): _budget(name, entry) for name, entry in parsed.items()}


def _tenant_name(name: str) -> str:
    try:
        return checked_name(f"the tenant {json.dumps(name)}", name)
    except InvalidTenant as e:
        raise SettingsError(f": {e.message}") from None


def _budget(tenant: str, entry: Any) -> TenantBudget:
    if not isinstance(entry, Mapping):
        raise SettingsError(f'[{tenant}]: must be an object like {{"daily": 5, "monthly": 50}}')
    rules = {name: value for name, value in entry.items() if name not in _BUDGET_NAMES}
    try:
        rules_of(rules, _ANY)
    except RulesError as e:
        raise SettingsError(f"[{tenant}]{e}") from None
    read: dict[str, Decimal | None] = {}
    for name, value in entry.items():
        if (window := _BUDGET_NAMES.get(name)) is None:
            continue
        if window in read:
            raise SettingsError(f"[{tenant}][{name}]: the {window} budget is there twice")
        try:
            read[window] = None if value is None else _usd(value)
        except SettingsError as e:
            raise SettingsError(f"[{tenant}][{name}]{e}") from None
    return TenantBudget(read.get("daily"), read.get("monthly"), rules)


def _rule(name: str, read: Callable[[str], Any] = loads_exact) -> Callable[[str], Any]:
    """A default rule: its text to the value that TENANT_BUDGETS would have for it, checked."""

    def checked(text: str) -> Any:
        try:
            value = read(text)
        except ValueError as e:
            raise SettingsError(f": must be JSON; {e}") from None
        try:
            rules_of({name: value}, _ANY)
        except RulesError as e:
            raise SettingsError(str(e).removeprefix(f"[{name}]")) from None
        return value

    return checked


_ANY = Rules(warn_at=Decimal("1e-9"), degrade_at=Decimal(1))
"""Default rules that no single value contradicts; all values together are checked at the end."""


def _list(text: str) -> Any:
    """Names with commas between them, or a JSON list."""
    return loads_exact(text) if text.startswith("[") else [name.strip() for name in text.split(",")]


def _by(read: Callable[[str], Any]) -> dict[str, Callable[[str], Any]]:
    return {"read": read}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every environment variable that Farebox reads, under its own name in small letters."""

    farebox_gateway_key: str = field(metadata=_by(_key))
    farebox_admin_key: str = field(metadata=_by(_key))
    openrouter_api_key: str = field(default="", metadata=_by(_key))
    openrouter_base_url: str = field(default="https://openrouter.ai/api/v1", metadata=_by(_url))
    primary_model: str | None = field(default=None, metadata=_by(_text))
    default_daily_budget: Decimal = field(default=Decimal(10), metadata=_by(_usd))
    default_monthly_budget: Decimal = field(default=Decimal(100), metadata=_by(_usd))
    fallback_model_chain: list[str] = field(default_factory=list, metadata=_by(_rule("fallback", _list)))
    auto_create_tenants: bool = field(default=True, metadata=_by(_bool))
    tenant_budgets: Mapping[str, TenantBudget] = field(default_factory=dict, metadata=_by(_budgets))
    otel_service_name: str = field(default="farebox", metadata=_by(_text))
    farebox_table: str = field(default="farebox", metadata=_by(_text))
    farebox_admin_auth: str = field(default="key", metadata=_by(_auth))
    farebox_time_zone: str = field(default="UTC", metadata=_by(_zone))
    farebox_hold_fraction: Decimal = field(default=Decimal("0.25"), metadata=_by(_fraction))
    farebox_min_output_tokens: int = field(default=256, metadata=_by(_whole(16, 1_000_000)))
    farebox_request_cap_usd: Decimal | int | None = field(default=None, metadata=_by(_rule("per_request")))
    farebox_max_in_flight: int = field(default=MAX_IN_FLIGHT, metadata=_by(_rule("in_flight")))
    farebox_warn_at: Decimal | int = field(default=Decimal("0.8"), metadata=_by(_rule("warn_at")))
    farebox_degrade_at: Decimal | int = field(default=Decimal("0.9"), metadata=_by(_rule("degrade_at")))
    farebox_allowed_models: list[str] = field(default_factory=lambda: ["*"], metadata=_by(_rule("allow", _list)))
    farebox_denied_models: list[str] = field(default_factory=list, metadata=_by(_rule("deny", _list)))
    farebox_downgrade_rules: list[Mapping[str, Any]] = field(default_factory=list, metadata=_by(_rule("downgrade")))
    farebox_server_tools_usd: Decimal | int = field(default=0, metadata=_by(_rule("server_tools")))
    farebox_fail_open_usd: Decimal = field(default=Decimal(0), metadata=_by(_usd))
    farebox_attempt_timeout_s: int = field(default=300, metadata=_by(_whole(1, 900)))
    farebox_price_ttl_s: int = field(default=300, metadata=_by(_whole(1, 86_400)))
    farebox_call_deadline_s: int = field(default=890, metadata=_by(_whole(1, 900)))

    @property
    def rules(self) -> Rules:
        """Of tenants that have none of their own."""
        return rules_of(
            {
                "per_request": self.farebox_request_cap_usd,
                "in_flight": self.farebox_max_in_flight,
                "warn_at": self.farebox_warn_at,
                "degrade_at": self.farebox_degrade_at,
                "allow": self.farebox_allowed_models,
                "deny": self.farebox_denied_models,
                "downgrade": self.farebox_downgrade_rules,
                "fallback": self.fallback_model_chain,
                "server_tools": self.farebox_server_tools_usd,
            },
            Rules(),
        )

    def tenant(self, name: str) -> Tenant:
        """A tenant that the store does not know: TENANT_BUDGETS, else the defaults. Version 0: any change is newer."""
        budget = self.tenant_budgets.get(name, TenantBudget())
        daily = self.default_daily_budget if budget.daily is None else budget.daily
        monthly = self.default_monthly_budget if budget.monthly is None else budget.monthly
        rules = rules_of(budget.rules, self.rules)
        limits = Limits(nanousd_ceil(daily), nanousd_ceil(monthly), version=0, in_flight=rules.in_flight)
        return Tenant(name, limits, self.farebox_time_zone, rules)


NAMES = tuple(setting.name.upper() for setting in fields(Settings))


def settings_from(environment: Mapping[str, str]) -> Settings:
    """The settings of an environment; an empty variable counts as absent. Raises SettingsError."""
    read = {}
    for setting in fields(Settings):
        name = setting.name.upper()
        text = environment.get(name, "").strip()
        if not text and setting.default is MISSING and setting.default_factory is MISSING:
            raise SettingsError(f"{name} is not set")
        if text:
            try:
                read[setting.name] = setting.metadata["read"](text)
            except SettingsError as e:
                raise SettingsError(f"{name}{e}") from None
    settings = Settings(**read)
    for tenant in ("", *settings.tenant_budgets):
        _check_rules_together(settings, tenant)
    return settings


def _check_rules_together(settings: Settings, tenant: str) -> None:
    """Each value was checked by itself; together they can still contradict each other."""
    try:
        settings.tenant(tenant)
    except RulesError as e:
        where = f"TENANT_BUDGETS[{tenant}]" if tenant else "FAREBOX_WARN_AT and FAREBOX_DEGRADE_AT"
        raise SettingsError(f"{where}{e}") from None
