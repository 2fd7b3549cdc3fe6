"""The bytes that OpenRouter sends: JSON as JavaScript writes it, streams and whole bodies, failures in the middle.

Everything here is a generator over one dispatched `Call`. The call is settled before its last piece leaves, so whoever
has read the answer to its end finds it on the bill.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from local.bill import Charge, Tokens, usd
from local.catalogue import Endpoint
from local.scenarios import FIRST_IS_ERROR, GENERATES_NOTHING, HALVED, RATE_LIMIT, UPSTREAM_ERROR, Fault, Script
from local.sockets import Cut

COMMENT: Final = b": OPENROUTER PROCESSING\n\n"
DONE: Final = b"data: [DONE]\n\n"
PADDING: Final = b"         \n"
PAD_TIMES: Final[Mapping[Fault | None, int]] = {Fault.PAD: 5, Fault.PAD_LONG: 12, Fault.ERROR_AFTER_PADDING: 15}
PAD_EVERY_S: Final = 0.2
PAD_LONG_EVERY_S: Final = 0.5
WORDS: Final = ("the ", "fare ", "is ", "paid ", "before ", "you ", "ride ")
ARGUMENTS: Final = ('{"said":"', '"}')  # around the words, when they are a function's arguments
MARK: Final = "\ue000"  # of Unicode's private use area: in no text of ours

CUT_AT_ONCE: Final = frozenset({Fault.CUT_EARLY, Fault.CUT_AFTER_ROLE})

Choices = list[dict[str, object]]
Pieces = Generator[bytes, None, None]
Sleep = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Call:
    """One dispatched request and what the model means to answer."""

    id: str
    created_s: float
    model: str
    router: str | None
    endpoint: Endpoint
    script: Script
    streamed: bool
    tokens: Tokens
    turns: int
    searches: int
    charge: Charge
    bills_times: int
    finish_reason: str
    wait_s: float
    api_key_suffix: str
    user_agent: str | None
    http_referer: str | None


class Meter:
    """Counts what was generated and settles the call, once: when it ends or when its reader goes away."""

    def __init__(self, call: Call, settle: Callable[[Call, int, bool], None]) -> None:
        self._call = call
        self._settle = settle
        self._settled = False
        self.sent_tokens = 0

    def finish(self) -> None:
        """The model has generated everything."""
        self._end(cancelled=False)

    def abort(self) -> None:
        """The reader is gone; after `finish` this changes nothing."""
        self._end(cancelled=True)

    def _end(self, *, cancelled: bool) -> None:
        if not self._settled:
            self._settled = True
            self._settle(self._call, self.sent_tokens, cancelled)


class Body:
    """The iterator that the server reads and closes; closing early is what an abort is."""

    def __init__(self, pieces: Pieces, meter: Meter) -> None:
        self._pieces = pieces
        self._meter = meter

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        """Settle what was not settled."""
        self._pieces.close()
        self._meter.abort()


def stream(call: Call, meter: Meter, sleep: Sleep) -> Pieces:
    """The server-sent events of a streamed call."""
    fault = call.script.fault
    if fault is Fault.CUT_EARLY:
        meter.finish()
        raise Cut
    yield COMMENT
    yield COMMENT
    sleep(call.wait_s)
    yield from _padding(call, COMMENT, sleep)
    if fault in GENERATES_NOTHING:
        meter.finish()
        yield DONE if fault is Fault.EMPTY else _event({"id": call.id, "choices": [], "error": _error(call)})
        return
    if fault is Fault.CUT_AFTER_ROLE:
        meter.finish()
        yield _event(_chunk(call, _choice(_delta(""), None)))
        raise Cut
    yield from _deltas(call, meter)
    meter.finish()
    yield from _failed_end(call) if call.script.fault in HALVED else _end(call)


def whole(call: Call, meter: Meter, sleep: Sleep) -> Pieces:
    """The JSON body of a call that is not streamed."""
    fault = call.script.fault
    if fault not in CUT_AT_ONCE:
        yield from _padding(call, PADDING, sleep)
    meter.finish()
    text = encode(_error_body(call) if fault in FIRST_IS_ERROR else completion(call)).encode()
    if fault is Fault.COMMENT:
        yield COMMENT
    if fault is Fault.CUT:
        yield text[: len(text) // 2]
    if fault is Fault.CUT or fault in CUT_AT_ONCE:
        raise Cut
    yield text


def _padding(call: Call, piece: bytes, sleep: Sleep) -> Iterator[bytes]:
    fault = call.script.fault
    for _ in range(PAD_TIMES.get(fault, 0)):
        yield piece
        sleep(PAD_LONG_EVERY_S if fault is Fault.PAD_LONG else PAD_EVERY_S)
    while fault is Fault.PAD_FOREVER:
        yield piece
        sleep(PAD_EVERY_S)


def _deltas(call: Call, meter: Meter) -> Iterator[bytes]:
    total, size = call.tokens.completion, min(call.script.tokens_per_delta, max(1, call.tokens.completion // 4))
    for start in range(0, total, size):
        if call.script.fault is Fault.CUT and start >= total / 2:
            meter.finish()
            raise Cut
        count = min(size, total - start)
        meter.sent_tokens += count
        if call.script.calls_tool:
            delta = _tool_delta(call, start, count)
        else:
            delta = _delta(words(start, count), reasoning=start < call.tokens.reasoning <= total)
        yield _event(_chunk(call, _choice(delta, None)))
        if call.script.fault is Fault.COMMENT:
            yield COMMENT


def _end(call: Call) -> Iterator[bytes]:
    yield _event(_chunk(call, _choice(_delta(""), call.finish_reason)))
    shapes: dict[str, Choices] = {
        "repeated-finish": _choice(_delta(""), call.finish_reason),
        "empty-choices": [],
        "null-finish": _choice(_delta(""), None),
    }
    if call.script.usage in shapes:
        yield _event(_chunk(call, shapes[call.script.usage], usage=usage(call), service_tier=_tier(call)))
    if call.script.done:
        yield DONE


def _failed_end(call: Call) -> Iterator[bytes]:
    match call.script.fault:
        case Fault.ERROR_WITH_USAGE:
            yield _event(_chunk(call, _choice(_delta(""), None), error=_error(call), usage=usage(call)))
            yield DONE
        case Fault.FINISH_ERROR:
            yield from _end(call)
        case Fault.ERROR_MIDDLE_STRING:
            error = {**_error(call), "code": "server_error"}
            yield _event(_chunk(call, _choice(_delta(""), "error"), error=error))
        case _:
            yield _event(_chunk(call, _choice(_delta(""), "error"), error=_error(call)))


def completion(call: Call) -> dict[str, object]:
    """The chat.completion object."""
    reasoning = min(call.tokens.reasoning, call.tokens.completion)
    text = words(reasoning, call.tokens.completion - reasoning)
    message: dict[str, object] = {
        "role": "assistant",
        "content": None if call.script.calls_tool else text,
        "refusal": None,
        "reasoning": words(0, reasoning) or None,
    }
    if call.script.calls_tool:
        message["tool_calls"] = [_function(call, f"{ARGUMENTS[0]}{text}{ARGUMENTS[1]}")]
    choice: dict[str, object] = {
        "logprobs": None,
        "finish_reason": call.finish_reason,
        "native_finish_reason": call.finish_reason,
        "index": 0,
        "message": message,
    }
    if call.script.fault in HALVED:
        choice["error"] = _error(call)
    reported = {} if call.script.usage == "missing" else {"usage": usage(call)}
    return {**_head(call, "chat.completion"), "choices": [choice], "service_tier": _tier(call), **reported}


def usage(call: Call) -> dict[str, object]:
    """The usage object, with the scenario's lies in it."""
    tokens, charge = call.tokens, call.charge
    upstream = charge.upstream_nanousd
    reported: dict[str, object] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "cost": None if call.script.cost_null else usd(charge.cost_nanousd),
    }
    if call.script.is_byok is not None:
        reported["is_byok"] = call.script.is_byok
    reported["prompt_tokens_details"] = {
        "cached_tokens": tokens.cached,
        "cache_write_tokens": tokens.cache_write + tokens.cache_write_1h,
        "audio_tokens": tokens.audio,
        "video_tokens": 0,
    }
    details: dict[str, object] = {
        "upstream_inference_cost": usd(upstream),
        "upstream_inference_prompt_cost": charge.prompt_usd,
        "upstream_inference_completions_cost": charge.completion_usd,
    }
    if charge.tool_usd:
        details["server_tool_cost"] = charge.tool_usd
    if call.searches or call.turns > 1:
        executed = max(call.searches, call.turns - 1)
        reported["server_tool_use_details"] = {"web_search_requests": call.searches, "tool_calls_executed": executed}
    reported["cost_details"] = details
    reported["completion_tokens_details"] = {
        "reasoning_tokens": tokens.reasoning,
        "image_tokens": 0,
        "audio_tokens": 0,
    }
    return reported


