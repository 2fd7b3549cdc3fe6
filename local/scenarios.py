"""How each simulated model behaves; the model's slug names the scenario.

"Full" bills the prompt and everything the model meant to generate, "sent" the prompt and what was generated before the
end, "-" nothing. Where OpenRouter's behaviour is uncertain the bill is the worse case for the payer.

| model                            | what happens                                                          | bills |
|----------------------------------|-----------------------------------------------------------------------|-------|
| sim/ok                           | a short answer, cheap                                                 | full  |
| sim/cent                         | 1000 tokens in total at 0.00001 USD: exactly 0.01 USD unless clamped  | full  |
| sim/cent-bytes                   | the same, but a prompt token is one UTF-8 byte, and 8 more per        | full  |
|                                  | message                                                               |       |
| sim/slow                         | 30 s of silence before the first token                                | full  |
| sim/free:free                    | a short answer at price 0                                             | 0     |
| sim/dear-provider                | a second endpoint, 5 times dearer than /models says, serves the call  | full  |
| sim/priority                     | has a priority endpoint at twice the price: service_tier or :nitro    | full  |
|                                  | select it                                                             |       |
| sim/tiers                        | has endpoints at half (flex), twice (priority) and four times         | full  |
|                                  | (ultrafast) the price                                                 |       |
| sim/tiers-2                      | priority, speed fast reroute to sim/tiers-2-fast                      | full  |
| sim/tiers-2-fast                 | the sibling, at 6 times the price                                     | full  |
| sim/pro-base                     | reasoning.mode pro reroutes to sim/pro-base-pro                       | full  |
| sim/pro-base-pro                 | the same prices, twice as many tokens                                 | full  |
| sim/long-context                 | pricing.overrides: double price above 1000 prompt tokens              | full  |
| sim/cache-write                  | all prompt tokens are cache writes, at 1.25 times the prompt price;   | full  |
|                                  | with a ttl of 1h at pricing.input_cache_write_1h                      |       |
| sim/cache-read                   | half of the prompt tokens are cached reads, at a tenth of the price   | full  |
| sim/vision                       | an image counts 90000 tokens (within the context) and costs 0.0012    | full  |
|                                  | USD beside; audio tokens cost 7 times the prompt price                |       |
| sim/agent                        | a coding agent's model: output of about 400 tokens, log-normal, up to | full  |
|                                  | 64000                                                                 |       |
| sim/agent-cheap                  | the same at a fifth of the price                                      | full  |
| sim/tool-call                    | calls a function instead of saying something                          | full  |
| sim/canonical                    | the response reports the canonical slug sim/canonical-20260801        | full  |
| ~sim/family-latest               | alias: sim/family-2 answers                                           | full  |
| sim/family-2                     | the target of the alias                                               | full  |
| sim/reasoning                    | three quarters of the completion are reasoning                        | full  |
| sim/byok                         | is_byok: cost is 0, the spend is cost_details.upstream_inference_cost | full  |
| sim/no-byok-flag                 | is_byok is absent, upstream_inference_cost equals cost                | full  |
| sim/server-tool                  | two web searches: cost is 0.014 USD above tokens x price              | full  |
| sim/discount                     | pricing.discount is the number 0.25                                   | full  |
| sim/no-max-output                | max_completion_tokens is null                                         | full  |
| sim/tiny-overshoot               | usage reports one reasoning token more than completion tokens         | full  |
| sim/huge                         | 20000 tokens in 5000 deltas                                           | full  |
| sim/stop-billing                 | as sim/cent, but an aborted stream is billed only up to the abort     | sent  |
| openrouter/auto                  | price "-1"; sim/cent answers, or under a max_price the dearest model  | full  |
|                                  | of a pool that passes it                                              |       |
| openrouter/auto-beta             | the same                                                              | full  |
| openrouter/fusion                | the same, billed 5 times                                              | 5x    |
| sim/usage-missing                | no usage at all; only /generation knows the cost                      | full  |
| sim/cost-null                    | usage.cost is null                                                    | full  |
| sim/usage-repeated-finish        | the usage chunk repeats the finish_reason (also the default)          | full  |
| sim/usage-empty-choices          | the usage chunk has no choices                                        | full  |
| sim/usage-null-finish            | the usage chunk has a choice with finish_reason null                  | full  |
| sim/no-done                      | the stream ends without [DONE]                                        | full  |
| sim/pad                          | 5 pieces of whitespace over 1 s, then the JSON (stream: comments,     | full  |
|                                  | then data)                                                            |       |
| sim/pad-forever                  | whitespace (stream: comments) without end                             | full  |
| sim/comments-then-answer         | 6 s of whitespace (stream: comments), a piece every 0.5 s, then the   | full  |
|                                  | answer                                                                |       |
| sim/comment-in-body              | a comment line before the JSON (stream: comments between the deltas)  | full  |
| sim/error-200                    | 200 with an error body (stream: the first event is an error, then the | -     |
|                                  | end)                                                                  |       |
| sim/first-event-429              | the same with code 429                                                | -     |
| sim/comments-then-error          | 3 s of padding (stream: comments), then as sim/error-200              | -     |
| sim/empty-stream                 | 200 and nothing generated, no usage (stream: comments, then [DONE])   | sent  |
| sim/error-mid-stream             | half of the deltas, then an error chunk, then the end                 | sent  |
|                                  | (not streamed: a choice with finish_reason error and partial content) |       |
| sim/error-mid-stream-string-code | the same with code "server_error" as in one sample of the docs        | sent  |
| sim/error-with-usage             | half of the deltas, then error and usage in one chunk, then [DONE]    | sent  |
| sim/finish-error                 | finish_reason error with partial content and cost 0: zero-completion  | 0     |
|                                  | insurance                                                             |       |
| sim/cut                          | some deltas or half of the JSON, then the connection breaks           | full  |
| sim/cut-early                    | the headers, then the connection breaks                               | full  |
| sim/role-then-cut                | a delta with a role only, then the connection breaks (not streamed:   | full  |
|                                  | as sim/cut-early)                                                     |       |
| sim/silent                       | nothing for an hour, not even headers                                 | full  |
| sim/refuse                       | connection refused (socket: closed without a response)                | -     |
| sim/not-json                     | 200 with an HTML page                                                 | full  |
| sim/524-html                     | the edge's timeout page in HTML                                       | full  |
| sim/504                          | the provider timed out                                                | full  |
| sim/408                          | request timeout before dispatch                                       | -     |
| sim/429                          | the provider's rate limit, with Retry-After                           | -     |
| sim/429-plain                    | OpenRouter's own rate limit, without Retry-After                      | -     |
| sim/402-balance                  | the account cannot afford max_tokens                                  | -     |
| sim/402-in-flight                | calls in flight hold the balance, with Retry-After                    | -     |
| sim/402-weight                   | this one call is above the in-flight budget                           | -     |
| sim/403-key-limit                | the key's limit is spent                                              | -     |
| sim/404-no-endpoints             | no endpoint serves the model                                          | -     |
| sim/500                          | masked server error                                                   | -     |
| sim/502                          | provider unavailable                                                  | -     |
| sim/flaky                        | as sim/502 until POST /_sim/heal (then as sim/ok), and again after     | -     |
|                                  | POST /_sim/break                                                      |       |
| sim/503                          | overloaded, with Retry-After                                          | -     |
| sim/529                          | provider overloaded                                                   | -     |

What moves the price beside that works with every model: local/prompts.py reads the request's tiers, suffixes, plugins
and server tools, local/calls.py has their fees.

Names of the kind `openai/gpt-4o-mini` are there for `make dev`; they answer as sim/ok does, with 200 tokens.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from statistics import NormalDist
from typing import Final, Literal

HTML_524: Final = "<!DOCTYPE html><html><head><title>openrouter.ai | 524: A timeout occurred</title></head></html>\n"
HTML_200: Final = "<!DOCTYPE html><html><body>Checking your browser</body></html>\n"
UPSTREAM_ERROR: Final = "Provider returned error"

RATE_LIMIT: Final[Mapping[str, object]] = {
    "raw": "The model is temporarily rate-limited upstream. Please retry shortly.",
    "provider_name": "Simulated",
    "is_byok": False,
    "limit_source": "upstream_provider_shared_pool",
    "retry_after_seconds": 2,
    "headers": {"Retry-After": "2"},
}
NORMAL: Final = NormalDist()

UsageShape = Literal["repeated-finish", "empty-choices", "null-finish", "missing"]


class Fault(Enum):
    """What goes wrong after the call was dispatched."""

    PAD = auto()
    PAD_FOREVER = auto()
    PAD_LONG = auto()
    COMMENT = auto()
    ERROR_FIRST = auto()
    ERROR_MIDDLE = auto()
    ERROR_MIDDLE_STRING = auto()
    ERROR_WITH_USAGE = auto()
    FINISH_ERROR = auto()
    CUT = auto()
    CUT_EARLY = auto()
    CUT_AFTER_ROLE = auto()
    EMPTY = auto()
    ERROR_AFTER_PADDING = auto()
    SILENT = auto()
    REFUSE = auto()


HALVED: Final = frozenset({Fault.ERROR_MIDDLE, Fault.ERROR_MIDDLE_STRING, Fault.ERROR_WITH_USAGE, Fault.FINISH_ERROR})
FIRST_IS_ERROR: Final = frozenset({Fault.ERROR_FIRST, Fault.ERROR_AFTER_PADDING})
GENERATES_NOTHING: Final = FIRST_IS_ERROR | {Fault.EMPTY}
INSURED: Final = FIRST_IS_ERROR | {Fault.FINISH_ERROR}


@dataclass(frozen=True, slots=True)
class Failure:
    """A whole response in place of the answer."""

    status: int
    message: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    html: str = ""
    billed: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """How a model counts, answers and reports.

    `wants` is how many tokens it means to generate for a prompt of so many; `varies`, where there is one, stands in for
    it, with a random number above 0 and below 1 that each call has of its own.
    """

    wants: Callable[[int], int] = lambda _prompt_tokens: 12
    varies: Callable[[float], int] | None = None
    reasons: Callable[[int], int] = lambda _completion_tokens: 0
    bytes_per_token: int = 4
    tokens_per_message: int = 4
    tokens_per_media: int = 1000
    tokens_per_image: int = 1000
    tokens_per_delta: int = 50
    silence_s: float = 0.0
    cache_writes: bool = False
    cache_reads: bool = False
    searches: int = 0
    calls_tool: bool = False
    is_byok: bool | None = False
    usage: UsageShape = "repeated-finish"
    cost_null: bool = False
    done: bool = True
    reports_canonical: bool = False
    fault: Fault | None = None
    error_code: int = 502
    failure: Failure | None = None
    heals: bool = False


def _cent(prompt_tokens: int) -> int:
    return max(1, 1000 - prompt_tokens)


def log_normal(median: int, sigma: float) -> Callable[[float], int]:
    """For `Script.varies`: most answers are short, a few are very long."""
    return lambda luck: max(1, round(median * math.exp(sigma * NORMAL.inv_cdf(luck))))


def _fails(status: int, message: str, metadata: Mapping[str, object] | None = None, **more: object) -> Script:
    retry = more.get("retry_after")
    headers = () if retry is None else (("retry-after", str(retry)),)
    return Script(failure=Failure(status, message, metadata or {}, headers, billed=bool(more.get("billed"))))


PLAIN: Final = Script()
CENT: Final = Script(wants=_cent)
AGENT: Final = Script(varies=log_normal(400, 1.0))
DOWN: Final = _fails(502, UPSTREAM_ERROR, {"error_type": "provider_unavailable", "provider_name": "Simulated"})

SCRIPTS: Final[Mapping[str, Script]] = {
    "sim/ok": PLAIN,
    "sim/cent": CENT,
    "sim/cent-bytes": Script(wants=_cent, bytes_per_token=1, tokens_per_message=8),
    "sim/slow": Script(silence_s=30.0),
    "sim/free:free": PLAIN,
    "sim/dear-provider": PLAIN,
    "sim/priority": PLAIN,
    "sim/tiers": PLAIN,
    "sim/tiers-2": PLAIN,
    "sim/tiers-2-fast": PLAIN,
    "sim/pro-base": PLAIN,
    "sim/pro-base-pro": Script(wants=lambda _prompt: 24),
    "sim/long-context": PLAIN,
    "sim/cache-write": Script(cache_writes=True),
    "sim/cache-read": Script(cache_reads=True),
    "sim/vision": Script(tokens_per_image=90_000),
    "sim/agent": AGENT,
    "sim/agent-cheap": AGENT,
    "sim/tool-call": Script(calls_tool=True),
    "sim/canonical": Script(reports_canonical=True),
    "sim/family-2": PLAIN,
    "sim/reasoning": Script(wants=lambda _prompt: 400, reasons=lambda completion: completion * 3 // 4),
    "sim/byok": Script(is_byok=True),
    "sim/no-byok-flag": Script(is_byok=None),
    "sim/server-tool": Script(searches=2),
    "sim/discount": PLAIN,
    "sim/no-max-output": PLAIN,
    "sim/tiny-overshoot": Script(wants=lambda _prompt: 400, reasons=lambda completion: completion + 1),
    "sim/huge": Script(wants=lambda _prompt: 20_000, tokens_per_delta=4),
    "sim/stop-billing": CENT,
    "sim/usage-missing": Script(usage="missing"),
    "sim/cost-null": Script(cost_null=True),
    "sim/usage-repeated-finish": Script(usage="repeated-finish"),
    "sim/usage-empty-choices": Script(usage="empty-choices"),
    "sim/usage-null-finish": Script(usage="null-finish"),
    "sim/no-done": Script(done=False),
    "sim/pad": Script(fault=Fault.PAD),
    "sim/pad-forever": Script(fault=Fault.PAD_FOREVER),
    "sim/comments-then-answer": Script(fault=Fault.PAD_LONG),
    "sim/comment-in-body": Script(fault=Fault.COMMENT),
    "sim/error-200": Script(fault=Fault.ERROR_FIRST),
    "sim/first-event-429": Script(fault=Fault.ERROR_FIRST, error_code=429),
    "sim/comments-then-error": Script(fault=Fault.ERROR_AFTER_PADDING),
    "sim/empty-stream": Script(fault=Fault.EMPTY, usage="missing"),
    "sim/error-mid-stream": Script(fault=Fault.ERROR_MIDDLE),
    "sim/error-mid-stream-string-code": Script(fault=Fault.ERROR_MIDDLE_STRING),
    "sim/error-with-usage": Script(fault=Fault.ERROR_WITH_USAGE),
    "sim/finish-error": Script(fault=Fault.FINISH_ERROR),
    "sim/cut": Script(fault=Fault.CUT),
    "sim/cut-early": Script(fault=Fault.CUT_EARLY),
    "sim/role-then-cut": Script(fault=Fault.CUT_AFTER_ROLE),
    "sim/silent": Script(fault=Fault.SILENT, silence_s=3600.0),
    "sim/refuse": Script(fault=Fault.REFUSE),
    "sim/not-json": Script(failure=Failure(200, html=HTML_200, billed=True)),
    "sim/524-html": Script(failure=Failure(524, html=HTML_524, billed=True)),
    "sim/504": _fails(504, "The operation was aborted due to timeout", {"error_type": "timeout"}, billed=True),
    "sim/408": _fails(408, "Request timed out", {"error_type": "timeout"}),
    "sim/429": _fails(429, UPSTREAM_ERROR, RATE_LIMIT, retry_after=2),
    "sim/429-plain": _fails(
        429, "Rate limit exceeded: free-models-per-min. ", {"limit_source": "openrouter_free_tier_daily"}
    ),
    "sim/402-balance": _fails(
        402,
        "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only "
        "afford 1024. To increase, visit https://openrouter.ai/settings/credits and add more credits",
        {"limit_source": "openrouter_credits"},
    ),
    "sim/402-in-flight": _fails(
        402,
        "Requests in flight have reserved the remaining credits. Retry when they have finished.",
        {"reason": "in_flight_budget_exhausted", "limit_source": "openrouter_in_flight_budget"},
        retry_after=3,
    ),
    "sim/402-weight": _fails(
        402,
        "The estimated cost of this request exceeds the available budget.",
        {"reason": "weight_exceeds_budget", "limit_source": "openrouter_credits"},
    ),
    "sim/403-key-limit": _fails(
        403,
        "Key limit exceeded (daily limit). Manage it using https://openrouter.ai/settings/keys",
        {"limit_source": "openrouter_key_limit"},
    ),
    "sim/404-no-endpoints": _fails(404, "No endpoints found for sim/404-no-endpoints."),
    "sim/500": _fails(500, "Internal Server Error", {"error_type": "server"}),
    "sim/502": DOWN,
    "sim/flaky": replace(DOWN, heals=True),
    "sim/503": _fails(503, "No instances available", {"error_type": "provider_overloaded"}, retry_after=4),
    "sim/529": _fails(529, UPSTREAM_ERROR, {"error_type": "provider_overloaded", "provider_name": "Simulated"}),
}

CHATTY: Final = Script(wants=lambda _prompt: 200)
