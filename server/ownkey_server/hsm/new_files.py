"""Files that were not there before: whole or not at all, and never through a link that somebody has laid."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ownkey_server.hsm.errors import HsmError, Trouble

_EXCLUSIVE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What file systems without hard links answer: FAT, on a stick that travels between machines, is one.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class NewFiles:
    """Files that can be written now: their names are free, and their folders take files."""

    _asides: Mapping[Path, tuple[Path, int]]

    def write(self, contents: Mapping[Path, bytes]) -> None:
        """Write all of them; none is left where one cannot be.

        Raises:
            HsmError: One cannot be: somebody else has made it meanwhile, or no space is left.
        """
        made: list[Path] = []
        path = Path()
        try:
            for path, content in contents.items():
                _fill(self._asides[path][1], content)
            for path, content in contents.items():
                _publish(self._asides[path][0], path, content)
                made.append(path)
            for folder in {path.parent for path in contents}:
                _sync_folder(folder)
        except BaseException as error:
            for each in made:
                each.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _told(path, error) from None
            raise


@contextlib.contextmanager
def reserved(*paths: Path, mode: int = 0o644) -> Iterator[NewFiles]:
    """Make sure that files can be written, before anything is done whose outcome they are to hold.

    Raises:
        HsmError: One is there already, or its folder takes none.
    """
    asides: dict[Path, tuple[Path, int]] = {}
    path = Path()
    try:
        try:
            for path in paths:
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, "")
                _make_folder(path.parent)
                aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
                asides[path] = (aside, os.open(aside, _EXCLUSIVE, mode))
        except OSError as error:
            raise _told(path, error) from None
        yield NewFiles(asides)
    finally:
        for aside, descriptor in asides.values():
            os.close(descriptor)
            aside.unlink(missing_ok=True)


def write_new(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file that is not there yet.

    Raises:
        HsmError: It is there, or cannot be written.
    """
    with reserved(path, mode=mode) as files:
        files.write({path: content})


def _fill(descriptor: int, content: bytes) -> None:
    if os.write(descriptor, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def _publish(aside: Path, path: Path, content: bytes) -> None:
    try:
        os.link(aside, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        descriptor = os.open(path, _EXCLUSIVE, aside.stat().st_mode & 0o777)
        try:
            _fill(descriptor, content)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _told(path: Path, error: OSError) -> HsmError:
    if isinstance(error, FileExistsError):
        return HsmError(f"{path} is there already: nothing is ever written over", Trouble.TAKEN)
    return HsmError(f"{path}: cannot be written: {error.strerror}")
