"""What the admin's side takes and gives, in pydantic's words: its checks, and its part of the OpenAPI document.

Amounts are US dollars, as JSON numbers or as text. Both are exact: numbers enter through money.loads_exact.
"""

from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from .changes import MAX_RAISE_DAYS, NewKey, Turn
from .money import MAX_USD, decimal_of, nanousd_ceil
from .rules import MAX_IN_FLIGHT_ALLOWED, MAX_RULES
from .tenants import MAX_NAME_LENGTH, Raise, Status, checked_name

MAX_GRACE_DAYS = 90
MAX_OVERLAP_HOURS = 720
_DECIMAL = r"^[0-9]{1,8}(\.[0-9]{1,9})?$"
_NAME = {"type": "string", "pattern": rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}$"}
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def _usd(value: Any) -> Decimal:
    usd = decimal_of(value)
    if usd is None or not 0 <= usd <= MAX_USD:
        raise ValueError(f"must be US dollars from 0 to {MAX_USD:,}")
    return usd


def _fraction(value: Any) -> Decimal:
    part = decimal_of(value)
    if part is None or not 0 < part <= 1:
        raise ValueError("must be above 0 and at most 1, like 0.8")
    return part


def _moment(value: Any) -> int:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) and "T" in value else None
        if moment is not None and moment.tzinfo is not None and moment <= _LATEST:
            return int(moment.timestamp())
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a moment with its zone and before 2100, like 2026-12-01T00:00:00Z")


def _number_or_text(**limits: Any) -> dict[str, Any]:
    return {"anyOf": [{"type": "number", **limits}, {"type": "string", "pattern": _DECIMAL}]}


