"""The handler that Lambda runs, with the events that API Gateway sends (events/*.json)."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from farebox.rest import Response
from local.child import ROOT
from local.simulator import Simulator
from local.sockets import Server
from tests.cold_start import cold_start
from tests.conftest import GATEWAY_KEY, new_table

EVENTS = ROOT / "events"


class Buffering:
    """Lambda's context in the managed runtime."""

    def get_remaining_time_in_millis(self) -> int:
        return 900_000


class Streaming(Buffering):
    """Lambda's context in a runtime that streams."""

    streams_responses = True


def event(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return loaded


@pytest.fixture
def handler(embedded_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """functions/proxy/handler.py as at a cold start, with nothing but an environment."""
    with Server(simulator.handle) as upstream:
        environment = {
            "OPENROUTER_BASE_URL": f"{upstream.url}/api/v1",
            "OPENROUTER_API_KEY": "simulated",
            "FAREBOX_GATEWAY_KEY": GATEWAY_KEY,
            "FAREBOX_ADMIN_KEY": "local-admin-key",
            "FAREBOX_TABLE": new_table(embedded_url),
        }
        module = cold_start(monkeypatch, "proxy", embedded_url, environment)
        yield module
        module.gate.upstream._client.close()  # Lambda ends the process instead


def buffered(handler: ModuleType, name: str) -> tuple[int, dict[str, str], Any]:
    """The answer in one piece, as a REST API takes it."""
    sent = event(name)
    answer = handler.handler(sent, Buffering())
    assert set(answer) == {"statusCode", "headers", "body", "isBase64Encoded"}
    assert all(isinstance(value, str) for value in answer["headers"].values())
    assert json.loads(json.dumps(answer)) == answer
    assert answer["headers"]["X-Request-Id"] == sent["requestContext"]["requestId"]
    assert answer["isBase64Encoded"] is False
    return answer["statusCode"], answer["headers"], answer["body"]


def spent(handler: ModuleType, name: str = "usage") -> int:
    status, _, body = buffered(handler, name)
    assert status == 200
    return round(float(json.loads(body)["daily"]["spent_usd"]) * 1e9)


@pytest.mark.parametrize("name", ["chat", "chat-lower-case-headers"])
def test_a_chat_event_is_answered_and_booked_to_its_tenant(
    name: str, handler: ModuleType, simulator: Simulator
) -> None:
    status, headers, body = buffered(handler, name)
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"]
    assert headers["X-Generation-Id"] == json.loads(body)["id"]
    assert spent(handler) == simulator.billed_nanousd > 0


def test_the_body_of_a_chat_event_goes_upstream(handler: ModuleType, simulator: Simulator) -> None:
    buffered(handler, "chat")
    sent = simulator.seen[-1]
    body = event("chat")["body"]
    assert sent.body.decode().startswith(body[:-1])
    assert sent.header("http-referer") == "https://shop.example"
    assert sent.header("x-forwarded-for") is None
    assert sent.header("authorization") == "Bearer simulated"


def test_a_streamed_chat_is_answered_in_one_piece_where_the_runtime_cannot_stream(
    handler: ModuleType, simulator: Simulator
) -> None:
    status, headers, body = buffered(handler, "chat-streamed")
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert body.endswith("data: [DONE]\n\n")
    assert spent(handler) == simulator.billed_nanousd > 0


@pytest.mark.parametrize("name", ["chat", "chat-streamed"])
def test_a_runtime_that_streams_gets_the_body_as_an_iterator(
    name: str, handler: ModuleType, simulator: Simulator
) -> None:
    answer = handler.handler(event(name), Streaming())
    assert isinstance(answer, Response)
    assert answer.status == 200
    assert b"".join(answer.body)
    answer.close()
    assert spent(handler) == simulator.billed_nanousd > 0


def test_a_runtime_that_streams_can_close_what_nobody_reads(handler: ModuleType, simulator: Simulator) -> None:
    answer = handler.handler(event("chat-streamed"), Streaming())
    answer.close()
    assert spent(handler) == simulator.billed_nanousd > 0


def test_a_base64_body_is_read_as_its_bytes(handler: ModuleType, simulator: Simulator) -> None:
    status, _, _ = buffered(handler, "chat-base64")
    assert status == 200
    assert "Grüß Gott, 世界".encode() in simulator.seen[-1].body


def test_two_values_of_the_tenant_header_are_refused(handler: ModuleType, simulator: Simulator) -> None:
    status, _, body = buffered(handler, "chat-multi-value-headers")
    assert status == 400
    assert json.loads(body)["error"]["message"] == "the header x-tenant-id is given more than once"
    assert simulator.seen == []


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("chat-without-body", 400, "malformed"),
        ("chat-without-key", 401, "unauthenticated"),
        ("unknown-path", 404, "not_found"),
    ],
)
def test_an_event_that_cannot_be_served_is_refused(name: str, status: int, reason: str, handler: ModuleType) -> None:
    got, headers, body = buffered(handler, name)
    assert (got, json.loads(body)["error"]["metadata"]["reason"]) == (status, reason)
    assert headers["Content-Type"] == "application/json"


