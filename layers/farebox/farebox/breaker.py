"""One circuit per model, shared by all environments through one item of the table: a model that is down costs one call
a minute, and not every call.

    from        to          when                                                   who
    closed      open        3 failures in a row                                    the environment that counted them
    open        half open   60 s later, at a call                                  the first that is there: it probes
    half open   half open   the prober's next call; 60 s without it, any call      the prober; anyone
    half open   closed      2 probes in a row succeeded                            the prober
    half open   open        a probe failed                                         the prober

Each is one conditional write. In between nothing is written: Powertools' circuit breaker, whose rules these are, counts
in memory. A store that does not answer knows of no circuit, and calls pass.

Powertools' own DynamoDB layer is not used. Importing it imports boto3 (see aws.py); and a prober is a thread to it, so
that where each connection has a thread of its own nobody makes the second probe, and no circuit closes.
"""

import math
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from aws_lambda_powertools.utilities.circuit_breaker import (
    CircuitBreakerConfig,
    CircuitInfo,
    CircuitState,
    circuit_breaker,
)

# The name by which a thread probes. Private, but without it no thread can go on where another one has probed before.
from aws_lambda_powertools.utilities.circuit_breaker.base import _probe_owner_id

from .aws import Item
from .circuits import CLOSED, FAILURES, PROBES, RECOVERY_S, Circuit, OnChange, Parts, Record

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.circuit_breaker.persistence import CircuitBreakerPersistenceLayer
    from mypy_boto3_dynamodb import DynamoDBClient

T = TypeVar("T")

MAX_AGE_S = 15
"""So long a circuit is believed to be as it was read."""
MAX_COOL_S = 60


class CircuitOpen(Exception):
    """The model was not asked: it is known to be down, or has asked for a pause."""

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = max(1, math.ceil(retry_after_s))
        super().__init__(f"the circuit is open for {self.retry_after_s} s")


