"""Random damage to what comes in, from clients and from upstream, until the time is over.

Real requests (tests/worlds.py), real answers (every scenario of the simulator) and real catalogues are changed where
they have a structure (members, numbers, nesting, lines of a stream) and where they have none (bits, slices), and go
through the whole route: the events of API Gateway, the gate, a table in memory, upstream in-process, the relay. The
clock stands still, so that a seed replays exactly.

    requests    upstream is healthy: nothing is answered with a 5xx, what the upstream bills is what the books say, and
                nothing stays held
    answers     upstream sends anything, in any chunks: no bug, books that are not negative, a reminder for every hold
                that stays, the same settlement for any chunks, and the bytes that are relayed are those that came
    catalogues  upstream tells anything about its prices: no bug, and what is admitted is held

    make fuzz   60 s of it
"""

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

from farebox import sse
from farebox.rest import Response
from farebox.settlement import BodyReader, Settlement, StreamReader, without_comments
from farebox.store import LOST
from farebox.upstream import CUT
from local.catalogue import catalogue
from local.simulator import Simulator
from local.sockets import Cut, HttpRequest, HttpResponse
from tests.fuzz_gate import CHAT, KEY, Upstreams, place_of, require
from tests.mutations import bytes_changed, chunks_of, cost_changed, header_value, json_changed, stream_changed, text
from tests.worlds import DOWN, random_request, random_world, text_of

if TYPE_CHECKING:
    pass

