"""Logs without a signature, and records that are none: each is told as forged, and none ends the check."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ownkey.cli.main import Shared, run
from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import ChainRow
from ownkey_server.domain.audit_documents import line
from ownkey_server.domain.ceremonies import Action, Description, Phase, Record, Register
from ownkey_server.hsm.ceremony_check import check

NOW = datetime(2026, 11, 28, tzinfo=UTC)
# Public keys are no secret: whoever forges a log in the custodians' names has them.
THEIRS = {"alice": b"a" * 32, "bob": b"b" * 32}


def record(action: Action, phase: Phase, ceremony: int = 0, **more: Any) -> Record:
    return Record(action, phase, NOW, ceremony, "mallory", (), "", **more)


def forged(path: Path, needed: int, *bodies: bytes) -> Path:
    """A log whose hashes are right, by somebody who has no custodian's key."""
    description = Description("0" * 32, NOW, Register(THEIRS, needed)).to_bytes()
    content, previous = description + b"\n", audit.genesis(description)
    for number, body in enumerate(bodies, 1):
        previous = audit.chained(previous, 1, number, body)
        content += line(ChainRow(1, number, audit.microseconds(NOW), "", body, previous))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "opening",
    [
        record(Action.OPEN_LOG, Phase.FAILED),
        record(Action.OPEN_LOG, Phase.BEGUN),
        record(Action.OPEN_LOG, Phase.DONE),
        record(Action.SETTLE, Phase.BEGUN),
        record(Action.KEYGEN, Phase.BEGUN),
    ],
    ids=lambda one: f"{one.action}-{one.phase}",
)
@pytest.mark.parametrize("needed", [0, 2])
def test_a_log_is_opened_by_all_its_custodians_or_is_not_sound(tmp_path: Path, opening: Record, needed: int) -> None:
    assert check(forged(tmp_path / "log", needed, opening.body())).problems


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"ceremony":0', b'"ceremony":[0]'),
        (b'"ceremony":0', b'"ceremony":true'),
        (b'"ceremony":0', b'"ceremony":-1'),
        (b'"detail":{}', b'"detail":[7]'),
        (b'"detail":{}', b'"detail":{"custodians":[7],"keys":[7],"needed":{}}'),
        (b'"key":""', b'"key":{}'),
        (b'"operator":"mallory"', b'"operator":null'),
        (b'"tokens":[]', b'"tokens":[7]'),
        (b'"tokens":[]', b'"tokens":"ab"'),
        (b'"tokens":[]', b'"tokens":[{"serial":7}]'),
        (b'"confirmations":[]', b'"confirmations":[{"custodian":[],"signature":"00"}]'),
    ],
)
@pytest.mark.parametrize("phase", Phase)
def test_a_record_that_is_none_is_told_as_such(tmp_path: Path, old: bytes, new: bytes, phase: Phase) -> None:
    body = record(Action.SETTLE, phase).body()
    assert old in body
    path = forged(tmp_path / "log", 0, record(Action.OPEN_LOG, Phase.DONE).body(), body.replace(old, new))
    assert any(problem.startswith("record 2:") for problem in check(path).problems)


def test_a_log_that_is_shown_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is shown though it is forged, so that people can see what is wrong with it."""
    token = {"label": "\x1b[2J\x07\u202e", "serial": "\x07"}
    body = Record(Action.SETTLE, Phase.BEGUN, NOW, 0, "\x07mallory", (token,), "\x07key").body()
    path = forged(tmp_path / "log", 0, record(Action.OPEN_LOG, Phase.DONE).body(), body)
    run(["hsm", "ceremony", "show", "--log", str(path)], Shared())
    shown = "".join(capsys.readouterr())
    assert "mallory" in shown
    assert not [c for c in shown if not (c.isprintable() or c == "\n")]
