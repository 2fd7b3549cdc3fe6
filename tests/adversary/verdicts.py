"""What was billed, booked and told, and what that means together.

LEAK            more was billed than the cap, or more than is booked or held
OVERBOOKED      more is booked than was billed
HELD            money is still held when nothing is in flight any more
FALSE REFUSAL   the budget said no although less than 95 % of it were spent
ok              none of these
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.adversary.money import shown

USED_PERCENT = 95


@dataclass(frozen=True, slots=True)
class Books:
    """As the gateway tells them; None where it has no word for it."""

    spent_nanousd: int | None
    held_nanousd: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One case at its end; `first_*` is before the rest of the budget was spent with plain calls."""

    case: str
    at_once: int
    cap_nanousd: int
    billed_nanousd: int
    books: Books
    told: Counter[str]
    first_billed_nanousd: int
    first_refused: int
    refused: int
    tolerance_nanousd: int = 0
    is_unknowable: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        return ", ".join(self._faults()) or "ok"

    @property
    def is_right(self) -> bool:
        return self.verdict == "ok"

    def _faults(self) -> Iterator[str]:
        spent, held = self.books.spent_nanousd, self.books.held_nanousd or 0
        slack = self.tolerance_nanousd
        unbooked = spent is not None and spent + (held if self.is_unknowable else 0) + slack < self.billed_nanousd
        if self.billed_nanousd > self.cap_nanousd + slack:
            yield "LEAK (above the cap)"
        if unbooked:
            yield "LEAK (not booked)"
        if spent is not None and spent > self.billed_nanousd + slack and not self.is_unknowable:
            yield "OVERBOOKED"
        if held and not self.is_unknowable:
            yield "HELD"
        if self._refused_falsely():
            yield "FALSE REFUSAL"

    def _refused_falsely(self) -> bool:
        enough = USED_PERCENT * self.cap_nanousd
        committed = self.billed_nanousd
        if self.is_unknowable:
            committed = max(committed, (self.books.spent_nanousd or 0) + (self.books.held_nanousd or 0))
        return (self.first_refused > 0 and 100 * self.first_billed_nanousd < enough and not self.is_unknowable) or (
            self.refused > 0 and 100 * committed < enough
        )

    def __str__(self) -> str:
        spent = "unknown" if self.books.spent_nanousd is None else shown(self.books.spent_nanousd)
        held = f", {shown(self.books.held_nanousd)} held" if self.books.held_nanousd else ""
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.told.items()))
        note = f"; {self.note}" if self.note else ""
        return (
            f"{self.case:27} {self.at_once:4} at once  billed {shown(self.billed_nanousd)} of {shown(self.cap_nanousd)}"
            f"  booked {spent}{held} of {shown(self.billed_nanousd)}  {self.verdict}  ({told}{note})"
        )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A case that this target cannot have, and why."""

    case: str
    why: str

    def __str__(self) -> str:
        return f"{self.case:27} skipped: {self.why}"
