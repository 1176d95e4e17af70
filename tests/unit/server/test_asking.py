"""Secrets that are typed: a script where nobody can type is told what to give instead."""

from __future__ import annotations

import subprocess
import sys

ASK = "from ownkey_server.commands.asking import typed; print(typed('Your word', new={new}))"


def asked(piped: str, *, new: bool = False) -> subprocess.CompletedProcess[str]:
    # In a session of its own there is no terminal to be asked at.
    return subprocess.run(
        [sys.executable, "-c", ASK.format(new=new)],
        input=piped,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
        timeout=60,
    )


def test_where_nobody_can_type_it_is_told_what_to_give() -> None:
    ended = asked("")
    assert ended.returncode != 0
    assert "nobody is at a terminal to type it: Your word" in ended.stderr
    assert "file:PATH" in ended.stderr
    assert "GetPassWarning" not in ended.stderr


def test_what_is_piped_in_is_taken() -> None:
    ended = asked("three stones\nthree stones\n", new=True)
    assert (ended.returncode, ended.stdout) == (0, "three stones\n")
    assert "three stones" not in ended.stderr
