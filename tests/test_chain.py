"""A model that fails is followed by the next of the chain, and each attempt has a hold and a span of its own."""

import json
from dataclasses import replace

import pytest

from farebox.sweep import Sweeper, sweep
from local.catalogue import CHEAP, FREE, Endpoint, Model
from local.scenarios import SCRIPTS
from local.simulator import Simulator
from tests.chains import MESSAGES, MONTH, OpenScene, Scene, open_scene
from tests.conftest import GATEWAY_KEY, Answered, MakeDoor
from tests.test_upstream_faults import NOON, answering, books, said, text_of

BEHIND = "sim/cent"
"""Dearer than the models that fail, so a hold for those would not cover it."""


@pytest.fixture
def scene(make_door: MakeDoor, simulator: Simulator) -> OpenScene:
    """A door with a chain."""
    return open_scene(make_door, simulator)


# Which endings fall over.

DECLINED, LOST = "declined", "lost"
both, plain, streamed = (False, True), (False,), (True,)
FALLS_OVER = [
    (model, stream, outcome, cause)
    for model, ways, outcome, cause in [
        ("sim/refuse", both, DECLINED, "not_sent"),
        ("sim/429", both, DECLINED, "status_429"),
        ("sim/429-plain", both, DECLINED, "status_429"),
        ("sim/404-no-endpoints", both, DECLINED, "status_404"),
        ("sim/500", both, DECLINED, "status_500"),
        ("sim/502", both, DECLINED, "status_502"),
        ("sim/503", both, DECLINED, "status_503"),
        ("sim/529", both, DECLINED, "status_529"),
        ("sim/error-200", plain, DECLINED, "error_in_body"),
        ("sim/error-200", streamed, DECLINED, "error_in_stream"),
        ("sim/first-event-429", plain, DECLINED, "error_in_body"),
        ("sim/first-event-429", streamed, DECLINED, "error_in_stream"),
        ("sim/comments-then-error", plain, DECLINED, "error_in_body"),
        ("sim/comments-then-error", streamed, DECLINED, "error_in_stream"),
        ("sim/408", both, LOST, "status_408"),
        ("sim/504", both, LOST, "status_504"),
        ("sim/524-html", both, LOST, "status_524"),
        ("sim/cut", plain, LOST, "upstream_cut"),
        ("sim/cut-early", both, LOST, "upstream_cut"),
        ("sim/role-then-cut", both, LOST, "upstream_cut"),
        ("sim/not-json", both, LOST, "not_json"),
        ("sim/empty-stream", streamed, LOST, "empty"),
    ]
    for stream in ways
]


def assert_fell_over(scene: Scene, model: str, answered: Answered, outcome: str, cause: str) -> None:
    assert answered.status == 200, answered.body
    assert answered.headers["X-Farebox-Fallback-From"] == model
    assert answered.headers["X-Farebox-Model"] == BEHIND
    assert "X-Farebox-Downgraded-From" not in answered.headers
    assert {chunk["model"] for chunk in said(answered)} == {BEHIND}
    assert text_of(answered)
    assert scene.story() == [(1, model, outcome, cause), (2, BEHIND, "answered", None)]
    first, second = scene.spans()
    assert first["call"] == second["call"] == first["sk"]
    assert (first["model_asked"], second["model_asked"]) == (model, model)
    assert second["hold_nanousd"] > first["hold_nanousd"]
    kept = first["hold_nanousd"] if outcome == LOST else 0
    at_first = {(model, first["hold_nanousd"])}
    at_second = {(BEHIND, second["hold_nanousd"])} | (at_first if outcome == LOST else set())
    assert scene.eyes.seen == [(model, at_first), (BEHIND, at_second)]
    (answer,) = [generation for generation in scene.simulator.generations if generation.model == BEHIND]
    assert books(scene.door) == (answer.charge.billed_nanousd, kept)
    assert sum(books(scene.door)) >= scene.simulator.billed_nanousd > 0
    assert len(list(scene.door.gate.store.reminders())) == bool(kept)


