"""A short run of tests.fuzz, and that it would notice."""

import json
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from local.simulator import Simulator
from local.sockets import HttpRequest, HttpResponse
from tests.fuzz import PLAIN, case, real_answers
from tests.fuzz_gate import CHAT, KEY, Upstreams, Violation, place_of
from tests.mutations import bytes_changed, chunks_of, json_changed, stream_changed

CASES = 36


@pytest.mark.parametrize("part", range(4))
def test_no_damage_does_harm(part: int) -> None:
    counts: Counter[str] = Counter()
    for number in range(part * CASES, (part + 1) * CASES):
        case(1, number, counts)
    assert {name.partition(":")[0] for name in counts} == {"requests", "answers", "catalogues"}
    assert counts["requests: 200"] > 10


def test_a_case_replays_exactly() -> None:
    runs: list[Counter[str]] = [Counter(), Counter()]
    for counts in runs:
        for number in range(6):
            case(7, number, counts)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("change", [json_changed, bytes_changed, stream_changed])
def test_most_damage_changes_something(change: Callable[[Random, bytes], bytes]) -> None:
    body = json.dumps(PLAIN).encode()
    if change is stream_changed:
        body = next(body for _, _, body in real_answers() if body.endswith(b"data: [DONE]\n\n"))
    changed = [change(Random(number), body) for number in range(100)]  # noqa: S311 - not a secret
    assert sum(each != body for each in changed) > 70


def test_chunks_are_the_body_whatever_the_cuts() -> None:
    for number in range(200):
        body = real_answers()[number % len(real_answers())][2]
        assert b"".join(chunks_of(Random(number), body)) == body  # noqa: S311 - not a secret


def test_a_bug_and_an_overrun_are_told() -> None:
    def twice(request: HttpRequest) -> HttpResponse:
        response = simulator.handle(request)
        return HttpResponse(200, response.headers, (b"".join(response.body).replace(b'"cost":0', b'"cost":99'),))

    def broken(_request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    simulator = Simulator(sleep=lambda _: None)
    for chat, told in ((twice, "overrun"), (broken, "ZeroDivisionError")):
        place = place_of(Upstreams(simulator, chat=chat))
        headers = (("Authorization", f"Bearer {KEY}"),)
        with pytest.raises(Violation, match=told):
            place.call(HttpRequest("POST", CHAT, headers, json.dumps(PLAIN).encode()))
