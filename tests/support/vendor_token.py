"""Tokens of vendors that are not at hand: SoftHSM, with the peculiarities that their documentation tells of."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.softhsm import SoftHsm

SOURCE = Path(__file__).with_suffix(".c")


def compiled(softhsm: SoftHsm, *quirks: str) -> Path:
    """A module over SoftHSM with these peculiarities: the words are in the source."""
    compiler = shutil.which("cc")
    if compiler is None:
        reason = "no C compiler found: install gcc"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    path = softhsm.folder / f"as-documented-{'-'.join(quirks)}.so"
    if not path.exists():
        defined = [f'-DMODULE="{softhsm.module}"', f'-DQUIRKS="{" ".join(quirks)}"']
        command = [compiler, "-std=gnu11", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *defined]
        subprocess.run([*command, "-o", str(path), str(SOURCE), "-ldl", "-lpthread"], check=True, timeout=60)
    return path
