"""The table of cases: what is asked, how often, by which clients.

Costs of the simulated models (local/scenarios.py): sim/cent bills 1000 tokens, exactly 0.01 USD, unless max_tokens is
smaller. The cheap ones get long prompts, so that each call costs about as much.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.adversary.clients import Behaviour, Manners

CHAT: Final = "/chat/completions"
HELLO: Final = "Say hello"
LONG: Final = "The fare is paid before you ride. " * 1800  # 61 kB, 15,300 simulated tokens
CENT: Final[Mapping[str, Any]] = {"model": "sim/cent", "max_tokens": 1000}
DEAREST: Final = {"prompt": 15, "completion": 75}  # USD a million tokens, as sim/agent

POLITE: Final = Behaviour()
DROPS: Final = Behaviour(leaves_after=0)
ONCE: Final = Behaviour(Manners.ONCE)
STORM: Final = Behaviour(Manners.STORM, timeout_s=60)
HASTY_STORM: Final = Behaviour(Manners.STORM, timeout_s=0.25)
ABORTS: Final = Behaviour(Manners.ONCE, timeout_s=0.2)
GIVES_UP: Final = Behaviour(Manners.ONCE, timeout_s=1.0)

Asked = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wave:
    """Calls of one kind: `share` of the run's number of calls, each sent `copies` times at the same moment."""

    asked: Asked
    how: Behaviour = POLITE
    share: float = 1.0
    path: str = CHAT
    prompt: str = HELLO
    copies: int = 1

    def body(self) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": self.prompt}], **self.asked}


@dataclass(frozen=True, slots=True)
class Case:
    """Waves one after the other, then (unless it is a race) the rest of the budget is spent with plain calls.

    `patience_s` is how long the books may take to agree with the bill, `waits_s` how long upstream is at work although
    nobody waits for it. `is_unknowable`: nobody can learn from upstream what these calls have cost, so that holding the
    money is right, and so is booking more than was billed.
    """

    name: str
    attacks: str
    waves: tuple[Wave, ...]
    drains: bool = True
    patience_s: float = 20.0
    waits_s: float = 0.0
    is_unknowable: bool = False
    scales: bool = False
    """Whether the case is run with every number of clients at once."""
    is_in_turn: bool = False
    """Whether it is run by one client, whose next call comes when the last one has ended."""


def _streamed(asked: Asked) -> Asked:
    return {**asked, "stream": True}


RACES: Final = (
    Case("race: honest max_tokens", "checks of one another's past", (Wave(CENT),), drains=False, scales=True),
    Case("race: no max_tokens", "a guess at the output", (Wave({"model": "sim/cent"}),), drains=False, scales=True),
    Case("race: streaming", "the same while streaming", (Wave(_streamed(CENT)),), drains=False, scales=True),
    Case("race: dropped", "clients gone after one chunk", (Wave(_streamed(CENT), DROPS),), drains=False, scales=True),
)

BOUNDS: Final = (
    Case("small max_tokens", "many cheap calls", (Wave({"model": "sim/cent", "max_tokens": 16}),)),
    Case(
        "two limits",
        "pricing the smaller of two limits",
        (Wave({"model": "sim/cent", "max_tokens": 1, "max_completion_tokens": 1000}),),
        drains=False,
    ),
    Case(
        "prompt of bytes",
        "an estimate of four characters a token",
        (Wave({"model": "sim/cent-bytes", "max_tokens": 16}, prompt=LONG[:900]),),
    ),
    Case(
        "prompt of bytes, dropped",
        "the same, clients gone",
        (Wave(_streamed({"model": "sim/cent-bytes", "max_tokens": 16}), DROPS, prompt=LONG[:900]),),
    ),
    Case("unpriced: openrouter/auto", "price -1", (Wave({"model": "openrouter/auto", "max_tokens": 1000}),)),
    Case(
        "unpriced, max_price",
        "a router that takes the dearest model",
        (Wave({"model": "openrouter/auto", "max_tokens": 1000, "provider": {"max_price": DEAREST}}),),
    ),
    Case("unpriced, aborted", "no price, no answer", (Wave({"model": "openrouter/auto", "max_tokens": 1000}, ABORTS),)),
    Case("unknown model", "a name that only upstream knows", (Wave({"model": "sim/canonical-20260801"}, share=0.2),)),
    Case("no such model", "a name that nobody knows", (Wave({"model": "sim/nobody-knows-me"}, ONCE, share=0.2),)),
)

