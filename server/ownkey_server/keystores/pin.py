"""The PIN of a token, from a file, and never tried twice when the token has refused it.

Tokens lock themselves after a few wrong PINs, and a service that tries again on every call would see to that. Writing
the file anew, were it with the same PIN, allows one more try: for a token whose PIN was set to what the file says.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class PinUnusable(Exception):
    """There is no PIN to try. The message says why, and never holds one."""


class PinFile:
    """A file whose first line is the PIN, read at each login so that a changed PIN needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, int] | None = None
        self._refused: tuple[int, int] | None = None

    def read(self) -> str:
        """The PIN.

        Raises:
            PinUnusable: The file cannot be read, others may read it, it is empty, or the token has refused its PIN.
        """
        try:
            with self._path.open(encoding="utf-8") as file:
                found = os.fstat(file.fileno())
                pin = file.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            raise PinUnusable(f"the PIN file {self._path} cannot be read") from None
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise PinUnusable(f"others may read the PIN file; run: chmod 600 {self._path}")
        if not pin:
            raise PinUnusable(f"the PIN file {self._path} is empty: its first line must be the PIN")
        self._read = (found.st_ino, found.st_mtime_ns)
        if self._read == self._refused:
            raise PinUnusable(f"the token has refused the PIN in {self._path}: write the right one there")
        return pin

    @property
    def refused_before(self) -> bool:
        """Whether the token has refused an earlier PIN, and taken none since."""
        return self._refused is not None

    def was_refused(self) -> None:
        """Remember that the PIN last read is wrong: it is not tried again until the file is written anew."""
        self._refused = self._read

    def was_accepted(self) -> None:
        """Forget what was refused."""
        self._refused = None
