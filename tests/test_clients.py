"""The real SDKs, pointed at the gateway over a socket: only the base URL and the key are changed."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import openai
import openrouter
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from openrouter import errors
from openrouter.components import ChatUserMessage
from openrouter.utils import BackoffStrategy, RetryConfig

from farebox.rest import Response
from farebox.routes import answer
from local import gateway
from local.catalogue import catalogue
from local.simulator import Simulator
from local.sockets import Server
from tests.conftest import GATEWAY_KEY, Door, MakeDoor, chat_body

CHAT = "/api/v1/chat/completions"
HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Say hello"}]
HI = ChatUserMessage(role="user", content="Say hello")
PATIENCE_S = 20
CALL_S = 600
NO_RETRIES = RetryConfig("none", BackoffStrategy(1, 1, 1, 1), retry_connection_errors=False)


class Desk:
    """A door behind a socket, which keeps what it answered; `on_answer` is called before each answer goes out."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.answers: list[int] = []
        self.events: list[dict[str, Any]] = []
        self.on_answer: Callable[[Response], None] = lambda _: None
        self._lock = threading.Lock()

    def handle(self, event: dict[str, Any], _context: Any) -> Response:
        response = answer(self.door.gate, event, time.monotonic() + CALL_S)
        with self._lock:
            self.events.append(event)
            self.answers.append(response.status)
            self.on_answer(response)
        return response

    def books(self) -> tuple[int, int]:
        day = self.door.usage()["daily"]
        return round(day["spent_usd"] * 1e9), round(day["held_usd"] * 1e9)


class Clients:
    """Both SDKs with their own defaults, retries included."""

    def __init__(self, desk: Desk, url: str, key: str = GATEWAY_KEY, **headers: str) -> None:
        self.desk = desk
        self.openai = openai.OpenAI(base_url=f"{url}/api/v1", api_key=key, default_headers=headers)
        self.openrouter = openrouter.OpenRouter(server_url=f"{url}/api/v1", api_key=key)


@contextmanager
def clients_of(door: Door, **options: str) -> Iterator[Clients]:
    desk = Desk(door)
    with Server(gateway.serve(desk.handle)) as server:
        clients = Clients(desk, server.url, **options)
        with clients.openai, clients.openrouter:
            yield clients


@pytest.fixture
def clients(door: Door) -> Iterator[Clients]:
    with clients_of(door) as opened:
        yield opened


# Answers.


def test_openai_reads_an_answer_its_cost_and_our_headers(clients: Clients, simulator: Simulator) -> None:
    raw = clients.openai.chat.completions.with_raw_response.create(model="sim/cent", messages=HELLO, max_tokens=1000)
    completion = raw.parse()
    assert completion.choices[0].message.content
    assert completion.usage is not None
    assert completion.usage.model_dump()["cost"] == 0.01
    assert raw.headers["X-Farebox-Cost-Usd"] == "0.01"
    assert raw.headers["X-Generation-Id"] == completion.id
    assert clients.desk.books() == (10_000_000, 0)
    assert simulator.billed_nanousd == 10_000_000


