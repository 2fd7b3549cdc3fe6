"""Streams a handler's answer from the managed Python runtime of Lambda, which cannot do so by itself.
THIS GOES AWAY once the managed runtime streams natively: https://github.com/aws/aws-lambda-roadmap/issues/39

Lambda's own runtime stays in charge of paths, logging, handler, trace id and context. We run it but for one class, its
client of the Runtime API; the four names that we use there mean the same in awslambdaric 1.0 (2020) to 4.2 (2026).
A handler finds `context.streams_responses` true and may return what has `status`, `headers`, `body` (bytes, one after
the other) and perhaps `multi_value_headers`. Its `close`, else its body's, is called whatever happens, and may be slow.
A streaming integration understands streams only: a proxy dictionary or an exception becomes one, too.
"""

import base64
import json
import logging
import runpy
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from traceback import format_tb
from types import SimpleNamespace
from typing import Any, ClassVar

sys.path[0] = sys.argv[1].rpartition("/")[0]  # as for Lambda's own bootstrap; this may lie beside it
from awslambdaric import lambda_context, lambda_runtime_client  # type: ignore[import-untyped] # has none # noqa: E402

HTTP_RESPONSE = "application/vnd.awslambda.http-integration-response"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
CLOSE_S = 5  # kept back from the function's time, so that an answer that nobody takes is still closed
log = logging.getLogger("-")  # Powertools silences each logger whose name has the service's in it


class ConnectionLostError(Exception):
    """Lambda does not take the answer. A class of its own, since a body may raise an OSError as well."""


@contextmanager
def connection_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:
        raise ConnectionLostError(str(error)) from error


def whole_response(answer: dict[str, Any]) -> Any:
    """The proxy dictionary of a buffered integration, as a stream of one chunk."""
    text, headers, multiple = answer.get("body") or "", answer.get("headers") or {}, answer.get("multiValueHeaders")
    body = (base64.b64decode(text) if answer.get("isBase64Encoded") else text.encode(),)
    return SimpleNamespace(status=answer["statusCode"], headers=headers, multi_value_headers=multiple, body=body)


def crash_response(request_id: str) -> Any:
    """What the client hears of a bug: no details, they are in the log under the same request id. As in routes.py."""
    error: dict[str, Any] = {"code": 500, "message": "a bug in the gateway; its log has it", "type": "api_error"}
    headers = {"X-Request-Id": request_id, "Content-Type": "application/json"}
    body = json.dumps({"error": {**error, "metadata": {"reason": "internal"}}})
    return whole_response({"statusCode": 500, "headers": headers, "body": body})


def report(error: BaseException) -> dict[str, Any]:
    return {"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": format_tb(error.__traceback__)}


