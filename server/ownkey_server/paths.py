"""Which text can be the path of a file, and how a path is told in errors.

A secret is sometimes pasted where a path belongs: a key in PEM, a token. Then it must not come back in an error.
"""

from __future__ import annotations

import os
from pathlib import Path

# NAME_MAX and PATH_MAX of Linux, the latter with the zero at its end.
_LONGEST_NAME, _LONGEST = 255, 4095
_SHOWN, _SHOWN_NAME = 200, 64
_PEM = "-----BEGIN"


def is_path(text: str) -> bool:
    """Whether a file could have that path."""
    try:
        names = os.fsencode(text).split(b"/")
    except ValueError:
        return False
    fits = all(len(name) <= _LONGEST_NAME for name in names) and sum(map(len, names)) + len(names) <= _LONGEST + 1
    return fits and text != "" and text.isprintable() and _PEM not in text


def shown(path: Path) -> str:
    """The path as an error tells it: whole where that is short, and never what cannot be one."""
    text = str(path)
    if not is_path(text):
        return "a file whose name is none"
    if len(text) <= _SHOWN:
        return text
    return f".../{path.name}" if len(path.name) <= _SHOWN_NAME else f"a path of {len(text)} characters"
