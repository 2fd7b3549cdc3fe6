"""A simulated OpenRouter: `Simulator.handle` is the one function from request to response.

In-process it is `httpx.Client(transport=transport(Simulator()))`, behind a socket `python -m local.simulator`. Models
named `sim/...` are scenarios (local/scenarios.py has the table), prices are in local/catalogue.py, and everything that
was generated is on its own bill (`billed_nanousd`, GET /_sim/bill, GET /_sim/generations, POST /_sim/reset). A model
that is down (sim/flaky) is up while `is_healthy` is true (POST /_sim/heal, POST /_sim/break).

Two request headers, which OpenRouter does not know, move one call: `X-Sim-Output-Tokens` is what the model wants to
generate, `X-Sim-Delay-Ms` waits before the first byte, on top of `delay_s`.

Waiting is done with `sleep`, which tests replace. There are no timeouts in-process, so a test of a silent upstream
gives a `sleep` that raises httpx.ReadTimeout.
"""

import argparse
import random
import signal
import string
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import httpx

from local.answers import Body, Call, Meter, encode, stream, whole
from local.bill import Books, Generation
from local.calls import charge_for, offers, plan
from local.catalogue import Model, catalogue, endpoints_page, find, row, split
from local.in_process import InProcess, Unreachable
from local.prompts import Prompt, Refused, read, serving, whole_number
from local.records import bill, credits_left, generation, key, line
from local.scenarios import Failure, Fault
from local.sockets import HttpRequest, HttpResponse, Server

API: Final = "/api/v1"
ID_CHARACTERS: Final = string.ascii_letters + string.digits
LEAST_LUCK: Final = 1e-12
USER: Final = "user_simulated"
SEEN_LAST: Final = 1000
TRIES_NEXT_MODEL: Final = frozenset({403, 404, 408, 429, 500, 502, 503, 504, 524, 529})