@pytest.mark.parametrize(
    ("model", "stream", "outcome", "cause"),
    FALLS_OVER,
    ids=[f"{model}{' streamed' * stream}" for model, stream, *_ in FALLS_OVER],
)
def test_an_attempt_without_an_answer_is_followed_by_another_model(
    scene: OpenScene,
    model: str,
    stream: bool,  # noqa: FBT001 - a table's column
    outcome: str,
    cause: str,
) -> None:
    """Its hold is exchanged where it was declined, and stays beside the next where it may have been billed."""
    opened = scene(BEHIND)
    assert_fell_over(opened, model, opened.chat(model, stream=stream, max_tokens=1000), outcome, cause)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("model", "outcome", "cause"),
    [("sim/502", DECLINED, "status_502"), ("sim/role-then-cut", LOST, "upstream_cut")],
)
def test_on_each_store_holds_are_exchanged_or_stand_side_by_side(
    scene: OpenScene,
    store_url: str,
    model: str,
    outcome: str,
    cause: str,
    stream: bool,  # noqa: FBT001
) -> None:
    opened = scene(BEHIND, store_url=store_url)
    assert_fell_over(opened, model, opened.chat(model, stream=stream, max_tokens=1000), outcome, cause)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("model", "status"),
    [("sim/402-balance", 402), ("sim/402-weight", 402), ("sim/402-in-flight", 429), ("sim/403-key-limit", 403)],
)
def test_what_is_no_fault_of_the_model_goes_to_the_client(
    scene: OpenScene,
    model: str,
    status: int,
    stream: bool,  # noqa: FBT001 - a table's column
) -> None:
    opened = scene(BEHIND)
    answered = opened.chat(model, stream=stream)
    assert (answered.status, opened.eyes.asked) == (status, [model])
    assert answered.headers.get("Retry-After") == ("3" if status == 429 else None)
    assert "X-Farebox-Fallback-From" not in answered.headers
    assert [span["attempt"] for span in opened.spans()] == [1]
    assert books(opened.door) == (0, 0)


@pytest.mark.parametrize("code", [400, 401, 403, 413, 415, 422])
@pytest.mark.parametrize("as_status", [True, False], ids=["status", "in a 200"])
def test_a_request_that_any_model_would_refuse_is_not_repeated(scene: OpenScene, code: int, as_status: bool) -> None:  # noqa: FBT001
    refused = answering(code if as_status else 200, {"error": {"code": code, "message": "no"}})
    opened = scene(BEHIND, instead={"sim/ok": refused})
    answered = opened.chat("sim/ok")
    assert (answered.status, opened.eyes.asked) == (502 if code == 401 else code, ["sim/ok"])
    assert [span["outcome"] for span in opened.spans()] == ["declined"]
    assert books(opened.door) == (0, 0)


@pytest.mark.parametrize("model", ["sim/cut", "sim/error-mid-stream", "sim/error-with-usage", "sim/usage-missing"])
def test_after_the_first_real_delta_nobody_else_is_asked(scene: OpenScene, model: str) -> None:
    opened = scene(BEHIND)
    answered = opened.chat(model, stream=True)
    assert (answered.status, opened.eyes.asked) == (200, [model])
    assert [span["attempt"] for span in opened.spans()] == [1]


def test_an_attempt_that_was_billed_for_an_error_is_paid_and_another_one_answers(scene: OpenScene) -> None:
    error = {"error": {"code": 502, "message": "no"}, "usage": {"cost": 0.000001}}
    opened = scene(BEHIND, instead={"sim/ok": answering(502, error)})
    assert opened.chat("sim/ok").headers["X-Farebox-Fallback-From"] == "sim/ok"
    assert [(span["model"], span["outcome"], span["cost_nanousd"]) for span in opened.spans()] == [
        ("sim/ok", "answered", 1000),
        (BEHIND, "answered", opened.simulator.billed_nanousd),
    ]
    assert books(opened.door) == (1000 + opened.simulator.billed_nanousd, 0)