def test_health_needs_no_key(handler: ModuleType) -> None:
    status, _, body = buffered(handler, "health")
    assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_usage_is_told_of_the_tenant_in_the_path(handler: ModuleType) -> None:
    status, _, body = buffered(handler, "usage")
    assert (status, json.loads(body)["tenant"]) == (200, "acme")


def test_a_key_event_is_answered_with_what_its_tenant_has_spent_and_has_left(handler: ModuleType) -> None:
    buffered(handler, "chat")
    status, _, body = buffered(handler, "key")
    said = json.loads(body)["data"]
    assert (status, said["usage"] > 0) == (200, True)
    assert said["limit_remaining"] == pytest.approx(10 - said["usage"])  # of the day


def test_a_query_of_usage_is_answered_for_its_days(handler: ModuleType) -> None:
    status, _, body = buffered(handler, "usage-query")
    said = json.loads(body)
    assert (status, said["tenant"], said["interval"], said["group_by"]) == (200, "acme", "day", "model")
    assert (said["from"], said["to"]) == ("2026-11-01", "2026-11-30")


def test_usage_is_csv_where_that_is_accepted(handler: ModuleType) -> None:
    status, headers, body = buffered(handler, "usage-csv")
    assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert headers["Content-Disposition"] == 'attachment; filename="usage-acme-2026-11-01-2026-11-30.csv"'
    assert body.splitlines()[0] == "start,group,calls,prompt_tokens,completion_tokens,cost_usd,estimated_usd"


def test_the_usage_of_all_tenants_is_told_to_the_admin_s_key(handler: ModuleType) -> None:
    buffered(handler, "chat")
    status, _, body = buffered(handler, "usage-all")
    said = json.loads(body)
    assert (status, [each["tenant"] for each in said["data"]], said["next"]) == (200, ["acme"], None)
    assert said["data"][0]["monthly"]["spent_usd"] > 0


def test_a_quote_event_is_answered_with_the_tenants_budget_and_nothing_is_called(
    handler: ModuleType, simulator: Simulator
) -> None:
    status, _, body = buffered(handler, "quote")
    said = json.loads(body)
    assert (status, said["tenant"], said["feature"]) == (200, "acme", "search")
    assert (said["outcome"], said["model"], said["max_tokens"]) == ("as_asked", "sim/ok", 100)
    assert [seen.target for seen in simulator.seen if "chat" in seen.target] == []
    assert spent(handler) == 0


def test_the_query_of_models_goes_upstream(handler: ModuleType, simulator: Simulator) -> None:
    status, _, body = buffered(handler, "models")
    assert status == 200
    assert len(json.loads(body)["data"]) == 5
    assert simulator.seen[-1].target == "/api/v1/models?offset=0&limit=5"


def test_a_tenant_name_in_the_path_is_decoded_as_api_gateway_leaves_it(handler: ModuleType) -> None:
    for path, reason in (("/usage/a%20b", "invalid_tenant"), ("/usage/a b", "invalid_tenant")):
        answer = handler.handler({**event("usage"), "path": path}, Buffering())
        assert json.loads(answer["body"])["error"]["metadata"]["reason"] == reason


def test_every_event_in_the_folder_is_used() -> None:
    text = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    names = {path.stem for path in EVENTS.iterdir()}
    assert {path.suffix for path in EVENTS.iterdir()} == {".json"}
    assert {name for name in names if f'"{name}"' not in text} == set()
