"""Which endings of an attempt let another model answer, and what a model's circuit hears of them."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.routing import fails_over, verdict
from farebox.settlement import (
    CIRCUIT_OPEN,
    NOT_SENT,
    BodyReader,
    Outcome,
    Receipt,
    Settlement,
    StreamReader,
    settlement_of_status,
)
from farebox.upstream import CUT, TIMEOUT

FAILURE, SUCCESS, NOTHING = True, False, None
COST = {"usage": {"cost": 0.001}}
TEXT = {"choices": [{"delta": {"content": "Hi"}}]}
ROLE = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}


def status(code: int, **members: Any) -> Settlement:
    """An answer with this status, in OpenRouter's shape."""
    return settlement_of_status(code, json.dumps({"error": {"code": code, "message": "no"}, **members}).encode())


def body(said: object, cut: str | None = None) -> Settlement:
    """A plain answer with status 200."""
    reader = BodyReader()
    reader.feed(said if isinstance(said, bytes) else json.dumps(said).encode())
    return reader.settlement(cut=cut)


def stream(*events: object, cut: str | None = None) -> Settlement:
    """A streamed answer with status 200."""
    reader = StreamReader()
    for event in events:
        reader.feed(b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n")
    return reader.settlement(cut=cut)


def error(code: object = 502, **members: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no"}, **members}


def of(codes: Iterable[int]) -> list[tuple[str, Settlement]]:
    """The three ways in which an error comes: as a status, as a body of a 200, as the first event of a 200."""
    return [
        row
        for code in codes
        for row in (
            (f"{code}", status(code)),
            (f"{code} in a body", body(error(code))),
            (f"{code} as first event", stream(error(code))),
            (f"{code} after the role", stream(ROLE, error(code))),
        )
    ]


ANSWERED = [
    ("answered", body({"choices": [{"message": {"content": "Hi"}}], **COST})),
    ("answered at no cost", body({"choices": [{"message": {"content": "Hi"}}], "usage": {"cost": 0}})),
    ("a stream", stream(TEXT, COST, b"[DONE]")),
    ("an answer whose cost is missing", body({"choices": [{"message": {"content": "Hi"}}]})),
    ("a stream whose cost is missing", stream(TEXT, b"[DONE]")),
    ("nothing said, at a cost", stream(ROLE, COST, b"[DONE]")),
]
DOWN = [
    ("not sent", Settlement(Outcome.DECLINED, Receipt(), NOT_SENT)),
    ("its circuit is open", Settlement(Outcome.DECLINED, Receipt(), CIRCUIT_OPEN)),
    ("lost before an answer", Settlement(Outcome.LOST, Receipt(), CUT)),
    ("timed out before an answer", Settlement(Outcome.LOST, Receipt(), TIMEOUT)),
    ("a body that is cut", body(b'{"id":', cut=CUT)),
    ("a body that does not end", body(b"   ", cut=TIMEOUT)),
    ("a body that is not JSON", body(b"<html>")),
    ("a body without anything", body(b"")),
    ("an object without an answer", body({"id": "gen-1"})),
    ("a stream that is cut", stream(ROLE, cut=CUT)),
    ("a stream that says nothing in time", stream(cut=TIMEOUT)),
    ("a stream without anything", stream(ROLE, b"[DONE]")),
    ("an edge's page", settlement_of_status(524, b"<html>")),
    ("an error with a cost", status(502, **COST)),
    ("an error with a cost in a body", body({**error(), **COST})),
    ("an error with a cost in an event", stream({**error(), **COST})),
    ("an error without a code", body(error(None))),
    *of((408, 409, 425, 429, 500, 502, 503, 504, 520, 524, 529, 599)),
]
NOBODY_SERVES_IT = [
    *of((404,)),
    ("404 for the price cap", settlement_of_status(404, b'{"error":{"message":"no endpoint below the max price"}}')),
]
OURS_OR_THE_CLIENTS = [
    *of((400, 401, 402, 403, 413, 415, 418, 422)),
    ("in flight", settlement_of_status(402, b'{"error":{"metadata":{"reason":"in_flight_budget_exhausted"}}}')),
    ("a redirect", settlement_of_status(302, b"")),
    ("a status without a body", settlement_of_status(403, b"")),
]
TABLE = [
    *((name, ended, False, SUCCESS) for name, ended in ANSWERED),
    *((name, ended, True, FAILURE) for name, ended in DOWN),
    *((name, ended, True, NOTHING) for name, ended in NOBODY_SERVES_IT),
    *((name, ended, False, NOTHING) for name, ended in OURS_OR_THE_CLIENTS),
]


@pytest.mark.parametrize(("ended", "goes_on", "heard"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_how_an_attempt_ended_says_whether_another_model_is_tried_and_what_its_circuit_hears(
    ended: Settlement,
    goes_on: bool,  # noqa: FBT001 - a table's column
    heard: bool | None,  # noqa: FBT001
) -> None:
    assert (fails_over(ended, has_begun=False), verdict(ended)) == (goes_on, heard)


settlements = st.builds(
    Settlement,
    st.sampled_from(Outcome),
    st.builds(Receipt, st.none() | st.integers(0, 10**9)),
    st.none() | st.sampled_from([NOT_SENT, CUT, TIMEOUT, "status_500", "empty"]),
    st.none() | st.integers(300, 599),
)


@given(settlements)
def test_once_a_model_has_begun_no_other_one_is_tried(ended: Settlement) -> None:
    assert fails_over(ended, has_begun=True) is False


@given(settlements)
def test_whatever_a_circuit_counts_as_a_failure_another_model_may_answer(ended: Settlement) -> None:
    if verdict(ended) is FAILURE:
        assert fails_over(ended, has_begun=False)


def test_an_error_in_the_middle_is_a_failure_of_the_model_all_the_same() -> None:
    """The client has got a part of the answer, so nobody else is asked; the model is not well."""
    for ended in (stream(TEXT, error()), stream(TEXT, cut=CUT)):
        assert (fails_over(ended, has_begun=True), verdict(ended)) == (False, FAILURE)