def test_the_cost_of_a_lost_attempt_is_found_out_later_while_the_second_is_booked(scene: OpenScene) -> None:
    opened = scene(BEHIND, simulator=Simulator(sleep=lambda _: None, generation_ready_s=0))
    assert opened.chat("sim/role-then-cut", stream=True, max_tokens=1000).status == 200
    gate, simulator = opened.door.gate, opened.simulator
    sweeper = Sweeper(gate.store, gate.desk.directory, gate.desk.watch, gate.upstream, gate.telemetry, lambda: NOON)
    assert books(opened.door)[1] > 0
    assert sweep(sweeper, lambda: True) == {"booked": 1, "estimated": 0, "corrected": 0, "waiting": 0}
    assert books(opened.door) == (simulator.billed_nanousd, 0)
    assert sum(span["cost_nanousd"] for span in opened.spans()) == simulator.billed_nanousd


# When every model fails.

SECRETS = (MESSAGES[0]["content"], GATEWAY_KEY, "simulated", "local-admin-key")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_when_all_models_fail_the_client_gets_a_list_of_them(scene: OpenScene, stream: bool) -> None:  # noqa: FBT001
    opened = scene("sim/503", "sim/error-200")
    answered = opened.chat("sim/502", stream=stream)
    error = answered.json["error"]
    in_200 = "error_in_stream" if stream else "error_in_body"
    assert (answered.status, error["code"], error["type"]) == (502, 502, "upstream_error")
    assert answered.reason == "all_models_failed"
    assert error["metadata"]["attempts"] == [
        {"model": "sim/502", "cause": "status_502", "outcome": "declined", "status": 502},
        {"model": "sim/503", "cause": "status_503", "outcome": "declined", "status": 503, "retry_after_s": 4},
        {"model": "sim/error-200", "cause": in_200, "outcome": "declined", "status": 502},
    ]
    assert error["message"].endswith("nothing was spent")
    assert answered.headers["Retry-After"] == "4"
    assert "x-should-retry" not in answered.headers
    assert not any(secret in answered.body.decode().lower() for secret in SECRETS)
    assert opened.story() == [
        (1, "sim/502", "declined", "status_502"),
        (2, "sim/503", "declined", "status_503"),
        (3, "sim/error-200", "declined", in_200),
    ]
    assert books(opened.door) == (0, 0)
    assert not opened.door.gate.store.ledger("default", MONTH).holds


def test_after_a_lost_attempt_the_list_is_not_to_be_repeated(scene: OpenScene) -> None:
    opened = scene("sim/503", "sim/cut-early")
    answered = opened.chat("sim/504")
    assert answered.reason == "all_models_failed"
    assert answered.headers["x-should-retry"] == "false"
    assert "Retry-After" not in answered.headers
    assert answered.json["error"]["message"].endswith("an attempt may have been billed")
    assert [span["outcome"] for span in opened.spans()] == ["lost", "declined", "lost"]
    assert books(opened.door) == (0, opened.lost_nanousd())
    assert len(list(opened.door.gate.store.reminders())) == 2


def test_the_last_model_may_say_what_no_other_one_would_say_otherwise(scene: OpenScene) -> None:
    opened = scene("sim/403-key-limit")
    answered = opened.chat("sim/502")
    assert (answered.status, answered.reason) == (403, "upstream_error")
    assert "Key limit" in answered.json["error"]["message"]
    assert books(opened.door) == (0, 0)


def test_after_a_lost_attempt_a_wait_of_another_model_does_not_ask_for_a_repetition(scene: OpenScene) -> None:
    answered = scene("sim/402-in-flight").chat("sim/504")
    assert (answered.status, answered.reason) == (429, "in_flight_budget_exhausted")
    assert answered.headers["x-should-retry"] == "false"


# Money.


def test_what_a_declined_attempt_held_is_there_for_the_next_one(scene: OpenScene) -> None:
    """Two such holds do not fit side by side, and the second one is not cut short for the first."""
    opened = scene("sim/ok", DEFAULT_DAILY_BUDGET="0.001", FAREBOX_HOLD_FRACTION="1")
    answered = opened.chat("sim/502", max_tokens=1000)
    assert "X-Farebox-Max-Tokens" not in answered.headers
    first, second = opened.spans()
    assert first["hold_nanousd"] == second["hold_nanousd"] > 500_000
    assert books(opened.door) == (opened.simulator.billed_nanousd, 0)