def test_openai_reads_a_stream_to_its_usage(clients: Clients, simulator: Simulator) -> None:
    whole = clients.openai.chat.completions.create(model="sim/cent", messages=HELLO, max_tokens=1000)
    chunks = list(
        clients.openai.chat.completions.create(model="sim/cent", messages=HELLO, max_tokens=1000, stream=True)
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.model_dump()["cost"] == 0.01
    assert clients.desk.books() == (simulator.billed_nanousd, 0) == (20_000_000, 0)


def test_openai_can_leave_a_stream_and_it_is_booked_in_full(clients: Clients, simulator: Simulator) -> None:
    with clients.openai.chat.completions.create(model="sim/cent", messages=HELLO, stream=True) as stream:
        assert next(iter(stream)).choices
    end = time.monotonic() + PATIENCE_S
    while clients.desk.books()[1]:
        assert time.monotonic() < end, "it was not settled"
        time.sleep(0.01)
    assert clients.desk.books() == (simulator.billed_nanousd, 0)


@pytest.mark.parametrize(
    "model",
    ["sim/ok", "sim/cent", "sim/free:free", "sim/byok", "sim/no-byok-flag", "sim/reasoning", "sim/pad", "sim/canonical",
     "sim/comment-in-body", "sim/usage-empty-choices", "sim/usage-null-finish", "sim/no-done", "~sim/family-latest"],
)  # fmt: skip
def test_openrouter_validates_answers_and_streams(clients: Clients, simulator: Simulator, model: str) -> None:
    whole = clients.openrouter.chat.send(model=model, messages=[HI], max_tokens=1000)
    assert whole.choices[0].message.content
    assert whole.usage is not None
    with clients.openrouter.chat.send(model=model, messages=[HI], max_tokens=1000, stream=True) as stream:
        chunks = list(stream)
    assert chunks[-1].usage == whole.usage
    content = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert content == whole.choices[0].message.content
    assert clients.desk.books() == (simulator.billed_nanousd, 0)


@pytest.mark.filterwarnings("ignore:.*DEPRECATED:DeprecationWarning")  # the SDK's own
def test_both_list_the_models(clients: Clients) -> None:
    assert {model.id for model in clients.openai.models.list()} == set(catalogue())
    listed = clients.openrouter.models.list(offset=0, limit=20)
    assert listed is not None
    assert [row.id for row in listed.result.data] == list(catalogue())[:20]


def test_a_tenant_is_named_with_a_default_header(door: Door, simulator: Simulator) -> None:
    with clients_of(door, **{"X-Tenant-Id": "acme"}) as clients:
        clients.openai.chat.completions.create(model="sim/ok", messages=HELLO)
    assert round(door.usage("acme")["daily"]["spent_usd"] * 1e9) == simulator.billed_nanousd > 0
    assert door.usage()["daily"]["spent_usd"] == 0


# Refusals.


def reason_of(error: openai.APIStatusError) -> Any:
    body = error.body
    assert isinstance(body, dict)
    return body["metadata"]["reason"]


def test_openai_raises_our_refusals_once_with_reason_and_message(clients: Clients) -> None:
    create = clients.openai.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="n is supported only for one choice a call") as unsupported:
        create(model="sim/ok", messages=HELLO, n=2)
    assert reason_of(unsupported.value) == "unsupported_field"
    with pytest.raises(openai.UnprocessableEntityError, match="no price") as unpriced:
        create(model="no/such-model", messages=HELLO)
    assert reason_of(unpriced.value) == "model_not_priced"
    with pytest.raises(openai.NotFoundError, match="there is nothing at") as unknown:
        clients.openai.responses.create(model="sim/ok", input="hi")
    assert reason_of(unknown.value) == "not_found"
    assert clients.desk.answers == [400, 422, 404]


def test_openrouter_raises_our_refusals_once_with_reason_and_message(clients: Clients) -> None:
    send = clients.openrouter.chat.send
    with pytest.raises(errors.BadRequestResponseError, match="modalities is supported only") as unsupported:
        send(model="sim/ok", modalities=["text", "image"], messages=[HI])
    assert metadata(unsupported.value)["reason"] == "unsupported_field"
    with pytest.raises(errors.UnprocessableEntityResponseError, match="no price") as unpriced:
        send(model="no/such-model", messages=[HI])
    assert metadata(unpriced.value)["model"] == "no/such-model"
    assert clients.desk.answers == [400, 422]


def metadata(error: Any) -> dict[str, Any]:
    found: dict[str, Any] = error.data.error.metadata
    return found


def test_a_wrong_key_is_an_authentication_error_to_both(door: Door) -> None:
    with clients_of(door, key="wrong") as clients:
        with pytest.raises(openai.AuthenticationError, match="the key is not one of this gateway's"):
            clients.openai.chat.completions.create(model="sim/ok", messages=HELLO)
        with pytest.raises(errors.UnauthorizedResponseError, match="the key is not one of this gateway's"):
            clients.openrouter.chat.send(model="sim/ok", messages=[HI])
        assert clients.desk.answers == [401, 401]


