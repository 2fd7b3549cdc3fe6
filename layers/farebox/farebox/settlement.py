"""What an answer from upstream means for the money.

    outcome    when                                                        the hold
    answered   upstream reported a cost                                    spent at that cost
    declined   refused before anything was generated, so nothing is billed released
    lost       anything else: cut, timed out, no cost reported             kept, until the true cost is known

Lost is the answer to every doubt: what may have been billed is never released. The cost is what upstream reports,
never tokens x price: fees, tools and discounts are in it, and in nothing else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from .money import decimal_of, loads_exact, nanousd_ceil
from .sse import DONE, Reader


class Outcome(Enum):
    ANSWERED = "answered"
    DECLINED = "declined"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What upstream said of a call. `cost_nanousd` is None when no cost was reported."""

    cost_nanousd: int | None = None
    generation_id: str | None = None
    model: str | None = None
    provider: str | None = None
    is_byok: bool = False
    tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ended. `cause` says why it was not answered, for the span and the log; `status` is the HTTP status
    of that, which an error inside a 200 has as its code."""

    outcome: Outcome
    receipt: Receipt
    cause: str | None = None
    status: int | None = None

    @property
    def cost_nanousd(self) -> int | None:
        """What the hold ends at; None keeps it."""
        return {Outcome.ANSWERED: self.receipt.cost_nanousd, Outcome.DECLINED: 0, Outcome.LOST: None}[self.outcome]


_COMMENT = re.compile(rb"^:", re.MULTILINE)

NOT_SENT = "not_sent"
CIRCUIT_OPEN = "circuit_open"
PRICE_CAP = "price_cap"
IN_FLIGHT = "in_flight_budget_exhausted"
"""OpenRouter's own cap on what an account has in flight: it passes by itself, and says nothing of tenants or models."""
COST_MISSING = "cost_missing"
EMPTY = "empty"
"""An answer came whole, and there was none in it."""

# The model may have been at work, and a non-streaming call is billed in full even when nobody waits for it.
_TIMEOUTS = frozenset({408, 504, 524})


def settlement_of_status(status: int, body: bytes) -> Settlement:
    """An answer that is not a 2xx. A 5xx is believed only in OpenRouter's own shape: an edge's page tells nothing."""
    said = object_of(body)
    receipt = receipt_of(said)
    if receipt.cost_nanousd is not None:
        return Settlement(Outcome.ANSWERED, receipt, f"status_{status}", status)
    error = said.get("error")
    if status in _TIMEOUTS or (status >= 500 and not isinstance(error, Mapping)):
        return Settlement(Outcome.LOST, receipt, f"status_{status}", status)
    return Settlement(Outcome.DECLINED, receipt, _cause(status, error), status)


def _cause(status: int, error: object) -> str:
    if status == 404 and _names_max_price(error):
        return PRICE_CAP
    return IN_FLIGHT if status == 402 and IN_FLIGHT in str(error) else f"status_{status}"


def _names_max_price(error: object) -> bool:
    """Whether an error says that no endpoint is below the price cap; its form has changed over time."""
    said = str(error).lower()
    return "max price" in said or "max_price" in said


def _code(error: Mapping[str, Any] | None) -> int:
    """The status that an error inside a 200 would have had; without a number it is the provider's fault."""
    code = (error or {}).get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 502


def without_comments(body: bytes) -> bytes:
    """OpenRouter was seen to put its keep-alive comments before the JSON."""
    if not _COMMENT.search(body):
        return body
    return b"\n".join(line for line in body.split(b"\n") if not line.startswith(b":"))


