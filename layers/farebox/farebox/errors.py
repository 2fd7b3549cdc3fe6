"""Every way in which Farebox says no. A refusal is raised before the call: nothing was spent and nothing stays held.

    Refusal
    ├── Malformed              400  malformed
    ├── UnsupportedField       400  unsupported_field
    ├── InvalidTenant          400  invalid_tenant
    ├── Unauthenticated        401  unauthenticated
    ├── RequestTooExpensive    402  request_too_expensive  above the tenant's cap for one request
    ├── ModelNotAllowed        403  model_not_allowed
    ├── UnknownTenant          403  unknown_tenant     nobody has created it
    ├── TenantClosed           403  tenant_closed      disabled or deleted
    ├── KeyMismatch            403  key_mismatch       a tenant's key, and another tenant or feature in a header
    ├── NotFound               404  not_found
    ├── MethodNotAllowed       405  method_not_allowed
    ├── Conflict               409  conflict           as the tenant is now, it cannot be done
    ├── StaleVersion           412  stale_version      somebody else was faster
    ├── BodyTooLarge           413  body_too_large
    ├── ModelNotPriced         422  model_not_priced
    ├── BudgetExhausted        429  budget_exhausted   the window is spent: do not repeat
    ├── BudgetHeld             429  budget_held        calls in flight hold it: repeat after Retry-After
    ├── TooManyInFlight        429  too_many_in_flight  as many calls are in flight as the tenant may have
    ├── StoreUnavailable       503  store_unavailable  fail closed: without the ledger nothing is admitted
    └── CatalogueUnavailable   502  catalogue_unavailable  upstream gave no prices, so nothing can be quoted

After the call began nothing is raised: money may have moved, and the outcome is a value (settlement.py).
A decision of ours is never a 5xx, since some SDKs repeat those for an hour; the two 5xx are outages.
"""

from collections.abc import Mapping
from typing import ClassVar

Fact = str | int | float | bool | None | list[dict[str, "Fact"]]


class Refusal(Exception):
    """A request that is not passed on; `message` is for people, `reason` and `facts` are for programs."""

    status: ClassVar[int]
    reason: ClassVar[str]
    type: ClassVar[str] = "invalid_request_error"

    def __init__(
        self, message: str, *, facts: Mapping[str, Fact] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.facts = dict(facts or {})
        self.headers = dict(headers or {})


class Malformed(Refusal):
    """The request is not what the chat API takes."""

    status = 400
    reason = "malformed"


class UnsupportedField(Refusal):
    """A field that changes the price in a way that Farebox cannot bound."""

    status = 400
    reason = "unsupported_field"


class InvalidTenant(Refusal):
    """A tenant or feature name that cannot be one."""

    status = 400
    reason = "invalid_tenant"


class Unauthenticated(Refusal):
    """No key, or not a key of this gateway."""

    status = 401
    reason = "unauthenticated"
    type = "authentication_error"


class RequestTooExpensive(Refusal):
    """The smallest useful answer can cost more than the tenant allows for one request."""

    status = 402
    reason = "request_too_expensive"
    type = "insufficient_quota"


class ModelNotAllowed(Refusal):
    """The tenant's lists of models leave this one out."""

    status = 403
    reason = "model_not_allowed"
    type = "permission_error"


class UnknownTenant(Refusal):
    """A tenant that nobody has created, where they are not created by their first call."""

    status = 403
    reason = "unknown_tenant"
    type = "permission_error"


class TenantClosed(Refusal):
    """A tenant that was disabled or deleted."""

    status = 403
    reason = "tenant_closed"
    type = "permission_error"


class KeyMismatch(Refusal):
    """The key is another tenant's than the header names, or for another feature."""

    status = 403
    reason = "key_mismatch"
    type = "permission_error"


class NotFound(Refusal):
    """No such path, tenant or key."""

    status = 404
    reason = "not_found"


class MethodNotAllowed(Refusal):
    """The path exists, but not for this method."""

    status = 405
    reason = "method_not_allowed"


class Conflict(Refusal):
    """A change that does not go together with what the tenant is."""

    status = 409
    reason = "conflict"


class StaleVersion(Refusal):
    """A change of a version that is not the tenant's any more."""

    status = 412
    reason = "stale_version"


class BodyTooLarge(Refusal):
    """The body is above what Lambda, or the admin's side, takes."""

    status = 413
    reason = "body_too_large"


class ModelNotPriced(Refusal):
    """No price is known for the model, so no bound can be held for it."""

    status = 422
    reason = "model_not_priced"


class BudgetExhausted(Refusal):
    """What is left of a window, with nothing held, does not pay for the smallest useful answer."""

    status = 429
    reason = "budget_exhausted"
    type = "insufficient_quota"


class BudgetHeld(Refusal):
    """Enough is left, but calls in flight hold it."""

    status = 429
    reason = "budget_held"
    type = "rate_limit_error"


class TooManyInFlight(Refusal):
    """The tenant has as many calls in flight as it may have."""

    status = 429
    reason = "too_many_in_flight"
    type = "rate_limit_error"


class StoreUnavailable(Refusal):
    """The ledger cannot be reached or does not answer in time."""

    status = 503
    reason = "store_unavailable"
    type = "api_error"


class CatalogueUnavailable(Refusal):
    """Upstream did not tell its prices."""

    status = 502
    reason = "catalogue_unavailable"
    type = "api_error"
