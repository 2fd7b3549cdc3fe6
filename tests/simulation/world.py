"""One seed: functions with calls to serve, two sweepers, an admin, and a weather that moves clock and prices."""

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from aws_lambda_powertools.utilities.circuit_breaker import base as powertools
from botocore.exceptions import BotoCoreError, ClientError

from farebox.aws import to_dynamodb
from farebox.fold import fold
from farebox.gate import Gate
from farebox.hours import HOUR_S, began, hour_of
from farebox.keys import written
from farebox.ledger import Limits
from farebox.rollups import Rollups
from farebox.routes import answer
from farebox.store import LOST, ROLLUP, STALE, StoreError
from farebox.sweep import Sweeper, sweep
from farebox.tenants import Tenant, windows
from tests.seeds import config_of

from .expressions import Item
from .invariants import Auditor
from .line import Line
from .memory import Memory
from .orders import KEY as API_KEY
from .orders import MODELS, SECRET, Order, changed, order, repriced, some_models
from .parts import KEY, SKEW_S, TABLE, Parts, Recorder, settings_for
from .road import OpenRouter, Road
from .scheduler import FUNCTION_S, Actor, Crash, Scheduler, Violation
from .weather import CALM, ROUGH, ZONES, Weather, edge

SETTLE_S = 10
SWEEPS = 30
ROUGH_SWEEPS = 8
FOLDS = 0.2
"""How often a sweep is followed by a fold."""
FOLDED_AFTER = (2, 6)
"""So many sweeps, when nobody calls any more."""
CALLS = (2, 2, 3, 3, 4, 8)
"""Of one function."""
PACES = (0.05, 0.2, 1.0)
"""Of the clock beside the steps."""
READY_S = (2.0, 30.0, 1200.0, 2000.0, 1e9)
"""After which /generation knows a call."""


@dataclass
class Result:
    """What became of a seed."""

    seed: int
    violation: str | None = None
    steps: int = 0
    crashes: int = 0
    statuses: list[int] = field(default_factory=list)
    trace: list[tuple[float, str, str]] = field(default_factory=list)
    billed_nanousd: int = 0

    def story(self) -> Iterator[str]:
        """The steps for people."""
        for at, who, what in self.trace:
            yield f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S.%f} {who:<11} {what}"