class Stream:
    """One answer on its way to Lambda. It starts with the first chunk: an error before that can have its own status."""

    def __init__(self, client: "StreamingClient", response: Any) -> None:
        self._client, self._response = client, response
        self.http = HTTPConnection(client.lambda_runtime_address)
        self._last_moment = int(client.invocation.deadline_time_in_ms) / 1000 - CLOSE_S

    @connection_errors()
    def send(self, chunk: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    @connection_errors()
    def finish(self, error: BaseException | None = None) -> None:
        end = "0\r\n"
        if error:
            said = base64.b64encode(json.dumps(report(error)).encode()).decode()
            end += f"{ERROR_TYPE}: {type(error).__name__}\r\n{ERROR_BODY}: {said}\r\n"
        self._write(f"{end}\r\n".encode())
        if (status := self.http.getresponse().status) != 202:
            raise ConnectionLostError(f"Lambda refused the answer with status {status}")

    def close(self) -> None:
        self.http.close()
        if close := getattr(self._response, "close", None) or getattr(self._response.body, "close", None):
            close()

    def _write(self, data: bytes) -> None:
        if not self.http.sock:
            self._start()
        self.http.sock.settimeout(max(self._last_moment - time.time(), 0.1))
        self.http.send(data)

    def _start(self) -> None:
        opening = {"statusCode": self._response.status, "headers": dict(self._response.headers)}
        if multiple := getattr(self._response, "multi_value_headers", None):
            opening["multiValueHeaders"] = {name: list(values) for name, values in multiple.items()}
        prelude = json.dumps(opening).encode() + bytes(8)
        self.http.putrequest("POST", f"/2018-06-01/runtime/invocation/{self._client.invocation.invoke_id}/response")
        self.http.putheader("Content-Type", HTTP_RESPONSE)
        self.http.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
        self.http.putheader("Transfer-Encoding", "chunked")
        self.http.putheader("Trailer", f"{ERROR_TYPE}, {ERROR_BODY}")
        for attempt in self._client.attempt:
            self.http.putheader("Lambda-Runtime-Invocation-Id", attempt)
        self.http.endheaders(b"%x\r\n%b\r\n" % (len(prelude), prelude))


class StreamingMarshaller(lambda_runtime_client.LambdaMarshaller):  # type: ignore[misc] # no types, as above
    """Lets streams through to the client, and remembers whether the event came from API Gateway."""

    http = False

    def unmarshal_request(self, *request: Any) -> Any:
        event = super().unmarshal_request(*request)
        self.http = isinstance(event, dict) and {"httpMethod", "requestContext"} <= event.keys()
        return event

    def marshal_response(self, response: Any) -> Any:
        if all(hasattr(response, name) for name in ("status", "headers", "body")):
            return response, HTTP_RESPONSE
        if self.http and isinstance(response, dict) and "statusCode" in response:
            return whole_response(response), HTTP_RESPONSE
        return super().marshal_response(response)


class StreamingClient(lambda_runtime_client.LambdaRuntimeClient):  # type: ignore[misc] # no types, as above
    """The Runtime API as Lambda's runtime knows it, with answers that may be streams."""

    marshaller = StreamingMarshaller()
    unanswered: ClassVar["StreamingClient | None"] = None

    def wait_next_invocation(self) -> Any:
        self.invocation = super().wait_next_invocation()
        self.attempt = tuple(filter(None, [getattr(self.invocation, "invocation_id", None)]))  # new in awslambdaric 4.2
        StreamingClient.unanswered = self
        return self.invocation

    def post_invocation_result(self, invoke_id: str, result: Any, content_type: str, *rest: Any) -> None:
        StreamingClient.unanswered = None
        if content_type == HTTP_RESPONSE:
            self._stream(result)
        else:
            super().post_invocation_result(invoke_id, result, content_type, *rest)

    def post_invocation_error(self, invoke_id: str, *report: Any) -> None:
        StreamingClient.unanswered = None
        if self.marshaller.http:
            self._stream(crash_response(invoke_id))
        else:
            super().post_invocation_error(invoke_id, *report)

    def _stream(self, response: Any) -> None:
        """Answers, then closes. No error here ends the loop: the answer is out and the next call waits."""
        try:
            with closing(Stream(self, response)) as stream:
                self._answer(stream, response.body)
        except Exception as error:
            log.exception("The answer was cut short, or could not be closed.")
            with suppress(Exception):  # Lambda may hand an invocation without an end out again; else it refuses this
                super().post_invocation_error(self.invocation.invoke_id, json.dumps(report(error)), "", *self.attempt)

    def _answer(self, stream: Stream, body: Any) -> None:
        try:
            for chunk in filter(None, body):  # an empty chunk would end the stream
                stream.send(chunk)
            stream.finish()
        except ConnectionLostError:
            raise
        except BaseException as error:
            log.exception("The answer failed.")
            if stream.http.sock:  # something is out
                stream.finish(error)
            else:
                self._stream(crash_response(self.invocation.invoke_id))
            if not isinstance(error, Exception):
                raise


def main(command: list[str]) -> None:
    """Runs Lambda's own bootstrap, a script, as if it had been started directly."""
    lambda_context.LambdaContext.streams_responses = True
    lambda_runtime_client.LambdaRuntimeClient = StreamingClient
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except BaseException as error:  # SystemExit passes Lambda's own loop by
        if client := StreamingClient.unanswered:
            log.critical("The handler ended the process.", exc_info=error)
            client.post_invocation_error(client.invocation.invoke_id, json.dumps(report(error)), "", *client.attempt)
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
