"""Call gates of the contract to those of the storage, and back."""

from __future__ import annotations

from typing import Any

from ownkey.v1 import asset_pb2, call_pb2
from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.call_gates import CallDirection, GateMode
from ownkey_server.rpc import convert
from ownkey_server.rpc.tables import table
from ownkey_server.storage.gate_documents import STATES, CallGateTable, ChoicesTable, GateRuleTable

MODE_NUMBERS = {mode: call_pb2.CallGateMode.Value(f"CALL_GATE_MODE_{mode.name}") for mode in GateMode}
MODES = {number: mode for mode, number in MODE_NUMBERS.items()}
DIRECTION_NUMBERS = {one: call_pb2.CallDirection.Value(f"CALL_DIRECTION_{one.name}") for one in CallDirection}
_CLASS_NUMBERS = {one: asset_pb2.AssetClass.Value(f"ASSET_CLASS_{one.name}") for one in AssetClass}


def call_gate(message: call_pb2.CallGate) -> CallGateTable:
    """How calls are gated.

    Raises:
        InvalidRequests: It is not as a call gate must be.
    """
    fields = {
        **_choices(message),
        "directions": _directions(message.directions) or list(CallDirection),
        "countries": list(message.countries),
        "emergency_numbers": list(message.emergency_numbers),
        "outside_line_prefixes": list(message.outside_line_prefixes),
        "rules": [
            {
                **_choices(rule),
                "name": rule.name,
                "sites": list(rule.sites),
                "queues": list(rule.queues),
                "callers": list(rule.callers),
                "callees": list(rule.callees),
                "directions": _directions(rule.directions),
                "groups": list(rule.groups),
                "stores": [convert.ASSET_CLASSES[one] for one in rule.stores],
            }
            for rule in message.rules
        ],
    }
    return table(CallGateTable, fields, "call_gate")


def message(gate: CallGateTable) -> call_pb2.CallGate:
    """The same, as the contract has it."""
    return call_pb2.CallGate(
        **_told(gate),
        directions=[DIRECTION_NUMBERS[one] for one in gate.directions],
        countries=gate.countries,
        emergency_numbers=gate.emergency_numbers,
        outside_line_prefixes=gate.outside_line_prefixes,
        rules=[_rule(rule) for rule in gate.rules],
    )


def _rule(rule: GateRuleTable) -> call_pb2.CallGateRule:
    return call_pb2.CallGateRule(
        name=rule.name,
        **_told(rule),
        sites=rule.sites,
        queues=rule.queues,
        callers=rule.callers,
        callees=rule.callees,
        directions=[DIRECTION_NUMBERS[one] for one in rule.directions],
        groups=rule.groups,
        stores=[_CLASS_NUMBERS[one] for one in rule.stores],
    )


def _choices(message: call_pb2.CallGate | call_pb2.CallGateRule) -> dict[str, Any]:
    choices = {state: MODES.get(getattr(message.choices, state)) for state in STATES}
    return {
        "mode": MODES.get(message.mode, GateMode.ALLOW),
        **choices,
        "grace_seconds": message.grace_seconds,
    }


def _told(told: ChoicesTable) -> dict[str, Any]:
    single = {state: MODE_NUMBERS[mode] for state in STATES if (mode := getattr(told, state)) is not None}
    return {
        "mode": MODE_NUMBERS[told.mode],
        "choices": call_pb2.CallGateChoices(**single) if single else None,
        "grace_seconds": told.grace_seconds,
    }


def _directions(numbers: Any) -> list[CallDirection]:
    return [convert.CALL_DIRECTIONS[one] for one in numbers]
