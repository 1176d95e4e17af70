"""Which changes of a call gate gate less: those may take a second person."""

from __future__ import annotations

import pytest

from ownkey_server.storage.documents import CallGateTable

BEFORE = {
    "mode": "refuse",
    "directions": ["outbound", "internal"],
    "countries": ["US", "DE"],
    "emergency_numbers": ["7777"],
    "outside_line_prefixes": ["9"],
}


@pytest.mark.parametrize(
    ("change", "less"),
    [
        ({}, False),
        ({"mode": "off"}, True),
        ({"mode": "allow_no_recording"}, True),
        ({"directions": ["outbound"]}, True),
        ({"directions": ["outbound", "internal", "inbound"]}, False),
        ({"countries": ["US"]}, False),
        ({"countries": ["US", "DE", "GB"]}, True),
        ({"emergency_numbers": []}, False),
        ({"emergency_numbers": ["7777", "5551234"]}, True),
        ({"outside_line_prefixes": ["9", "555"]}, True),
        ({"countries": ["DE", "US"], "directions": ["internal", "outbound"]}, False),
    ],
)
def test_a_change_gates_less(change: dict[str, object], less: bool) -> None:
    before, after = CallGateTable.model_validate(BEFORE), CallGateTable.model_validate(BEFORE | change)
    assert after.gates_less_than(before) == less


def test_a_gate_that_was_off_cannot_gate_less() -> None:
    off = CallGateTable.model_validate(BEFORE | {"mode": "off"})
    assert not off.gates_less_than(off)
    assert not CallGateTable.model_validate(BEFORE).gates_less_than(off)
    assert off.gates_less_than(CallGateTable.model_validate(BEFORE))
