"""Which changes of a call gate gate less: those may take a second person."""

from __future__ import annotations

import pytest

from ownkey_server.storage.gate_documents import CallGateTable

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


RULE = {"name": "legal", "mode": "allow_no_recording", "groups": ["legal"], "grace_seconds": 60}
FIRST = {"name": "vault", "mode": "refuse", "sites": ["vault"]}


@pytest.mark.parametrize(
    ("after", "less"),
    [
        ({}, False),
        ({"rules": [RULE | {"mode": "refuse"}]}, False),
        ({"rules": [RULE | {"grace_seconds": 0}]}, False),
        ({"rules": [FIRST, RULE]}, False),
        ({"rules": [RULE, FIRST]}, False),
        ({"rules": [RULE | {"mode": "allow"}]}, True),
        ({"rules": [RULE | {"unreachable": "allow"}]}, True),
        ({"rules": [RULE | {"grace_seconds": 61}]}, True),
        ({"rules": [RULE | {"groups": ["legal", "sales"]}]}, True),
        ({"rules": [FIRST | {"mode": "allow_no_recording"}, RULE]}, True),
        ({"rules": [FIRST | {"grace_seconds": 1}, RULE]}, True),
        ({"rules": []}, True),
        ({"unknown": "allow"}, True),
        ({"grace_seconds": 1}, True),
        ({"mode": "allow", "revoked": "refuse"}, True),
    ],
)
def test_a_change_of_rules_gates_less(after: dict[str, object], less: bool) -> None:
    before = CallGateTable.model_validate(BEFORE | {"rules": [RULE]})
    assert CallGateTable.model_validate(BEFORE | {"rules": [RULE]} | after).gates_less_than(before) == less


def test_a_gate_as_it_was_written_before_is_read_and_off_is_allow() -> None:
    old = CallGateTable.model_validate_json('{"mode":"off","directions":["inbound"]}')
    assert (old.mode, old.rules, old.grace_seconds) == ("allow", [], 0)


@pytest.mark.parametrize(
    "rules",
    [[RULE, RULE], [RULE | {"name": "default"}], [RULE | {"callers": ["abc"]}], [RULE | {"grace_seconds": 1e6}]],
)
def test_rules_that_say_nothing_clear_are_refused(rules: list[object]) -> None:
    with pytest.raises(ValueError, match=r"rule|number range|86400"):
        CallGateTable.model_validate(BEFORE | {"rules": rules})
