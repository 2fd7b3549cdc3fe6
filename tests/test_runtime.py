"""The streaming runtime (layers/runtime) under AWS's runtime interface emulator, with a toy function."""

import base64
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.child import ROOT
from tests.lambda_sandbox import DELIMITER, Sandbox, build_root, last_post, sandbox, unavailable, wrapper

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")

FROM_API_GATEWAY = {"httpMethod": "POST", "requestContext": {"stage": "api"}}
RUNTIME = ROOT / "layers/runtime"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build_root(tmp_path, layers={RUNTIME: ""}, function=ROOT / "tests/toy")
    return tmp_path


@pytest.fixture
def toy(root: Path) -> Iterator[Sandbox]:
    with sandbox(root, handler="handler.handler", variables=wrapper(root)) as running:
        yield running


def parts(answer: bytes) -> tuple[dict[str, Any], bytes]:
    prelude, delimiter, payload = answer.partition(DELIMITER)
    assert delimiter, answer
    return json.loads(prelude), payload


def test_the_runtime_is_small_executable_and_says_that_it_goes_away() -> None:
    program = (RUNTIME / "farebox_runtime.py").read_text()
    assert (RUNTIME / "farebox-runtime").stat().st_mode & 0o777 == 0o755
    assert len(program.splitlines()) < 200
    assert "GOES AWAY" in program[:400]


def test_every_chunk_leaves_before_the_next_one_exists(toy: Sandbox) -> None:
    answers: list[httpx.Response] = []
    event = {"do": "stream", "words": ["one", "two", "three"], **FROM_API_GATEWAY}
    call = threading.Thread(target=lambda: answers.append(toy.invoke(event)))
    call.start()

    assert b"two" not in toy.wiretap.wait_for(b"3\r\none\r\n")
    toy.gate.open()
    assert b"three" not in toy.wiretap.wait_for(b"3\r\ntwo\r\n")
    toy.gate.open()
    assert b"\r\n0\r\n\r\n" not in toy.wiretap.wait_for(b"5\r\nthree\r\n")
    toy.gate.open()
    call.join()

    prelude, payload = parts(answers[0].content)
    assert prelude == {
        "statusCode": 200,
        "headers": {"Content-Type": "text/event-stream"},
        "multiValueHeaders": {"X-Multi": ["a", "b"]},
    }
    assert payload == b"onetwothree"
    post = last_post(toy.wiretap.heard())
    assert post.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert post.headers["lambda-runtime-function-response-mode"] == "streaming"
    assert post.headers["transfer-encoding"] == "chunked"
    assert post.chunks == (json.dumps(prelude).encode() + DELIMITER, b"one", b"two", b"three")
    assert post.trailers == {}
    assert b"closed the body" in toy.log.read_bytes()


@pytest.mark.skipif("AWSLAMBDARIC" in os.environ, reason="only awslambdaric 4.2 knows of invocation ids")
def test_a_stream_repeats_the_invocation_id_as_every_answer_does(toy: Sandbox) -> None:
    for number, event in enumerate(({"do": "empty"}, {"do": "context_facts"}), 1):
        toy.wiretap.forget()
        toy.invoke(event)
        assert re.findall(rb"(?i)lambda-runtime-invocation-id: (\S+)", toy.wiretap.heard()) == [b"attempt-%d" % number]


def test_a_value_is_answered_as_json_with_lambdas_own_context(toy: Sandbox) -> None:
    facts = toy.invoke({"do": "context_facts"}).json()

    assert facts["streams_responses"] is True
    assert facts["function_name"] == "sandbox"
    assert ":function:" in facts["arn"]
    assert 0 < facts["remaining_ms"] <= 60_000
    assert facts["request_id"].encode() in toy.log.read_bytes()


