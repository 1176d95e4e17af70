"""Modules that crash, hang or lie: SoftHSM behind a shim that is told where."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.softhsm import SoftHsm

SOURCE = Path(__file__).with_suffix(".c")


def crooked(softhsm: SoftHsm, *ways: str) -> Path:
    """A module over SoftHSM that does this: the words are in the source.

    With ``by-file`` it hangs while there is a file ``hangs`` in SoftHSM's folder, and has no session left to give while
    there is one ``full``.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        reason = "no C compiler found: install gcc"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    path = softhsm.folder / f"crooked-{'-'.join(ways)}.so"
    if not path.exists():
        defined = [f'-DMODULE="{softhsm.module}"', f'-DWAYS="{" ".join(ways)}"', f'-DFOLDER="{softhsm.folder}"']
        command = [compiler, "-std=gnu11", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *defined]
        subprocess.run([*command, "-o", str(path), str(SOURCE), "-ldl"], check=True, timeout=60)
    return path
