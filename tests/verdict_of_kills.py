"""What must be true of the books after gateways were killed (kills.py), when the sweep has done all that it can.

    every hold has ended, no reminder, estimate or mark is left, and nothing counts as in flight
    each window's spent money is the sum of the costs of its spans; no span is there twice, none is without a cost
    a span whose generation is known has exactly the cost on the bill; of the same tenant
    a generation that no span knows was of a call whose function died before it knew: it is covered by an estimate of
    the same tenant and model, which is at least as high
    an answer that a client has got whole is in the books by its id: it is no estimate
    booked less billed is what estimates are too high, and never below nothing
    no tenant's budget is passed

What is compared is the table's content on one side, and the simulator's own bill on the other.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from farebox.aws import from_dynamodb
from farebox.ledger import Ledger
from farebox.store import ledger_of
from local.bill import Generation

Span = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one round, or of several together; nano-dollars. `wrong` are sentences that should not be true."""

    kills: tuple[int, ...] = ()
    answers: Counter[str] = field(default_factory=Counter)
    generations: int = 0
    spans: int = 0
    billed: int = 0
    booked: int = 0
    estimated: int = 0
    estimated_nanousd: int = 0
    covered: int = 0
    corrected: int = 0
    wrong: tuple[str, ...] = ()

    def __add__(self, other: Self) -> "Verdict":
        return Verdict(*(getattr(self, name) + getattr(other, name) for name in Verdict.__slots__))

    @property
    def progress(self) -> str:
        """A line of figures."""
        return (
            f"{len(self.kills):4} kills  {self.answers.total():6} calls  billed {self.billed / 1e9:.9f}  "
            f"booked {self.booked / 1e9:.9f} USD  {self.estimated} estimated  "
            f"{'WRONG' if self.wrong else 'ok'}"
        )

    def __str__(self) -> str:
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.answers.items()))
        in_flight = sum(self.kills) / max(1, len(self.kills))
        return "\n".join((
            f"{len(self.kills)} kills, {in_flight:.1f} calls in flight at the killed gateway on average",
            f"{self.answers.total()} calls: {told}",
            f"{self.generations} generations on the upstream's bill, {self.spans} spans in the books",
            f"billed    {self.billed / 1e9:.9f} USD",
            f"booked    {self.booked / 1e9:.9f} USD, {(self.booked - self.billed) / 1e9:.9f} more",
            f"estimated {self.estimated_nanousd / 1e9:.9f} USD in {self.estimated} spans, of which {self.covered} were "
            "billed; every other span is exact",
            f"corrected {self.corrected} estimates when the cost was on record",
            f"wrong     {len(self.wrong)}",
        ))  # fmt: skip


def verdict(
    items: Iterable[Mapping[str, Any]],
    generations: Sequence[Generation],
    *,
    whole: Sequence[str],
    limits: Mapping[str, int],
    kills: Sequence[int],
    answers: Counter[str],
) -> Verdict:
    """Compare a table's items with a bill. The bill says by its referer which tenant each generation was for."""
    table = [from_dynamodb(item) for item in items]
    spans = [item for item in table if item["pk"].startswith("SPANS#")]
    estimated = [span for span in spans if span.get("is_estimated")]
    known = {span["generation_id"] for span in spans if "generation_id" in span}
    wrong = [
        *_left_open(table),
        *_by_window(table, spans),
        *_twice(spans),
        *_by_span(spans, generations),
        *_uncovered(estimated, [record for record in generations if record.id not in known]),
        *(f"the answer {id_} was got whole, and no span knows it" for id_ in whole if id_ not in known),
        *_by_tenant(spans, generations, limits),
    ]
    return Verdict(
        kills=tuple(kills),
        answers=Counter(answers),
        generations=len(generations),
        spans=len(spans),
        billed=sum(record.charge.billed_nanousd for record in generations),
        booked=sum(_cost(span) for span in spans),
        estimated=len(estimated),
        estimated_nanousd=sum(_cost(span) for span in estimated),
        covered=sum(record.id not in known for record in generations),
        corrected=sum("estimated_nanousd" in span for span in spans),
        wrong=tuple(wrong),
    )


def _cost(span: Span) -> int:
    return int(span.get("cost_nanousd", 0))