def test_the_environment_is_that_of_the_managed_runtime(root: Path) -> None:
    facts = []
    for variables in (wrapper(root), {}):
        with sandbox(root, handler="handler.handler", variables=variables) as running:
            facts.append(running.invoke({"do": "context_facts"}).json())
    ours, stock = facts

    assert (ours["streams_responses"], stock["streams_responses"]) == (True, False)
    for name in ("python_path", "argv", "path"):
        assert ours[name] == stock[name]


def test_invocations_follow_each_other_in_one_process_with_one_cold_start(toy: Sandbox) -> None:
    first = toy.invoke({"do": "context_facts"}).json()
    broken = toy.invoke({"do": "fails_later", **FROM_API_GATEWAY})
    second = toy.invoke({"do": "context_facts"}).json()

    assert broken.status_code == 200
    assert first["pid"] == second["pid"]
    assert first["request_id"] != second["request_id"]
    assert (first["trace_id"], second["trace_id"]) == ("Root=1-1", "Root=1-3")
    assert re.findall(rb'"cold_start": *(\w+)', toy.log.read_bytes()) == [b"true", b"false", b"false"]


def test_a_proxy_dictionary_becomes_a_stream_behind_api_gateway_only(toy: Sandbox) -> None:
    prelude, payload = parts(toy.invoke({"do": "proxy_dictionary", **FROM_API_GATEWAY}).content)
    assert prelude == {"statusCode": 403, "headers": {"X-A": "b"}, "multiValueHeaders": {"X-B": ["c", "d"]}}
    assert payload == b"no"

    assert toy.invoke({"do": "proxy_dictionary"}).json()["statusCode"] == 403


def test_a_body_without_chunks_still_has_its_status(toy: Sandbox) -> None:
    prelude, payload = parts(toy.invoke({"do": "empty", **FROM_API_GATEWAY}).content)
    assert prelude == {"statusCode": 204, "headers": {}}
    assert payload == b""


def test_a_body_may_be_a_tuple_that_needs_no_closing(toy: Sandbox) -> None:
    prelude, payload = parts(toy.invoke({"do": "whole", **FROM_API_GATEWAY}).content)
    assert prelude["statusCode"] == 200
    assert payload == b"{}"
    assert b"Traceback" not in toy.log.read_bytes()


@pytest.mark.parametrize("behaviour", ["closes_itself", "closes_itself_after_a_failure"])
def test_an_answer_that_can_be_closed_is_closed_in_place_of_its_body(toy: Sandbox, behaviour: str) -> None:
    toy.invoke({"do": behaviour, **FROM_API_GATEWAY})
    assert toy.log.read_bytes().count(b"closed the answer") == 1
    assert b"closed the body" not in toy.log.read_bytes()


def test_the_client_has_the_answer_before_a_slow_close_ends(toy: Sandbox) -> None:
    call = threading.Thread(target=toy.invoke, args=({"do": "closes_slowly", **FROM_API_GATEWAY},))
    call.start()
    assert toy.wiretap.wait_for(b"3\r\none\r\n0\r\n\r\n").count(b"GET /2018-06-01/runtime/invocation/next") == 1
    toy.gate.open()
    call.join()
    assert b"closed slowly" in toy.log.read_bytes()
    assert toy.invoke({"do": "context_facts"}).json()["function_name"] == "sandbox"


def test_an_error_while_closing_is_logged_and_the_next_call_is_served(toy: Sandbox) -> None:
    before = toy.invoke({"do": "context_facts"}).json()
    prelude, payload = parts(toy.invoke({"do": "fails_to_close", **FROM_API_GATEWAY}).content)
    assert (prelude["statusCode"], payload) == (200, b"one")
    assert b"could not be closed" in toy.log.read_bytes()
    assert toy.invoke({"do": "context_facts"}).json()["pid"] == before["pid"]


