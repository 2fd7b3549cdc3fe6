"""A model's circuit as it stands in the table, and as this environment knows it."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.circuit_breaker import CircuitInfo, CircuitState
from botocore.exceptions import BotoCoreError, ClientError

from .aws import Item, from_dynamodb, to_dynamodb

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

OnChange = Callable[[Mapping[str, Any]], None]

BREAKER = "BREAKER"
FAILURES = 3
PROBES = 2
RECOVERY_S = 60
TTL_S = 3600
"""A model that nobody asks for is forgotten: so long after it could have been probed."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all circuits of an environment share."""

    client: "DynamoDBClient"
    table: str
    on_change: OnChange
    max_age_s: float
    now: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Record:
    """A circuit as it stands in the table, in Powertools' words."""

    state: CircuitState
    opened_at: int = 0
    half_open_owner: str = ""
    """The probe that is under way: a new name for each, so that a write whose answer was lost is recognized."""
    probe_lease_expiry: int = 0

    def to_circuit_info(self) -> CircuitInfo:
        """For Powertools."""
        return CircuitInfo(BREAKER, self.state, FAILURES, self.opened_at)


CLOSED = Record(CircuitState.CLOSED)


class Circuit:
    """A circuit as it was read or written last. One thread at a time: no reading is learned after a later write."""

    def __init__(self, parts: Parts, model: str) -> None:
        self._parts = parts
        self._model = model
        self._key = {"pk": BREAKER, "sk": model}
        self._lock = threading.Lock()
        self._known_until = 0.0
        self.known = CLOSED

    def read(self) -> Record:
        """From memory, or from the table when that is too old."""
        with self._lock:
            if self._known_until <= self._parts.now():
                self._learn(self._get())
            return self.known

    def put(self, record: Record, condition: str, values: Item) -> bool:
        """Whether the circuit stands like this now; True also when the store does not answer."""
        with self._lock:
            before = self.known.state
            stands = self._put_if(condition, values, record)
            self._learn(stands)
        if stands == record and before is not record.state:
            self._parts.on_change({"model": self._model, "from": str(before), "to": str(record.state)})
        return stands in (record, None)

    def _learn(self, record: Record | None) -> None:
        """That the store does not answer is kept as well: it is not asked at every call."""
        self.known = record or CLOSED
        self._known_until = self._parts.now() + self._parts.max_age_s

    def _get(self) -> Record | None:
        """None when the store does not answer."""
        key = to_dynamodb(self._key)
        try:
            answer = self._parts.client.get_item(TableName=self._parts.table, Key=key, ConsistentRead=False)
        except (BotoCoreError, ClientError):
            return None
        return _record(answer.get("Item", {}))

    def _put_if(self, condition: str, values: Item, record: Record) -> Record | None:
        """What stands then: the record, or what was there instead; None when the store does not answer."""
        ttl = int(self._parts.now()) + RECOVERY_S + TTL_S
        try:
            self._parts.client.put_item(
                TableName=self._parts.table,
                Item=to_dynamodb({**self._key, **asdict(record), "state": str(record.state), "ttl": ttl}),
                ConditionExpression=condition,
                ExpressionAttributeNames={"#state": "state"},
                ExpressionAttributeValues=to_dynamodb(values),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as e:
            old: Any = e.response.get("Item", {})
            return _record(old) if e.response["Error"]["Code"] == "ConditionalCheckFailedException" else None
        except BotoCoreError:
            return None
        return record


def _record(item: Mapping[str, Any]) -> Record:
    """No item: nothing has gone wrong lately."""
    if not item:
        return CLOSED
    read = from_dynamodb(item)
    names = ("opened_at", "half_open_owner", "probe_lease_expiry")
    return Record(CircuitState(read["state"]), *(read[name] for name in names))
