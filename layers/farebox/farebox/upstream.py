"""OpenRouter over httpx. Tells what was never sent (safe to release) from what may be at work (keep the money)."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import httpx

CONNECT_TIMEOUT_S = 5
GET_TIMEOUT_S = 10
STREAM_SILENCE_S = 60
"""OpenRouter sends comments while a model works, so a stream that is silent this long is dead."""
MAX_ERROR_BYTES = 256 * 1024
MAX_STREAM_BYTES = 200 * 1024 * 1024
"""Lambda streams no more."""
MAX_WHOLE_BYTES = 32 * 1024 * 1024
"""Of what is kept until it is whole: a plain answer, prices. Both have less than a tenth of that."""

FORWARDED = ("http-referer", "x-title", "x-openrouter-title", "x-openrouter-categories", "x-openrouter-metadata")
"""Headers of the client that go upstream: attribution, and metadata in the answer. Everything else stays here."""

TIMEOUT = "upstream_timeout"
CUT = "upstream_cut"


class NotSent(Exception):
    """No connection: upstream has seen nothing of the call."""


class Lost(Exception):
    """The call was sent, or partly, and its answer did not come whole. `cause` is TIMEOUT or CUT."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body is still on its way. Always close it."""

    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]
    close: Callable[[], None]

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def error_body(self) -> bytes:
        """The first part of an error's body, which is all of it in practice. Raises Lost."""
        body = b""
        for chunk in self.body:
            body += chunk
            if len(body) >= MAX_ERROR_BYTES:
                break
        return body


class Upstream:
    """One base URL and one key, with connections kept alive between calls."""

    def __init__(self, base_url: str, api_key: str, client: httpx.Client, monotonic: Callable[[], float]) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"accept-encoding": "identity", **({"authorization": f"Bearer {api_key}"} if api_key else {})}
        self._client = client
        self._monotonic = monotonic

    def chat(
        self, body: bytes, headers: Mapping[str, str], deadline: float, *, stream: bool, patience_s: float = math.inf
    ) -> Answer:
        """Send a chat request; returns with the answer's headers. Raises NotSent, Lost.

        No read ends after `deadline`: a part of the time that is left is the longest silence, and no read begins in it.
        A plain body may be silent for long; half of the time is for that. `patience_s` is how long a plain body may
        take altogether; a stream that has begun is no longer subject to it, so its relay looks at the clock.
        """
        now = self._monotonic()
        left = deadline - now
        if left <= 0:
            raise NotSent("no time is left")
        silence = min(STREAM_SILENCE_S, left / 4, patience_s) if stream else min(left / 2, patience_s)
        forwarded = {name: value for name in FORWARDED if is_plain(value := headers.get(name, "").strip())}
        request = self._client.build_request(
            "POST",
            f"{self._base_url}/chat/completions",
            content=body,
            headers={**forwarded, **self._headers, "content-type": "application/json"},
            timeout=httpx.Timeout(silence, connect=min(CONNECT_TIMEOUT_S, silence)),
        )
        try:
            response = self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as e:
            raise NotSent(type(e).__name__) from e
        except httpx.TransportError as e:
            raise _lost(e) from e
        last_read = deadline - silence if stream else min(deadline - silence, now + patience_s)
        chunks = self._body(response, last_read, MAX_STREAM_BYTES if stream else MAX_WHOLE_BYTES)
        return Answer(response.status_code, response.headers, chunks, response.close)

    def get(self, path: str, query: str = "") -> tuple[int, bytes]:
        """A small answer, whole; no read of its body begins later than GET_TIMEOUT_S. Raises NotSent or Lost."""
        last_read = self._monotonic() + GET_TIMEOUT_S
        url = f"{self._base_url}{path}" + (f"?{query}" if query else "")
        timeout = httpx.Timeout(GET_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            with self._client.stream("GET", url, headers=self._headers, timeout=timeout) as response:
                body = b"".join(self._body(response, last_read, MAX_WHOLE_BYTES))
        except httpx.ConnectError as e:
            raise NotSent(type(e).__name__) from e
        except (httpx.TransportError, httpx.DecodingError) as e:
            raise _lost(e) from e
        return response.status_code, body

    def _body(self, response: httpx.Response, last_read: float, most: int) -> Iterator[bytes]:
        """Chunks as they arrive. White space without end trips no read time-out, so the clock is looked at too."""
        size = 0
        try:
            for chunk in response.iter_bytes():
                size += len(chunk)
                if size > most:
                    raise Lost(CUT)
                yield chunk
                if self._monotonic() > last_read:
                    raise Lost(TIMEOUT)
        except (httpx.TransportError, httpx.DecodingError) as e:
            raise _lost(e) from e


def is_plain(value: str) -> bool:
    """Whether a header's value can be sent on: no line breaks, nothing outside ASCII."""
    return bool(value) and value.isascii() and value.isprintable()


def _lost(error: httpx.HTTPError) -> Lost:
    return Lost(TIMEOUT if isinstance(error, httpx.TimeoutException) else CUT)