@pytest.mark.parametrize("failure", ["raises", "fails_first", "exits", "cannot_be_sent"])
def test_an_error_before_the_first_byte_is_a_500_that_tells_no_details(toy: Sandbox, failure: str) -> None:
    prelude, payload = parts(toy.invoke({"do": failure, **FROM_API_GATEWAY}).content)

    request_id = prelude["headers"].pop("X-Request-Id")
    assert prelude == {"statusCode": 500, "headers": {"Content-Type": "application/json"}}
    assert json.loads(payload) == {
        "error": {
            "code": 500,
            "message": "a bug in the gateway; its log has it",
            "type": "api_error",
            "metadata": {"reason": "internal"},
        }
    }
    assert b"Traceback" in toy.log.read_bytes()
    assert request_id.encode() in toy.log.read_bytes()


@pytest.mark.parametrize(("failure", "name"), [("raises", "ValueError"), ("exits", "SystemExit")])
def test_an_error_on_another_event_is_reported_as_lambda_does(toy: Sandbox, failure: str, name: str) -> None:
    report = toy.invoke({"do": failure}).json()
    assert report["errorType"] == name
    assert b"/error" in toy.wiretap.heard()


@pytest.mark.parametrize(
    ("failure", "words", "name"),
    [("fails_later", (b"one", b"two"), "OSError"), ("exits_later", (b"one",), "SystemExit")],
)
def test_an_error_in_mid_stream_goes_into_the_trailers(
    toy: Sandbox, failure: str, words: tuple[bytes, ...], name: str
) -> None:
    toy.invoke({"do": failure, **FROM_API_GATEWAY})

    post = last_post(toy.wiretap.heard())
    assert post.headers["trailer"] == "lambda-runtime-function-error-type, lambda-runtime-function-error-body"
    assert post.chunks[1:] == words
    assert post.trailers["Lambda-Runtime-Function-Error-Type"] == name
    report = json.loads(base64.b64decode(post.trailers["Lambda-Runtime-Function-Error-Body"]))
    assert report["errorType"] == name
    assert report["stackTrace"]
    assert b"closed the body" in toy.log.read_bytes()


@pytest.mark.parametrize("failure", ["exits", "exits_later"])
def test_after_an_exit_the_next_invocation_finds_a_new_process(toy: Sandbox, failure: str) -> None:
    before = toy.invoke({"do": "context_facts"}).json()
    toy.invoke({"do": failure, **FROM_API_GATEWAY})
    after = toy.invoke({"do": "context_facts"}).json()
    assert before["pid"] != after["pid"]


def test_an_answer_that_lambda_refuses_closes_the_body_and_leaves_the_runtime_alive(toy: Sandbox) -> None:
    before = toy.invoke({"do": "context_facts"}).json()
    toy.invoke({"do": "large", "megabytes": 8, **FROM_API_GATEWAY})  # the emulator takes 6 MB, Lambda 200 MB
    assert b"closed the body" in toy.log.read_bytes()
    assert b"cut short" in toy.log.read_bytes()
    assert toy.invoke({"do": "context_facts"}).json()["pid"] == before["pid"]


def test_an_answer_that_nobody_takes_is_closed_before_the_functions_time_is_up(root: Path) -> None:
    variables = {**wrapper(root), "AWS_LAMBDA_FUNCTION_TIMEOUT": "6"}
    with sandbox(root, handler="handler.handler", variables=variables) as toy:
        toy.wiretap.stop_reading_at(b"/response HTTP")
        call = threading.Thread(target=toy.invoke, args=({"do": "too_large", **FROM_API_GATEWAY},))
        call.start()
        toy.wiretap.wait_for(b"/response HTTP")
        toy.gate.open()  # its closing waits there
        toy.wiretap.released.set()
        call.join()
        assert b"closed slowly" in toy.log.read_bytes()
        assert b"cut short" in toy.log.read_bytes()


def test_a_failed_import_is_an_init_error(root: Path) -> None:
    with sandbox(root, handler="broken.handler", variables=wrapper(root)) as running:
        report = running.invoke({}).json()
        assert report["errorType"] == "Runtime.ImportModuleError"
        assert "a_module_that_is_not_there" in report["errorMessage"]
        assert b"POST /2018-06-01/runtime/init/error" in running.wiretap.heard()
