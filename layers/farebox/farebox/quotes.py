"""POST /api/v1/quote: what a chat request would come to now, and why; nothing is called, and nothing is held."""

from collections.abc import Iterable
from typing import Any

from .admission import Caller, foreseen, refusal
from .candidates import Candidate, Dropped, cheaper, fallbacks
from .chat import ChatRequest
from .course import Plan
from .errors import Refusal
from .gate import Gate
from .ledger import Ledger, No
from .money import floor, usd_number
from .offers import Offer, Shortfall
from .pricing import Quote
from .proxy import planned
from .settlement import CIRCUIT_OPEN
from .usage import windows_of


def quote(gate: Gate, caller: Caller, request: ChatRequest) -> dict[str, Any]:
    """As JSON has it; amounts are US dollars, rates US dollars a million tokens. Raises what a call would raise before
    it looks at the budget."""
    plan = planned(gate, caller, request)
    tenant, windows = plan.call.tenant, plan.call.windows
    ledger = gate.store.ledger(tenant.name, windows.month)
    if ledger.is_ahead_of(tenant.limits):
        gate.desk.directory.forget(tenant.name)
        plan = planned(gate, caller, request)
        tenant, windows = plan.call.tenant, plan.call.windows
    instead = list(cheaper(request, plan.asked, tenant.rules, gate.catalogue.model))
    behind = list(fallbacks(request, plan.asked, tenant.rules, gate.catalogue.model))
    is_open = {
        found.name
        for found in (plan.asked, *instead, *behind)
        if isinstance(found, Candidate) and gate.breakers.wait_s(found.circuit) > 0
    }
    asked = plan.asked if plan.asked.name not in is_open else _first(behind, is_open)
    offered: Offer | Shortfall | No | None = None
    if asked is not None:
        is_first = asked is plan.asked
        usable = [found for found in instead if isinstance(found, Candidate) and found.name not in is_open]
        offered = foreseen(
            plan.call,
            asked,
            usable if is_first else [],
            ledger,
            gate.desk.thrift,
            has_cheaper=is_first and plan.has_cheaper,
        )
    return {
        "tenant": tenant.name,
        "feature": caller.feature,
        **_outcome(plan, offered, ledger),
        "candidates": [
            _entry("asked", plan.asked, is_open),
            *(_entry("downgrade", found, is_open) for found in instead),
            *(_entry("fallback", found, is_open) for found in behind),
        ],
        **windows_of(tenant, windows, ledger),
    }


def _first(behind: Iterable[Candidate | Dropped], is_open: set[str]) -> Candidate | None:
    return next((found for found in behind if isinstance(found, Candidate) and found.name not in is_open), None)


def _outcome(plan: Plan, offered: Offer | Shortfall | No | None, ledger: Ledger) -> dict[str, Any]:
    if offered is None:
        return {"outcome": "refused", "reason": CIRCUIT_OPEN, "message": "no model may be asked now; see candidates"}
    if not isinstance(offered, Offer):
        refused = refusal(plan.call, offered, ledger)
        return {"outcome": "refused", **_why(refused), "metadata": refused.facts}
    quoted = offered.quote
    if offered.downgraded_from is not None:
        outcome = "downgraded"
    elif offered.candidate is not plan.asked:
        outcome = "fallback"
    else:
        outcome = "clamped" if quoted.is_clamped else "as_asked"
    return {
        "outcome": outcome,
        "model": offered.candidate.name,
        "max_tokens": quoted.output_tokens,
        "hold_usd": usd_number(quoted.amount_nanousd),
    }


def _entry(role: str, found: Candidate | Dropped, is_open: set[str]) -> dict[str, Any]:
    if isinstance(found, Dropped):
        return {"model": found.name, "role": role, "kept": False, **_why(found.refusal)}
    return {
        "model": found.name,
        "role": role,
        **({"kept": False, "reason": CIRCUIT_OPEN} if found.name in is_open else {"kept": True}),
        **({"models": list(found.models)} if len(found.models) > 1 else {}),
        **_bound(found.quote),
    }


def _why(refused: Refusal) -> dict[str, Any]:
    return {"reason": refused.reason, "message": refused.message}


def _bound(quoted: Quote) -> dict[str, Any]:
    """The bound as asked, and what it is made of: prompt and output tokens at these rates, and fees."""
    rates = quoted.rates
    return {
        "bound_usd": usd_number(quoted.amount_nanousd),
        "prompt_tokens_max": quoted.prompt_tokens,
        "output_tokens_max": quoted.output_tokens,
        "prompt_usd": usd_number(floor(quoted.prompt_nanousd)),
        "rates_usd_per_million": {
            name: float(getattr(rates, name).scaleb(-3))
            for name in ("prompt", "completion", "cache_write", "cache_write_long", "media")
        },
        "fees_usd": {
            name: float(getattr(rates, name).scaleb(-9)) for name in ("request", "image") if getattr(rates, name)
        }
        | ({"learnt": usd_number(quoted.learnt_nanousd)} if quoted.learnt_nanousd else {}),
        "max_price": {name: float(cap) for name, cap in quoted.max_price.items()},
    }
