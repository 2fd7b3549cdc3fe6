"""What clients ask for, what tenants may spend, and what models cost: drawn at random."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from farebox.keys import SECRET_LENGTH, ApiKey, digest
from farebox.ledger import Limits
from farebox.rules import Rules, rules_of
from farebox.tenants import Tenant
from local.catalogue import Endpoint, Model, catalogue

from .weather import ZONES

MODELS = catalogue()
ALWAYS = ("sim/ok", "sim/cent")
OTHERS = (
    "sim/stop-billing", "sim/usage-missing", "sim/cost-null", "sim/cut", "sim/cut-early", "sim/role-then-cut",
    "sim/silent", "sim/slow", "sim/refuse", "sim/not-json", "sim/524-html", "sim/504", "sim/408", "sim/429",
    "sim/402-in-flight", "sim/404-no-endpoints", "sim/500", "sim/502", "sim/flaky", "sim/error-200",
    "sim/first-event-429", "sim/comments-then-error", "sim/empty-stream", "sim/error-mid-stream",
    "sim/error-with-usage", "sim/finish-error", "sim/pad", "sim/comment-in-body", "sim/no-done", "sim/byok",
    "sim/free:free", "sim/dear-provider", "sim/cache-write", "sim/reasoning", "sim/tiny-overshoot",
    "sim/no-max-output", "sim/usage-null-finish",
)  # fmt: skip
SECRET = "s" * SECRET_LENGTH
KEY = ApiKey("k1", digest(SECRET), "the tenant's own", created_at=0)
OFTEN = 5
"""So many of the others are in a world."""
BILLED_FAILURES = ("sim/504", "sim/524-html")
"""Not beside other models in one request: upstream tells the cost of the one that answers, and bills both."""


@dataclass(frozen=True, slots=True)
class Order:
    """A call that a client makes. It leaves after so many chunks, None: it stays to the end."""

    tenant: str
    body: bytes
    leaves_after: int | None
    pause_s: float
    with_key: bool
    """With the tenant's own API key, not with the gateway's."""


def some_models(chance: random.Random) -> list[str]:
    """Those of one world."""
    return sorted({*ALWAYS, *chance.sample(OTHERS, OFTEN)})


def order(chance: random.Random, tenants: Sequence[str], models: Sequence[str], favourite: str | None) -> Order:
    """A call, mostly of the favourite model if there is one."""
    is_favourite = favourite is not None and chance.random() < 0.8
    body: dict[str, Any] = {
        "model": favourite if is_favourite else chance.choice((*ALWAYS, *models)),
        "messages": [{"role": "user", "content": "x" * chance.choice((3, 40, 900))}],
        "stream": chance.random() < 0.6,
    }
    if chance.random() < 0.6:
        # With one token half an answer is none, which the simulator bills, against OpenRouter's own rule.
        body["max_tokens"] = chance.choice((2, 20, 300, 5000))
    if body["model"] not in BILLED_FAILURES and chance.random() < 0.1:
        body["models"] = [name for name in chance.sample(models, 2) if name not in BILLED_FAILURES]
    leaves_after = chance.randrange(8) if chance.random() < 0.3 else None
    return Order(
        chance.choice(tenants),
        json.dumps(body).encode(),
        leaves_after,
        10 ** chance.uniform(-1, 1.9),
        chance.random() < 0.5,
    )


def changed(chance: random.Random, tenant: Tenant, models: Sequence[str]) -> Tenant:
    """With other limits and rules, and another cap of its key or none, of the next version."""
    rules = rules_of(
        {
            "in_flight": chance.choice((1, 4, 200, 200, 200)),
            "fallback": chance.sample(models, chance.choice((0, 2, 4))),
            "downgrade": [{"from": ["sim/cent"], "to": "sim/ok"}] if chance.random() < 0.3 else [],
            "per_request": chance.choice((None, None, Decimal("0.01"))),
        },
        Rules(),
    )
    day = int(10 ** chance.uniform(5.5, 10))
    month = int(day * chance.choice((0.7, 1, 3)))
    zone = chance.choice(ZONES) if chance.random() < 0.1 else tenant.time_zone
    cap = int(day * chance.choice((0.1, 0.7, 2))) if chance.random() < 0.6 else None
    key = replace(KEY, month_nanousd=cap, revoked_at=0 if chance.random() < 0.1 else None)
    limits = Limits(day, month, tenant.limits.version + 1, rules.in_flight)
    return Tenant(tenant.name, limits, zone, rules, keys={key.id: key})


def repriced(model: Model, times: Decimal) -> Model:
    """The same model at another price."""
    return replace(model, endpoints=tuple(_repriced(endpoint, times) for endpoint in model.endpoints))


def _repriced(endpoint: Endpoint, times: Decimal) -> Endpoint:
    pricing = {
        name: f"{Decimal(price) * times:f}" if isinstance(price, str) else price
        for name, price in endpoint.pricing.items()
    }
    return replace(endpoint, pricing=pricing)
