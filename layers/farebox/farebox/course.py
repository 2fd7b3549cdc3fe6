"""The attempts of one call, one after the other, each with a hold and a span of its own.

    hold -> send -> peek -> begun       the client gets it as it comes
                         -> undecided   the client has waited long enough: it gets comments, the rest is the relay's
                         -> failed      recorded; the next model of the chain, with a hold of its own

A declined attempt's hold is exchanged for the next one's in one step. One that is lost, or was billed, stays as it is,
and the next attempt holds anew: both may have to be paid. Where that does not fit, or nothing is left of the chain, the
call has failed, and the client is told of every attempt.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from .admission import Admission, Call, StaleTenant, admit
from .breaker import CircuitOpen
from .candidates import Candidate, Dropped
from .chat import ChatRequest, body_with
from .errors import BudgetExhausted, BudgetHeld, Fact, Refusal, RequestTooExpensive
from .fees import lesson_of, taught
from .gate import Gate
from .ledger import Ledger
from .pricing import bounds, has_own_price_cap
from .relay import Track
from .routing import fails_over, verdict
from .settlement import (
    CIRCUIT_OPEN,
    NOT_SENT,
    PRICE_CAP,
    BodyReader,
    Outcome,
    Receipt,
    Settlement,
    StreamReader,
    object_of,
    settlement_of_status,
    text_of,
)
from .store import StoreError
from .upstream import TIMEOUT, Answer, Lost, NotSent
from .variants import variant

PEEK_S = 3.0
"""After so long in silence the client gets comments and white space: OpenRouter's own SDK gives up after 5 s."""

