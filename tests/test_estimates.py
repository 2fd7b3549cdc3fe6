"""An estimate is corrected once, or stays: pure rules of the ledger."""

from farebox.ledger import Estimate, Hold, Ledger, Limits, correct, reserve, settle

HOLD = Hold("a", 100, 23, 0, 960, "sim/ok")
LIMITS = Limits(1000, 1000, version=1)


def estimated() -> Ledger:
    held = reserve(Ledger(), HOLD, LIMITS)
    assert isinstance(held, Ledger)
    return settle(held, HOLD, 100, is_estimated=True)


def test_an_estimate_is_spent_and_remembered() -> None:
    ledger = estimated()
    assert (ledger.spent_nanousd, ledger.held_nanousd) == (100, 0)
    assert ledger.estimates == {"a": Estimate(100, 23)}


def test_the_true_cost_takes_its_place_once() -> None:
    corrected = correct(estimated(), "a", 30)
    assert (corrected.spent_nanousd, corrected.spent_on(23), corrected.estimates) == (30, 30, {})
    assert correct(corrected, "a", 10) == corrected


def test_what_is_never_known_stays_as_it_was_estimated() -> None:
    final = correct(estimated(), "a", None)
    assert (final.spent_nanousd, final.estimates) == (100, {})
