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
from .ledger import Limits
from .money import MAX_USD, decimal_of, loads_exact, nanousd_ceil
from .tenants import Tenant, checked_name


class SettingsError(Exception):
    """One sentence: which setting is wrong, and how it should be."""


@dataclass(frozen=True, slots=True)
class TenantBudget:
    """One entry of TENANT_BUDGETS in US dollars; None is the default's."""

    daily: Decimal | None = None
    monthly: Decimal | None = None


# Each reads a variable's text, and raises SettingsError with the end of a sentence that begins with its name.


def _text(text: str) -> str:
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
    read: dict[str, Decimal | None] = {}
    for name, value in entry.items():
        window = _BUDGET_NAMES.get(name)
        if window is None or window in read:
            raise SettingsError(f"[{tenant}][{name[:40]}]: only daily and monthly can be there, each once")
        try:
            read[window] = None if value is None else _usd(value)
        except SettingsError as e:
            raise SettingsError(f"[{tenant}][{name}]{e}") from None
    return TenantBudget(**read)


def _by(read: Callable[[str], Any]) -> dict[str, Callable[[str], Any]]:
    return {"read": read}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every environment variable that Farebox reads, under its own name in small letters."""

    farebox_gateway_key: str = field(metadata=_by(_text))
    farebox_admin_key: str = field(metadata=_by(_text))
    openrouter_api_key: str = field(default="", metadata=_by(_text))
    openrouter_base_url: str = field(default="https://openrouter.ai/api/v1", metadata=_by(_url))
    primary_model: str | None = field(default=None, metadata=_by(_text))
    default_daily_budget: Decimal = field(default=Decimal(10), metadata=_by(_usd))
    default_monthly_budget: Decimal = field(default=Decimal(100), metadata=_by(_usd))
    tenant_budgets: Mapping[str, TenantBudget] = field(default_factory=dict, metadata=_by(_budgets))
    otel_service_name: str = field(default="farebox", metadata=_by(_text))
    farebox_table: str = field(default="farebox", metadata=_by(_text))
    farebox_time_zone: str = field(default="UTC", metadata=_by(_zone))
    farebox_hold_fraction: Decimal = field(default=Decimal("0.25"), metadata=_by(_fraction))
    farebox_min_output_tokens: int = field(default=256, metadata=_by(_whole(16, 1_000_000)))
    farebox_price_ttl_s: int = field(default=300, metadata=_by(_whole(1, 86_400)))
    farebox_call_deadline_s: int = field(default=890, metadata=_by(_whole(1, 900)))

    def tenant(self, name: str) -> Tenant:
        """A tenant that the store does not know: TENANT_BUDGETS, else the defaults. Version 0: any change is newer."""
        budget = self.tenant_budgets.get(name, TenantBudget())
        daily = self.default_daily_budget if budget.daily is None else budget.daily
        monthly = self.default_monthly_budget if budget.monthly is None else budget.monthly
        limits = Limits(nanousd_ceil(daily), nanousd_ceil(monthly), version=0)
        return Tenant(name, limits, self.farebox_time_zone)


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
    return Settings(**read)
