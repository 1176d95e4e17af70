"""The PIN of a token, wherever it is, and never tried twice when the token has refused it.

Tokens lock themselves after a few wrong PINs, and a service that tries again on every call would see to that. Writing
a file anew, were it with the same PIN, allows one more try: for a token whose PIN was set to what the file says. A PIN
from the environment does not change while a process runs, and is tried once.
"""

from __future__ import annotations

from ownkey_server.secret_sources import SecretReference, SecretUnusable


class PinUnusable(Exception):
    """There is no PIN to try. The message says why, and never holds one."""


class Pin:
    """A user PIN, read at each login so that one that was changed in its file needs no restart."""

    def __init__(self, source: SecretReference) -> None:
        self._source = source
        self._read: object = None
        self._refused: object = None
        self._unanswered: object = None

    def read(self) -> str:
        """The PIN.

        Raises:
            PinUnusable: It cannot be had, it is no text, or the token has refused it.
        """
        try:
            found = self._source.look()
        except SecretUnusable as error:
            raise PinUnusable(f"the PIN in {error}") from None
        self._read = found.version
        if self._read == self._refused:
            again = "write the right one there"
            if self._source.scheme not in ("file", "credential"):
                again = "give the right one and start again"
            raise PinUnusable(f"the token has refused the PIN in {self._source}: {again}")
        try:
            pin = found.value.reveal().decode()
        except UnicodeDecodeError:
            pin = None
        found.value.wipe()
        if pin is None:  # raised here and not above: that error holds the bytes, and would be this one's context
            raise PinUnusable(f"the PIN in {self._source}: is no text in UTF-8")
        return pin

    @property
    def refused_before(self) -> bool:
        """Whether the token has refused an earlier PIN, and taken none since."""
        return self._refused is not None

    @property
    def unanswered(self) -> bool:
        """Whether the PIN last read may have been tried already, and what the token said to it was lost."""
        return self._read is not None and self._unanswered == self._read

    def was_lost(self) -> None:
        """Remember that nobody heard what the token said to the PIN last read."""
        self._unanswered = self._read

    def was_refused(self) -> None:
        """Remember that the PIN last read is wrong: it is not tried again until it is written anew."""
        self._refused = self._read

    def was_accepted(self) -> None:
        """Forget what was refused or lost."""
        self._refused = self._unanswered = None
