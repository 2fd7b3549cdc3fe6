"""The way to the simulated OpenRouter: each request and each chunk is a step, on which things go wrong."""

import random
from collections.abc import Callable, Iterator
from enum import Enum

import httpx

from local.answers import Call, Meter
from local.catalogue import Model
from local.simulator import Simulator, transport
from local.sockets import HttpResponse

from .invariants import Auditor
from .scheduler import Scheduler
from .weather import Weather

SLOWEST_S = 120.0
EDGE_PAGE = b"<!DOCTYPE html><title>502 Bad Gateway</title>"


class Fault(Enum):
    """What happens to one request."""

    REFUSED = "no connection"
    UNDONE = "reset before it was read"
    LOST = "done, answer lost"
    LATE = "done when nobody waits any more"
    SLOW = "slow"
    EDGE = "done, an edge's page instead of the answer"
    EDGE_UNDONE = "an edge's page"
    CUT = "answer cut"
    STALLED = "answer stalls"


class OpenRouter(Simulator):
    """Knows for which hold each generation was made."""

    def __init__(self, models: dict[str, Model], ready_s: float, seed: int, road: "Road") -> None:
        super().__init__(
            models=models,
            generation_ready_s=ready_s,
            clock=lambda: road.scheduler.now_s,
            sleep=road.wait,
            randomness=random.Random(seed),  # noqa: S311 - the same ids in every run
        )
        self._road = road

    def _play(self, call: Call, meter: Meter) -> HttpResponse:
        self._road.bills(call.id)
        return super()._play(call, meter)

    def _settle(self, call: Call, sent_tokens: int, cancelled: bool) -> None:  # noqa: FBT001 - a callback
        self._road.bills(call.id)
        super()._settle(call, sent_tokens, cancelled)


class Road(httpx.BaseTransport):
    """All actors share it. `open` has the connections of each that are not closed."""

    def __init__(
        self,
        scheduler: Scheduler,
        auditor: Auditor,
        chance: random.Random,
        weather: Weather,
        note: Callable[[str], None],
    ) -> None:
        self.scheduler = scheduler
        self.weather = weather
        self.open: dict[str, set[Body]] = {}
        self._auditor = auditor
        self._chance = chance
        self.note = note
        self._patience_s: dict[str, float] = {}
        self._transport: httpx.BaseTransport | None = None

    def lead_to(self, simulator: Simulator) -> None:
        self._transport = transport(simulator)

    def bills(self, generation_id: str) -> None:
        """What the current actor has asked for will be on the bill."""
        self._auditor.bills(self.scheduler.who, generation_id)

    def wait(self, seconds: float) -> None:
        """Upstream takes its time; whoever waits may give up. Raises httpx.ReadTimeout, Crash."""
        patience_s = self._patience_s.get(self.scheduler.who, float("inf"))
        if seconds > patience_s:
            self.scheduler.sleep(patience_s)
            raise httpx.ReadTimeout("The read operation timed out")
        if seconds > 0:
            self.scheduler.sleep(seconds)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        timeouts = request.extensions["timeout"]
        self._patience_s[self.scheduler.who] = timeouts["read"]
        fault = self._fault()
        self.note(f"{request.method} {request.url.path}" + ("" if fault is None else f" - {fault.value}"))
        self.step()
        if request.method == "POST":
            self._auditor.sends(self.scheduler.who)
        match fault:
            case Fault.REFUSED:
                self.scheduler.sleep(self._chance.choice((0.0, timeouts["connect"])))
                raise httpx.ConnectTimeout("timed out")
            case Fault.UNDONE:
                raise httpx.ReadError("[Errno 104] Connection reset by peer")
            case Fault.EDGE_UNDONE:
                return httpx.Response(502, content=EDGE_PAGE, request=request)
            case Fault.SLOW:
                self._slow(request)
            case Fault.LATE:
                self.scheduler.sleep(timeouts["read"])
        response = self._done(request)
        self.step()
        if fault in (Fault.LOST, Fault.LATE, Fault.EDGE):
            response.close()
            if fault is Fault.EDGE:
                return httpx.Response(502, content=EDGE_PAGE, request=request)
            raise httpx.ReadTimeout("The read operation timed out")
        return response

    def _slow(self, request: httpx.Request) -> None:
        """The answer takes a while; where that is too long upstream does what it was asked for all the same."""
        try:
            self.wait(self._chance.uniform(0, SLOWEST_S))
        except httpx.ReadTimeout:
            self._done(request).close()
            raise

    def _done(self, request: httpx.Request) -> httpx.Response:
        if self._transport is None:
            raise AssertionError("the road leads nowhere")
        response = self._transport.handle_request(request)
        if not isinstance(response.stream, httpx.SyncByteStream):
            raise TypeError("the simulator answers in chunks")
        body = Body(self, response.stream, self.scheduler.who, self._cut())
        self.open.setdefault(self.scheduler.who, set()).add(body)
        return httpx.Response(response.status_code, headers=response.headers, stream=body, request=request)

    def patience(self) -> float:
        return self._patience_s[self.scheduler.who]

    def step(self) -> None:
        """Others come in between, and the process may die."""
        self.scheduler.step()
        if self._draws(self.weather.crash):
            self.note("crash")
            self.scheduler.kill()

    def cut_off(self, who: str) -> int:
        """The connections of an actor whose process is gone; how many there were."""
        bodies = self.open.pop(who, set())
        for body in list(bodies):
            body.close()
        return len(bodies)

    def _fault(self) -> Fault | None:
        whole = [fault for fault in Fault if fault not in (Fault.CUT, Fault.STALLED)]
        return self._chance.choice(whole) if self._draws(self.weather.upstream) else None

    def _cut(self) -> tuple[Fault, int] | None:
        """How a body ends too early, and after how many chunks."""
        if not self._draws(self.weather.upstream):
            return None
        return self._chance.choice((Fault.CUT, Fault.STALLED)), self._chance.randrange(8)

    def _draws(self, often: float) -> bool:
        return often > 0 and self._chance.random() < often


class Body(httpx.SyncByteStream):
    """Chunks as they come. What breaks is closed, as a real connection is."""

    def __init__(self, road: Road, inner: httpx.SyncByteStream, who: str, cut: tuple[Fault, int] | None) -> None:
        self._road = road
        self._inner = inner
        self._who = who
        self._cut = cut

    def __iter__(self) -> Iterator[bytes]:
        try:
            for number, chunk in enumerate(self._inner):
                if self._cut is not None and number == self._cut[1]:
                    self._break(self._cut[0])
                self._road.step()
                yield chunk
        except BaseException:
            self.close()
            raise

    def _break(self, fault: Fault) -> None:
        self._road.note(fault.value)
        if fault is Fault.STALLED:
            self._road.wait(self._road.patience() + 1)
        raise httpx.ReadError("[Errno 104] Connection reset by peer")

    def close(self) -> None:
        self._road.open.get(self._who, set()).discard(self)
        self._inner.close()