class Simulator:
    """OpenRouter with a clock, a sleep and randomness from outside; safe for threads."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        delay_s: float = 0.0,
        generation_ready_s: float = 2.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        randomness: random.Random | None = None,
        models: Mapping[str, Model] | None = None,
        seen: list[HttpRequest] | None = None,
    ) -> None:
        self.models = dict(models) if models is not None else catalogue()
        self.is_healthy = False
        self.seen: list[HttpRequest] = seen if seen is not None else []
        self._api_key = api_key
        self._delay_s = delay_s
        self._generation_ready_s = generation_ready_s
        self._clock = clock
        self._sleep = sleep
        self._random = randomness or random.Random(0)  # noqa: S311 - ids that are the same in every run
        self._books = Books()
        self._lock = threading.Lock()

    @property
    def billed_nanousd(self) -> int:
        """Everything that was charged, with the provider's invoices for own keys."""
        return self._books.billed_nanousd

    @property
    def generations(self) -> tuple[Generation, ...]:
        """Every dispatched call that has ended."""
        return self._books.all()

    def reset(self) -> None:
        """Forget the bill and the requests seen."""
        with self._lock:
            self.seen.clear()
        self._books.clear()

    def handle(self, request: HttpRequest) -> HttpResponse:
        """One request to one response; raises Cut where there is no response at all."""
        parts = urlsplit(request.target)
        path, query = unquote(parts.path), {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if not path.startswith(f"{API}/"):
            return self._control(request.method, path)
        self._remember(request)
        try:
            return self._answer(request, path.removeprefix(API), query)
        except Refused as refused:
            return _failed(refused.failure)

    def _answer(self, request: HttpRequest, path: str, query: Mapping[str, str]) -> HttpResponse:
        match (request.method, *path.strip("/").split("/")):
            case ("GET", "models"):
                return self._list(query)
            case ("GET", "models", *slug, "endpoints"):
                return self._endpoints("/".join(slug))
            case ("POST", "chat", "completions"):
                self._authenticate(request)
                return self._complete(request)
            case ("GET", "generation"):
                self._authenticate(request)
                return self._generation(query.get("id", ""))
            case ("GET", "key" | "credits" as name):
                self._authenticate(request)
                return _json(200, {"data": key(self._books) if name == "key" else credits_left(self._books)})
            case _:
                raise Refused(Failure(404, "Not Found"))

    def _control(self, method: str, path: str) -> HttpResponse:
        match (method, path):
            case ("GET", "/_sim/bill"):
                return _json(200, bill(self._books))
            case ("GET", "/_sim/generations"):
                return _json(200, [line(record) for record in self._books.all()])
            case ("POST", "/_sim/reset"):
                self.reset()
                return _json(200, {})
            case ("POST", "/_sim/heal" | "/_sim/break"):
                self.is_healthy = path == "/_sim/heal"
                return _json(200, {})
            case _:
                return _failed(Failure(404, "Not Found"))

    def _remember(self, request: HttpRequest) -> None:
        with self._lock:
            self.seen.append(request)
            del self.seen[:-SEEN_LAST]

    def _authenticate(self, request: HttpRequest) -> None:
        header = request.header("authorization")
        if header is None:
            raise Refused(Failure(401, "Missing Authentication header"))
        if self._api_key is not None and header != f"Bearer {self._api_key}":
            raise Refused(Failure(401, "User not found."))

    def _list(self, query: Mapping[str, str]) -> HttpResponse:
        rows = [row(model) for model in self.models.values()]
        if not {"offset", "limit"} & set(query):
            return _json(200, {"data": rows, "links": {"next": None}, "total_count": len(rows)})
        offset, limit = whole_number(query.get("offset", "0")), min(whole_number(query.get("limit", "500")), 1000)
        following = offset + limit
        more = f"{API}/models?{urlencode({'offset': following, 'limit': limit})}" if following < len(rows) else None
        page = {"data": rows[offset:following], "links": {"next": more}, "total_count": len(rows)}
        return _json(200, page)

    def _endpoints(self, slug: str) -> HttpResponse:
        model = find(self.models, slug)
        if model is None:
            raise Refused(Failure(404, f"Model {slug} not found"))
        return _json(200, {"data": endpoints_page(model)})

    def _generation(self, generation_id: str) -> HttpResponse:
        record = self._books.find(generation_id)
        if record is None or self._clock() < record.ended_s + self._generation_ready_s:
            raise Refused(Failure(404, f"Generation {generation_id} not found"))
        return _json(200, {"data": generation(record)})

    def _complete(self, request: HttpRequest) -> HttpResponse:
        """Try `model`, then `models[]`, as OpenRouter does before the first token."""
        prompt = read(request.body)
        for slug in prompt.models[:-1]:
            try:
                return self._dispatch(request, prompt, slug)
            except Refused as refused:
                if not _tries_next(refused.failure):
                    raise
        return self._dispatch(request, prompt, prompt.models[-1])

    def _dispatch(self, request: HttpRequest, prompt: Prompt, slug: str) -> HttpResponse:
        asked, models = serving(self.models, prompt, slug)
        script = models[0].script
        failure = None if script.heals and self.is_healthy else script.failure
        if script.fault is Fault.REFUSE:
            raise Unreachable
        if failure is not None and not failure.billed:
            raise Refused(failure)
        offered = offers(prompt, models, slug)
        characters, luck = self._chance()
        call = plan(
            request,
            prompt,
            offered,
            asked=asked,
            is_online=":online" in split(slug)[1],
            now=self._clock(),
            characters=characters,
            luck=luck,
            delay_s=self._delay_s,
        )
        meter = Meter(call, self._settle)
        if failure is not None:
            meter.finish()
            raise Refused(failure)
        return self._play(call, meter)

    def _play(self, call: Call, meter: Meter) -> HttpResponse:
        if not call.streamed:
            self._wait(call, meter)
        elif call.script.fault is Fault.SILENT:
            self._wait(call, meter)
            call = replace(call, wait_s=0.0)
        if call.streamed:
            kind, pieces = "text/event-stream", stream(call, meter, self._sleep)
        else:
            kind, pieces = "application/json", whole(call, meter, self._sleep)
        headers = (
            ("content-type", kind),
            ("cache-control", "no-cache"),
            ("x-generation-id", call.id),
            ("access-control-expose-headers", "X-Generation-Id,X-Provider-Name,request-id,cf-ray"),
        )
        return HttpResponse(200, headers, Body(pieces, meter))

    def _wait(self, call: Call, meter: Meter) -> None:
        """Before the headers; a reader that gives up meanwhile pays for everything."""
        try:
            self._sleep(call.wait_s)
        except BaseException:
            meter.abort()
            raise

    def _chance(self) -> tuple[str, float]:
        """The end of an id, and a number above 0 and below 1, for one call."""
        with self._lock:
            characters = "".join(self._random.choices(ID_CHARACTERS, k=20))
            return characters, max(self._random.random(), LEAST_LUCK)

    def _settle(self, call: Call, sent_tokens: int, cancelled: bool) -> None:  # noqa: FBT001 - a callback
        """Book a call; only an aborted stream of a provider that supports it is billed for less than everything."""
        tokens, charged = call.tokens, call.charge
        if cancelled and call.streamed and call.endpoint.stops_billing and call.turns == 1:
            tokens = replace(tokens, completion=sent_tokens, reasoning=min(tokens.reasoning, sent_tokens))
            charged = charge_for(call.script, call.endpoint, [tokens], charged.tool_usd, call.bills_times)
        self._books.record(
            Generation(
                id=call.id,
                model=call.model,
                provider=call.endpoint.provider,
                router=call.router,
                api_key_suffix=call.api_key_suffix,
                created_s=call.created_s,
                ended_s=self._clock(),
                streamed=call.streamed,
                finish_reason=None if cancelled else call.finish_reason,
                tokens=tokens,
                charge=charged,
                cancelled=cancelled,
                user_agent=call.user_agent,
                http_referer=call.http_referer,
            )
        )


def _json(status: int, value: object, headers: tuple[tuple[str, str], ...] = ()) -> HttpResponse:
    body = encode(value).encode()
    content = (("content-type", "application/json"), ("content-length", str(len(body))))
    return HttpResponse(status, (*content, *headers), (body,))


def _failed(failure: Failure) -> HttpResponse:
    if failure.html:
        headers = (("content-type", "text/html; charset=UTF-8"), ("content-length", str(len(failure.html))))
        return HttpResponse(failure.status, headers, (failure.html.encode(),))
    error: dict[str, object] = {"message": failure.message, "code": failure.status}
    if failure.metadata:
        error["metadata"] = failure.metadata
    body: dict[str, object] = {"error": error}
    if failure.status != 401:
        body["user_id"] = USER
    return _json(failure.status, body, failure.headers)


def _tries_next(failure: Failure) -> bool:
    too_long = failure.metadata.get("error_type") == "context_length_exceeded"
    return too_long or failure.status in TRIES_NEXT_MODEL


def transport(simulator: Simulator) -> httpx.BaseTransport:
    """The simulator as an httpx transport: bodies are generated while they are read, closing early is an abort."""
    return InProcess(simulator.handle)


def _await_eof(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT (or the end of stdin, so that it cannot outlive a parent that holds the pipe)."""
    parser = argparse.ArgumentParser(prog="python -m local.simulator", description="A simulated OpenRouter.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="wait before the first token")
    parser.add_argument("--api-key", metavar="KEY", help="the only key that is accepted (default: any)")
    parser.add_argument("--exit-on-eof", action="store_true", help="end when stdin ends")
    options = parser.parse_args(arguments)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    if options.exit_on_eof:
        threading.Thread(target=_await_eof, args=(over,), daemon=True).start()
    simulator = Simulator(api_key=options.api_key, delay_s=options.delay)
    try:
        server = Server(simulator.handle, port=options.port)
    except OSError as error:
        parser.exit(1, f"cannot listen on 127.0.0.1:{options.port}: {error.strerror}\n")
    with server:
        print(f"{server.url}{API}", flush=True)
        over.wait()


if __name__ == "__main__":
    main()