def words(start: int, count: int) -> str:
    """Some tokens of text; the same from a stream as from a whole body."""
    skipped = start % len(WORDS)
    return "".join((WORDS * ((skipped + count) // len(WORDS) + 1))[skipped : skipped + count])


def _head(call: Call, kind: str) -> dict[str, object]:
    return {
        "id": call.id,
        "provider": call.endpoint.provider,
        "model": call.model,
        "object": kind,
        "created": int(call.created_s),
        "system_fingerprint": None,
    }


def _chunk(call: Call, choices: Choices, **more: object) -> dict[str, object]:
    return {**_head(call, "chat.completion.chunk"), "choices": choices, **more}


def _choice(delta: dict[str, object], finish_reason: str | None) -> Choices:
    return [{"index": 0, "delta": delta, "finish_reason": finish_reason, "native_finish_reason": finish_reason}]


def _delta(text: str, *, reasoning: bool = False) -> dict[str, object]:
    if reasoning:
        return {"role": "assistant", "content": "", "reasoning": text}
    return {"role": "assistant", "content": text}


def _tool_delta(call: Call, start: int, count: int) -> dict[str, object]:
    """A function's name comes in the first delta; its arguments come in pieces."""
    before = ARGUMENTS[0] if start == 0 else ""
    after = ARGUMENTS[1] if start + count == call.tokens.completion else ""
    text = f"{before}{words(start, count)}{after}"
    piece = _function(call, text) if start == 0 else {"function": {"arguments": text}}
    return {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **piece}]}


def _function(call: Call, arguments: str) -> dict[str, object]:
    return {"id": f"call_{call.id[-20:]}", "type": "function", "function": {"name": "say", "arguments": arguments}}


def _tier(call: Call) -> str:
    return call.endpoint.service_tier or "default"


def _error(call: Call) -> dict[str, object]:
    unavailable = {"error_type": "provider_unavailable", "provider_name": "Simulated"}
    code = call.script.error_code
    return {"message": UPSTREAM_ERROR, "code": code, "metadata": RATE_LIMIT if code == 429 else unavailable}


def _error_body(call: Call) -> dict[str, object]:
    return {"id": call.id, "error": _error(call), "user_id": "user_simulated"}


def _event(value: Mapping[str, object]) -> bytes:
    return b"data: " + encode(value).encode() + b"\n\n"


def encode(value: object) -> str:
    """JSON without spaces, with decimals as JSON.stringify writes the same numbers."""
    return JSON.encode(value).replace(f'"{MARK}', "").replace(f'{MARK}"', "")


def _marked(value: object) -> object:
    """A decimal as a string that `encode` takes the quotes off; the C encoder knows no other way."""
    match value:
        case Decimal():
            return f"{MARK}{number(value)}{MARK}"
        case Mapping():
            return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_marked)


def number(value: Decimal) -> str:
    """Exact text: plain from a millionth on, with an exponent (1.5e-7) below it, and no trailing zeros."""
    value = value.normalize()
    if value == 0 or abs(value) >= Decimal("0.000001"):
        return f"{value:f}"
    digits, _, exponent = f"{value:e}".partition("e")
    return f"{digits}e{int(exponent)}"
