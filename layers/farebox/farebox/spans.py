"""Cost spans: one record an attempt, written before its hold ends; and reminders of those whose cost is not known yet.

A crash between the two leaves a hold whose span tells what it truly cost. Spans are spread over shards by hour, so that
no partition takes more than its share of writes, and a scheduled run can read them in order.
"""

from collections.abc import Mapping
from typing import Any

from .admission import Admission
from .hours import hour_of
from .ledger import Hold
from .reminders import Reminder, kept_until
from .settlement import Settlement

SHARDS = 4


def key(hold: Hold) -> tuple[str, str]:
    """Partition and sort key; both are known as soon as the hold is."""
    return partition(hour_of(hold.admitted_at), sum(hold.id.encode()) % SHARDS), hold.id


def partition(hour: str, shard: int) -> str:
    """One of the partitions with the spans of an hour in UTC."""
    return f"SPANS#{hour}#{shard}"


def hour_in(pk: str) -> str:
    """The hour of a partition."""
    return pk.split("#")[1]


def span(admission: Admission, settlement: Settlement, *, latency_ms: int) -> dict[str, Any]:
    """What the attempt was and what it cost. `cost_nanousd` is absent while the cost is not known."""
    call, hold, receipt = admission.call, admission.hold, settlement.receipt
    fields: Mapping[str, Any] = {
        "tenant": call.tenant.name,
        "feature": call.caller.feature,
        "key": call.caller.key,
        "month": call.windows.month,
        "day": hold.day,
        "admitted_at": hold.admitted_at,
        "request_id": call.caller.request_id,
        "call": call.id,
        "attempt": admission.attempt,
        "model_asked": call.model_asked,
        "downgraded_from": admission.downgraded_from,
        "model": receipt.model or hold.model,
        "provider": receipt.provider,
        "generation_id": receipt.generation_id,
        "outcome": settlement.outcome.value,
        "cause": settlement.cause,
        "status": settlement.status,
        "hold_nanousd": hold.amount_nanousd,
        "cost_nanousd": settlement.cost_nanousd,
        "is_byok": receipt.is_byok or None,
        "streamed": call.streamed,
        "latency_ms": latency_ms,
        "ttl": kept_until(hold.admitted_at),
        **{f"{kind}_tokens": count for kind, count in receipt.tokens.items()},
    }
    return {name: value for name, value in fields.items() if value is not None}


def reminder(admission: Admission, settlement: Settlement) -> Reminder:
    """Of a lost call: to be found again without reading all spans."""
    return Reminder(
        span_pk=key(admission.hold)[0],
        tenant=admission.call.tenant.name,
        feature=admission.call.caller.feature,
        month=admission.call.windows.month,
        hold=admission.hold,
        generation_id=settlement.receipt.generation_id,
        cost_nanousd=settlement.cost_nanousd,
    )
