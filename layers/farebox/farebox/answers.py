"""What the client gets: the answer with what it cost and what was done to it, or every attempt that failed and why."""

from collections.abc import Mapping
from typing import Any

from .admission import Admission
from .course import Course, Ended, Failure
from .ledger import Ledger
from .money import usd_text
from .relay import BodyRelay, StreamRelay, Track, cut_error
from .rest import JSON, Response, json_response
from .settlement import CIRCUIT_OPEN, IN_FLIGHT, Outcome, Settlement, text_of
from .states import shown
from .upstream import CUT, TIMEOUT, Answer

STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
KEY_REFUSED = {"message": "OpenRouter does not accept the key of this gateway: check OPENROUTER_API_KEY"}
MAX_WAIT_S = 60


def answered(course: Course, track: Track) -> Response:
    """The answer of an attempt: a stream, a body in one piece, or one that is still padded with white space."""
    admission = course.admission
    if admission is None:
        raise AssertionError("a track has an admission")
    if track.answer.is_stream:
        headers = {**STREAM_HEADERS, **_headers(course, admission, admission.ledger, track.answer)}
        return Response(track.answer.status, headers, StreamRelay(track))
    relay = BodyRelay(track)
    if not track.is_whole:
        headers = {"Content-Type": JSON, **_headers(course, admission, admission.ledger, track.answer)}
        return Response(track.answer.status, headers, relay)
    body = b"".join(relay)  # settles
    relay.close()
    ended = course.ended
    ledger = admission.ledger if ended is None else ended.ledger
    settlement = None if ended is None else ended.settlement
    headers = {"Content-Type": JSON, **_headers(course, admission, ledger, track.answer, settlement)}
    return Response(track.answer.status, headers, (body.lstrip(),))


def failed(course: Course) -> Response:
    """No attempt gave an answer: upstream's own error where one model was all there was, else all of them."""
    ended = course.ended
    if len(course.reports) != 1 or ended is None or ended.failure is None:
        return _all_failed(course)
    return _one_failed(course, ended, ended.failure)


def _one_failed(course: Course, ended: Ended, failure: Failure) -> Response:
    settlement = ended.settlement
    headers = _headers(course, ended.admission, ended.ledger, None, settlement)
    is_saturated = settlement.status == 402 and IN_FLIGHT in str(failure.error)
    if _is_lost(course):
        headers["x-should-retry"] = "false"  # it may be an earlier attempt that was billed
    elif (wait := text_of(failure.headers.get("retry-after"))) is not None or is_saturated:
        headers["Retry-After"] = wait or "1"
    if settlement.status is not None:
        error = failure.error
        if settlement.status == 401:
            error = KEY_REFUSED
        elif error is None:
            error = {"message": f"OpenRouter answered with status {settlement.status} and no error that can be read"}
        # A 402 would be read as a lack of money; it is one of patience.
        status = 429 if is_saturated else _status(settlement.status)
        return upstream_error(status, error, headers)
    cause = settlement.cause or CUT
    if settlement.outcome is Outcome.DECLINED:
        why = "its circuit is open" if cause == CIRCUIT_OPEN else "OpenRouter cannot be reached"
        error = {"message": f"{why}; nothing was spent", "metadata": {"reason": cause}}
        return upstream_error(502, error, headers)
    return json_response(504 if cause == TIMEOUT else 502, {"error": cut_error(cause)}, headers)


def _all_failed(course: Course) -> Response:
    """502 with every model of the chain, and why it gave no answer; the last word where asking others has no use."""
    ended, reports = course.ended, course.reports
    if ended is not None and ended.failure is not None and not ended.failure.is_transient:
        return _one_failed(course, ended, ended.failure)
    is_lost = _is_lost(course)
    headers = {} if ended is None else _headers(course, ended.admission, ended.ledger, None, None)
    waits = [wait for report in reports if isinstance(wait := report.get("retry_after_s"), int)]
    if is_lost:
        headers["x-should-retry"] = "false"  # a repetition may be billed as well
    elif waits:
        headers["Retry-After"] = str(min(*waits, MAX_WAIT_S))
    spent = "an attempt may have been billed" if is_lost else "nothing was spent"
    tried = "; ".join(f"{report['model']}: {report['cause']}" for report in reports)
    content = {
        "code": 502,
        "message": f"no model gave an answer ({tried}); {spent}",
        "type": "upstream_error",
        "metadata": {"reason": "all_models_failed", "attempts": reports},
    }
    return json_response(502, {"error": content}, headers)


def _is_lost(course: Course) -> bool:
    """Whether any attempt may have been billed without an answer."""
    return any(report.get("outcome") == Outcome.LOST.value for report in course.reports)


def _status(status: int) -> int:
    """The status to answer with for an upstream's: its own, except where it would accuse the client of our key."""
    if not 400 <= status < 600 or status == 401:
        return 502
    return 504 if status == 524 else status


def upstream_error(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """OpenRouter's error in our shape; its own metadata stays, since clients read it, and so does a reason in words."""
    found = error.get("metadata")
    metadata = found if isinstance(found, Mapping) else {}
    content = {
        "code": status,
        "message": str(error.get("message") or "OpenRouter gave no reason"),
        "type": "upstream_error",
        "metadata": {**metadata, "reason": text_of(metadata.get("reason")) or "upstream_error"},
    }
    return json_response(status, {"error": content}, headers)


def _model(admission: Admission, settlement: Settlement | None) -> str:
    """The model that was called; of a list the one that answered, where that is known."""
    if len(admission.candidate.models) > 1 and settlement is not None and settlement.receipt.model is not None:
        return settlement.receipt.model
    return admission.hold.model


def _headers(
    course: Course,
    admission: Admission,
    ledger: Ledger,
    answer: Answer | None = None,
    settlement: Settlement | None = None,
) -> dict[str, str]:
    tenant, hold = admission.call.tenant, admission.hold
    headers = {
        "X-Farebox-Model": _model(admission, settlement),
        "X-Farebox-Budget-State": shown(tenant, ledger, hold.day).value,
        "X-Farebox-Daily-Remaining-Usd": usd_text(tenant.limits.day_nanousd - ledger.committed_on(hold.day)),
        "X-Farebox-Monthly-Remaining-Usd": usd_text(tenant.limits.month_nanousd - ledger.committed_nanousd),
    }
    if admission.downgraded_from is not None:
        headers["X-Farebox-Downgraded-From"] = admission.downgraded_from
    elif admission.candidate.name != course.asked:
        headers["X-Farebox-Fallback-From"] = course.asked
    if admission.quote.is_clamped:
        headers["X-Farebox-Max-Tokens"] = str(admission.quote.output_tokens)
    generation = text_of(answer.headers.get("x-generation-id")) if answer is not None else None
    generation = generation or (settlement.receipt.generation_id if settlement is not None else None)
    if generation:
        headers["X-Generation-Id"] = generation
    if settlement is not None and settlement.cost_nanousd is not None:
        headers["X-Farebox-Cost-Usd"] = usd_text(settlement.cost_nanousd)
    if settlement is not None and settlement.outcome is Outcome.LOST:
        headers["x-should-retry"] = "false"  # a repetition may be billed as well
    return headers
