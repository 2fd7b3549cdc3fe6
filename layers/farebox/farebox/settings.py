"""Settings: environment variables under the names of the original recipe, checked once at start.

A wrong value ends the start with one sentence that names the variable; a gateway that guessed would guess with money.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .errors import InvalidTenant
from .ledger import Limits
from .money import MAX_USD, decimal_of, loads_exact, nanousd_ceil
from .tenants import Tenant, checked_name


class SettingsError(Exception):
    """One sentence: which setting is wrong, and how it should be."""


def _budget(value: object) -> Decimal:
    usd = decimal_of(value.strip() if isinstance(value, str) else value)
    if usd is None or not 0 <= usd <= MAX_USD:
        raise ValueError(f"must be US dollars from 0 to {MAX_USD:,}, not {value!r}")
    return usd


def _tenant_budgets(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        parsed = loads_exact(value or "{}", once=True)
    except ValueError as e:
        raise ValueError(f'must be JSON like {{"acme": {{"daily": 5, "monthly": 50}}}}; {e}') from None
    if not isinstance(parsed, Mapping):
        raise ValueError('must be a JSON object like {"acme": {"daily": 5, "monthly": 50}}')  # noqa: TRY004 - pydantic wants it
    return parsed


Usd = Annotated[Decimal, BeforeValidator(_budget)]


class TenantBudget(BaseModel):
    """One entry of TENANT_BUDGETS; what it leaves out is the default's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    daily: Usd | None = Field(default=None, validation_alias=AliasChoices("daily", "daily_usd", "daily_budget"))
    monthly: Usd | None = Field(default=None, validation_alias=AliasChoices("monthly", "monthly_usd", "monthly_budget"))


class Settings(BaseModel):
    """Every environment variable that Farebox reads, under its own name in small letters."""

    model_config = ConfigDict(frozen=True)

    openrouter_api_key: str = ""
    openrouter_base_url: str = "https://openrouter.ai/api/v1"
    primary_model: str | None = None
    default_daily_budget: Usd = Decimal(10)
    default_monthly_budget: Usd = Decimal(100)
    tenant_budgets: Annotated[dict[str, TenantBudget], BeforeValidator(_tenant_budgets)] = {}
    otel_service_name: str = "farebox"
    farebox_gateway_key: str = Field(min_length=1)
    farebox_admin_key: str = Field(min_length=1)
    farebox_table: str = Field("farebox", min_length=1)
    farebox_time_zone: str = "UTC"
    farebox_hold_fraction: Annotated[Decimal, Field(gt=0, le=1)] = Decimal("0.25")
    farebox_min_output_tokens: Annotated[int, Field(ge=16)] = 256
    farebox_price_ttl_s: Annotated[int, Field(ge=1)] = 300
    farebox_call_deadline_s: Annotated[int, Field(ge=1, le=900)] = 890

    def tenant(self, name: str) -> Tenant:
        """A tenant that the store does not know: TENANT_BUDGETS, else the defaults. Version 0: any change is newer."""
        budget = self.tenant_budgets.get(name, TenantBudget())
        daily = self.default_daily_budget if budget.daily is None else budget.daily
        monthly = self.default_monthly_budget if budget.monthly is None else budget.monthly
        limits = Limits(nanousd_ceil(daily), nanousd_ceil(monthly), version=0)
        return Tenant(name, limits, self.farebox_time_zone)


def settings_from(environment: Mapping[str, str]) -> Settings:
    """The settings of an environment; an empty variable counts as absent. Raises SettingsError."""
    given = {name.lower(): value for name, value in environment.items() if value.strip()}
    try:
        settings = Settings.model_validate({name: given[name] for name in Settings.model_fields if name in given})
    except ValidationError as e:
        raise SettingsError(_sentence(e)) from None
    for name in settings.tenant_budgets:
        _check_tenant(name)
    try:
        ZoneInfo(settings.farebox_time_zone)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        zone = settings.farebox_time_zone
        raise SettingsError(f"FAREBOX_TIME_ZONE must be a zone like Europe/Berlin, not {zone!r}") from None
    if not settings.openrouter_base_url.startswith(("http://", "https://")):
        raise SettingsError("OPENROUTER_BASE_URL must be a URL like https://openrouter.ai/api/v1")
    return settings


def _check_tenant(name: str) -> None:
    try:
        checked_name(f"the tenant {json.dumps(name)}", name)
    except InvalidTenant as e:
        raise SettingsError(f"TENANT_BUDGETS: {e.message}") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name, *inner = (str(part) for part in first["loc"])
    where = "".join(f"[{part}]" for part in inner)
    message: Any = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{name.upper()} is not set"
    return f"{name.upper()}{where}: {message}"
