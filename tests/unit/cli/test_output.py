"""What the command line prints of texts that are anybody's: a token's label, a file's name, a record of a log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ownkey.cli.main import Shared
from ownkey.cli.output import Output
from ownkey_server.commands.hsm.confirming import CeremonyChoice
from ownkey_server.hsm.errors import HsmError
from ownkey_server.secret_sources import SecretReference

# Clears the screen, rings, turns the direction of writing; and what people may read.
HOSTILE = "token \x1b[2J\x07\u202e 1"


@pytest.mark.parametrize(
    "say",
    [
        lambda output: output.note(HOSTILE),
        lambda output: output.answer({}, {"token": HOSTILE, HOSTILE: 1}),
        lambda output: output.error(HOSTILE, 1, hint=HOSTILE, reason=HOSTILE),
    ],
    ids=["note", "answer", "error"],
)
def test_no_text_moves_the_cursor_of_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, say: Callable[[Output], None]
) -> None:
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)  # as in a terminal
    say(Output(as_json=False, verbose=True))
    shown = "".join(capsys.readouterr())
    assert "token" in shown
    assert not [c for c in shown if not (c.isprintable() or c == "\n")]


def test_a_token_cannot_say_to_custodians_what_they_confirm(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    choice = CeremonyChoice(tmp_path, {"alice": nowhere}, {"alice": SecretReference.file(nowhere)})
    with pytest.raises(HsmError):
        choice.custodians(Shared(), {"ceremony": "destroy a key", "token": "a\nceremony  show a key\u2028b"})
    assert capsys.readouterr().err.splitlines() == ["ceremony  destroy a key", "token     a ceremony  show a key b"]
