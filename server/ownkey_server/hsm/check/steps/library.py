"""The library: that it loads, what it says of itself, that no function is missing, and who may change it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.notes import Notes

_OLDEST = (2, 20)
_TITLE_FUNCTIONS = "Functions that ownkey calls"


def look(bench: Bench, notes: Notes) -> None:
    """Look at the library."""
    library = bench.library
    version = ".".join(map(str, library.library_version))
    cryptoki = ".".join(map(str, library.cryptoki_version))
    description = f"{library.library_description} {version}, of {library.manufacturer_id}"
    notes.fact("library", description)
    notes.fact("cryptoki", cryptoki)
    notes.passed("loads", "The library loads and initializes", description)
    notes.decided(
        tuple(library.cryptoki_version) >= _OLDEST,
        "version",
        "PKCS#11 version",
        cryptoki,
        "ownkey is written for 2.40 and later; older libraries lack AES-GCM and AES key wrap as the standard has them",
        "ask the vendor for a newer library",
        mild=True,
    )
    missing = bench.cryptoki.missing()
    if missing:
        notes.failed(
            "functions",
            _TITLE_FUNCTIONS,
            f"left out: {', '.join(missing)}",
            "a function that is left out of the list crashes whoever calls it",
            "ask the vendor for a library with every function, if only to refuse",
        )
    else:
        notes.passed("functions", _TITLE_FUNCTIONS, "all are there")
    _look_at_file(bench.plan.module, notes)


def _look_at_file(path: Path, notes: Notes) -> None:
    title = "Who may change the library's file"
    real = path.resolve()
    found = real.stat()
    writable = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) or found.st_uid not in (0, os.geteuid())
    notes.decided(
        not writable,
        "file",
        title,
        f"{real}: {stat.filemode(found.st_mode)}, of user {found.st_uid}",
        "whoever changes this file has the PIN and every data key at the next start",
        f"chown root {real} && chmod go-w {real}",
        mild=True,
    )
