"""Files in and out: an output is there whole and verified, or not at all.

It is written beside its place under a name that ends in ``.ownkey-partial``, and renamed when the last byte is verified
and on disk. Whatever ends the work before that removes it: an error, an interrupt, a terminal that is closed, SIGTERM.
Only a power cut, or a signal that cannot be caught, can leave such a file, and never the output itself.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO, Self

from ownkey.container import Buffer

PARTIAL_SUFFIX = ".ownkey-partial"
CHUNK_LENGTH = 1024 * 1024

Readable = BinaryIO | io.FileIO
Progress = Callable[[int], None]
"""Told how many more bytes were read."""


# What ends a process from outside, but for SIGINT, which Python turns into an exception itself.
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU, signal.SIGXFSZ)


class Terminated(BaseException):
    """A signal came, while an output was being written, that ends the process.

    Attributes:
        number: Which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class OutputExists(FileExistsError):
    """Something is where an output shall be, and may not be replaced."""


# What link(2) answers on file systems without hard links, such as those of most memory cards.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
# So that the name of the file beside fits where the name of the output fits.
_SHOWN_OF_NAME = 50


def require_free(path: Path, *, overwrite: bool = False) -> None:
    """Make sure that an output can come to be there: asked before the work, the work is not done for nothing.

    Raises:
        OutputExists: Something is there, and ``overwrite`` is false.
        FileNotFoundError: Its folder is not there.
    """
    if not overwrite and os.path.lexists(path):
        raise OutputExists(errno.EEXIST, "is there already", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))


class OutputFile:
    """A file that appears only when :meth:`commit` is reached.

    Signals that would end the process without a word raise :class:`Terminated` meanwhile; a handler that the program
    has set stays, and decides.

    Args:
        path: Where it shall be.
        overwrite: Whether something that is there may be replaced.
        private: Whether only its owner may read it, as content in clear.

    Raises:
        OutputExists: Something is there, and ``overwrite`` is false.
        OSError: The folder is not there, or cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, private: bool = False) -> None:
        require_free(path, overwrite=overwrite)
        self._path = path
        self._overwrite = overwrite
        self._partial = path.with_name(f".{path.name[:_SHOWN_OF_NAME]}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        self._caught: list[int] = []
        self._private = private

    def __enter__(self) -> Self:
        mode = 0o600 if self._private else 0o666
        try:
            # Only the main thread may set handlers; elsewhere whoever owns the process handles its signals.
            if threading.current_thread() is threading.main_thread():
                for number in ENDING_SIGNALS:
                    if signal.getsignal(number) is signal.SIG_DFL:
                        self._caught.append(number)
                        signal.signal(number, _terminate)
            descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            self._file = os.fdopen(descriptor, "wb", buffering=0)
        except BaseException:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)
            self._release_signals()
            raise
        return self

    def write(self, data: Buffer) -> None:
        """Write the next bytes."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def commit(self) -> None:
        """Put the file in its place, once all of it is on disk.

        Raises:
            OutputExists: Something has come there since, and may not be replaced.
        """
        os.fsync(self._file.fileno())
        self._file.close()
        if self._overwrite:
            self._partial.replace(self._path)
            return
        try:
            os.link(self._partial, self._path)  # unlike a rename, this fails when the name is taken
        except OSError as error:
            require_free(self._path)
            if error.errno not in _NO_HARD_LINKS:
                raise
            self._partial.replace(self._path)
        else:
            self._partial.unlink()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        finally:
            self._partial.unlink(missing_ok=True)
            self._release_signals()

    def _release_signals(self) -> None:
        for number in self._caught:
            signal.signal(number, signal.SIG_DFL)
        self._caught.clear()


def read_chunks(file: Readable, progress: Progress | None = None) -> Iterator[bytes]:
    """The file's content in chunks of 1 MiB."""
    while chunk := file.read(CHUNK_LENGTH):
        yield chunk
        if progress:
            progress(len(chunk))


def write_file(pieces: Iterable[Buffer], path: Path, *, overwrite: bool = False, private: bool = False) -> int:
    """Write all pieces to a file that appears only when the last has come without an error; gives its size.

    Raises:
        OutputExists: Something is there, and ``overwrite`` is false.
        Exception: Whatever ``pieces`` raises; nothing is left behind then.
    """
    size = 0
    with OutputFile(path, overwrite=overwrite, private=private) as output:
        for piece in pieces:
            output.write(piece)
            size += len(piece)
        output.commit()
    return size


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    # A second signal must not interrupt the cleaning up after the first.
    for each in ENDING_SIGNALS:
        if signal.getsignal(each) is _terminate:
            signal.signal(each, signal.SIG_IGN)
    raise Terminated(number)
