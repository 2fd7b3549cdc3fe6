"""Actors in turns: each is a thread, one runs at a time, and hands on at every step by a seeded choice.

The same seed makes the same choices, so a run can be repeated. Time is a number that steps and sleeps move; where
everybody sleeps it jumps to whoever wakes first.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

MAX_STEPS = 20_000
FUNCTION_S = 900
"""So long a Lambda function lives at most."""


class Crash(BaseException):
    """The process of an actor is gone. Nothing of the program under test catches it."""


class Violation(BaseException):
    """Something that must never be is."""


@dataclass(eq=False, slots=True)
class Timer:
    """Something that a process does beside what it is at."""

    at_s: float
    do: Callable[[], None]


class Actor:
    """Whose turn it is, holds `turn`. `began_s`: when the invocation began that must end in time, if one is on."""

    __slots__ = ("began_s", "is_essential", "is_killed", "is_over", "is_timed", "name", "timers", "turn", "wakes_s")

    def __init__(self, name: str, *, is_essential: bool) -> None:
        self.name = name
        self.is_essential = is_essential
        self.is_killed = False
        self.is_over = False
        self.wakes_s = 0.0
        self.timers: list[Timer] = []
        self.is_timed = False
        self.began_s: float | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class Scheduler:
    """`stickiness` is how often whoever has just made a step makes the next one too."""

    def __init__(self, chance: random.Random, start_s: float, stickiness: float) -> None:
        self.now_s = start_s
        self.steps = 0
        self.current: Actor | None = None
        self.failure: BaseException | None = None
        self._chance = chance
        self._stickiness = stickiness
        self._actors: list[Actor] = []
        self._threads: list[threading.Thread] = []
        self._all_over = threading.Lock()

    @property
    def who(self) -> str:
        """The actor whose turn it is."""
        return "" if self.current is None else self.current.name

    @property
    def is_busy(self) -> bool:
        """Whether anybody is at work whom the others are there for."""
        return any(actor.is_essential and not actor.is_over for actor in self._actors)

    def spawn(self, name: str, work: Callable[[Actor], None], *, is_essential: bool = False) -> None:
        """One more actor, before `run`."""
        actor = Actor(name, is_essential=is_essential)
        self._actors.append(actor)
        self._threads.append(threading.Thread(target=self._main, args=(actor, work), name=name, daemon=True))

    def run(self) -> None:
        """Until all are over. Raises what an actor ended with, unless that was a crash."""
        self._all_over.acquire()
        for thread in self._threads:
            thread.start()
        self._hand_over()
        self._all_over.acquire()
        for thread in self._threads:
            thread.join()
        self.current = None
        if self.failure is not None:
            raise self.failure

    def fail(self, failure: BaseException) -> None:
        """The run has ended: nobody makes another step. Raises it."""
        self.failure = self.failure or failure
        raise failure

    def step(self) -> None:
        """Let somebody else make a step, perhaps. Outside of `run` nobody else is there. Raises Crash."""
        actor = self.current
        self.now_s += self._chance.random() / 50
        if actor is None:
            return
        self._require_alive(actor)
        self.steps += 1
        if self.steps > MAX_STEPS:
            self.fail(Violation(f"the run does not end: {MAX_STEPS} steps"))
        following = self._chosen(actor)
        if following is not actor:
            self.current = following
            following.turn.release()
            actor.turn.acquire()
        self._require_alive(actor)
        self._do_what_is_due(actor)

    def sleep(self, seconds: float) -> None:
        """Time passes, for everybody. Raises Crash."""
        actor = self.current
        if actor is None:
            self.now_s += seconds
            return
        until_s = self.now_s + seconds
        while True:
            timers = [] if actor.is_timed else [timer.at_s for timer in actor.timers]
            actor.wakes_s = min(until_s, *timers) if timers else until_s
            self.step()
            if self.now_s >= until_s:
                return

    def later(self, seconds: float, do: Callable[[], None]) -> Callable[[], None]:
        """Do something after so long, at a step or in a sleep of the current actor; returns how to call it off."""
        actor = self.current
        if actor is None:
            return lambda: None
        timer = Timer(self.now_s + seconds, do)
        actor.timers.append(timer)

        def call_off() -> None:
            if timer in actor.timers:
                actor.timers.remove(timer)

        return call_off

    def _do_what_is_due(self, actor: Actor) -> None:
        due = [] if actor.is_timed else [timer for timer in actor.timers if timer.at_s <= self.now_s]
        for timer in due:
            actor.timers.remove(timer)
            actor.is_timed = True
            try:
                timer.do()
            finally:
                actor.is_timed = False

    def kill(self) -> None:
        """The current actor's process is gone. Raises Crash."""
        if self.current is not None:
            self.current.is_killed = True
            raise Crash

    def revive(self) -> bool:
        """A new process for the current actor; False where the run has ended."""
        if self.current is not None:
            self.current.is_killed = False
            self.current.timers.clear()
            self.current.began_s = None
        return self.failure is None

    def _require_alive(self, actor: Actor) -> None:
        if actor.began_s is not None and self.now_s - actor.began_s >= FUNCTION_S:
            actor.is_killed = True
        if actor.is_killed or self.failure is not None:
            raise Crash

    def _chosen(self, actor: Actor | None) -> Actor:
        """Who is next: somebody who is awake."""
        alive = [each for each in self._actors if not each.is_over]
        if self.failure is not None:
            return alive[0]
        ready = [each for each in alive if each.wakes_s <= self.now_s]
        if not ready:
            following = min(alive, key=lambda each: each.wakes_s)
            self.now_s = following.wakes_s
            return following
        if actor in ready and self._chance.random() < self._stickiness:
            return actor
        return ready[int(self._chance.random() * len(ready))]

    def _main(self, actor: Actor, work: Callable[[Actor], None]) -> None:
        actor.turn.acquire()
        try:
            if self.failure is None:
                work(actor)
        except Crash:
            pass
        except BaseException as e:  # noqa: BLE001 - raised again by `run`
            self.failure = self.failure or e
        finally:
            actor.is_over = True
            self._hand_over()

    def _hand_over(self) -> None:
        if all(actor.is_over for actor in self._actors):
            self._all_over.release()
            return
        self.current = self._chosen(None)
        self.current.turn.release()