@pytest.mark.parametrize("first", ["sim/502", "sim/504"])
def test_a_model_that_there_is_no_money_for_is_left_out(scene: OpenScene, first: str) -> None:
    """sim/agent's smallest answer costs 0.0192 USD."""
    opened = scene("sim/agent", "sim/ok", DEFAULT_DAILY_BUDGET="0.01")
    answered = opened.chat(first)
    assert answered.headers["X-Farebox-Model"] == "sim/ok"
    assert opened.eyes.asked == [first, "sim/ok"]
    assert [span["attempt"] for span in opened.spans()] == [1, 2]
    assert books(opened.door)[1] == opened.lost_nanousd()
    assert max(sum(amount for _, amount in holds) for _, holds in opened.eyes.seen) <= 10_000_000
    assert not list(opened.door.gate.store.events()), "a budget that is hardly used is told of"


@pytest.mark.parametrize("first", ["sim/502", "sim/504"])
def test_without_money_for_any_other_model_the_client_is_told_so(scene: OpenScene, first: str) -> None:
    opened = scene("sim/agent", DEFAULT_DAILY_BUDGET="0.01")
    answered = opened.chat(first)
    assert (answered.status, answered.reason, opened.eyes.asked) == (502, "all_models_failed", [first])
    attempts = answered.json["error"]["metadata"]["attempts"]
    assert [(each["model"], each["cause"]) for each in attempts] == [
        (first, f"status_{first[-3:]}"),
        ("sim/agent", "budget"),
    ]
    assert books(opened.door) == (0, opened.lost_nanousd())


def test_a_free_model_is_followed_by_free_models_only(scene: OpenScene, simulator: Simulator) -> None:
    simulator.models["sim/down:free"] = Model("sim/down:free", SCRIPTS["sim/502"], (Endpoint(FREE),))
    opened = scene(BEHIND, "sim/free:free", DEFAULT_DAILY_BUDGET="0.000000001")
    answered = opened.chat("sim/down:free")
    assert answered.headers["X-Farebox-Model"] == "sim/free:free"
    assert opened.eyes.asked == ["sim/down:free", "sim/free:free"]
    assert books(opened.door) == (0, 0)

    alone = scene(BEHIND)
    refused = alone.chat("sim/down:free")
    assert alone.eyes.asked == ["sim/down:free"]
    assert refused.json["error"]["metadata"]["attempts"][1] == {"model": BEHIND, "cause": "model_not_allowed"}


def test_a_cheaper_model_that_failed_is_not_asked_again_as_a_fallback(scene: OpenScene) -> None:
    rules = json.dumps([{"from": ["sim/agent"], "to": "sim/502"}])
    opened = scene("sim/502", "sim/ok", DEFAULT_DAILY_BUDGET="0.01", FAREBOX_DOWNGRADE_RULES=rules)
    answered = opened.chat("sim/agent")
    assert opened.eyes.asked == ["sim/502", "sim/ok"]
    assert answered.headers["X-Farebox-Fallback-From"] == "sim/agent"


def test_a_price_above_the_cap_falls_over_and_has_the_prices_asked_again(scene: OpenScene) -> None:
    opened = scene(BEHIND)
    assert opened.chat("sim/ok").headers["X-Farebox-Model"] == "sim/ok"
    risen = {name: f"{float(str(price)) * 3:.10f}" for name, price in CHEAP.items()}
    simulator = opened.simulator
    simulator.models["sim/ok"] = replace(simulator.models["sim/ok"], endpoints=(Endpoint(risen),))
    assert opened.chat("sim/ok").headers["X-Farebox-Model"] == BEHIND
    assert opened.story()[1][3] == "price_cap" or opened.story()[2][3] == "price_cap"
    assert opened.chat("sim/ok").headers["X-Farebox-Model"] == "sim/ok"
    assert books(opened.door) == (simulator.billed_nanousd, 0)
