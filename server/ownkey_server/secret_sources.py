"""Where a secret is: settings hold a reference to it, and never the secret itself.

::

    file:PATH         the first line of a file that its owner alone may read; a relative path starts at the settings
    env:NAME          an environment variable, as it was when the settings were loaded
    credential:NAME   the first line of $CREDENTIALS_DIRECTORY/NAME: LoadCredential= of systemd (systemd.exec(5))
    prompt            what somebody types: for commands, not for a server

Files are read at each use, so that a secret that was changed needs no restart. What is shown of a secret, in errors,
reprs and settings that are printed, is its reference.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.paths import is_path

LONGEST = 4096
PROMPT = "prompt"
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
_NAMES = {
    "file": re.compile(r"[^\x00-\x1f\x7f]+"),
    "env": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "credential": re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,255}"),
}


class ReferenceInvalid(ValueError):
    """The text is no reference. The message does not repeat it: it may be the secret, written where it must not be."""

    def __init__(self) -> None:
        super().__init__(
            "must say where the secret is, and not hold it: file:PATH, env:NAME or credential:NAME (of systemd)"
        )


class SecretUnusable(Exception):
    """The secret cannot be had. The message has the reference and the reason, and never the secret."""


@dataclass(frozen=True, slots=True)
class Found:
    """A secret, and something that differs once it was written anew."""

    value: SecretBytes
    version: object


@dataclass(frozen=True, slots=True, repr=False)
class SecretReference:
    """Where a secret is.

    Attributes:
        scheme: ``file``, ``env``, ``credential`` or ``prompt``.
        name: The path, the variable, or the credential's name.
    """

    scheme: str
    name: str
    _given: SecretBytes | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference that a setting holds. The value of a variable is taken now; whether it is set, a use tells.

        Raises:
            ReferenceInvalid: It is none.
        """
        scheme, separator, name = text.partition(":")
        if not separator or scheme not in _NAMES or not _NAMES[scheme].fullmatch(name):
            raise ReferenceInvalid
        if scheme == "file" and not is_path(name):
            raise ReferenceInvalid
        if scheme == "env" and name in os.environ:
            return cls(scheme, name, SecretBytes(os.environb[os.fsencode(name)]))
        return cls(scheme, name)

    @classmethod
    def file(cls, path: Path) -> Self:
        """A secret in the first line of a file."""
        return cls("file", str(path))

    @classmethod
    def typed(cls, text: str) -> Self:
        """A secret that somebody has typed."""
        return cls(PROMPT, "", SecretBytes(text.encode(errors="surrogateescape")))

    def under(self, folder: Path) -> Self:
        """The same, with a relative path counted from a folder."""
        return replace(self, name=str(folder / self.name)) if self.scheme == "file" else self

    def read(self) -> SecretBytes:
        """The secret: 1 to 4096 bytes.

        Raises:
            SecretUnusable: It cannot be had.
        """
        return self.look().value

    def look(self) -> Found:
        """The secret, and which version of it.

        Raises:
            SecretUnusable: It cannot be had.
        """
        if self.scheme in ("env", PROMPT):
            if self._given is None:
                raise SecretUnusable(f"{self}: there is no such environment variable")
            if not 0 < len(self._given) <= LONGEST:
                raise SecretUnusable(f"{self}: must have 1 to {LONGEST} bytes")
            return Found(SecretBytes(self._given.reveal()), self.scheme)
        # A credential belongs to root and is given to the service by an access list, whose mask shows as the group's
        # permission; nobody else passes through its directory.
        return self._first_line(0o077 if self.scheme == "file" else 0o007)

    def _path(self) -> Path:
        if self.scheme == "file":
            return Path(self.name)
        folder = os.environ.get(CREDENTIALS_DIRECTORY)
        if not folder:
            raise SecretUnusable(
                f"{self}: ${CREDENTIALS_DIRECTORY} is not set; the service's unit needs LoadCredential={self.name}:PATH"
            )
        return Path(folder) / self.name

    def _first_line(self, forbidden: int) -> Found:
        path = self._path()
        line = bytearray(LONGEST + 2)
        try:
            # Not to wait for a writer, should it be a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise SecretUnusable(f"{self}: is not a file")
                if found.st_mode & forbidden:
                    raise SecretUnusable(f"{self}: others may read it; run: chmod 600 {path}")
                length = file.readinto(line)
        except OSError as error:
            raise SecretUnusable(f"{self}: cannot be read: {error.strerror}") from None
        end = line.find(b"\n", 0, length)
        secret = line[: length if end < 0 else end]
        value = SecretBytes(secret.removesuffix(b"\r"))
        _wipe(line, secret)
        if not len(value):
            raise SecretUnusable(f"{self}: is empty: its first line must be the secret")
        if len(value) > LONGEST:
            raise SecretUnusable(f"{self}: its first line is longer than {LONGEST} bytes")
        return Found(value, (found.st_dev, found.st_ino, found.st_mtime_ns))

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}" if self.name else self.scheme

    def __repr__(self) -> str:
        return f"SecretReference({str(self)!r})"


def ask(reference: str, prompt: Callable[[], str]) -> SecretReference:
    """The reference that a command was given; where it says ``prompt``, somebody is asked now.

    Raises:
        ReferenceInvalid: It is none.
    """
    return SecretReference.typed(prompt()) if reference == PROMPT else SecretReference.parse(reference)


def take_from_environment(references: Iterable[SecretReference]) -> None:
    """Remove the variables that hold secrets, so that no child process inherits them. What was loaded keeps them."""
    for reference in references:
        if reference.scheme == "env":
            os.environ.pop(reference.name, None)


def _wipe(*buffers: bytearray) -> None:
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))