class BodyReader:
    """The body of a non-streaming answer, read as it passes."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self.is_complete = False
        """Whether nothing that matters can follow: never known before the end of a plain body."""

    @property
    def has_begun(self) -> bool:
        """Whether the client has got a part of the answer: never, it gets a plain body whole."""
        return False

    @property
    def error(self) -> object:
        """The error object, None where there is none."""
        return object_of(self.body).get("error")

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    @property
    def body(self) -> bytes:
        """What came, without comment lines."""
        return without_comments(b"".join(self._chunks))

    def settlement(self, *, cut: str | None) -> Settlement:
        """What the whole body means; `cut` says why it is not whole."""
        said = object_of(self.body)
        receipt = receipt_of(said)
        error = said.get("error") if not said.get("choices") else None
        failed = _code(error) if isinstance(error, Mapping) else None
        if receipt.cost_nanousd is not None:
            return Settlement(Outcome.ANSWERED, receipt, None if failed is None else "error_in_body", failed)
        if cut is None and failed is not None:
            outcome = Outcome.LOST if failed in _TIMEOUTS else Outcome.DECLINED
            return Settlement(outcome, receipt, "error_in_body", failed)
        missing = COST_MISSING if said.get("choices") else EMPTY if said else "not_json"
        return Settlement(Outcome.LOST, receipt, cut or missing)


class StreamReader:
    """The events of a streaming answer, read as they pass."""

    def __init__(self) -> None:
        self._events = Reader()
        self._receipt = Receipt()
        self.error: Mapping[str, Any] | None = None
        """The last error that an event told of."""
        self.has_begun = False
        """Whether a model has made anything: from then on no other one can answer."""
        self.is_complete = False
        """Whether the cost is known and the stream has said [DONE]: time to settle, before the client hears of it."""

    def feed(self, chunk: bytes) -> None:
        for data in self._events.feed(chunk):
            self._event(data)

    def settlement(self, *, cut: str | None) -> Settlement:
        """What the events up to now mean; `cut` says why there are no more."""
        for data in self._events.end():
            self._event(data)
        cost = self._receipt.cost_nanousd
        failed = None if self.error is None else _code(self.error)
        cause = None if self.error is None else "error_in_stream"
        if cost is not None and (cut is None or cost > 0):
            return Settlement(Outcome.ANSWERED, self._receipt, cause, failed)
        if self.error is not None and not self.has_begun and failed not in _TIMEOUTS:
            # Zero-completion insurance: no output and an error is not billed.
            return Settlement(Outcome.DECLINED, self._receipt, cause, failed)
        # A cost of zero in a stream that was cut may only have been the first word on it.
        unknown = replace(self._receipt, cost_nanousd=None)
        return Settlement(Outcome.LOST, unknown, cause or cut or (COST_MISSING if self.has_begun else EMPTY), failed)

    def _event(self, data: bytes) -> None:
        if data == DONE:
            self.is_complete = self._receipt.cost_nanousd is not None
            return
        if self.has_begun and b'"usage"' not in data and b'"error"' not in data:
            return  # a delta like those before it; reading thousands of them would only cost time
        said = object_of(data)
        error = said.get("error")
        if isinstance(error, Mapping):
            self.error = error
        self.has_begun = self.has_begun or _has_output(said)
        self._receipt = _merged(self._receipt, receipt_of(said))


def receipt_of(said: Mapping[str, Any]) -> Receipt:
    """The receipt in a chat completion, or in one chunk of it."""
    usage = said.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    return Receipt(
        cost_nanousd=_cost(usage),
        generation_id=text_of(said.get("id")),
        model=text_of(said.get("model")),
        provider=text_of(said.get("provider")),
        is_byok=usage.get("is_byok") is True,
        tokens=_tokens(usage),
    )


def _has_output(said: Mapping[str, Any]) -> bool:
    """Whether a chunk carries anything that a model made; the role alone comes before it made anything."""
    choices = said.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = choice.get("delta") if isinstance(choice, Mapping) else None
    return isinstance(delta, Mapping) and any(value for name, value in delta.items() if name != "role")


def _cost(usage: Mapping[str, Any]) -> int | None:
    """`cost` is what the OpenRouter account is charged. With a key of one's own (BYOK) that is a fee only, and the
    provider's bill comes beside it; in every other case the provider's cost is inside already."""
    cost = _amount(usage.get("cost"))
    if cost is None or usage.get("is_byok") is not True:
        return cost
    details = usage.get("cost_details")
    upstream = _amount(details.get("upstream_inference_cost")) if isinstance(details, Mapping) else None
    return None if upstream is None else cost + upstream


def cost_of_generation(record: Mapping[str, Any]) -> int | None:
    """The cost in a record of GET /generation, by the same rule; None when it does not say."""
    usage = {
        "cost": record.get("total_cost"),
        "is_byok": record.get("is_byok"),
        "cost_details": {"upstream_inference_cost": record.get("upstream_inference_cost")},
    }
    return _cost(usage)


def _amount(value: object) -> int | None:
    usd = None if isinstance(value, str) else decimal_of(value)
    return None if usd is None or usd < 0 else nanousd_ceil(usd)


_ABSURD_TOKENS = 10**12
_TOKENS = {
    "prompt": ("prompt_tokens",),
    "completion": ("completion_tokens",),
    "cached": ("prompt_tokens_details", "cached_tokens"),
    "cache_write": ("prompt_tokens_details", "cache_write_tokens"),
    "reasoning": ("completion_tokens_details", "reasoning_tokens"),
}
"""Kinds of tokens; cached and cache-write tokens are inside prompt, reasoning tokens inside completion."""


def _tokens(usage: Mapping[str, Any]) -> dict[str, int]:
    found = {}
    for kind, path in _TOKENS.items():
        value: Any = usage
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _ABSURD_TOKENS:
            found[kind] = value
    return found


def _merged(old: Receipt, new: Receipt) -> Receipt:
    """Chunks add up to one receipt; usage comes once, near the end."""
    return Receipt(
        cost_nanousd=old.cost_nanousd if new.cost_nanousd is None else new.cost_nanousd,
        generation_id=old.generation_id or new.generation_id,
        model=new.model or old.model,
        provider=new.provider or old.provider,
        is_byok=old.is_byok or new.is_byok,
        tokens=new.tokens or old.tokens,
    )


def text_of(value: object) -> str | None:
    """A name to show in headers and spans, if it can be one."""
    return (
        value if isinstance(value, str) and 0 < len(value) <= 200 and value.isascii() and value.isprintable() else None
    )


def object_of(body: bytes) -> Mapping[str, Any]:
    """A JSON object, or an empty one for anything else: what upstream says is read permissively."""
    try:
        said = loads_exact(body)
    except ValueError:
        return {}
    return said if isinstance(said, Mapping) else {}
