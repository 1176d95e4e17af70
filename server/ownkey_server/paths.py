"""Which text can be the path of a file, and how a path is told in errors.

A secret is sometimes pasted where a path belongs: a key in PEM, a token. Then it must not come back in an error.
"""

from __future__ import annotations

import os
from pathlib import Path

# NAME_MAX and PATH_MAX of Linux, the latter with the zero at its end.
_LONGEST_NAME, _LONGEST = 255, 4095
# Names of files are shorter as a rule, and keys and tokens longer.
_SHOWN, _SHOWN_NAME = 200, 40
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
    """The path as an error tells it: its end where it is long, without names as long as a key or a token."""
    if not is_path(str(path)):
        return "what should be a path and is none"
    names = [name if len(name) <= _SHOWN_NAME else "..." for name in str(path).split("/")]
    text = "/".join(names)
    return text if len(text) <= _SHOWN else f".../{names[-1]}"