def _ledgers(table: Iterable[Span]) -> dict[tuple[str, str], Ledger]:
    return {
        (item["pk"].removeprefix("TENANT#"), item["sk"].removeprefix("LEDGER#")): ledger_of(item)
        for item in table
        if item["sk"].startswith("LEDGER#")
    }


def _left_open(table: Sequence[Span]) -> Iterable[str]:
    for item in table:
        if item["pk"] == "LOST":
            yield f"the reminder of {item['sk']} is still there"
        if item["sk"].startswith("LEDGER#") and item["n"] != 0:
            yield f"{item['pk']} counts {item['n']} calls in flight"
    for place, ledger in _ledgers(table).items():
        if ledger.holds:
            yield f"{place} has {len(ledger.holds)} holds of {ledger.held_nanousd} nano-dollars"
        if ledger.estimates or ledger.ended:
            yield f"{place} has {len(ledger.estimates)} estimates and {len(ledger.ended)} marks"


def _by_window(table: Sequence[Span], spans: Sequence[Span]) -> Iterable[str]:
    ledgers = _ledgers(table)
    days: Counter[tuple[str, str, int]] = Counter()
    months: Counter[tuple[str, str]] = Counter()
    for span in spans:
        days[span["tenant"], span["month"], span["day"]] += _cost(span)
        months[span["tenant"], span["month"]] += _cost(span)
    for place, ledger in ledgers.items():
        if ledger.spent_nanousd != months[place]:
            yield f"{place} has spent {ledger.spent_nanousd}, and its spans cost {months[place]} nano-dollars"
        for day in ledger.committed_by_day:
            if ledger.spent_on(day) != days[(*place, day)]:
                yield f"{place}, day {day} has spent {ledger.spent_on(day)}, and its spans cost {days[(*place, day)]}"
    for tenant, month, day in days:
        if (tenant, month) not in ledgers or day not in ledgers[tenant, month].committed_by_day:
            yield f"spans of {tenant}, {month}, day {day} are in no ledger"


def _twice(spans: Sequence[Span]) -> Iterable[str]:
    for what in ("sk", "generation_id"):
        counts = Counter(span[what] for span in spans if what in span)
        yield from (f"{count} spans have the {what} {id_}" for id_, count in counts.items() if count > 1)


def _by_span(spans: Sequence[Span], generations: Sequence[Generation]) -> Iterable[str]:
    bill = {record.id: record for record in generations}
    for span in spans:
        if "cost_nanousd" not in span:
            yield f"the span {span['sk']} has no cost"
        record = bill.get(span.get("generation_id", ""))
        billed = 0 if record is None else record.charge.billed_nanousd
        if record is not None and record.http_referer != span["tenant"]:
            yield f"the span {span['sk']} of {span['tenant']} is for a generation of {record.http_referer}"
        if span.get("is_estimated") and record is not None:
            yield f"the span {span['sk']} is estimated, and its generation's cost was on record"
        if not span.get("is_estimated") and _cost(span) != billed:
            yield f"the span {span['sk']} ({span['outcome']}) is booked at {_cost(span)}, and billed at {billed}"


def _uncovered(estimated: Sequence[Span], unknown: Sequence[Generation]) -> Iterable[str]:
    """The dearest generation against the highest estimate, and so on down: if that does not fit, nothing does."""
    estimates: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for span in sorted(estimated, key=_cost, reverse=True):
        estimates[span["tenant"], span["model"]].append(_cost(span))
    for record in sorted(unknown, key=lambda record: record.charge.billed_nanousd, reverse=True):
        left = estimates[record.http_referer, record.model]
        if not left or left.pop(0) < record.charge.billed_nanousd:
            yield f"{record.id} ({record.model}, {record.http_referer}) was billed, and neither booked nor estimated"


def _by_tenant(spans: Sequence[Span], generations: Sequence[Generation], limits: Mapping[str, int]) -> Iterable[str]:
    for tenant, limit in limits.items():
        booked = sum(_cost(span) for span in spans if span["tenant"] == tenant)
        billed = sum(record.charge.billed_nanousd for record in generations if record.http_referer == tenant)
        if booked < billed:
            yield f"{tenant} was billed {billed}, and only {booked} nano-dollars are booked"
        if booked > limit:
            yield f"{tenant} has spent {booked} of {limit} nano-dollars"
