"""A line between boto3 and a store, on which requests are counted, lost, repeated and late."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

import httpx

from farebox.circuits import BREAKER
from farebox.store import EVENTS, FEES, LOST, ROLLUP
from local.sockets import Cut, HttpRequest, HttpResponse, Server


class Fault(Enum):
    """What happens to one request on its way."""

    LOST = auto()
    """The store does it; its answer is lost."""
    TWICE = auto()
    """The store gets it twice; the second answer comes back."""
    DROPPED = auto()
    """The connection ends before the store has seen it."""
    LATE = auto()
    """The connection ends, and the store gets the request later: with `Wire.deliver`."""
    SILENT = auto()
    """Nobody answers."""
    THROTTLED = auto()
    """The store has more to do than it was made for."""
    FAILED = auto()
    """The store answers 500."""
    JUNK = auto()
    """200, but it is not the store that answers."""


def name_of(fault: Fault) -> str:
    """For the name of a case."""
    return fault.name.lower()


ANSWERS = {
    Fault.THROTTLED: (400, "application/x-amz-json-1.0", b'{"__type":"#ProvisionedThroughputExceededException"}'),
    Fault.FAILED: (500, "application/x-amz-json-1.0", b'{"__type":"#InternalServerError"}'),
    Fault.JUNK: (200, "text/html", b"<html>Welcome to the hotel's network</html>"),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A request to the store, and the step of a call that it is."""

    operation: str
    body: bytes

    @property
    def step(self) -> str:
        if self.operation == "UpdateItem":
            return self._step_of_update
        if self.operation == "PutItem":
            return PUTS.get(self.key[0].partition("#")[0], "put_span")
        if self.operation == "GetItem":
            return {BREAKER: "breaker", FEES: "fee", "SWEEP": "cursor"}.get(self.key[0], "GetItem")
        if self.operation == "Query" and self.key[0].startswith("LEDGERS#"):
            return "registered"
        return {"DeleteItem": "forget"}.get(self.operation, self.operation)

    @property
    def _step_of_update(self) -> str:
        update = json.loads(self.body)["UpdateExpression"]
        if self.key[0] == LOST:
            return "look_again"
        if self.key[0] == FEES:
            return "learn"
        if self.key[0] == ROLLUP:
            return "claim" if "#by" in update else "move"
        if self.key[0].startswith("SPANS#"):
            return "correct_span" if "estimated_nanousd" in update else "resolve_span"
        return next((step for step, part in PARTS.items() if part in update), "reserve")

    @property
    def key(self) -> tuple[str, str]:
        """Partition and sort key of the item; of a query only the partition's."""
        said = json.loads(self.body)
        key = said.get("Key") or said.get("Item")
        if key is None:
            return said["ExpressionAttributeValues"][":pk"]["S"], ""
        return key["pk"]["S"], key["sk"]["S"]


PARTS = {
    "mark": "#state",
    "note": "#hold.#id",
    "correct": "REMOVE #estimate",
    "swap": "#new",
    "settle": ":change",
    "reserve": ":amount",
    "mark_ended": "SET #hold = :until",
    "unmark": "REMOVE #hold",
}
"""Which step an update of a ledger is, by the first of these that it has."""
PUTS = {
    LOST: "remind",
    EVENTS: "put_event",
    BREAKER: "put_breaker",
    "LEDGERS": "register",
    "SWEEP": "move_cursor",
    ROLLUP: "mark_stale",
    "USAGE": "put_rollup",
}


Plan = Callable[[Seen], Fault | None]


class Wire:
    """Passes requests on to a store, remembers them, and breaks those that the plan says."""

    def __init__(self, store_url: str) -> None:
        self.seen: list[Seen] = []
        self.plan: Plan = no_faults
        self._late: list[HttpRequest] = []
        self._over = threading.Event()
        self._client = httpx.Client(base_url=store_url, timeout=30, limits=httpx.Limits(max_connections=None))
        self._server = Server(self._handle)
        self.url = self._server.url

    @property
    def steps(self) -> list[str]:
        return [seen.step for seen in self.seen]

    @property
    def operations(self) -> list[str]:
        return [seen.operation for seen in self.seen]

    def deliver(self) -> None:
        """Let the store have what was late."""
        while self._late:
            self._forward(self._late.pop())

    def hang_up(self) -> None:
        """From now on connections are refused."""
        self._over.set()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if not self._over.is_set():
            self.hang_up()
        self._client.close()

    def _handle(self, request: HttpRequest) -> HttpResponse:
        seen = Seen((request.header("x-amz-target") or "").rpartition(".")[2], request.body)
        self.seen.append(seen)
        fault = self.plan(seen)
        if fault in ANSWERS:
            status, kind, body = ANSWERS[fault]
            return HttpResponse(status, (("content-type", kind), ("content-length", str(len(body)))), (body,))
        if fault is Fault.SILENT:
            self._over.wait()
        if fault is Fault.LATE:
            self._late.append(request)
        if fault in (Fault.SILENT, Fault.LATE, Fault.DROPPED):
            raise Cut
        if fault is Fault.TWICE:
            self._forward(request)
        response = self._forward(request)
        if fault is Fault.LOST:
            raise Cut
        return response

    def _forward(self, request: HttpRequest) -> HttpResponse:
        own = {"host", "connection", "content-length", "transfer-encoding", "date", "server"}
        headers = [(name, value) for name, value in request.headers if name.lower() not in own]
        answer = self._client.request(request.method, request.target, headers=headers, content=request.body)
        passed = tuple((name, value) for name, value in answer.headers.items() if name.lower() not in own)
        return HttpResponse(
            answer.status_code, (*passed, ("content-length", str(len(answer.content)))), (answer.content,)
        )


def no_faults(_seen: Seen) -> None:
    """Every request arrives, and so does its answer."""


def always(step: str, fault: Fault) -> Plan:
    """Every try of a step."""
    return lambda seen: fault if seen.step == step else None


def first(step: str, *faults: Fault) -> Plan:
    """The first tries of a step."""
    left = iter(faults)
    return lambda seen: next(left, None) if seen.step == step else None