def test_a_spent_budget_is_not_repeated_by_either(make_door: MakeDoor, simulator: Simulator) -> None:
    with clients_of(make_door(DEFAULT_DAILY_BUDGET="0")) as clients:
        with pytest.raises(openai.RateLimitError, match="the daily budget of tenant default") as exhausted:
            clients.openai.chat.completions.create(model="sim/ok", messages=HELLO)
        assert reason_of(exhausted.value) == "budget_exhausted"
        assert exhausted.value.type == "insufficient_quota"
        assert exhausted.value.response.headers["x-should-retry"] == "false"
        with pytest.raises(errors.TooManyRequestsResponseError, match="the daily budget of tenant default") as again:
            clients.openrouter.chat.send(model="sim/ok", messages=[HI])
        assert metadata(again.value)["reason"] == "budget_exhausted"
        assert metadata(again.value)["limit_usd"] == 0
        assert clients.desk.answers == [429, 429]
    assert not any(request.target.endswith("/chat/completions") for request in simulator.seen)


def test_a_held_budget_is_repeated_by_openai_after_the_time_we_name(make_door: MakeDoor, simulator: Simulator) -> None:
    opened = make_door(DEFAULT_DAILY_BUDGET="0.02", FAREBOX_HOLD_FRACTION="1").gate
    door = Door(replace(opened, desk=replace(opened.desk, sleep=lambda _: None)))
    running = door.open("POST", CHAT, chat_body(model="sim/cent", stream=True))
    waits: list[str] = []

    def end_the_other_call(response: Response) -> None:
        if response.status == 429:
            waits.append(response.headers["Retry-After"])
            running.close()

    with clients_of(door) as clients:
        clients.desk.on_answer = end_the_other_call
        completion = clients.openai.chat.completions.create(model="sim/cent", messages=HELLO)
        assert completion.choices[0].message.content
        assert clients.desk.answers == [429, 200]
        assert [1 <= int(wait) <= 30 for wait in waits] == [True]
        retries = [event["headers"]["x-stainless-retry-count"] for event in clients.desk.events]
        assert retries == ["0", "1"]
        assert clients.desk.books() == (simulator.billed_nanousd, 0)


# Faults upstream.