class World:
    """Everything of one seed. The same seed makes the same world, and the same steps."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - chances, not secrets
        self.result = Result(seed)
        self._chance = chance
        zone, self._edge_s, start_s = edge(chance)
        self.scheduler = Scheduler(chance, start_s, chance.choice((0.0, 0.5, 0.9)))
        self._auditor = Auditor(self.scheduler.fail, lambda: self.scheduler.who)
        self.memory = Memory(self._auditor.wrote, page_size=3)
        weather = Weather.of(chance)
        self.line = Line(self.memory, self.scheduler, chance, weather, self._note, self._auditor.asks)
        self._road = Road(self.scheduler, self._auditor, chance, weather, self._note)
        self._models = some_models(chance)
        sold = {name: MODELS[name] for name in self._models}
        self._simulator = OpenRouter(sold, chance.choice(READY_S), seed, self._road)
        self._road.lead_to(self._simulator)
        settings = settings_for(chance.choice((20, 300)), chance.choice((5, 60, 300)), chance.choice((40, 890)))
        telemetry = Recorder(self.scheduler.fail, self._note)
        self._parts = Parts(self.line, self._road, telemetry, settings, self.scheduler, chance)
        self._tenants: dict[str, Tenant] = {}
        for number, each in enumerate((zone, chance.choice(ZONES))[: chance.choice((1, 1, 2))]):
            name = f"t{number}"
            tenant = self._changed(Tenant(name, Limits(0, 0, 0), each))
            self.memory.put_item(TableName=TABLE, Item=to_dynamodb(_config(tenant)))
        Rollups(cast("Any", self.memory), TABLE).move(hour_of(int(start_s - SKEW_S)))
        self.seeded: list[Item] = list(self.memory.items.values())
        self._people()

    def _people(self) -> None:
        chance, tenants = self._chance, sorted(self._tenants)
        favourite = chance.choice(self._models) if chance.random() < 0.3 else None
        for number in range(chance.choice((1, 2, 2, 3))):
            orders = [order(chance, tenants, self._models, favourite) for _ in range(chance.choice(CALLS))]
            self.scheduler.spawn(f"function {number}", self._function(orders), is_essential=True)
        for number in range(2):
            self.scheduler.spawn(f"sweeper {number}", self._sweeper)
        self.scheduler.spawn("admin", self._admin)
        self.scheduler.spawn("weather", self._weather)

    def run(self) -> Result:
        """To the end, and then until the sweeps are quiet."""
        with _powertools(self._parts.monotonic):
            try:
                self.scheduler.run()
                self._quiet()
                self._folded_up()
                self._auditor.finish(self.memory.items, self._simulator.generations)
            except Violation as e:
                self.result.violation = str(e)
        self.result.steps = self.scheduler.steps
        self.result.billed_nanousd = self._simulator.billed_nanousd
        return self.result

    # Functions.

    def _function(self, orders: list[Order]) -> Callable[[Actor], None]:
        def serve(actor: Actor) -> None:
            gate: Gate | None = None
            for each in orders:
                try:
                    self.scheduler.sleep(each.pause_s)
                    gate = gate or self._parts.gate()
                    actor.began_s = self.scheduler.now_s
                    self.result.statuses.append(self._served(gate, each))
                    actor.began_s = None
                    if (left := self._road.cut_off(actor.name)) > 0:
                        self.scheduler.fail(Violation(f"{left} connections are left open"))
                except Crash:
                    gate = None
                    self._buried(actor)

        return serve

    def _served(self, gate: Gate, each: Order) -> int:
        """One invocation, as the runtime does it."""
        key = written(each.tenant, API_KEY.id, SECRET) if each.with_key else KEY
        event = {
            "path": "/api/v1/chat/completions",
            "httpMethod": "POST",
            "headers": {"Authorization": f"Bearer {key}", "X-Tenant-Id": each.tenant},
            "requestContext": {"requestId": "r"},
            "body": each.body.decode(),
        }
        self._note(f"call: {each.tenant} {each.body.decode()}")
        left_s = min(FUNCTION_S - SETTLE_S, gate.settings.farebox_call_deadline_s)
        response = answer(gate, event, self.scheduler.now_s + left_s)
        self._note(f"answers {response.status}")
        try:
            for number, _ in enumerate(response.body):
                if number == each.leaves_after:
                    self._note("the client leaves")
                    break
        except Exception as e:  # noqa: BLE001 - whatever it is, the client would have got half an answer
            self.scheduler.fail(Violation(f"a body ends in {e!r}"))
        response.close()
        return response.status

    def _buried(self, actor: Actor) -> None:
        """The connections of a process end with it; Lambda starts another one."""
        self._note("is dead")
        self.result.crashes += 1
        self._road.cut_off(actor.name)
        if not self.scheduler.revive():
            raise Crash

    # Sweepers, which also fold.

    def _sweeper(self, actor: Actor) -> None:
        sweeper: Sweeper | None = None
        while self.scheduler.is_busy:
            try:
                self.scheduler.sleep(10 ** self._chance.uniform(0.5, 2.5))
                sweeper = sweeper or self._parts.sweeper()
                actor.began_s = self.scheduler.now_s
                self._note(f"sweeps: {self._swept(sweeper)}")
                if self._chance.random() < FOLDS:
                    self._fold(iter((True, True)))
                actor.began_s = None
            except Crash:
                sweeper = None
                self._buried(actor)

    def _fold(self, left: Iterator[bool]) -> None:
        """Of so many hours at most."""
        try:
            fold(self._parts.folder(), lambda: next(left, False))
        except StoreError as e:
            self._note(repr(e))

    def _folded_up(self) -> None:
        """The last run: every hour that there were calls in, and all that were changed since."""
        hours = [pk.split("#")[1] for pk, _ in self.memory.items if pk.startswith("SPANS#")]
        watermark = self.memory.items[ROLLUP, "WATERMARK"]["hour"]["S"]
        late = {sk.split("#")[1] for pk, sk in self.memory.items if pk == ROLLUP and sk.startswith(STALE)}
        left = max(0, 1 + (began(max(hours, default=watermark)) - began(watermark)) // HOUR_S)
        self._fold(iter([True] * (len(late) + left)))

    def _swept(self, sweeper: Sweeper) -> object:
        try:
            return sweep(sweeper, lambda: self._chance.random() < 0.95)
        except StoreError as e:
            return repr(e)

    def _quiet(self) -> None:
        """What is late arrives, and time passes until the sweeps have nothing left to do."""
        self.line.weather = ROUGH
        sweeper = self._parts.sweeper()
        for copy in sorted(self.line.late, key=lambda copy: copy.at_s):
            self.scheduler.now_s = max(self.scheduler.now_s, copy.at_s)
            self.line.deliver()
        for number in range(SWEEPS):
            if number == ROUGH_SWEEPS:
                self.line.weather = self._road.weather = CALM
            self.line.deliver()
            if number in FOLDED_AFTER:
                self._fold(iter([True] * 4))
            before = self.memory.writes
            self.scheduler.now_s += 1000 * 1.2**number
            self._note(f"sweeps: {self._swept(sweeper)}")
            if (
                number > ROUGH_SWEEPS
                and before == self.memory.writes
                and not any(pk == LOST for pk, _ in self.memory.items)
            ):
                return
        raise Violation("the sweeps do not come to an end")

    # An admin, and the weather.

    def _admin(self, actor: Actor) -> None:
        while self.scheduler.is_busy:
            try:
                self.scheduler.sleep(10 ** self._chance.uniform(0, 2.5))
                self._configure(self._changed(self._tenants[self._chance.choice(sorted(self._tenants))]))
            except Crash:
                self._buried(actor)
            except (BotoCoreError, ClientError) as e:
                self._note(repr(e))

    def _changed(self, tenant: Tenant) -> Tenant:
        """Its next version, which is made, written or not, and which the auditor knows."""
        following = changed(self._chance, tenant, self._models)
        self._tenants[tenant.name] = following
        self._auditor.tenants[tenant.name, following.limits.version] = following
        return following

    def _configure(self, tenant: Tenant) -> None:
        """Write the configuration, then tell the ledger of the month that there is a newer one."""
        item = _config(tenant)
        values = to_dynamodb({":version": tenant.limits.version})
        self.line.put_item(
            TableName=TABLE,
            Item=to_dynamodb(item),
            ConditionExpression="attribute_not_exists(pk) OR version < :version",
            ExpressionAttributeValues=values,
        )
        month = windows(datetime.fromtimestamp(self.scheduler.now_s, UTC), tenant.time_zone).month
        self.line.update_item(
            TableName=TABLE,
            Key=to_dynamodb({"pk": item["pk"], "sk": f"LEDGER#{month}"}),
            UpdateExpression="SET v = :version",
            ConditionExpression="attribute_not_exists(v) OR v < :version",
            ExpressionAttributeValues=values,
        )

    def _weather(self, _actor: Actor) -> None:
        """Time passes, prices change, and what was late arrives."""
        chance, pace = self._chance, self._chance.choice(PACES)
        while self.scheduler.is_busy:
            self.scheduler.step()
            draw = chance.random()
            if draw < 0.02 * pace:
                self.scheduler.now_s += chance.choice((300.0, 1000.0, 4000.0))
            elif draw < 0.3 * pace:
                self.scheduler.now_s += 10 ** chance.uniform(-1, 2)
            elif draw < 0.4:
                self.line.deliver()
            elif draw < 0.45:
                self._reprice(chance.choice(self._models), chance.choice((Decimal("0.5"), Decimal(2))))
            elif draw < 0.47:
                self._simulator.is_healthy = not self._simulator.is_healthy
            elif draw < 0.51 and self.scheduler.now_s < self._edge_s:
                self.scheduler.now_s = self._edge_s + chance.random()

    def _reprice(self, name: str, times: Decimal) -> None:
        self._note(f"{name} costs {times} times as much")
        self._simulator.models[name] = repriced(self._simulator.models[name], times)

    def _note(self, what: str) -> None:
        self.result.trace.append((self.scheduler.now_s, self.scheduler.who, what))


def _config(tenant: Tenant) -> dict[str, Any]:
    return {"pk": f"TENANT#{tenant.name}", "sk": "CONFIG", **config_of(tenant).item()}


def run(seed: int) -> Result:
    """One seed, from its beginning to its end."""
    return World(seed).run()


def briefly(seed: int, *, traces: bool) -> Result:
    """The same, with its steps only where they are of interest: for other processes."""
    result = run(seed)
    if result.violation is None and not traces:
        result.trace.clear()
    return result


@contextmanager
def _powertools(seconds: Callable[[], float]) -> Iterator[None]:
    """Powertools' circuit breaker looks at a clock of its own, and counts in the whole process."""
    handler: Any = powertools.CircuitBreakerHandler
    real, was_on = vars(handler)["_now"], gc.isenabled()
    gc.disable()  # what is left of a crash goes when its frames go, not at a moment that nobody has chosen
    handler._now = staticmethod(lambda: int(seconds()))
    try:
        yield
    finally:
        handler._now = real
        for counts in (powertools._LOCAL_FAILURES, powertools._LOCAL_SUCCESSES, powertools._LAST_OBSERVED_STATE):
            counts.clear()
        if was_on:
            gc.enable()
