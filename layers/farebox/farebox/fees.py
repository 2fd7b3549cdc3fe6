"""Fees that upstream bills and no catalogue announces: learnt from what calls have cost.

No bound can be sent against what nobody tells of, so the first such call may pass its hold. What it cost above what its
tokens and the announced fees explain, at the dearest rates, is kept with its model and held for each call of it from
then on. So is what is above the whole hold, where tokens are not known; the hold's own learnt fee is in that:

    learnt = the highest ever seen of   cost - (tokens x rates + announced fees)
                                        cost - hold + the learnt fee in the hold          if above the hold

A function that sees it asks the model's prices again at once, the others when theirs are too old. It is one amount a
call: should a model bill more tokens than it reports, a longer call may pass its hold again, and teach more. What was
not taught again for 90 days is forgotten, so that a wrong lesson holds too much for so long at most.
"""

from collections.abc import Iterable
from datetime import datetime

from .admission import Admission
from .ledger import Hold
from .settlement import Settlement
from .store import Store
from .telemetry import Telemetry
from .variants import variant

KEPT_S = 90 * 86_400


def lesson(hold: Hold, cost_nanousd: int, above_tokens_nanousd: int = 0) -> int | None:
    """The fee that a call's cost tells of; None where it is not above the one in its hold."""
    excess = cost_nanousd - hold.amount_nanousd
    fee = max(above_tokens_nanousd, hold.learnt_nanousd + excess if excess > 0 else 0)
    return fee if fee > hold.learnt_nanousd else None


def lesson_of(admission: Admission, settlement: Settlement) -> int | None:
    """That of an attempt, by its tokens, too, where upstream reports them."""
    cost, tokens = settlement.cost_nanousd, settlement.receipt.tokens
    if cost is None:
        return None
    known = "prompt" in tokens
    explained = admission.quote.explained_nanousd(tokens["prompt"], tokens.get("completion", 0)) if known else cost
    return lesson(admission.hold, cost, cost - explained)


def taught(models: Iterable[str], billed: str | None = None) -> frozenset[str]:
    """The names under which a lesson is kept: of the models asked for, the one that was billed.

    All of them where upstream does not say which, or says a name that is none of theirs. Then it is kept under that,
    too: it is what an alias stands for, or the model that a router chose.
    """
    bases = frozenset(variant(name).base for name in models)
    named = frozenset({variant(billed).base} - {""} if billed else ())
    return named if named and named <= bases else bases | named


def teach(
    store: Store, telemetry: Telemetry, now: datetime, hold: Hold, cost_nanousd: int, fee: int, names: frozenset[str]
) -> None:
    """Keep a lesson under the names of its model; told of where more is known by it. Raises StoreError."""
    at = int(now.timestamp())
    for name in sorted(names):
        if store.learn(name, fee, at, at + KEPT_S):
            telemetry.fee({
                "model": name,
                "fee_nanousd": fee,
                "hold": hold.id,
                "hold_nanousd": hold.amount_nanousd,
                "cost_nanousd": cost_nanousd,
            })  # fmt: skip