def test_a_stream_that_is_cut_is_an_error_to_openai_and_an_error_chunk_to_openrouter(clients: Clients) -> None:
    with pytest.raises(openai.APIError, match="did not come whole"):
        list(clients.openai.chat.completions.create(model="sim/cut", messages=HELLO, stream=True))
    with clients.openrouter.chat.send(model="sim/cut", messages=[HI], stream=True) as stream:
        chunks = list(stream)
    assert [bool(chunk.error) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len(chunks) > 1
    assert clients.desk.answers == [200, 200]
    assert clients.desk.books()[1] > 0


@pytest.mark.parametrize("model", ["sim/cut", "sim/not-json", "sim/504", "sim/524-html"])
def test_openai_does_not_repeat_a_call_that_was_perhaps_billed(
    model: str, clients: Clients, simulator: Simulator
) -> None:
    with pytest.raises(openai.InternalServerError):
        clients.openai.chat.completions.create(model=model, messages=HELLO)
    assert len(clients.desk.answers) == 1
    assert len(simulator.generations) == 1


def test_openai_repeats_a_call_that_was_declined(clients: Clients) -> None:
    clients.openai.max_retries = 1
    with pytest.raises(openai.InternalServerError):
        clients.openai.chat.completions.create(model="sim/502", messages=HELLO)
    assert clients.desk.answers == [502, 502]
    assert clients.desk.books() == (0, 0)


def test_an_error_inside_a_200_is_an_error_to_openai(clients: Clients) -> None:
    """OpenRouter's own way of saying an error after status 200 became a status, where nothing had gone out yet."""
    clients.openai.max_retries = 0
    with pytest.raises(openai.InternalServerError, match="Provider returned error"):
        clients.openai.chat.completions.create(model="sim/error-200", messages=HELLO)
    assert clients.desk.answers == [502]
    assert clients.desk.books() == (0, 0)


# Fallbacks.


@contextmanager
def on_sockets(make_door: MakeDoor, simulator: Simulator, chain: str) -> Iterator[Clients]:
    """Both SDKs, the gateway and the simulator, each behind a socket of its own."""
    with Server(simulator.handle) as upstream, httpx.HTTPTransport() as sockets:
        url = f"{upstream.url}/api/v1"
        door = make_door(upstream=sockets, OPENROUTER_BASE_URL=url, FALLBACK_MODEL_CHAIN=chain)
        with clients_of(door) as opened:
            yield opened


@pytest.mark.parametrize(
    "model", ["sim/502", "sim/refuse", "sim/504", "sim/error-200", "sim/comments-then-error", "sim/cut-early"]
)
def test_both_get_the_answer_of_another_model_plain_and_streamed(
    make_door: MakeDoor, simulator: Simulator, model: str
) -> None:
    with on_sockets(make_door, simulator, "sim/reasoning") as clients:
        raw = clients.openai.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=500)
        assert raw.headers["X-Farebox-Fallback-From"] == model
        assert raw.parse().model == "sim/reasoning"
        chunks = list(clients.openai.chat.completions.create(model=model, messages=HELLO, max_tokens=500, stream=True))
        assert {chunk.model for chunk in chunks} == {"sim/reasoning"}
        whole = clients.openrouter.chat.send(model=model, messages=[HI], max_tokens=500)
        assert whole.model == "sim/reasoning"
        with clients.openrouter.chat.send(model=model, messages=[HI], max_tokens=500, stream=True) as stream:
            assert {chunk.model for chunk in stream} == {"sim/reasoning"}
        assert clients.desk.answers == [200] * 4
        spent, held = clients.desk.books()
        answers = [each for each in simulator.generations if each.model == "sim/reasoning"]
        assert (len(answers), spent) == (4, sum(each.charge.billed_nanousd for each in answers))
        assert spent + held >= simulator.billed_nanousd


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_openai_reads_the_list_of_models_that_failed(make_door: MakeDoor, simulator: Simulator, stream: bool) -> None:  # noqa: FBT001
    with on_sockets(make_door, simulator, "sim/529,sim/error-200") as clients:
        clients.openai.max_retries = 0
        with pytest.raises(openai.InternalServerError, match="no model gave an answer") as failed:
            clients.openai.chat.completions.create(model="sim/502", messages=HELLO, stream=stream)
        assert reason_of(failed.value) == "all_models_failed"
        body = failed.value.body
        assert isinstance(body, dict)
        assert [each["model"] for each in body["metadata"]["attempts"]] == ["sim/502", "sim/529", "sim/error-200"]
        assert clients.desk.books() == (0, 0)


def test_openrouter_reads_the_list_of_models_that_failed(make_door: MakeDoor, simulator: Simulator) -> None:
    with on_sockets(make_door, simulator, "sim/529") as clients:
        with pytest.raises(errors.BadGatewayResponseError, match="no model gave an answer") as failed:
            clients.openrouter.chat.send(model="sim/502", messages=[HI], retries=NO_RETRIES)
        assert [each["model"] for each in metadata(failed.value)["attempts"]] == ["sim/502", "sim/529"]
        assert clients.desk.books() == (0, 0)


def test_openai_does_not_repeat_when_one_of_the_attempts_was_perhaps_billed(
    make_door: MakeDoor, simulator: Simulator
) -> None:
    with on_sockets(make_door, simulator, "sim/502") as clients:
        with pytest.raises(openai.InternalServerError):
            clients.openai.chat.completions.create(model="sim/504", messages=HELLO)
        assert clients.desk.answers == [502]


def test_saturation_of_the_account_is_a_rate_limit_to_both(make_door: MakeDoor, simulator: Simulator) -> None:
    with on_sockets(make_door, simulator, "sim/ok") as clients:
        clients.openai.max_retries = 0
        with pytest.raises(openai.RateLimitError) as limited:
            clients.openai.chat.completions.create(model="sim/402-in-flight", messages=HELLO)
        assert limited.value.response.headers["Retry-After"] == "3"
        with pytest.raises(errors.TooManyRequestsResponseError):
            clients.openrouter.chat.send(model="sim/402-in-flight", messages=[HI])
        assert clients.desk.answers == [429, 429]
