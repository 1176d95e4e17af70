"""The seal of a directory of keys: opened once by its passphrase, made with the first sealed key, put on old keys.

``sealing.py`` has the format of the files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ownkey_server.keystores.embedded.sealing import KEY_LENGTH, SEALED_KEY_LENGTH, Cost, Seal, SealInvalid, is_sealed
from ownkey_server.secret_sources import SecretReference

SEAL_NAME = ".seal"
REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{8}")


class SealMissing(Exception):
    """There is no ``.seal`` file."""


class KeyFileUnfit(Exception):
    """A key's file is not one. The message says what is wrong with it, and what to do."""


class SealedDirectory:
    """The seal of one directory.

    Thread-safe. Whatever derives a key blocks for a tenth of a second or more.

    Args:
        directory: Where the keys are.
        passphrase: Where the passphrase is.
        cost: What a new seal is made with.
    """

    def __init__(self, directory: Path, passphrase: SecretReference, cost: Cost | None = None) -> None:
        self._path = directory / SEAL_NAME
        self._directory = directory
        self._passphrase = passphrase
        self._cost = cost
        self._lock = threading.Lock()
        # Which file and which passphrase were tried last, and what came of it: neither is derived from twice.
        self._tried: object = None
        self._refusal = ""
        self.seal: Seal | None = None

    def open(self) -> Seal:
        """The seal, as its file is now.

        Raises:
            SealMissing: There is none.
            SealInvalid: It does not open.
            SecretUnusable: The passphrase cannot be had.
            OSError: The file cannot be read.
        """
        with self._lock:
            return self._open()

    def open_or_make(self) -> Seal:
        """The seal, made first where there is none yet.

        Raises:
            SealInvalid: It does not open, or keys are there that were sealed under one that is gone.
            SecretUnusable: The passphrase cannot be had.
            OSError: A file cannot be read or written.
        """
        with self._lock:
            try:
                return self._open()
            except SealMissing:
                orphan = next((path for path in _keys(self._directory) if is_sealed(_content(path))), None)
                if orphan is not None:
                    raise SealInvalid(
                        f"it is not there, though {orphan.name} was sealed under it: put it back from a backup"
                    ) from None
                passphrase = self._passphrase.read()
                seal = Seal.make(passphrase, self._cost)
                passphrase.wipe()
                with contextlib.suppress(FileExistsError):  # of two processes one wins
                    write_new(self._path, seal.document)
                return self._open()

    def remove(self) -> None:
        """Remove the seal of a directory in which nothing is sealed any more."""
        with self._lock:
            self._path.unlink(missing_ok=True)
            self.seal, self._tried = None, None

    def _open(self) -> Seal:
        try:
            with self._path.open("rb") as file:
                document = file.read(4096)
        except FileNotFoundError:
            raise SealMissing from None
        found = self._passphrase.look()
        tried = (document, found.version)
        if tried != self._tried:
            self.seal, self._refusal = None, ""
            try:
                self.seal = Seal.open(document, found.value)
            except SealInvalid as error:
                self._refusal = str(error)
            self._tried = tried
        found.value.wipe()
        if self.seal is None:
            raise SealInvalid(self._refusal)
        return self.seal


def seal_keys(directory: Path, seal: Seal) -> tuple[list[str], int]:
    """Seal every key that is not, each in one step: cut off half way, it is gone on with by calling it again.

    Returns:
        What was sealed now, and how many keys were sealed already.

    Raises:
        KeyFileUnfit: A file is no key, or does not open.
        OSError: A file cannot be read or written.
    """
    return _rewrite(directory, seal, seal.close_key, wanted=False)


def unseal_keys(directory: Path, seal: Seal) -> tuple[list[str], int]:
    """Write every sealed key in clear again, as :func:`seal_keys` does the reverse.

    Returns:
        What was unsealed now, and how many keys were in clear already.

    Raises:
        KeyFileUnfit: A file is no key, or does not open.
        OSError: A file cannot be read or written.
    """
    return _rewrite(directory, seal, lambda _, key: bytes(key), wanted=True)


def read_key_file(path: str | Path) -> tuple[bytearray, os.stat_result]:
    """The content of a key's file, sealed or not, and which file it is.

    Raises:
        KeyFileUnfit: It is no key, or not its owner's alone.
        OSError: It cannot be read.
    """
    # Not to wait for a writer, should it be a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:  # noqa: PTH123
        found = os.fstat(file.fileno())
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise KeyFileUnfit(f"others may read {path}; run: chmod 600 {path}")
        content = bytearray(SEALED_KEY_LENGTH + 1)
        length = (file.readinto(content) or 0) if stat.S_ISREG(found.st_mode) else 0
        del content[length:]
        if stat.S_ISREG(found.st_mode) and length < found.st_size < SEALED_KEY_LENGTH + 1:
            raise OSError(errno.EAGAIN, "it was changed while it was read")
    fit = length == SEALED_KEY_LENGTH if is_sealed(content) else length == KEY_LENGTH
    if not fit:
        raise KeyFileUnfit(f"{path} must be a file of exactly {KEY_LENGTH} bytes, or {SEALED_KEY_LENGTH} if sealed")
    return content, found


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, for its owner alone. It is on disk, whole, or not at all.

    Raises:
        FileExistsError: It is there.
        OSError: It cannot be written.
    """
    with _partial(path, content) as partial:
        os.link(partial, path)  # unlike a rename, this fails when the name is taken


def sync_directory(directory: Path) -> None:
    """Have the names of a directory on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have no such thing
            raise
    finally:
        os.close(descriptor)


def _rewrite(
    directory: Path, seal: Seal, change: Callable[[str, bytearray], bytes], *, wanted: bool
) -> tuple[list[str], int]:
    _remove_left_overs(directory)
    changed, already = [], 0
    for path in _keys(directory):
        reference = path.name.removesuffix(".key")
        content, _ = read_key_file(path)
        sealed = is_sealed(content)
        try:
            key = seal.open_key(reference, content) if sealed else content
        except SealInvalid as error:
            raise KeyFileUnfit(f"{path} does not open: {error}") from None
        if sealed is wanted:
            with _partial(path, change(reference, key)) as partial:
                partial.replace(path)
            changed.append(reference)
        else:
            already += 1
        key[:] = bytes(len(key))
    sync_directory(directory)
    return changed, already


def _remove_left_overs(directory: Path) -> None:
    """Remove what a process that was killed left half made: it may be another name of a key in clear."""
    for path in directory.iterdir():
        if _LEFT_OVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _keys(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.key") if REFERENCE.fullmatch(path.name.removesuffix(".key")))


def _content(path: Path) -> bytearray:
    try:
        return read_key_file(path)[0]
    except (KeyFileUnfit, OSError):
        return bytearray()


@contextlib.contextmanager
def _partial(path: Path, content: bytes) -> Iterator[Path]:
    """The content, on disk under a name of its own, which is gone when the block ends."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield partial
    finally:
        partial.unlink(missing_ok=True)