PRICES: Final = (
    Case("dear provider", "5 times the catalogue's price", (Wave({"model": "sim/dear-provider"}, prompt=LONG),)),
    Case("long context", "double price above 1000 tokens", (Wave({"model": "sim/long-context"}, prompt=LONG),)),
    Case(
        "cache writes",
        "an hour of cache at 2.7 times the price",
        (
            Wave(
                {
                    "model": "sim/cache-write",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
                            ],
                        }
                    ],
                }
            ),
        ),
    ),
    Case("reasoning", "output that nobody sees", (Wave({"model": "sim/reasoning", "max_tokens": 400}),)),
    Case("server tool", "0.014 USD of searches that nobody asked for", (Wave({"model": "sim/server-tool"}),)),
    Case(
        "fee that nobody announced",
        "the same, one call at a time",
        (Wave({"model": "sim/server-tool", "max_tokens": 100}, share=0.2),),
        is_in_turn=True,
    ),
    Case(
        "web search",
        "a plugin's fee",
        (Wave({"model": "sim/ok", "plugins": [{"id": "web", "max_results": 10}]}, share=0.4),),
    ),
    Case("own provider key", "cost 0, and the provider's bill", (Wave({"model": "sim/byok"}, prompt=LONG),)),
    Case(
        "free with a paid fallback",
        "a free model first",
        (Wave({"model": "sim/free:free", "models": ["sim/free:free", "sim/cent"], "max_tokens": 1000}, share=0.4),),
    ),
    Case(
        "cheap, down, dear fallback",
        "66 times dearer behind it",
        (Wave({"model": "sim/502", "models": ["sim/502", "sim/cent"], "max_tokens": 1000}),),
        drains=False,
    ),
    Case(
        "other routes",
        "/responses and /messages beside the budget",
        (
            Wave({"model": "sim/cent", "input": HELLO, "max_output_tokens": 1000}, ONCE, share=0.3, path="/responses"),
            Wave(CENT, ONCE, share=0.3, path="/messages"),
            Wave({**CENT, "prompt": HELLO}, ONCE, share=0.3, path="/completions"),
        ),
    ),
)

REPEATS: Final = (
    Case("retry storm: time-outs", "repeats at once, upstream bills each", (Wave(CENT, HASTY_STORM, share=0.4),)),
    Case(
        "retry storm: errors",
        "502 and 429, repeated at once",
        (Wave({"model": "sim/502"}, STORM, share=0.1), Wave({"model": "sim/429"}, STORM, share=0.1)),
    ),
    Case(
        "retry storm: 504",
        "time-outs upstream, billed and never told",
        (Wave({"model": "sim/504", "max_tokens": 16}, STORM, share=0.1),),
        is_unknowable=True,
        patience_s=8,
    ),
    Case("duplicates", "the same request twice at once", (Wave(CENT, share=0.4, copies=2),)),
    Case(
        "duplicates, timed out",
        "the same, and the client gives up first",
        (Wave(CENT, ABORTS, share=0.4, copies=2),),
    ),
    Case(
        "long streams, dropped",
        "gone after one chunk of 5000, 0.012 USD each",
        (Wave(_streamed({"model": "sim/huge"}), DROPS, share=0.25),),
        patience_s=60,
    ),
    Case("aborted streams", "gone before the first byte", (Wave(_streamed(CENT), ABORTS, share=0.8),)),
)

FAULTS: Final = (
    *(
        Case(f"stream: {name}", attacks, (Wave(_streamed({"model": f"sim/{name}"}), ONCE, share=0.1),))
        for name, attacks in (
            ("error-mid-stream", "half an answer, then an error"),
            ("error-with-usage", "the same with its cost"),
            ("error-200", "200, and an error first"),
            ("cut", "the connection breaks"),
            ("usage-missing", "no usage at all"),
        )
    ),
    Case(
        "usage missing",
        "not streamed, no usage: only /generation knows",
        (Wave({"model": "sim/usage-missing"}, ONCE, share=0.2),),
    ),
    Case(
        "hold leak",
        "streams that fail before their first chunk",
        tuple(
            Wave(_streamed({"model": f"sim/{name}", "max_tokens": 4000}), ONCE, share=0.08)
            for name in ("error-200", "cut-early", "role-then-cut", "empty-stream", "first-event-429", "500")
        ),
    ),
    Case(
        "no answer",
        "the connection closes without a word: billed or not, nobody knows",
        (Wave(_streamed({"model": "sim/refuse", "max_tokens": 100}), ONCE, share=0.1),),
        is_unknowable=True,
        patience_s=8,
    ),
    Case("slow: padding", "whitespace before the answer", (Wave({"model": "sim/pad"}, GIVES_UP, share=0.1),)),
    Case(
        "slow: silent",
        "30 s of silence, the client waits 1",
        (Wave({"model": "sim/slow", "max_tokens": 100}, GIVES_UP, share=0.05),),
        waits_s=32,
        patience_s=100,
    ),
    Case(
        "slow: padding for ever",
        "an answer that never comes",
        (
            Wave({"model": "sim/pad-forever", "max_tokens": 100}, GIVES_UP, share=0.03),
            Wave(_streamed({"model": "sim/pad-forever", "max_tokens": 100}), GIVES_UP, share=0.03),
        ),
        waits_s=66,
        patience_s=100,
    ),
)

MIDNIGHT: Final = Case("midnight", "a window that ends while calls are in flight", ())  # midnight.py runs it
CASES: Final = (*RACES, *BOUNDS, *PRICES, *REPEATS, *FAULTS, MIDNIGHT)


def named(names: Iterable[str]) -> Iterator[Case]:
    """The cases whose names begin so; all where none is named."""
    wanted = tuple(names)
    for case in CASES:
        if not wanted or case.name.startswith(wanted):
            yield case