NOTE_S = 1.0
"""A call that takes longer has its generation's id written into its hold, beside the call: one write."""
MAX_PEEK_BYTES = 1024 * 1024
BUG = "bug"
LEAST_S = 2.0
"""With less time left no other model is asked: it could not begin, and its circuit would hear of a failure."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A call before anything is held. `cheaper` and `chain` are priced when they are needed: most calls do not."""

    call: Call
    request: ChatRequest
    asked: Candidate
    cheaper: Callable[[], list[Candidate]]
    has_cheaper: bool
    chain: Iterator[Candidate | Dropped]
    chain_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt without an answer, and what upstream said of it."""

    settlement: Settlement
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None

    @property
    def is_transient(self) -> bool:
        """Whether another model might have answered."""
        return fails_over(self.settlement, has_begun=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """The last attempt, its money decided, and the ledger as it left it. `failure` is None where it was answered."""

    admission: Admission
    settlement: Settlement
    ledger: Ledger
    failure: Failure | None = None


class Course:
    """A call on its way. `reports` are of attempts that failed, and of models that were not asked at all."""

    def __init__(self, gate: Gate, plan: Plan, headers: Mapping[str, str], deadline: float) -> None:
        self._gate = gate
        self._plan = plan
        self._headers = headers
        self._deadline = deadline
        self._left = list(plan.chain_names)
        self._peek_until = gate.monotonic() + PEEK_S
        self._call_off: Callable[[], None] = lambda: None
        self.reports: list[dict[str, Fact]] = []
        self.admission: Admission | None = None
        self.ended: Ended | None = None

    @property
    def asked(self) -> str:
        """The model that the client asked for, or the first one of its list."""
        return self._plan.asked.name

    def start(self) -> Track | None:
        """The first track that may reach the client; None when every attempt has failed. Raises what `admit` does."""
        plan = self._plan
        if not self._is_open(plan.asked):
            return self._run(self._admitted())
        while (candidate := self._candidate()) is not None:
            try:
                return self._run(admit(self._gate.desk, plan.call, candidate, list))
            except (BudgetHeld, BudgetExhausted, RequestTooExpensive):
                self._not_asked(candidate.name, "budget")
        return None

    def _admitted(self) -> Admission:
        """With its money held; in an outage of the ledger perhaps without."""
        gate, plan = self._gate, self._plan
        try:
            admission = admit(gate.desk, plan.call, plan.asked, plan.cheaper, has_cheaper=plan.has_cheaper)
        except StoreError:
            if (unheld := gate.outage.admit(gate.desk, plan.call, plan.asked)) is None:
                raise
            return unheld
        gate.outage.book()
        return admission

    def abandon(self, cause: str) -> None:
        """Something broke: the attempt may have been made, so its money stays held until its cost is known.

        Where it was settled already the books stay as they are, and the sweep drops the reminder that this leaves.
        """
        if self.admission is not None:
            self._gate.books.settle(self.admission, Settlement(Outcome.LOST, Receipt(), cause), self._deadline)

    def _run(self, admission: Admission) -> Track | None:
        """Try an attempt, and then others, until one may reach the client."""
        following: Admission | None = admission
        while following is not None:
            self.admission = following
            tried = self._tried(following)
            if isinstance(tried, Track):
                return tried
            following = self._after(following, tried)
        return None

    # One attempt.

    def _tried(self, admission: Admission) -> Track | Failure:
        try:
            return self._gate.breakers.call(admission.candidate.circuit, lambda: self._sent(admission), _verdict)
        except CircuitOpen as e:
            headers = {"retry-after": str(e.retry_after_s)}
            return Failure(Settlement(Outcome.DECLINED, Receipt(), CIRCUIT_OPEN), headers)

    def _sent(self, admission: Admission) -> Track | Failure:
        """Send the request, and read until it is clear that an answer comes, or that none does."""
        gate, request = self._gate, self._plan.request
        patience_s = gate.settings.farebox_attempt_timeout_s if self._left else math.inf
        late_at = gate.monotonic() + patience_s
        body = body_with(request, bounds(request, admission.candidate.models, admission.quote))
        try:
            answer = gate.upstream.chat(
                body, self._headers, self._deadline, stream=request.stream, patience_s=patience_s
            )
        except NotSent:
            return Failure(Settlement(Outcome.DECLINED, Receipt(), NOT_SENT))
        except Lost as e:
            return Failure(Settlement(Outcome.LOST, Receipt(), e.cause))
        if not answer.is_success:
            return _refused(answer, admission)
        if (generation_id := text_of(answer.headers.get("x-generation-id"))) is not None:
            self._call_off = gate.later(NOTE_S, lambda: gate.books.note(admission, generation_id))
        reader = StreamReader() if answer.is_stream else BodyReader()
        track = Track(
            answer,
            reader,
            end=lambda *ended: self._end(admission, track, *ended),
            is_late=lambda: gate.monotonic() > late_at and self._has_another(),
        )
        return self._peeked(admission, track)

    def _peeked(self, admission: Admission, track: Track) -> Track | Failure:
        """Read up to a first real delta, or the end; or for as long as a client may be kept waiting."""
        reader, cut, size = track.reader, None, 0
        try:
            for chunk in track.answer.body:
                reader.feed(chunk)
                track.read.append(chunk)
                size += len(chunk)
                if reader.has_begun or reader.is_complete:
                    return track
                if track.is_late():
                    cut = TIMEOUT
                    break
                if (size > MAX_PEEK_BYTES or self._gate.monotonic() > self._peek_until) and reader.error is None:
                    return track
        except Lost as e:
            cut = e.cause
        settlement = _settled(reader.settlement(cut=cut), track.answer, admission)
        if fails_over(settlement, has_begun=False) or settlement.status is not None:
            track.answer.close()
            return Failure(settlement, track.answer.headers, error_in(track))
        track.is_whole = True
        return track

    def _has_another(self) -> bool:
        """Whether another model could be asked; looked at only where one is late."""
        return any(self._gate.breakers.wait_s(variant(name).base) == 0 for name in self._left)

    def _end(self, admission: Admission, track: Track, settlement: Settlement, may_go_on: bool) -> Track | None:  # noqa: FBT001
        """The end of a track, for its relay."""
        try:
            return self._ended(admission, track, _settled(settlement, track.answer, admission), may_go_on=may_go_on)
        except BaseException:
            self.abandon(BUG)
            raise

    def _ended(self, admission: Admission, track: Track, settlement: Settlement, *, may_go_on: bool) -> Track | None:
        self._call_off()
        failed = verdict(settlement)
        if not track.is_whole and failed is not None:
            self._gate.breakers.report(admission.candidate.circuit, failed=failed)
        if may_go_on and fails_over(settlement, has_begun=track.reader.has_begun):
            following = self._after(admission, Failure(settlement, track.answer.headers, error_in(track)))
            return None if following is None else self._run(following)
        self.ended = Ended(admission, settlement, self._settle(admission, settlement))
        return None

    def _settle(self, admission: Admission, settlement: Settlement) -> Ledger:
        """Book an attempt. What has taught the books a fee makes prices be asked again, with it."""
        ledger = self._gate.books.settle(admission, settlement, self._deadline)
        if lesson_of(admission, settlement) is not None:
            self._gate.catalogue.forget(taught(admission.candidate.models, settlement.receipt.model))
        return ledger

    # From one attempt to the next.

    def _after(self, admission: Admission, failure: Failure) -> Admission | None:
        """Book a failed attempt; the next one, if there is one, with its money held."""
        settlement = failure.settlement
        self._call_off()
        self._report(admission.candidate.name, settlement, failure.headers)
        self._learn(admission, failure)
        ledger, following = admission.ledger, None
        can_be_exchanged = admission.is_held and settlement.outcome is Outcome.DECLINED
        if can_be_exchanged:
            self._gate.books.record(admission, settlement, self._deadline)  # at no cost: nothing is missed without it
        else:
            ledger = self._settle(admission, settlement)
        if admission.is_held and fails_over(settlement, has_begun=False):
            following = self._following(replace(admission, ledger=ledger), settlement)
        if following is None and can_be_exchanged:
            ledger = self._gate.books.end(admission, settlement, self._deadline)
        if following is None:
            self.ended = Ended(admission, settlement, ledger, failure)
        return following

    def _following(self, admission: Admission, settlement: Settlement) -> Admission | None:
        """The next candidate that there is money for, in the place of a declined attempt or beside a lost one."""
        while (candidate := self._candidate()) is not None:
            try:
                if settlement.outcome is Outcome.DECLINED:
                    found = self._gate.books.exchange(self._gate.desk, admission, candidate, self._deadline)
                else:
                    found = self._beside(admission, candidate)
            except StoreError:
                self._gate.telemetry.failure("no hold for the next attempt", {"tenant": admission.call.tenant.name})
                return None
            if found is not None:
                return found
            self._not_asked(candidate.name, "budget")
        return None

    def _beside(self, admission: Admission, candidate: Candidate) -> Admission | None:
        with suppress(Refusal, StaleTenant):
            return admit(
                self._gate.desk,
                admission.call,
                candidate,
                list,
                attempt=admission.attempt + 1,
                ledger=admission.ledger,
                may_wait=False,
            )
        return None

    def _candidate(self) -> Candidate | None:
        """The next of the chain that may be asked now."""
        for candidate in self._plan.chain:
            self._left.remove(candidate.name)
            if self._gate.monotonic() + LEAST_S > self._deadline:
                self._not_asked(candidate.name, "no_time")
            elif isinstance(candidate, Dropped):
                self._not_asked(candidate.name, candidate.refusal.reason)
            elif self.admission is not None and candidate.name == self.admission.candidate.name:
                continue  # a cheaper model, by the downgrade rules, that has just failed
            elif not self._is_open(candidate):
                return candidate
        return None

    def _is_open(self, candidate: Candidate) -> bool:
        wait_s = self._gate.breakers.wait_s(candidate.circuit)
        if wait_s > 0:
            self._not_asked(candidate.name, CIRCUIT_OPEN, wait_s)
        return wait_s > 0

    def _learn(self, admission: Admission, failure: Failure) -> None:
        """A model that is to be left alone for a while is; prices that were refused are asked again."""
        wait = retry_after_s(failure.headers)
        is_its_own_word = failure.settlement.cause != CIRCUIT_OPEN
        if wait is not None and is_its_own_word and verdict(failure.settlement) is True:
            self._gate.breakers.cool(admission.candidate.circuit, wait)
        if failure.settlement.cause == PRICE_CAP and not has_own_price_cap(self._plan.request, admission.quote):
            for name in admission.candidate.models:
                self._gate.catalogue.expire(variant(name).base)

    def _report(self, model: str, settlement: Settlement, headers: Mapping[str, str]) -> None:
        report: dict[str, Fact] = {"model": model, "cause": settlement.cause, "outcome": settlement.outcome.value}
        if settlement.status is not None:
            report["status"] = settlement.status
        if (wait := retry_after_s(headers)) is not None:
            report["retry_after_s"] = wait
        self.reports.append(report)

    def _not_asked(self, model: str, cause: str, wait_s: int | None = None) -> None:
        self.reports.append({"model": model, "cause": cause, **({} if wait_s is None else {"retry_after_s": wait_s})})


def _verdict(tried: Track | Failure) -> bool | None:
    if isinstance(tried, Failure):
        return verdict(tried.settlement)
    return False if tried.is_whole else None  # what is on its way can still break off


def _refused(answer: Answer, admission: Admission) -> Failure:
    """A status that is not a 2xx."""
    try:
        body = answer.error_body()
    except Lost:
        body = b""
    answer.close()
    error = object_of(body).get("error")
    settlement = settlement_of_status(answer.status, body)
    if verdict(settlement) is None:
        settlement = _with_id(settlement, answer)  # refused before anything was done for it
    else:
        settlement = _settled(settlement, answer, admission)
    return Failure(settlement, answer.headers, error if isinstance(error, Mapping) else None)


def error_in(track: Track) -> Mapping[str, Any] | None:
    """The error object of an answer that began as a success."""
    error = track.reader.error
    return error if isinstance(error, Mapping) else None


def _settled(settlement: Settlement, answer: Answer, admission: Admission) -> Settlement:
    """What is insured against an error does not include the fees of tools: those may have been charged before it."""
    if admission.quote.has_tool_fees and settlement.outcome is Outcome.DECLINED:
        settlement = replace(settlement, outcome=Outcome.LOST)
    return _with_id(settlement, answer)


def _with_id(settlement: Settlement, answer: Answer) -> Settlement:
    """The header has the id also where a body, cut short, has not: it is how the cost of a lost call is found out."""
    if settlement.receipt.generation_id is not None:
        return settlement
    found = text_of(answer.headers.get("x-generation-id"))
    return replace(settlement, receipt=replace(settlement.receipt, generation_id=found))


def retry_after_s(headers: Mapping[str, str]) -> int | None:
    """Seconds that upstream asks to be left alone; a date instead of seconds is not read."""
    text = headers.get("retry-after", "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None
