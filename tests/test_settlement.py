"""What upstream said decides the money: answered is spent, declined is released, every doubt keeps the hold."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.settlement import (
    IN_FLIGHT,
    PRICE_CAP,
    BodyReader,
    Outcome,
    Receipt,
    Settlement,
    StreamReader,
    cost_of_generation,
    object_of,
    receipt_of,
    settlement_of_status,
)

ID = "gen-1795000000-abcdefghij0123456789"
USAGE = {
    "prompt_tokens": 1854,
    "completion_tokens": 13,
    "total_tokens": 1867,
    "cost": 0.0077585,
    "is_byok": False,
    "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 30, "audio_tokens": 0},
    "cost_details": {"upstream_inference_cost": 0.0007585},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
COMPLETION = {
    "id": ID,
    "model": "acme/m1-20260801",
    "provider": "Amazon Bedrock",
    "choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
ERROR = {"error": {"code": 429, "message": "Provider returned error"}}


# A receipt: the cost is what upstream reports, in whole nano-dollars.


@pytest.mark.parametrize(
    ("usage", "nanousd"),
    [
        ('{"cost": 0.0077585}', 7_758_500),
        ('{"cost": 0}', 0),
        ('{"cost": 1}', 10**9),
        ('{"cost": 0.0000000001}', 1),
        ('{"cost": 1e-7}', 100),
        ('{"cost": 0.1, "is_byok": null}', 10**8),
        ('{"cost": null}', None),
        ("{}", None),
        ('{"cost": -0.1}', None),
        ('{"cost": "0.1"}', None),
        ('{"cost": true}', None),
        ('{"cost": 1e9999999}', None),
        ('{"cost": 1e99999999999999999999}', None),
        ('"usage"', None),
        ('{"cost": 0.1, "is_byok": false, "cost_details": {"upstream_inference_cost": 0.1}}', 10**8),
        ('{"cost": 0.1, "cost_details": {"upstream_inference_cost": 0.1}}', 10**8),
        ('{"cost": 0.005, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.1}}', 105_000_000),
        ('{"cost": 0, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.1}}', 10**8),
        ('{"cost": 0, "is_byok": true, "cost_details": {"upstream_inference_cost": null}}', None),
        ('{"cost": 0, "is_byok": true, "cost_details": null}', None),
        ('{"cost": 0, "is_byok": true}', None),
        ('{"is_byok": true, "cost_details": {"upstream_inference_cost": 0.1}}', None),
    ],
)
def test_the_cost_is_the_one_that_upstream_reports_and_a_bill_of_ones_own_key_comes_beside_it(
    usage: str, nanousd: int | None
) -> None:
    assert receipt_of(object_of(f'{{"usage": {usage}}}'.encode())).cost_nanousd == nanousd


@pytest.mark.parametrize(
    ("record", "nanousd"),
    [
        ('{"total_cost": 0.0077585, "usage": 0.0077585, "is_byok": false, "upstream_inference_cost": 0}', 7_758_500),
        ('{"total_cost": 0, "is_byok": false, "upstream_inference_cost": null}', 0),
        ('{"total_cost": 0.0000000001}', 1),
        ('{"total_cost": 0.1, "is_byok": false, "upstream_inference_cost": 0.1}', 10**8),
        ('{"total_cost": 0.1, "is_byok": null, "upstream_inference_cost": 0.1}', 10**8),
        ('{"total_cost": 0.005, "is_byok": true, "upstream_inference_cost": 0.1}', 105_000_000),
        ('{"total_cost": 0, "is_byok": true, "upstream_inference_cost": 0}', 0),
        ('{"total_cost": 0, "is_byok": true, "upstream_inference_cost": null}', None),
        ('{"total_cost": 0, "is_byok": true}', None),
        ('{"is_byok": true, "upstream_inference_cost": 0.1}', None),
        ('{"total_cost": null, "usage": 0.1}', None),
        ('{"total_cost": -0.1}', None),
        ('{"total_cost": "0.1"}', None),
        ('{"total_cost": true}', None),
        ("{}", None),
    ],
)
def test_a_record_of_a_generation_is_read_by_the_same_rule(record: str, nanousd: int | None) -> None:
    assert cost_of_generation(object_of(record.encode())) == nanousd


def test_a_receipt_has_what_a_span_needs() -> None:
    assert receipt_of(object_of(json.dumps(COMPLETION).encode())) == Receipt(
        cost_nanousd=7_758_500,
        generation_id=ID,
        model="acme/m1-20260801",
        provider="Amazon Bedrock",
        is_byok=False,
        tokens={"prompt": 1854, "completion": 13, "cached": 20, "cache_write": 30, "reasoning": 5},
    )


@pytest.mark.parametrize("name", ["", "x" * 201, "a\r\nb", "\u00e9", 7, None, ["gen-1"]])
def test_a_name_that_cannot_stand_in_a_header_is_no_name(name: object) -> None:
    receipt = receipt_of({"id": name, "model": name, "provider": name})
    assert (receipt.generation_id, receipt.model, receipt.provider) == (None, None, None)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "7", None])
def test_a_count_that_is_not_one_is_left_out(count: object) -> None:
    details = {
        "prompt_tokens": count,
        "prompt_tokens_details": {"cached_tokens": count},
        "completion_tokens_details": 7,
    }
    assert receipt_of({"usage": details}).tokens == {}


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{", b"\xff", b"NaN", b"<html>", b"[" * 200_000, b"9" * 5000,
                                  b'{"a": 1e99999999999999999999}'], ids=lambda body: repr(body[:20]))  # fmt: skip
def test_what_is_not_a_json_object_is_an_empty_one(body: bytes) -> None:
    assert object_of(body) == {}


@pytest.mark.parametrize(
    ("settlement", "nanousd"),
    [
        (Settlement(Outcome.ANSWERED, Receipt(cost_nanousd=7)), 7),
        (Settlement(Outcome.DECLINED, Receipt()), 0),
        (Settlement(Outcome.LOST, Receipt()), None),
    ],
    ids=lambda value: value.outcome.value if isinstance(value, Settlement) else "",
)
def test_a_hold_ends_at_the_cost_at_nothing_or_not_yet(settlement: Settlement, nanousd: int | None) -> None:
    assert settlement.cost_nanousd == nanousd


# An answer that is not a 2xx.


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 415, 422, 429, 500, 502, 503, 529])
def test_a_status_with_openrouters_error_was_refused_before_anything_was_generated(status: int) -> None:
    declined = Settlement(Outcome.DECLINED, Receipt(), f"status_{status}", status)
    assert settlement_of_status(status, json.dumps(ERROR).encode()) == declined


@pytest.mark.parametrize("status", [408, 504, 524])
def test_after_a_time_out_the_model_may_have_been_at_work(status: int) -> None:
    lost = Settlement(Outcome.LOST, Receipt(), f"status_{status}", status)
    assert settlement_of_status(status, json.dumps(ERROR).encode()) == lost


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"error": "busy"}', b'{"error": null}', b"[]"])
@pytest.mark.parametrize(
    ("status", "outcome"),
    [(400, Outcome.DECLINED), (429, Outcome.DECLINED), (500, Outcome.LOST), (502, Outcome.LOST), (503, Outcome.LOST),
     (524, Outcome.LOST), (408, Outcome.LOST)],
)  # fmt: skip
def test_a_5xx_is_believed_only_in_openrouters_own_shape(status: int, outcome: Outcome, body: bytes) -> None:
    assert settlement_of_status(status, body) == Settlement(outcome, Receipt(), f"status_{status}", status)


@pytest.mark.parametrize("status", [400, 500, 504])
def test_an_error_that_reports_a_cost_is_spent_at_that_cost(status: int) -> None:
    found = settlement_of_status(status, json.dumps({**ERROR, "usage": {"cost": 0.001}}).encode())
    assert (found.outcome, found.cost_nanousd, found.cause) == (Outcome.ANSWERED, 10**6, f"status_{status}")
    assert found.status == status


@pytest.mark.parametrize(
    ("status", "message", "cause"),
    [
        (404, "No endpoints found that satisfy the max price for this request", PRICE_CAP),
        (404, "NO ENDPOINTS WITHIN MAX PRICE", PRICE_CAP),
        (404, "No endpoints found for acme/m1.", "status_404"),
        (404, None, "status_404"),
        (400, "max price is not a number", "status_400"),
    ],
)
def test_a_price_above_the_cap_is_told_apart_since_the_catalogue_is_out_of_date(
    status: int, message: str | None, cause: str
) -> None:
    found = settlement_of_status(status, json.dumps({"error": {"code": status, "message": message}}).encode())
    assert (found.outcome, found.cause) == (Outcome.DECLINED, cause)


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        (402, {"metadata": {"reason": "in_flight_budget_exhausted"}}, IN_FLIGHT),
        (402, {"metadata": {"reason": "weight_exceeds_budget"}}, "status_402"),
        (402, {"message": "This request requires more credits, or fewer max_tokens."}, "status_402"),
        (402, None, "status_402"),
        (429, {"metadata": {"reason": "in_flight_budget_exhausted"}}, "status_429"),
    ],
)
def test_a_402_that_passes_by_itself_is_told_apart_from_one_that_does_not(
    status: int, error: object, cause: str
) -> None:
    found = settlement_of_status(status, json.dumps({"error": error}).encode())
    assert (found.outcome, found.cause, found.status) == (Outcome.DECLINED, cause, status)


# An error inside a 200.


@pytest.mark.parametrize(
    ("code", "status"),
    [(429, 429), (400, 400), (503, 503), (599, 599), ("server_error", 502), ("429", 502), (None, 502), ({}, 502),
     (200, 502), (399, 502), (600, 502), (-1, 502), (10**20, 502), (429.5, 502)],
)  # fmt: skip
def test_an_error_inside_a_200_has_the_status_that_it_names_and_else_is_the_providers_fault(
    code: object, status: int
) -> None:
    said = json.dumps({"error": {"code": code, "message": "no"}}).encode()
    stream, _ = read_stream([b"data: " + said + b"\n\n"])
    assert (read_body(said).status, stream.status) == (status, status)


# A plain body.


def read_body(body: bytes, *, cut: str | None = None) -> Settlement:
    reader = BodyReader()
    for byte in range(len(body)):
        reader.feed(body[byte : byte + 1])
    assert reader.is_complete is False
    return reader.settlement(cut=cut)


def whole(**members: Any) -> bytes:
    return json.dumps({**COMPLETION, **members}).encode()


@pytest.mark.parametrize(
    ("body", "cut", "outcome", "cause"),
    [
        pytest.param(whole(), None, Outcome.ANSWERED, None, id="answered"),
        pytest.param(b"\n  \n" + whole(), None, Outcome.ANSWERED, None, id="padded"),
        pytest.param(b": OPENROUTER PROCESSING\n\n" * 3 + whole(), None, Outcome.ANSWERED, None, id="comments-first"),
        pytest.param(b" \n: OPENROUTER\r\n" + whole(), None, Outcome.ANSWERED, None, id="padding-and-comments"),
        pytest.param(whole(), "timeout", Outcome.ANSWERED, None, id="cut-after-the-end"),
        pytest.param(whole(error=ERROR["error"]), None, Outcome.ANSWERED, None, id="error-with-cost"),
        pytest.param(whole(usage=None), None, Outcome.LOST, "cost_missing", id="no-usage"),
        pytest.param(whole(usage={"cost": None}), None, Outcome.LOST, "cost_missing", id="cost-null"),
        pytest.param(whole()[:-1], "cut", Outcome.LOST, "cut", id="cut"),
        pytest.param(whole()[:-1], None, Outcome.LOST, "not_json", id="half-and-nobody-says-why"),
        pytest.param(b"", None, Outcome.LOST, "not_json", id="empty"),
        pytest.param(json.dumps(ERROR).encode(), None, Outcome.DECLINED, "error_in_body", id="error"),
        pytest.param(b'{"error": {}, "choices": []}', None, Outcome.DECLINED, "error_in_body", id="no-choices"),
        pytest.param(json.dumps(ERROR).encode(), "cut", Outcome.LOST, "cut", id="error-but-cut"),
        pytest.param(b'{"error": {"code": 504}}', None, Outcome.LOST, "error_in_body", id="error-that-is-a-time-out"),
        pytest.param(b'{"error": {"code": []}}', None, Outcome.DECLINED, "error_in_body", id="error-with-an-odd-code"),
        pytest.param(whole(usage=None, error={}), None, Outcome.LOST, "cost_missing", id="error-beside-output"),
        pytest.param(b'{"error": "busy"}', None, Outcome.LOST, "empty", id="error-of-another-shape"),
    ],
)  # fmt: skip
def test_a_body_is_answered_with_a_cost_declined_with_an_error_alone_and_else_lost(
    body: bytes, cut: str | None, outcome: Outcome, cause: str | None
) -> None:
    found = read_body(body, cut=cut)
    assert (found.outcome, found.cause) == (outcome, cause)


def test_a_body_is_passed_on_as_it_came_without_the_comments_that_would_break_it() -> None:
    reader = BodyReader()
    reader.feed(b': OPENROUTER PROCESSING\n\n{"a":\n"b"}')
    assert reader.body == b'\n{"a":\n"b"}'
    plain = BodyReader()
    plain.feed(b' \n{"a": ": b"}\n')
    assert plain.body == b' \n{"a": ": b"}\n'


# A stream.


def chunk(**members: Any) -> bytes:
    return b"data: " + json.dumps({"id": ID, "model": "acme/m1", "provider": "Acme", **members}).encode() + b"\n\n"


def delta(**members: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"role": "assistant", **members}}])


COMMENT = b": OPENROUTER PROCESSING\n\n"
ROLE = delta(content="")
TEXT = delta(content="Hel")
THOUGHT = delta(reasoning="Hm")
CALL = delta(tool_calls=[{"index": 0}])
STOP = chunk(choices=[{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}])
COST = chunk(choices=[], usage=USAGE)
COST_AGAIN = chunk(choices=[{"delta": {}, "finish_reason": "stop"}], usage={"cost": 0.01})
NO_COST = chunk(choices=[], usage={"prompt_tokens": 5, "cost": None})
FAILED = chunk(choices=[], **ERROR)
FAILED_EMPTY = chunk(choices=[{"delta": {"content": ""}, "finish_reason": "error"}], **ERROR)
FAILED_WITH_TEXT = chunk(choices=[{"delta": {"content": "lo"}, "finish_reason": "error"}], **ERROR)
FAILED_AT_A_COST = chunk(choices=[], usage={"cost": 0.002}, **ERROR)
FAILED_ODDLY = chunk(error={"code": {}})
TIMED_OUT = chunk(choices=[], error={"code": 504, "message": "Timed out"})
COST_OF_NOTHING = chunk(choices=[], usage={"cost": 0})
JUNK = b"data: {half\n\n"
DONE = b"data: [DONE]\n\n"


def read_stream(chunks: list[bytes], *, cut: str | None = None) -> tuple[Settlement, bool]:
    reader = StreamReader()
    for each in chunks:
        reader.feed(each)
    is_complete = reader.is_complete
    return reader.settlement(cut=cut), is_complete


@pytest.mark.parametrize(
    ("events", "cut", "outcome", "cause"),
    [
        pytest.param([COMMENT, ROLE, TEXT, STOP, COST, DONE], None, Outcome.ANSWERED, None, id="answered"),
        pytest.param([TEXT, STOP, COST_AGAIN, DONE], None, Outcome.ANSWERED, None, id="usage-in-a-repeated-finish"),
        pytest.param([TEXT, COST], "cut", Outcome.ANSWERED, None, id="cut-after-the-cost"),
        pytest.param([TEXT, COST.rstrip()], None, Outcome.ANSWERED, None, id="no-blank-line-at-the-end"),
        pytest.param([TEXT, FAILED_AT_A_COST], None, Outcome.ANSWERED, "error_in_stream", id="error-with-a-cost"),
        pytest.param([COST, FAILED], None, Outcome.ANSWERED, "error_in_stream", id="error-after-the-cost"),
        pytest.param([COMMENT, FAILED], None, Outcome.DECLINED, "error_in_stream", id="error-first"),
        pytest.param([ROLE, FAILED, DONE], None, Outcome.DECLINED, "error_in_stream", id="error-after-the-role"),
        pytest.param([FAILED_EMPTY], "cut", Outcome.DECLINED, "error_in_stream", id="error-first-then-cut"),
        pytest.param([NO_COST, FAILED], None, Outcome.DECLINED, "error_in_stream", id="error-and-no-output"),
        pytest.param([TEXT, FAILED], None, Outcome.LOST, "error_in_stream", id="error-after-text"),
        pytest.param([TIMED_OUT], None, Outcome.LOST, "error_in_stream", id="error-that-is-a-time-out"),
        pytest.param([FAILED_ODDLY], None, Outcome.DECLINED, "error_in_stream", id="error-with-an-odd-code"),
        pytest.param([TEXT, COST_OF_NOTHING], "cut", Outcome.LOST, "cut", id="cut-after-a-cost-of-nothing"),
        pytest.param([TEXT, COST_OF_NOTHING, DONE], None, Outcome.ANSWERED, None, id="a-free-answer"),
        pytest.param([THOUGHT, FAILED], None, Outcome.LOST, "error_in_stream", id="error-after-a-thought"),
        pytest.param([CALL, FAILED], None, Outcome.LOST, "error_in_stream", id="error-after-a-tool-call"),
        pytest.param([FAILED, TEXT], None, Outcome.LOST, "error_in_stream", id="text-after-an-error"),
        pytest.param([FAILED_WITH_TEXT], None, Outcome.LOST, "error_in_stream", id="error-and-text-in-one-chunk"),
        pytest.param([TEXT], "timeout", Outcome.LOST, "timeout", id="cut-after-text"),
        pytest.param([], "cut", Outcome.LOST, "cut", id="cut-before-anything"),
        pytest.param([], None, Outcome.LOST, "empty", id="empty"),
        pytest.param([COMMENT, ROLE, DONE], None, Outcome.LOST, "empty", id="a-role-and-nothing-else"),
        pytest.param([ROLE], "cut", Outcome.LOST, "cut", id="cut-after-the-role"),
        pytest.param([TEXT, STOP, NO_COST, DONE], None, Outcome.LOST, "cost_missing", id="cost-null"),
        pytest.param([TEXT, STOP, DONE], None, Outcome.LOST, "cost_missing", id="no-usage"),
        pytest.param([JUNK, DONE], None, Outcome.LOST, "empty", id="junk"),
        pytest.param([chunk(choices=7), chunk(choices=[7])], None, Outcome.LOST, "empty", id="odd-shapes"),
    ],
)  # fmt: skip
def test_a_stream_is_answered_with_a_cost_declined_with_an_error_and_no_output_and_else_lost(
    events: list[bytes], cut: str | None, outcome: Outcome, cause: str | None
) -> None:
    found, _ = read_stream(events, cut=cut)
    assert (found.outcome, found.cause) == (outcome, cause)


def test_the_chunks_of_a_stream_add_up_to_one_receipt() -> None:
    found, _ = read_stream([ROLE, TEXT, COST, DONE])
    assert found.receipt == Receipt(
        cost_nanousd=7_758_500,
        generation_id=ID,
        model="acme/m1",
        provider="Acme",
        tokens={"prompt": 1854, "completion": 13, "cached": 20, "cache_write": 30, "reasoning": 5},
    )


def test_the_last_word_on_the_cost_counts_and_a_later_silence_does_not_take_it_back() -> None:
    found, _ = read_stream([TEXT, COST, COST_AGAIN, NO_COST, DONE])
    assert found.cost_nanousd == 10**7


def test_a_key_of_ones_own_once_said_stays_said() -> None:
    byok = {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.1}}
    found, _ = read_stream([chunk(usage=byok), STOP, DONE])
    assert found.receipt.is_byok
    assert found.cost_nanousd == 10**8


@pytest.mark.parametrize(
    ("events", "is_complete"),
    [([TEXT, COST, DONE], True), ([TEXT, COST], False), ([TEXT, DONE], False), ([DONE, COST], False)],
    ids=["cost-and-done", "no-done", "no-cost", "cost-after-done"],
)
def test_a_stream_is_complete_once_the_cost_is_known_and_done_is_said(
    events: list[bytes],
    is_complete: bool,  # noqa: FBT001 - a table's column
) -> None:
    assert read_stream(events)[1] is is_complete


@pytest.mark.parametrize(
    ("event", "has_begun"),
    [(COMMENT, False), (ROLE, False), (STOP, False), (COST, False), (FAILED, False), (FAILED_EMPTY, False),
     (JUNK, False), (DONE, False), (chunk(choices=7), False), (TEXT, True), (THOUGHT, True), (CALL, True),
     (FAILED_WITH_TEXT, True)],
)  # fmt: skip
def test_a_model_has_begun_once_an_event_has_something_that_it_made(event: bytes, has_begun: bool) -> None:  # noqa: FBT001
    reader = StreamReader()
    reader.feed(event)
    assert reader.has_begun is has_begun


def test_a_plain_body_has_never_begun_since_the_client_gets_it_whole() -> None:
    reader = BodyReader()
    reader.feed(whole())
    assert reader.has_begun is False


EVENTS = [COMMENT, ROLE, TEXT, THOUGHT, STOP, COST, COST_AGAIN, NO_COST, FAILED, FAILED_EMPTY, FAILED_AT_A_COST, JUNK,
          DONE]  # fmt: skip
COSTS = {COST: 7_758_500, COST_AGAIN: 10**7, FAILED_AT_A_COST: 2 * 10**6}
END_OF_LINE: list[Callable[[bytes], bytes]] = [
    lambda stream: stream,
    lambda stream: stream.replace(b"\n", b"\r\n"),
    lambda stream: stream.replace(b"\n", b"\r"),
]


@given(
    st.lists(st.sampled_from(EVENTS), max_size=8),
    st.sampled_from(END_OF_LINE),
    st.lists(st.integers(0, 5000), max_size=12),
    st.sampled_from([None, "cut"]),
)
@example([TEXT, COST, DONE], END_OF_LINE[2], list(range(1200)), None)
@settings(max_examples=300, deadline=None)
def test_a_stream_means_the_same_however_it_is_cut_into_chunks(
    events: list[bytes], ends: Callable[[bytes], bytes], cuts: list[int], why: str | None
) -> None:
    stream = ends(b"".join(events))
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    chunks = [stream[start:end] for start, end in pairwise(places)]
    assert read_stream(chunks, cut=why) == read_stream([b"".join(events)], cut=why)


@given(st.lists(st.sampled_from(EVENTS), max_size=8), st.sampled_from([None, "cut"]))
@settings(max_examples=300, deadline=None)
def test_a_hold_is_released_only_when_an_error_came_and_nothing_was_made_or_billed(
    events: list[bytes], why: str | None
) -> None:
    found, is_complete = read_stream(events, cut=why)
    costs = [COSTS[event] for event in events if event in COSTS]
    has_output = TEXT in events or THOUGHT in events
    has_error = any(event in events for event in (FAILED, FAILED_EMPTY, FAILED_AT_A_COST))
    assert (found.outcome is Outcome.ANSWERED) is bool(costs)
    assert (found.outcome is Outcome.DECLINED) is (not costs and has_error and not has_output)
    assert found.cost_nanousd == (costs[-1] if costs else 0 if found.outcome is Outcome.DECLINED else None)
    if is_complete:
        assert costs
        assert DONE in events


@given(st.binary(max_size=80) | st.text(max_size=40).map(lambda text: f"data: {text}\n\n".encode()))
@settings(max_examples=300, deadline=None)
def test_whatever_upstream_sends_there_is_a_settlement_and_garbage_is_never_released(garbage: bytes) -> None:
    stream, _ = read_stream([garbage])
    for found in (read_body(garbage), stream, settlement_of_status(502, garbage)):
        assert found.outcome is Outcome.LOST


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.sampled_from(["", "x", 408]),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "error",
                        "code",
                        "message",
                        "choices",
                        "delta",
                        "content",
                        "usage",
                        "cost",
                        "is_byok",
                        "cost_details",
                        "prompt_tokens_details",
                        "id",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=200, deadline=None)
def test_an_object_of_any_shape_has_a_settlement(said: Any) -> None:
    body = json.dumps(said).encode()
    stream, _ = read_stream([b"data: " + body + b"\n\n"])
    for found in (read_body(body), stream, settlement_of_status(502, body), settlement_of_status(404, body)):
        assert found.outcome in Outcome


@pytest.mark.parametrize("number", ["1e9999999", "1e99999999999999999999", "9" * 5000, "-1e9999999"])
def test_a_number_that_python_cannot_take_is_no_cost(number: str) -> None:
    body = f'{{"id": "{ID}", "usage": {{"cost": {number}}}}}'.encode()
    stream, _ = read_stream([TEXT, b"data: " + body + b"\n\n"])
    for found in (read_body(body), stream, settlement_of_status(502, body)):
        assert found.outcome is Outcome.LOST
