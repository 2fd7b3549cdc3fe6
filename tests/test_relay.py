"""Two attempts on one relay: each is settled once, whatever comes in whatever pieces, and whenever the client goes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.relay import StreamRelay, Track
from farebox.routing import fails_over
from farebox.settlement import Outcome, Settlement, StreamReader
from farebox.upstream import CUT, Answer, Lost
from tests.test_course import COMMENT, DONE, ROLE, datas, delta, error, usage

EVENTS = [COMMENT, ROLE, delta("a"), delta("b"), error(), error(400), usage(1e-6), DONE]
streams = st.tuples(st.lists(st.sampled_from(EVENTS), max_size=6), st.sampled_from([None, None, CUT]))


@dataclass
class Attempt:
    """A track whose end is counted."""

    stream: bytes
    fault: str | None
    pieces: list[bytes]
    following: "Attempt | None" = None
    ends: list[Settlement] = field(default_factory=list)
    closed: int = 0
    is_tried: bool = False

    def track(self, peeked: int = 0) -> Track:
        self.is_tried = True
        reader = StreamReader()
        track = Track(Answer(200, {}, self.said(), self.close), reader, lambda *ended: self.end(track, *ended))
        for chunk in islice(track.answer.body, min(peeked, len(self.pieces))):
            reader.feed(chunk)
            track.read.append(chunk)
        return track

    def said(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.fault is not None:
            raise Lost(self.fault)

    def close(self) -> None:
        self.closed += 1

    def end(self, track: Track, settlement: Settlement, may_go_on: bool) -> Track | None:  # noqa: FBT001
        self.ends.append(settlement)
        if self.following is None or not (may_go_on and fails_over(settlement, has_begun=track.reader.has_begun)):
            return None
        return self.following.track()


def cut_up(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(ends)]


@given(streams, streams, st.lists(st.integers(0, 2000), max_size=10), st.integers(0, 2), st.none() | st.integers(0, 8))
@settings(max_examples=400, deadline=None)
def test_each_attempt_is_settled_once_and_the_client_gets_the_events_of_one(
    first: tuple[list[bytes], str | None],
    second: tuple[list[bytes], str | None],
    places: list[int],
    peeked: int,
    read: int | None,
) -> None:
    """However the streams are cut up and broken, and whenever the client goes away (`read` None: never)."""
    b = Attempt(b"".join(second[0]), second[1], cut_up(b"".join(second[0]), places))
    a = Attempt(b"".join(first[0]), first[1], cut_up(b"".join(first[0]), places), following=b)
    relay = StreamRelay(a.track(peeked))
    got = b"".join(relay) if read is None else b"".join(piece for piece, _ in zip(relay, range(read), strict=False))
    has_gone_on = b.is_tried
    relay.close()
    relay.close()
    assert list(relay) == []
    assert b.is_tried is has_gone_on

    tried = [attempt for attempt in (a, b) if attempt.is_tried]
    assert [len(attempt.ends) for attempt in tried] == [1] * len(tried)
    assert all(attempt.closed for attempt in tried)
    if b.is_tried:
        assert fails_over(a.ends[0], has_begun=False)
        assert a.ends[0].outcome is not Outcome.ANSWERED or a.ends[0].status is not None

    source = tried[-1]
    expected = datas(source.stream)
    shown = datas(got)
    own = [line for line in shown if b'"upstream_cut"' in line]
    assert [line for line in shown if line not in own] == expected[: len(shown) - len(own)]
    if read is None:
        assert len(shown) - len(own) == len(expected)
        assert bool(own) is (source.fault is not None and not source_is_complete(source))
    assert got.count(COMMENT.strip()) <= sum(attempt.stream.count(COMMENT) for attempt in tried)


def source_is_complete(attempt: Attempt) -> bool:
    reader = StreamReader()
    reader.feed(attempt.stream)
    return reader.is_complete
