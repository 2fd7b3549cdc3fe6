"""A client to the table over a line with faults. It repeats a request as botocore does: three tries, then no more."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError

from .memory import Answer, Memory, Pages
from .scheduler import Scheduler
from .weather import Weather

TRIES = 3
READ_TIMEOUT_S = 3.0
SIGNED_FOR_S = 300.0
"""An older request AWS refuses: its signature is out of date."""
Note = Callable[[str], None]


class Fault(Enum):
    """What happens to one try of a request."""

    DROPPED = "dropped"
    """The store never sees it."""
    LOST = "answer lost"
    """The store does it, and nobody hears of that."""
    TWICE = "twice"
    """The store gets it twice; the answer is that of the second."""
    LATE = "a copy later"
    """The store gets it when nobody waits any more, and the call may be long over; a newer one than this as well."""
    THROTTLED = "throttled"
    FAILED = "500"


UNDONE = (Fault.DROPPED, Fault.THROTTLED, Fault.FAILED)
UNANSWERED = (*UNDONE, Fault.LOST, Fault.LATE)
SILENT = (Fault.DROPPED, Fault.LOST, Fault.LATE)
ERRORS = {Fault.THROTTLED: "ProvisionedThroughputExceededException", Fault.FAILED: "InternalServerError"}
FAULTS = (Fault.DROPPED, Fault.LOST, Fault.LOST, Fault.TWICE, Fault.TWICE, Fault.LATE, Fault.THROTTLED, Fault.FAILED)


@dataclass(frozen=True, slots=True)
class Copy:
    """A request on its way: when it arrives, and until when it is believed."""

    at_s: float
    until_s: float
    operation: str
    request: Mapping[str, Any]


class Line:
    """Between the actors and the table.

    `late` has copies that are still on their way, `heard` what the table was asked and said, where that is wanted.
    """

    def __init__(
        self,
        memory: Memory,
        scheduler: Scheduler,
        chance: random.Random,
        weather: Weather,
        note: Note,
        asks: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        self._memory = memory
        self._asks = asks
        self._scheduler = scheduler
        self._chance = chance
        self._note = note
        self.heard: list[tuple[str, Mapping[str, Any], Answer | ClientError]] | None = None
        self.weather = weather
        self.late: list[Copy] = []

    def update_item(self, **request: Any) -> Answer:
        self._asks(request)
        return self._sent("update_item", request)

    def put_item(self, **request: Any) -> Answer:
        return self._sent("put_item", request)

    def get_item(self, **request: Any) -> Answer:
        return self._sent("get_item", request)

    def delete_item(self, **request: Any) -> Answer:
        return self._sent("delete_item", request)

    def batch_get_item(self, **request: Any) -> Answer:
        return self._sent("batch_get_item", request)

    def get_paginator(self, operation: str) -> Pages:
        return Pages(lambda request: self._sent(operation, request))

    def deliver(self) -> None:
        """Late copies arrive whose time has come; what is signed too long ago is refused."""
        now_s = self._scheduler.now_s
        for copy in [copy for copy in self.late if copy.at_s <= now_s]:
            self.late.remove(copy)
            if now_s <= copy.until_s:
                self._note(f"late copy: {_name(copy.operation, copy.request)}")
                self._outcome(copy.operation, copy.request)

    def _sent(self, operation: str, request: Mapping[str, Any]) -> Answer:
        fault, is_out = None, self._draws(self.weather.outage)
        for number in range(TRIES):
            if number:
                self._scheduler.sleep(self._chance.random())
            fault = self._chance.choice(UNANSWERED) if is_out else self._fault()
            self._note(_name(operation, request) + ("" if fault is None else f" - {fault.value}"))
            self._step()
            outcome = self._tried(operation, request, fault)
            self._step()
            said: Any = {"ResponseMetadata": {"RetryAttempts": number}}
            if isinstance(outcome, ClientError):
                outcome.response.update(said)
                raise outcome
            if outcome is not None:
                return {**outcome, **said}
            if fault in SILENT:
                self._scheduler.sleep(READ_TIMEOUT_S)
        self._note("given up")
        if fault in ERRORS:
            raise ClientError({"Error": {"Code": ERRORS[fault], "Message": ""}}, operation)
        timed_out = ReadTimeoutError if fault in (Fault.LOST, Fault.LATE) else ConnectTimeoutError
        raise timed_out(endpoint_url="http://store")

    def _tried(self, operation: str, request: Mapping[str, Any], fault: Fault | None) -> Answer | ClientError | None:
        """What is heard of one try, None for nothing."""
        if fault in UNDONE:
            return None
        if fault is Fault.TWICE:
            self._outcome(operation, request)
        outcome = self._outcome(operation, request)
        if fault is Fault.LATE:
            now_s, takes_s = self._scheduler.now_s, 10 ** self._chance.uniform(0, 2.5)
            self.late.append(Copy(now_s + takes_s, now_s + SIGNED_FOR_S, operation, request))
            return None
        return None if fault is Fault.LOST else outcome

    def _outcome(self, operation: str, request: Mapping[str, Any]) -> Answer | ClientError:
        if operation == "get_item" and not request.get("ConsistentRead") and self._draws(self.weather.stale):
            return self._memory.stale_item(**request)
        try:
            outcome: Answer | ClientError = self._memory.do(operation, request)
        except ClientError as e:
            outcome = e
        if self.heard is not None:
            self.heard.append((operation, request, outcome))
        return outcome

    def _step(self) -> None:
        """Others come in between, and the process may die."""
        self._scheduler.step()
        if self._draws(self.weather.crash):
            self._note("crash")
            self._scheduler.kill()

    def _fault(self) -> Fault | None:
        return self._chance.choice(FAULTS) if self._draws(self.weather.store) else None

    def _draws(self, often: float) -> bool:
        return often > 0 and self._chance.random() < often


def _name(operation: str, request: Mapping[str, Any]) -> str:
    """For people who read a trace."""
    if operation == "query":
        return f"query {request['ExpressionAttributeValues']}"
    if operation == "batch_get_item":
        return f"batch_get_item {request['RequestItems']}"
    key = request.get("Key") or request["Item"]
    what = request.get("UpdateExpression", "").partition(" ADD ")[0]
    names = request.get("ExpressionAttributeNames", {})
    named = {name: names[name] for name in ("#hold", "#old", "#new") if name in names}
    return " ".join((operation, key["pk"]["S"], key["sk"]["S"], what, str(named or "")))