Usd = Annotated[
    Decimal, BeforeValidator(_usd), WithJsonSchema(_number_or_text(minimum=0, maximum=MAX_USD), mode="validation")
]
Fraction = Annotated[
    Decimal, BeforeValidator(_fraction), WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
]
Moment = Annotated[int, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
Model = Annotated[str, Field(min_length=1, max_length=256)]
Models = Annotated[list[Model], Field(max_length=MAX_RULES)]
KeyName = Annotated[str, Field(min_length=1, max_length=100)]
# What cannot be a name raises InvalidTenant, which pydantic lets pass.
TenantName = Annotated[str, AfterValidator(partial(checked_name, "the tenant's name")), WithJsonSchema(_NAME)]
Feature = Annotated[str, AfterValidator(partial(checked_name, "the feature")), WithJsonSchema(_NAME)]


class Taken(BaseModel):
    """Nothing is guessed: no other fields, no other types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Downgrade(Taken):
    """Models that match one of `from` are replaced by `to`."""

    sources: Annotated[Model | Models, Field(alias="from")]
    to: Model


class TemporaryRaise(Taken):
    """Higher budgets until a moment; the lower of two never counts."""

    daily: Usd | None = None
    monthly: Usd | None = None
    until: Annotated[Moment, Field(description=f"at most {MAX_RAISE_DAYS} days away")]

    def wanted(self) -> Raise:
        return Raise(_nanousd(self.daily), _nanousd(self.monthly), self.until)


class Budgets(Taken):
    """What is left out, or null, is the default's."""

    daily: Annotated[Usd | None, Field(description="USD a day; 0 closes the tenant")] = None
    monthly: Annotated[Usd | None, Field(description="USD a calendar month; 0 closes the tenant")] = None
    time_zone: Annotated[str | None, Field(description="where days and months begin; a new one from next month on")] = (
        None
    )
    note: Annotated[str | None, Field(max_length=1000)] = None
    per_request: Annotated[Usd | None, Field(description="the most that one call may hold")] = None
    in_flight: Annotated[int | None, Field(ge=1, le=MAX_IN_FLIGHT_ALLOWED)] = None
    warn_at: Fraction | None = None
    degrade_at: Fraction | None = None
    allow: Annotated[Models | None, Field(description="patterns of models")] = None
    deny: Models | None = None
    downgrade: Annotated[list[Downgrade] | None, Field(max_length=MAX_RULES)] = None
    fallback: Models | None = None
    server_tools: Annotated[Usd | None, Field(description="USD of one call; 0 refuses them")] = None
    media: Annotated[bool | None, Field(description="whether images, sounds, videos and files may be sent")] = None

    def wanted(self) -> dict[str, Any]:
        """What was said, in the words of changes.py."""
        said: dict[str, Any] = self.model_dump(exclude_unset=True, by_alias=True)
        for name in ("daily", "monthly"):
            if name in said:
                said[name] = _nanousd(said[name])
        return said


class NewTenant(Budgets):
    """A tenant to be made."""

    name: TenantName

    def wanted(self) -> dict[str, Any]:
        said = super().wanted()
        return {name: value for name, value in said.items() if name != "name" and value is not None}


def _without_default(schema: dict[str, Any]) -> None:
    """What is left out stays as it is, and may not be null."""
    schema.pop("default", None)


class TenantChange(Budgets):
    """A change: what is left out stays as it is, null is the default's again."""

    status: Annotated[Literal["active", "disabled"], Field(json_schema_extra=_without_default)] = "active"
    raised: Annotated[TemporaryRaise | None, Field(alias="raise", description="null ends it")] = None

    def wanted(self) -> dict[str, Any]:
        said = super().wanted()
        if "raise" in said:
            said["raise"] = None if self.raised is None else self.raised.wanted()
        if "status" in said:
            said["status"] = Status(self.status)
        return said


class NewApiKey(Taken):
    """A key to be made."""

    name: KeyName
    monthly: Annotated[Usd | None, Field(description="the most that may be spent with it in a month")] = None
    feature: Annotated[Feature | None, Field(description="what its calls are booked under")] = None
    expires_at: Moment | None = None

    def wanted(self) -> NewKey:
        return NewKey(self.name, _nanousd(self.monthly), self.feature, self.expires_at)


class ApiKeyChange(Taken):
    """What is left out stays as it is; null is no cap, no end."""

    name: KeyName = ""
    monthly: Usd | None = None
    expires_at: Moment | None = None

    def wanted(self) -> dict[str, Any]:
        said: dict[str, Any] = self.model_dump(exclude_unset=True)
        if "monthly" in said:
            said["month_nanousd"] = _nanousd(said.pop("monthly"))
        return said


class Rotation(Taken):
    """How long the old key is good for yet, and the new one; that has the old one's end if nothing is said."""

    overlap_hours: Annotated[int, Field(ge=0, le=MAX_OVERLAP_HOURS)] = 24
    expires_at: Moment | None = None

    def wanted(self) -> Turn:
        return Turn(self.overlap_hours * 3600, "expires_at" not in self.model_fields_set, self.expires_at)


def _nanousd(usd: Decimal | None) -> int | None:
    return None if usd is None else nanousd_ceil(usd)


# Answers. They are made in admin_answers.py; these are for the OpenAPI document.

When = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Values(BaseModel):
    """Budgets in US dollars, and rules."""

    daily: float
    monthly: float
    time_zone: str
    per_request: float | None
    in_flight: int
    warn_at: float
    degrade_at: float
    allow: list[str]
    deny: list[str]
    downgrade: list[dict[str, Any]]
    fallback: list[str]
    server_tools: float
    media: bool


class TenantShape(BaseModel):
    """A tenant: what was set, what counts now, and where each of that comes from."""

    name: str
    status: Literal["active", "disabled", "deleted"]
    version: int
    source: Annotated[
        Literal["created", "settings", "calls"],
        Field(description="calls: it has called with the default budgets, and nobody has set anything"),
    ]
    note: str
    created_at: When | None
    changed_at: When | None
    purge_at: Annotated[When | None, Field(description="until when it can be brought back")]
    configured: Annotated[dict[str, Any], Field(description="what an owner has set, under the names of `effective`")]
    effective: Values
    set_by: dict[str, Literal["tenant", "raise", "tenant_budgets", "default"]]
    raised: Annotated[dict[str, Any] | None, Field(alias="raise")]
    time_zone_next: str | None
    time_zone_from: Annotated[str | None, Field(description="the day from which time_zone_next counts")]
    keys: Annotated[int, Field(description="how many, with those that have ended")]
    warnings: Annotated[list[str], Field(description="what is allowed, and perhaps not meant")]


class TenantPage(BaseModel):
    """Some tenants, by name."""

    data: list[TenantShape]
    next: Annotated[str | None, Field(description="what `after` is for the next page; null on the last one")]


class KeyShape(BaseModel):
    """An API key, without its secret."""

    id: str
    tenant: str
    prefix: str
    name: str
    status: Literal["good", "expired", "revoked"]
    feature: str | None
    monthly: float | None
    created_at: When
    expires_at: When | None
    revoked_at: When | None
    last_used: Annotated[When | None, Field(description="as far as the rollups are")] = None


class MadeKey(KeyShape):
    """An API key that was made just now."""

    key: Annotated[str, Field(description="the whole key; it is shown this once")]


class KeyPage(BaseModel):
    """All keys of a tenant, the newest first."""

    data: list[KeyShape]


class SpanShape(BaseModel):
    """An attempt of a call: what it was and what it cost, without its content."""

    id: Annotated[str, Field(description="of the call's hold; later attempts have a number behind it")]
    admitted_at: When
    tenant: str
    feature: str
    key: Annotated[str | None, Field(description="the id of the API key")]
    model: str
    model_asked: str | None
    provider: str | None
    outcome: Literal["answered", "declined", "lost"]
    cause: Annotated[str | None, Field(description="why it was not answered")]
    status: Annotated[int | None, Field(description="the HTTP status of that")]
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Annotated[float | None, Field(description="null while it is not known")]
    hold_usd: float | None
    estimated: bool
    streamed: bool | None
    latency_ms: int | None
    request_id: str | None
    generation_id: str | None


class SpanPage(BaseModel):
    """The last spans, the newest last."""

    data: list[SpanShape]
    more: Annotated[bool, Field(description="there were others before them, or there may have been")]


class ErrorContent(BaseModel):
    """What went wrong, for people and for programs."""

    code: int
    message: str
    type: str
    metadata: dict[str, Any]


class ErrorShape(BaseModel):
    """The shape of every error of the gateway; `metadata.reason` is for programs."""

    error: ErrorContent
