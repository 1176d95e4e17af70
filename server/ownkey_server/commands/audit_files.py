"""The file that an export writes, and goes on with after it was cut off."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ownkey_server.domain.audit_documents import DocumentInvalid, read_line
from ownkey_server.storage.audit.export import Cursor, cursor

_CHUNK = 64 * 1024


class FileUnusable(Exception):
    """The file cannot be written, or not be continued. The message says why."""


class FileTaken(FileUnusable):
    """There is a file already, and it is not to be continued."""


@contextlib.contextmanager
def appending(path: Path, *, resume: bool) -> Iterator[tuple[BinaryIO, Cursor | None]]:
    """The file, open for what comes next, and the place of the last record in it. On disk when the block has ended.

    Raises:
        FileTaken: There is one already, and it is not to be continued.
        FileUnusable: It holds something else.
        OSError: It cannot be written.
    """
    if not resume and path.exists():
        raise FileTaken(f"{path} is there already")
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+b") as file:
        end = _cut_torn_line(file)
        yield file, _last_place(path, file, end)
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_line(file: BinaryIO) -> int:
    """Remove what stands after the last line's end; gives the length that is left."""
    start = file.seek(0, os.SEEK_END)
    while start > 0:
        start, chunk = _before(file, start)
        newline = chunk.rfind(b"\n")
        if newline >= 0:
            return file.truncate(start + newline + 1)
    return file.truncate(0)


def _last_place(path: Path, file: BinaryIO, end: int) -> Cursor | None:
    if not end:
        file.seek(0)
        return None
    start, tail = end - 1, b"\n"
    while start > 0:
        start, chunk = _before(file, start)
        tail = chunk + tail
        newline = tail.rfind(b"\n", 0, -1)
        if newline >= 0:
            tail = tail[newline + 1 :]
            break
    file.seek(end)
    try:
        return cursor(read_line(tail))
    except DocumentInvalid as error:
        raise FileUnusable(f"{path}: cannot be continued: its last line {error}") from error


def _before(file: BinaryIO, end: int) -> tuple[int, bytes]:
    """What stands before a place, a good part at once; gives where it begins."""
    start = max(end - _CHUNK, 0)
    file.seek(start)
    return start, file.read(end - start)
