"""The reader of server-sent events says the same whatever the chunks' boundaries are."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.sse import MAX_EVENT_BYTES, Reader

LINES = [
    b"", b"", b"data: a", b"data:b", b"data:  two spaces", b"data:", b"data: ", b"data: [DONE]", b"data: \xc3\xa9",
    b": OPENROUTER PROCESSING", b"event: ping", b"id: 1", b"retry: 1", b"data", b"dat", b" data: c", b"data: x: y",
]  # fmt: skip

streams = st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12).flatmap(
    lambda lines: st.sampled_from([b"", b"data: last", b": last"]).map(
        lambda last: b"".join(line + end for line, end in lines) + last
    )
)


def chunks_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(places)]


def read(chunks: list[bytes]) -> list[bytes]:
    reader = Reader()
    events = [data for chunk in chunks for data in reader.feed(chunk)]
    return events + reader.end()


def slowly_read(stream: bytes) -> list[bytes]:
    """The standard's algorithm, a byte at a time."""
    lines, line, at = [], bytearray(), 3 if stream.startswith(b"\xef\xbb\xbf") else 0
    while at < len(stream):
        byte = stream[at : at + 1]
        at += 2 if stream[at : at + 2] == b"\r\n" else 1
        if byte in (b"\r", b"\n"):
            lines.append(bytes(line))
            line.clear()
        else:
            line += byte
    events, data = [], []
    for each in [*lines, bytes(line), b""]:
        if each.startswith(b"data:"):
            data.append(each[6:] if each[5:6] == b" " else each[5:])
        elif not each:
            events.append(b"\n".join(data))
            data = []
    return [event for event in events if event]


@given(streams, st.lists(st.integers(0, 400), max_size=12))
@example(b"data: a\r\n\r\ndata: b\r\r", [8, 9, 10, 11])
@example(b"data: a\r", [8])
@example(b"data: a\n\r", [9])
@example(b"\xef\xbb\xbfdata: a\n\xef\xbb\xbfdata: b\n\n", [1, 2])
@settings(max_examples=500, deadline=None)
def test_any_split_into_chunks_gives_the_events_of_a_slow_reader(stream: bytes, cuts: list[int]) -> None:
    assert read(chunks_of(stream, cuts)) == slowly_read(stream)


@given(streams)
@settings(max_examples=200, deadline=None)
def test_a_byte_at_a_time_gives_the_same_events_as_all_at_once(stream: bytes) -> None:
    assert read([stream[at : at + 1] for at in range(len(stream))]) == read([stream])


def test_an_event_is_told_as_soon_as_its_blank_line_has_come() -> None:
    reader = Reader()
    assert reader.feed(b"data: a\n") == []
    assert reader.feed(b"\ndata: b") == [b"a"]
    assert reader.feed(b"\n\n") == [b"b"]
    assert reader.end() == []


def test_a_carriage_return_at_the_end_of_a_chunk_may_be_half_a_line_end() -> None:
    reader = Reader()
    events = reader.feed(b"data: a\r\n\r") + reader.feed(b"\n")
    assert events == [b"a"]
    assert reader.feed(b"data: b\r") + reader.feed(b"\n") == []
    assert reader.feed(b"\r") + reader.feed(b"\n") == [b"b"]


def test_an_event_that_upstream_did_not_finish_is_told_at_the_end() -> None:
    assert read([b"data: 1\n\n", b"data: 2\ndata: 3"]) == [b"1", b"2\n3"]


BIG = b"x" * MAX_EVENT_BYTES
AFTER = b'\n\ndata: {"usage":{}}\n\n'


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([b"data: " + BIG + AFTER], id="in-one-chunk"),
        pytest.param([b"data: " + BIG, b"rest of it", AFTER], id="in-pieces"),
        pytest.param([b"data: " + BIG, b"data: rest of it", AFTER], id="in-pieces-that-look-like-a-new-line"),
        pytest.param([b"data: 1\ndata: " + BIG + AFTER], id="second-line-too-long"),
    ],
)
def test_an_event_too_large_to_keep_is_passed_over_and_the_next_one_is_read(chunks: list[bytes]) -> None:
    events = read(chunks)
    assert events[-1] == b'{"usage":{}}'
    assert all(event == b"1" for event in events[:-1])


def test_a_line_too_long_to_keep_is_not_the_end_of_its_event() -> None:
    assert read([b"data: 1\ndata: " + BIG + b"\ndata: 2\n\n"]) == [b"1\n2"]


def test_a_line_that_never_ends_is_not_kept_in_memory() -> None:
    reader, piece = Reader(), b"x" * (MAX_EVENT_BYTES // 8)
    tracemalloc.start()
    for _ in range(12):
        assert reader.feed(piece) == []
    assert reader.feed(b"\n\ndata: 1\n\n") == [b"1"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_EVENT_BYTES + 2 * len(piece)


def test_an_event_of_many_lines_is_kept_only_up_to_the_limit() -> None:
    line = b"data: " + b"x" * (MAX_EVENT_BYTES // 4) + b"\n"
    (event,) = read([line * 8 + b"\n"])
    assert 0 < len(event) <= MAX_EVENT_BYTES
