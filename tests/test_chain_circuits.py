"""An open circuit costs no call, no hold and no span; a chain goes straight to the first model that is well."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from farebox.aws import to_dynamodb
from farebox.breaker import Breakers
from local.catalogue import Model
from local.scenarios import SCRIPTS
from local.simulator import Simulator
from tests.chains import OpenScene, open_scene
from tests.conftest import Door, MakeDoor, connected
from tests.test_upstream_faults import books

BEHIND = "sim/cent"


@pytest.fixture
def scene(make_door: MakeDoor, simulator: Simulator) -> OpenScene:
    """A door with a chain."""
    return open_scene(make_door, simulator)


@pytest.mark.parametrize(
    ("model", "stream", "opens"),
    [
        ("sim/502", False, True),
        ("sim/504", True, True),
        ("sim/refuse", False, True),
        ("sim/cut-early", True, True),
        ("sim/error-200", True, True),
        ("sim/not-json", False, True),
        ("sim/empty-stream", True, True),
        ("sim/404-no-endpoints", False, False),
        ("sim/402-in-flight", False, False),
        ("sim/403-key-limit", True, False),
        ("sim/cost-null", False, False),
        ("sim/ok", True, False),
    ],
)
def test_three_failures_open_a_models_circuit_and_other_endings_do_not(
    scene: OpenScene,
    model: str,
    stream: bool,  # noqa: FBT001 - a table's column
    opens: bool,  # noqa: FBT001
) -> None:
    opened = scene()
    for _ in range(3):
        assert opened.door.gate.breakers.wait_s(model) == 0
        opened.chat(model, stream=stream, max_tokens=16)
    assert (opened.door.gate.breakers.wait_s(model) > 0) is opens
    assert opened.door.gate.breakers.wait_s("sim/cent") == 0


def test_an_open_circuit_costs_no_call_no_hold_and_no_span(scene: OpenScene) -> None:
    opened = scene(BEHIND)
    for _ in range(3):
        opened.chat("sim/502", max_tokens=16)
    opened.eyes.seen.clear()
    before = len(opened.spans())
    answered = opened.chat("sim/502", max_tokens=16)
    assert (answered.headers["X-Farebox-Model"], answered.headers["X-Farebox-Fallback-From"]) == (BEHIND, "sim/502")
    ((asked, holds),) = opened.eyes.seen
    assert (asked, [model for model, _ in holds]) == (BEHIND, [BEHIND])
    assert [span["attempt"] for span in opened.spans()[before:]] == [1]


def test_one_model_alone_with_an_open_circuit_is_told_with_the_time_to_wait(scene: OpenScene) -> None:
    opened = scene()
    for _ in range(3):
        opened.chat("sim/502", max_tokens=16)
    before = opened.spans()
    answered = opened.chat("sim/502", max_tokens=16)
    (attempt,) = answered.json["error"]["metadata"]["attempts"]
    assert (attempt["model"], attempt["cause"]) == ("sim/502", "circuit_open")
    assert 1 <= int(answered.headers["Retry-After"]) == attempt["retry_after_s"] <= 60
    assert len(opened.eyes.seen) == 3
    assert (opened.spans(), books(opened.door)) == (before, (0, 0))


def test_an_open_model_whose_stand_in_is_too_dear_is_followed_by_one_that_is_not(scene: OpenScene) -> None:
    opened = scene("sim/agent", "sim/ok", DEFAULT_DAILY_BUDGET="0.01")
    for _ in range(3):
        assert opened.chat("sim/502").headers["X-Farebox-Model"] == "sim/ok"
    opened.eyes.seen.clear()
    answered = opened.chat("sim/502")
    assert (answered.status, opened.eyes.asked) == (200, ["sim/ok"])


@pytest.mark.parametrize(("model", "wait_s"), [("sim/429", 2), ("sim/503", 4)])
def test_a_model_that_asks_for_a_pause_gets_it_in_this_environment(
    scene: OpenScene, embedded_url: str, model: str, wait_s: int
) -> None:
    opened = scene(BEHIND)
    table, clock = opened.door.gate.settings.farebox_table, Clock()
    client = connected(embedded_url)
    breakers = Breakers(client, table, lambda _: None, now=clock)
    door = Door(replace(opened.door.gate, breakers=breakers))
    for moment, asked in [(0, [model, BEHIND]), (wait_s - 0.1, [BEHIND]), (wait_s, [model, BEHIND])]:
        clock.now = 1_000_000.0 + moment
        opened.eyes.seen.clear()
        assert door.chat(model=model, max_tokens=16).headers["X-Farebox-Fallback-From"] == model
        assert opened.eyes.asked == asked
    assert Breakers(client, table, lambda _: None).wait_s(model) == 0


def test_a_rate_limit_without_a_time_and_one_of_the_account_pause_nothing(scene: OpenScene) -> None:
    opened = scene(BEHIND)
    for model in ("sim/429-plain", "sim/402-in-flight"):
        opened.chat(model, max_tokens=16)
        assert opened.door.gate.breakers.wait_s(model) == 0


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


STEP_S = 5
MINUTE = 60 // STEP_S


def test_a_chain_of_three_with_two_down_costs_two_failed_calls_a_minute_until_they_are_well_again(
    scene: OpenScene, simulator: Simulator, store_url: str
) -> None:
    down = ("sim/flaky", "sim/flaky-2")
    simulator.models["sim/flaky-2"] = Model("sim/flaky-2", SCRIPTS["sim/flaky"])
    opened = scene("sim/flaky-2", "sim/ok", store_url=store_url)
    client, table = connected(store_url), opened.door.gate.settings.farebox_table
    changes: list[Mapping[str, Any]] = []
    breakers = Breakers(client, table, changes.append, max_age_s=0)  # each call reads the item, whose clock is moved
    door = Door(replace(opened.door.gate, breakers=breakers))

    def asked_in_a_minute() -> list[list[str]]:
        """What each of the calls of a minute asked for."""
        calls = []
        for _ in range(MINUTE):
            opened.eyes.seen.clear()
            assert door.chat(model="sim/flaky", max_tokens=16).status == 200
            calls.append(opened.eyes.asked)
            for model in down:
                if breakers.wait_s(model) > 0:
                    client.update_item(
                        TableName=table,
                        Key=to_dynamodb({"pk": "BREAKER", "sk": model}),
                        UpdateExpression="ADD opened_at :back, probe_lease_expiry :back",
                        ExpressionAttributeValues=to_dynamodb({":back": -STEP_S}),
                    )
        return calls

    first, *later = [asked_in_a_minute() for _ in range(3)]
    assert first == [[*down, "sim/ok"]] * 3 + [["sim/ok"]] * (MINUTE - 3)
    calls = [call for minute in later for call in minute]
    for start in range(len(calls) - MINUTE + 1):
        assert sum(call.count(model) for call in calls[start : start + MINUTE] for model in down) <= 2
    assert sum(len(call) - 1 for call in calls) == 4, "both are probed in each of two minutes"

    simulator.is_healthy = True
    healed = [call for _ in range(2) for call in asked_in_a_minute()]
    assert healed[-MINUTE + 3 :] == [["sim/flaky"]] * (MINUTE - 3)
    assert [change["to"] for change in changes if change["model"] == "sim/flaky"][-1] == "CLOSED"
    assert books(opened.door) == (simulator.billed_nanousd, 0)