REQUESTS_A_WORLD = 50
PLAIN = {"model": "sim/ok", "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 300}


# Requests.


def requests(chance: Random, counts: Counter[str]) -> None:
    """One world, and damaged requests to it."""
    world = random_world(chance)
    simulator = world.simulator
    simulator.models.pop(DOWN, None)
    place = place_of(Upstreams(simulator))
    for number in range(REQUESTS_A_WORLD):
        tenant = f"t{number}"
        body = text_of(random_request(chance, world), chance)
        if chance.random() < 0.8:
            body = json_changed(chance, body, most=2)
        if chance.random() < 0.1:
            body = bytes_changed(chance, body)
        simulator.reset()
        place.upstreams.sent.clear()
        method, target = _target(chance, tenant)
        headers = _headers(chance, tenant)
        reads = chance.randint(1, 5) if chance.random() < 0.2 else None
        response, answered = place.call(HttpRequest(method, target, headers, body), reads=reads)
        counts[f"requests: {response.status}"] += 1
        require(response.status < 500, f"{response.status} to {body[:2000]!r}: {answered[:500]!r}")
        what = f"{response.status} to {body[:2000]!r}, {answered[:500]!r}"
        require(not place.holds(tenant), f"a hold is left: {what}")
        billed = simulator.billed_nanousd
        require(place.committed(tenant) == billed, f"booked {place.committed(tenant)}, billed {billed}")
        require(not place.upstreams.sent or target == CHAT, "something was sent that is no call")
        for sent in place.upstreams.sent:
            require("max_price" in json.loads(sent)["provider"], "sent without a price cap")
        if response.status == 200 and target == CHAT and reads is None:
            _require_relayed(response, answered, b"".join(place.upstreams.received))


def _target(chance: Random, tenant: str) -> tuple[str, str]:
    odd = header_value(chance)
    if chance.random() < 0.9:
        return "POST", CHAT
    return chance.choice((
        ("POST", "/api/v1/quote"), ("GET", f"/api/usage/{tenant}"), ("GET", f"/api/usage/{odd}"),
        ("GET", f"/api/v1/models?{odd}"), ("POST", f"/api/{odd}"), ("PUT", f"/api/usage/{odd}"),
    ))  # fmt: skip


def _headers(chance: Random, tenant: str) -> tuple[tuple[str, str], ...]:
    headers = [("Authorization", f"Bearer {KEY}"), ("X-Tenant-Id", tenant)]
    if chance.random() < 0.2:
        names = ("X-Title", "HTTP-Referer", "X-Feature", "X-Request-Id", "X-Tenant-Id", "Authorization", "Host")
        headers.append((chance.choice(names), header_value(chance)))
    return tuple(headers)


def _require_relayed(response: Response, answered: bytes, received: bytes) -> None:
    if response.headers["Content-Type"].startswith("text/event-stream"):
        require(answered == received, "a stream was changed on its way")
    else:
        require(answered.lstrip() == without_comments(received).strip(b" \t\r\n") or answered == received.lstrip(),
                f"a body was changed on its way: {received[:500]!r} to {answered[:500]!r}")  # fmt: skip


# Answers.


@cache
def real_answers() -> tuple[tuple[int, tuple[tuple[str, str], ...], bytes], ...]:
    """What the simulator says to every model, streaming and not; broken off where it breaks off."""
    simulator, found = Simulator(sleep=lambda _: None), []
    for name in catalogue():
        for stream in (False, True):
            body = json.dumps({**PLAIN, "model": name, "stream": stream, "max_tokens": 20}).encode()
            with suppress(Cut):
                response = simulator.handle(HttpRequest("POST", CHAT, (("authorization", "Bearer k"),), body))
                chunks: list[bytes] = []
                with suppress(Cut, httpx.ReadTimeout):
                    chunks.extend(islice(response.body, 100))  # one scenario never ends
                found.append((response.status, response.headers, b"".join(chunks)))
    return tuple(found)


def damaged_answer(chance: Random) -> tuple[HttpResponse, bytes, bool]:
    """An answer in chunks, all of it, and whether the connection breaks after it."""
    status, headers, body = chance.choice(real_answers())
    is_stream = any(value.startswith("text/event-stream") for _, value in headers)
    if chance.random() < 0.8:
        body = stream_changed(chance, body) if is_stream else json_changed(chance, body)
    if chance.random() < 0.2:
        body = cost_changed(chance, body)
    if chance.random() < 0.3:
        body = bytes_changed(chance, body)
    if chance.random() < 0.1:
        status = chance.choice((200, 201, 204, 299, 302, 400, 402, 404, 408, 418, 429, 500, 502, 503, 504, 524, 599))
    names = ("x-generation-id", "retry-after", "x-ratelimit-reset", "x-provider-name")
    extra = tuple(
        (chance.choice(names), quote(header_value(chance), errors="surrogatepass"))
        for _ in range(chance.choice((0, 0, 1, 2)))
    )
    is_cut = chance.random() < 0.2
    kept = tuple((name, value) for name, value in headers if name.lower() not in [other for other, _ in extra])
    return HttpResponse(status, (*kept, *extra), _broken(chunks_of(chance, body), is_cut=is_cut)), body, is_cut


def _broken(chunks: list[bytes], *, is_cut: bool) -> Iterator[bytes]:
    yield from chunks
    if is_cut:
        raise Cut


def answers(chance: Random, counts: Counter[str]) -> None:
    """One damaged answer, read in two ways and then relayed."""
    response, whole, is_cut = damaged_answer(chance)
    _require_same(chance, whole, cut=CUT if is_cut else None)
    chain = "openai/gpt-4o-mini" if chance.random() < 0.3 else ""
    upstreams = Upstreams(Simulator(sleep=lambda _: None), chat=lambda _: response)
    step_s = chance.choice((0.0, 0.1, 1.0))
    place = place_of(upstreams, chain=chain, may_overrun=True, step_s=step_s)
    if chain:  # the second attempt is served as it should be
        upstreams.chat = _first(response, upstreams.simulator)
    body = json.dumps({**PLAIN, "stream": chance.random() < 0.5}).encode()
    reads = chance.randint(1, 5) if chance.random() < 0.2 else None
    answered, relayed = place.call(HttpRequest("POST", CHAT, _headers(chance, "t"), body), reads=reads)
    counts[f"answers: {answered.status}"] += 1
    for hold_id in place.holds("t"):
        require((LOST, hold_id) in place.memory.items, f"a hold is left without a reminder: {whole[:500]!r}")
    if answered.status != 200 or chain or reads is not None:
        return
    if not answered.headers["Content-Type"].startswith("text/event-stream"):
        return
    end = max(whole.rfind(b"\n"), whole.rfind(b"\r")) + 1 if is_cut else len(whole)
    if relayed[:end] != whole[:end] or not (is_cut or relayed == whole):
        # Before a model has begun, comments may overtake events, so that the client hears something.
        require(step_s > 0, f"a stream was changed: {whole[:500]!r} to {relayed[:500]!r}")
        known = max(0, len(_events([whole[:end]])) - is_cut)  # the last one may have been broken off
        came, went = (_events([each])[:known] for each in (whole, relayed))
        require(came == went, f"events were changed: {whole[:500]!r} to {relayed[:500]!r}")
        require(is_cut or sorted(whole) == sorted(relayed), "bytes were lost or added")


def _first(response: HttpResponse, simulator: Simulator) -> Callable[[HttpRequest], HttpResponse]:
    left = [response]
    return lambda request: left.pop() if left else simulator.handle(request)


def _require_same(chance: Random, body: bytes, *, cut: str | None) -> None:
    """Whatever the chunks are: the same events, the same settlement."""
    chunks = chunks_of(chance, body)
    require(_events(chunks) == _events([body]), f"other events in chunks {chunks!r}")
    for reader in (StreamReader, BodyReader):
        first, second = (_settlement(reader(), each, cut) for each in (chunks, [body]))
        require(first == second, f"{first} in chunks {chunks!r}, {second} in one")
        require((first.cost_nanousd or 0) >= 0, f"a negative cost: {first}")


def _events(chunks: list[bytes]) -> list[bytes]:
    reader = sse.Reader()
    return [*(data for chunk in chunks for data in reader.feed(chunk)), *reader.end()]


def _settlement(reader: StreamReader | BodyReader, chunks: list[bytes], cut: str | None) -> Settlement:
    for chunk in chunks:
        reader.feed(chunk)
    return reader.settlement(cut=cut)


# Catalogues.


def catalogues(chance: Random, counts: Counter[str]) -> None:
    """Prices that upstream makes up; the model that is asked for is one of those that it then tells of, if any."""
    models = {name: catalogue()[name] for name in ("sim/ok", "openai/gpt-4o-mini", "anthropic/claude-sonnet-4.6")}
    names = list(models)

    def prices(body: bytes) -> bytes:
        if chance.random() < 0.3:  # a name is one value of thousands
            body = body.replace(b'"sim/ok"', json.dumps(text(chance)).encode(), chance.choice((1, 2, -1)))
        changed = json_changed(chance, body) if chance.random() < 0.9 else bytes_changed(chance, body)
        with suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
            rows = json.loads(changed)["data"]
            names.extend(row[name] for row in rows for name in ("id", "canonical_slug") if isinstance(row[name], str))
        return changed

    upstreams = Upstreams(Simulator(models=models, sleep=lambda _: None), prices=prices)
    place = place_of(upstreams, chain="openai/gpt-4o-mini" if chance.random() < 0.5 else "", may_overrun=True)
    for number in range(3):
        body = json.dumps({**PLAIN, "model": chance.choice(names)}).encode()
        response, _ = place.call(HttpRequest("POST", CHAT, _headers(chance, f"t{number}"), body))
        counts[f"catalogues: {response.status}"] += 1
        require(not place.holds(f"t{number}") or response.status >= 500, "a hold is left")


# All of them.


DRIVES = (requests, answers, answers, answers, answers, catalogues)


def run(until: Callable[[], bool], seed: int, counts: Counter[str]) -> Iterator[int]:
    """Numbers of cases, as they pass. Raises what a case does, with its number in `counts`."""
    number = 0
    while not until():
        counts["cases"] = number
        case(seed, number, counts)
        yield number
        number += 1


def case(seed: int, number: int, counts: Counter[str]) -> None:
    """One case, by its number."""
    chance = Random(f"{seed}-{number}")  # noqa: S311 - not a secret
    DRIVES[number % len(DRIVES)](chance, counts)


def main() -> None:
    """Damage what comes in until the time is over; exit 1 at the first thing that must never happen."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of CPU time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same cases again (default: %(default)s)")
    parser.add_argument("--case", type=int, help="only this one, as a failure names it")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    try:
        if options.case is not None:
            case(options.seed, options.case, counts)
        else:
            for _ in run(lambda: time.process_time() >= options.seconds, options.seed, counts):
                pass
    except Exception:  # noqa: BLE001 - any is a failure, and is told with its case
        traceback.print_exc()
        sys.exit(f"python -m tests.fuzz --seed {options.seed} --case {options.case or counts['cases']}")
    for name, count in sorted(counts.items()):
        print(f"{count:8} {name}")
    print(f"{time.process_time():.0f} s of CPU time, seed {options.seed}: ok")


if __name__ == "__main__":
    main()
