"""Call gates in JSON, as ``ownkey admin tenant update --gate-file`` reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from ownkey.cli.admin_tenants import _gate_in
from ownkey.cli.messages import values
from ownkey.v1 import call_pb2

PAGE = Path(__file__).parents[3] / "docs" / "call-gate.md"
REFUSE, ALLOW = call_pb2.CALL_GATE_MODE_REFUSE, call_pb2.CALL_GATE_MODE_ALLOW


def read(folder: Path, text: str) -> call_pb2.CallGate:
    path = folder / "gate.json"
    path.write_text(text, encoding="utf-8")
    with path.open(encoding="utf-8") as file:
        return _gate_in(file)


def test_the_gate_of_the_page_is_one(tmp_path: Path) -> None:
    [block] = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    gate = read(tmp_path, block)
    assert (gate.mode, gate.choices.unknown) == (REFUSE, call_pb2.CALL_GATE_MODE_ALLOW_NO_RECORDING)
    assert [(rule.name, rule.mode) for rule in gate.rules] == [("hotline", ALLOW), ("legal", REFUSE)]


def test_what_is_shown_of_a_tenant_can_be_given_back(tmp_path: Path) -> None:
    gate = call_pb2.CallGate(mode=REFUSE, directions=[call_pb2.CALL_DIRECTION_INBOUND], countries=["DE"])
    gate.choices.revoked = ALLOW
    gate.rules.add(name="a", mode=ALLOW, directions=[call_pb2.CALL_DIRECTION_OUTBOUND])
    assert read(tmp_path, json.dumps(values(gate))) == gate


def test_the_names_of_the_contract_are_taken_too(tmp_path: Path) -> None:
    assert read(tmp_path, '{"mode": "CALL_GATE_MODE_REFUSE", "graceSeconds": 5}').grace_seconds == 5


@pytest.mark.parametrize(
    "text",
    [
        'mode = "refuse"',
        '{"mode": "refused"}',
        '{"unknown": "allow"}',
        "[]",
        "7",
        '{"rules": [7]}',
        '{"mode": {}}',
        '{"rules": 7}',
    ],
)
def test_what_is_none_is_told_with_where_one_is(tmp_path: Path, text: str) -> None:
    with pytest.raises(click.UsageError, match=r"gate\.json is no call gate in JSON: .*docs/call-gate\.md"):
        read(tmp_path, text)
