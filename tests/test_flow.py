"""Calls from the event to the books, on the simulator."""

from local.simulator import Simulator
from tests.conftest import Door


def test_a_call_is_answered_and_booked_at_what_upstream_billed(door: Door, simulator: Simulator) -> None:
    answered = door.chat()
    assert answered.status == 200
    assert answered.json["choices"][0]["message"]["content"]
    usage = door.usage()["daily"]
    assert round(usage["spent_usd"] * 1e9) == simulator.billed_nanousd > 0
    assert usage["held_usd"] == 0
