"""What the end of an attempt means for the next one: whether another model is tried, and what its circuit hears.

    how it ended                                         another model   the model's circuit
    answered                                             no              a success
    no connection, cut, timed out, not JSON, empty       yes             a failure
    408, 409, 425, 429, 5xx, also as an error in a 200   yes             a failure
    404: nobody serves it, or not below the price cap    yes             nothing
    402: OpenRouter's cap on what is in flight           no              nothing: it is not the model's fault
    400, 401, 402, 403, 413, 422                         no              nothing: another model would say the same

Once a model has made a first real delta there is no other one: the client has got a part of the answer.
"""

from .settlement import COST_MISSING, Outcome, Settlement

_TRANSIENT = frozenset({408, 409, 425, 429})


def fails_over(settlement: Settlement, *, has_begun: bool) -> bool:
    """Whether another model may answer instead."""
    if has_begun:
        return False
    return settlement.status == 404 or _is_failure(settlement)


def verdict(settlement: Settlement) -> bool | None:
    """For the circuit: True is a failure, False a success, None says nothing of the model."""
    if _is_failure(settlement):
        return True
    return None if settlement.status is not None else False


def _is_failure(settlement: Settlement) -> bool:
    if settlement.status is not None:
        return settlement.status >= 500 or settlement.status in _TRANSIENT
    return settlement.outcome is not Outcome.ANSWERED and settlement.cause != COST_MISSING
