"""Plans a dispatched call before its first byte: how much will be generated, and what that costs."""

from local.answers import Call
from local.bill import UNBILLED, Charge, Tokens, charge
from local.catalogue import Endpoint, Model
from local.prompts import Prompt, too_long, whole_number
from local.scenarios import HALVED, Fault, Script
from local.sockets import HttpRequest


def plan(
    request: HttpRequest,
    prompt: Prompt,
    model: Model,
    endpoint: Endpoint,
    *,
    prompt_tokens: int,
    router: str | None,
    now: float,
    characters: str,
    delay_s: float,
) -> Call:
    """Everything about the answer, decided in advance."""
    script = model.script
    limit = output_limit(prompt, endpoint, prompt_tokens)
    header = request.header("x-sim-output-tokens")
    wanted = script.wants(prompt_tokens) if header is None else whole_number(header)
    tokens = _tokens(script, prompt_tokens, min(wanted, limit))
    return Call(
        id=f"gen-{int(now)}-{characters}",
        created_s=now,
        model=model.canonical_slug if script.reports_canonical else model.id,
        router=router,
        endpoint=endpoint,
        script=script,
        streamed=prompt.streamed,
        tokens=tokens,
        charge=charge_for(script, endpoint, tokens),
        finish_reason="error" if script.fault in HALVED else "length" if wanted > limit else "stop",
        wait_s=delay_s + script.silence_s + whole_number(request.header("x-sim-delay-ms") or "0") / 1000,
        api_key_suffix=(request.header("authorization") or "").removeprefix("Bearer ")[-4:],
        user_agent=request.header("user-agent"),
        http_referer=request.header("http-referer"),
    )


def output_limit(prompt: Prompt, endpoint: Endpoint, prompt_tokens: int) -> int:
    """The most that the model may generate: the request's limit, the endpoint's, or what is left of the context."""
    room = endpoint.context_length - prompt_tokens
    if room < 1:
        raise too_long(endpoint.context_length, prompt_tokens, prompt.max_tokens or 0)
    limits = (prompt.max_tokens, endpoint.max_completion_tokens, room)
    return min(limit for limit in limits if limit is not None)


def charge_for(script: Script, endpoint: Endpoint, tokens: Tokens) -> Charge:
    """The price of these tokens; a call that ended in an error before or without an answer is insured."""
    if script.fault in (Fault.ERROR_FIRST, Fault.FINISH_ERROR):
        return UNBILLED
    return charge(endpoint.pricing, tokens, tool_usd=script.tool_usd, is_byok=bool(script.is_byok))


def _tokens(script: Script, prompt_tokens: int, completion: int) -> Tokens:
    if script.fault is Fault.ERROR_FIRST:
        completion = 0
    if script.fault in HALVED:
        completion //= 2
    written = prompt_tokens if script.cache_writes else 0
    return Tokens(prompt_tokens, completion, reasoning=script.reasons(completion), cache_write=written)
