"""A gateway with a chain of models, and eyes that see the ledger whenever one of them is asked."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from local.simulator import Simulator, transport
from tests.conftest import Answered, Door, MakeDoor
from tests.test_upstream_faults import at_noon, spans

MESSAGES = [{"role": "user", "content": "xyzzy-prompt"}]
MONTH = "2026-11"
Holds = set[tuple[str, int]]


@dataclass
class Eyes(httpx.BaseTransport):
    """The simulator, or something else for single models; sees the ledger whenever a model is asked."""

    simulator: Simulator
    instead: Mapping[str, Callable[[httpx.Request], httpx.Response]] = field(default_factory=dict)
    seen: list[tuple[str, Holds]] = field(default_factory=list)
    door: Door | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/chat/completions"):
            return transport(self.simulator).handle_request(request)
        model = json.loads(request.read())["model"]
        assert self.door is not None
        ledger = self.door.gate.store.ledger("default", MONTH)
        self.seen.append((model, {(hold.model, hold.amount_nanousd) for hold in ledger.holds.values()}))
        return self.instead.get(model, transport(self.simulator).handle_request)(request)

    @property
    def asked(self) -> list[str]:
        return [model for model, _ in self.seen]


@dataclass(frozen=True)
class Scene:
    door: Door
    eyes: Eyes
    simulator: Simulator

    def chat(self, model: str, **members: Any) -> Answered:
        return self.door.chat(model=model, messages=MESSAGES, **members)

    def spans(self) -> list[Mapping[str, Any]]:
        """In the order of the attempts."""
        return sorted(spans(self.door), key=lambda span: (span["call"], span["attempt"]))

    def story(self) -> list[tuple[Any, ...]]:
        """Number, model, outcome and cause of each attempt."""
        return [(span["attempt"], span["model"], span["outcome"], span.get("cause")) for span in self.spans()]

    def lost_nanousd(self) -> int:
        """What the spans say must stay held."""
        return sum(span["hold_nanousd"] for span in self.spans() if span["outcome"] == "lost")


OpenScene = Callable[..., Scene]


def open_scene(make_door: MakeDoor, simulator: Simulator) -> OpenScene:
    """For fixtures: opens a door with a chain of these models, at noon, which never waits."""

    def opened(*chain: str, instead: Any = None, simulator: Simulator = simulator, **settings: Any) -> Scene:
        eyes = Eyes(simulator, instead or {})
        gate = at_noon(make_door(upstream=eyes, FALLBACK_MODEL_CHAIN=",".join(chain), **settings)).gate
        eyes.door = Door(replace(gate, desk=replace(gate.desk, sleep=lambda _: None)))
        return Scene(eyes.door, eyes, simulator)

    return opened
