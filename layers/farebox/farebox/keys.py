"""API keys of tenants: what they look like, and when one is good.

    fb-<tenant>.<id>.<secret>        fb-acme.k3v9q2mwxd.9fU0...  (43 characters: 256 random bits)

The tenant stands in the key, so that one read of the tenant's configuration has its limits, its rules and all its keys.
Only the SHA-256 of the secret is kept; a secret of 256 bits needs no slower hash.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_KEYS = 100
"""Of a tenant, with those that are good no more: they stand in one item that is read at a cold start."""
ID_LENGTH = 10
SECRET_LENGTH = 43
_KEY = re.compile(
    rf"fb-(?P<tenant>[A-Za-z0-9._-]{{1,64}})\.(?P<id>[a-z0-9]{{1,16}})\.(?P<secret>[A-Za-z0-9_-]{{{SECRET_LENGTH}}})"
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept; times in epoch seconds.

    `month_nanousd` is the most that may be spent with it in a month, `feature` what its calls are booked under. A key
    in the place of another goes on where that one's spending was: it counts as the first one.
    """

    id: str
    digest: str
    name: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    month_nanousd: int | None = None
    feature: str | None = None
    counts_as: str | None = None

    @property
    def counter(self) -> str:
        """Under which id its spending is counted."""
        return self.counts_as or self.id

    def is_good(self, now: int) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def has(self, secret: str) -> bool:
        """Whether this is its secret, in constant time."""
        return hmac.compare_digest(self.digest, digest(secret))

    def item(self) -> dict[str, Any]:
        """For the table; the id is the name that it stands under."""
        fields = {name: getattr(self, name) for name in _KEPT}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def of(cls, id_: str, item: Mapping[str, Any]) -> "ApiKey":
        """From the table. Raises KeyError."""
        return cls(id_, item["digest"], item["name"], item["created_at"], **{n: item.get(n) for n in _OPTIONAL})


_OPTIONAL = ("expires_at", "revoked_at", "month_nanousd", "feature", "counts_as")
_KEPT = ("digest", "name", "created_at", *_OPTIONAL)


@dataclass(frozen=True, slots=True)
class Presented:
    """A key as a client sends it."""

    tenant: str
    id: str
    secret: str


def presented(text: str) -> Presented | None:
    """The parts of a key; None where it is not one of a tenant."""
    found = _KEY.fullmatch(text)
    return None if found is None else Presented(**found.groupdict())


def shown(tenant: str, id_: str) -> str:
    """What tells a key from others, without its secret."""
    return f"fb-{tenant}.{id_}"


def written(tenant: str, id_: str, secret: str) -> str:
    """The whole key, for its owner, once."""
    return f"{shown(tenant, id_)}.{secret}"


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
