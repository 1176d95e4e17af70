"""Where sealed parts of the audit trail are copied to: a place that takes files, and never changes one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Protocol


class SinkError(Exception):
    """A file could not be put there. The message says which, where, and why."""


class SinkConflict(SinkError):
    """A file of that name is there, and holds something else: somebody changed the log, or the sink."""


class Sink(Protocol):
    """Takes files once and for all."""

    def put(self, name: str, content: bytes) -> None:
        """Put a file there; it is durable when this returns. Nothing happens when it is there already.

        Raises:
            SinkConflict: Another is there under that name.
            SinkError: It could not be put there.
        """


class DirectorySink:
    """A directory: on another machine's disk, or one that takes files and gives none back.

    Raises:
        SinkError: There is no such directory. It is not made: a disk that is not mounted must not be written beside.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        if not directory.is_dir():
            raise SinkError(f"{directory}: is no directory; make it, or mount what should be there")

    def put(self, name: str, content: bytes) -> None:
        """Write aside, make durable, and link into place: a file is there whole, or not at all."""
        path = self._directory / name
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            self._make_folder(path.parent)
            if path.exists():
                _require_same(path, content)
                _sync(path.parent)
                return
            try:
                handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440)
                with os.fdopen(handle, "wb") as file:
                    os.fchmod(handle, 0o440)
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                # A link, for a rename would replace what has come there in the meantime.
                os.link(aside, path)
            except FileExistsError:
                _require_same(path, content)
            finally:
                aside.unlink(missing_ok=True)
            _sync(path.parent)
        except OSError as error:
            raise SinkError(f"{path}: cannot be written: {error.strerror}") from error

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir() and folder != self._directory:
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            _sync(each.parent)


def _require_same(path: Path, content: bytes) -> None:
    if path.read_bytes() != content:
        raise SinkConflict(f"{path}: is there already, and holds something else")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