class Breakers:
    """The circuits of all models, as one environment knows them. Safe to share between threads."""

    def __init__(
        self,
        client: "DynamoDBClient",
        table: str,
        on_change: OnChange,
        *,
        max_age_s: float = MAX_AGE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`on_change` gets model, from and to of each change that this environment has written."""
        self._parts = Parts(client, table, on_change, max_age_s, now)
        self._circuits: dict[str, _Guard] = {}
        self._cool_until: dict[str, float] = {}

    def call(self, model: str, attempt: Callable[[], T], failed: Callable[[T], bool | None]) -> T:
        """What the attempt returns, counted as failed or not; None counts as neither, until `report`.

        Raises CircuitOpen without an attempt. What the attempt raises passes through and counts as neither.
        """
        if (cooling_s := self._cooling_s(model)) > 0:
            raise CircuitOpen(cooling_s)
        return self._circuit(model).call(attempt, failed)

    def report(self, model: str, *, failed: bool) -> None:
        """The verdict on this thread's call that was undecided."""
        self._circuit(model).report(failed=failed)

    def wait_s(self, model: str) -> int:
        """Whole seconds until `call` would make an attempt, as far as is known; 0 when it would now."""
        cooling_s = self._cooling_s(model)
        return max(0, math.ceil(cooling_s if cooling_s > 0 else self._circuit(model).open_s()))

    def cool(self, model: str, seconds: int) -> None:
        """Do not ask this model before, in this environment: upstream has said Retry-After."""
        until = self._parts.now() + min(seconds, MAX_COOL_S)
        self._cool_until[model] = max(until, self._cool_until.get(model, until))

    def _cooling_s(self, model: str) -> float:
        return self._cool_until.get(model, 0) - self._parts.now()

    def _circuit(self, model: str) -> "_Guard":
        return self._circuits.get(model) or self._circuits.setdefault(model, _Guard(self._parts, model))


class _Verdict(Exception):
    """How a call becomes an exception, by which Powertools counts."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class _Failed(_Verdict):
    pass


class _Undecided(_Verdict):
    pass


_RULES = CircuitBreakerConfig(FAILURES, RECOVERY_S, PROBES, handled_exceptions=_Failed)


class _Guard:
    """One model's circuit: its item is Powertools' persistence layer, and one of our threads at a time may probe."""

    def __init__(self, parts: Parts, model: str) -> None:
        self._now = parts.now
        self._item = Circuit(parts, model)
        self._probe = ""
        self._lock = threading.Lock()
        self._turn: tuple[int, float] = (0, 0.0)
        # Powertools counts by name in the whole process, which may have other tables.
        self._guarded = circuit_breaker(
            f"{model} {secrets.token_hex(8)}",
            cast("CircuitBreakerPersistenceLayer", self),
            on_circuit_open=self._refuse,
            config=_RULES,
        )(_judged)

    def call(self, attempt: Callable[[], T], failed: Callable[[T], bool | None]) -> T:
        """Through Powertools' rules. A probe that is undecided keeps its turn."""
        keeps_turn = False
        try:
            result: T = self._guarded(attempt, failed)
        except _Verdict as e:
            keeps_turn = isinstance(e, _Undecided)
            result = e.result
        finally:
            if not keeps_turn:
                self._end_turn()
        return result

    def report(self, *, failed: bool) -> None:
        """Counts in a closed circuit, and for this thread's probe; what is said of older calls is out of date."""
        if self._item.read().state is CircuitState.CLOSED or self._has_turn():
            with suppress(CircuitOpen):
                self.call(lambda: failed, bool)

    def open_s(self) -> float:
        """Seconds until this environment may make a call, at the latest; 0 or less when it may now."""
        record = self._item.read()
        if record.state is CircuitState.OPEN:
            return record.opened_at + RECOVERY_S - self._now()
        if record.state is CircuitState.HALF_OPEN and not (self._is_ours(record) and self._may_take_turn()):
            return record.probe_lease_expiry - self._now()
        return 0

    # What Powertools asks of a persistence layer. Names are for layers with many circuits, owners are threads.

    def configure(self, config: CircuitBreakerConfig, circuit_name: str) -> None:
        """Nothing that is not known here."""

    def get_state(self, _name: str) -> Record:
        """As it was read. The next probe of this environment is written down before it is made."""
        record = self._item.read()
        if record.state is not CircuitState.HALF_OPEN or not self._is_ours(record) or not self._take_turn():
            return record
        is_elected = self._elect(record.opened_at, _IS_OURS, {":half_open": "HALF_OPEN", ":probe": self._probe})
        return replace(self._item.known, half_open_owner=_probe_owner_id() if is_elected else "")

    def try_acquire_half_open(self, _name: str, _owner: str, opened_at: int) -> bool:
        """Become the one that probes, of all threads of all environments."""
        values = {":open": "OPEN", ":opened_at": opened_at, ":half_open": "HALF_OPEN", ":now": int(self._now())}
        return self._take_turn() and self._elect(opened_at, f"{_IS_DUE} OR {_IS_ABANDONED}", values)

    def save_open(self, _name: str, *, failure_count: int, opened_at: int) -> None:  # noqa: ARG002  it is FAILURES
        """Enough failures."""
        self._item.put(Record(CircuitState.OPEN, opened_at), _IS_CLOSED, {":closed": "CLOSED"})

    def save_reopen(self, _name: str, *, opened_at: int) -> None:
        """The probe failed."""
        self._end_probe(Record(CircuitState.OPEN, opened_at))

    def save_closed(self, _name: str) -> None:
        """Enough probes succeeded."""
        self._end_probe(CLOSED)

    def _elect(self, opened_at: int, condition: str, values: Item) -> bool:
        probe = secrets.token_hex(8)
        lease = int(self._now()) + RECOVERY_S
        if not self._item.put(Record(CircuitState.HALF_OPEN, opened_at, probe, lease), condition, values):
            return False
        self._probe = probe
        return True

    def _end_probe(self, record: Record) -> None:
        self._item.put(record, _IS_OURS, {":half_open": "HALF_OPEN", ":probe": self._probe})

    def _is_ours(self, record: Record) -> bool:
        return record.half_open_owner == self._probe

    def _refuse(self, *_: Any, circuit: CircuitInfo) -> NoReturn:  # noqa: ARG002  Powertools gives it
        raise CircuitOpen(self.open_s())

    # The turn of a thread. It lasts as long as the lease of a probe.

    def _take_turn(self) -> bool:
        with self._lock:
            may = self._may_take_turn()
            if may:
                self._turn = (threading.get_ident(), self._now() + RECOVERY_S)
            return may

    def _end_turn(self) -> None:
        with self._lock:
            if self._turn[0] == threading.get_ident():
                self._turn = (0, 0.0)

    def _may_take_turn(self) -> bool:
        thread, until = self._turn
        return thread == threading.get_ident() or until <= self._now()

    def _has_turn(self) -> bool:
        thread, until = self._turn
        return thread == threading.get_ident() and until > self._now()


def _judged(attempt: Callable[[], T], failed: Callable[[T], bool | None]) -> T:
    """The protected call."""
    result = attempt()
    verdict = failed(result)
    if verdict is None:
        raise _Undecided(result)
    if verdict:
        raise _Failed(result)
    return result


# Nobody has opened it before us: a call that took minutes to fail must not begin the 60 seconds anew.
_IS_CLOSED = "(attribute_not_exists(#state) OR #state = :closed)"
# It is as we saw it: a probe that failed meanwhile has opened it anew.
_IS_DUE = "(#state = :open AND opened_at = :opened_at)"
# The prober is gone, or takes so long that its word is not waited for.
_IS_ABANDONED = "(#state = :half_open AND probe_lease_expiry <= :now)"
# Nobody has taken our probe over.
_IS_OURS = "(#state = :half_open AND half_open_owner = :probe)"
