"""Files that are read anew when they change, so that certificates and lists are exchanged without a restart."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from ownkey_server.paths import shown

T = TypeVar("T")

# Between two looks at the files: a revoked certificate is refused about so soon after the list is written.
LOOK_SECONDS = 1.0

_log = logging.getLogger(__name__)


class UnusableFile(Exception):
    """A file cannot be used. The message says which, and why; it holds nothing of a key."""


class Reloaded(Generic[T]):
    """What files hold, made anew when one of them changes. Safe to use from several threads.

    What cannot be used does not replace what can: the last good content serves on, and the log says so.

    Args:
        paths: The files.
        load: Makes the content; raises :class:`UnusableFile`.
        monotonic: The present time of a clock that is never set.
        aside: Whether a change is loaded in a thread of its own, so that whoever asks meanwhile gets what was, at once.

    Raises:
        UnusableFile: The files cannot be used at the start.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        load: Callable[[], T],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        aside: bool = False,
    ) -> None:
        self._paths = paths
        self._load = load
        self._monotonic = monotonic
        self._aside = aside
        self._lock = threading.Lock()
        self._seen = self._look()
        self._looked_at = monotonic()
        self._value = load()
        self.version = 1

    def get(self) -> T:
        """The content, as the files were within the last second."""
        if self._monotonic() - self._looked_at >= LOOK_SECONDS and self._lock.acquire(blocking=False):
            if self._aside and self._has_changed():
                threading.Thread(target=self._replace_and_release, name="ownkey-reload", daemon=True).start()
            else:
                self._replace_and_release()
        return self._value

    def _has_changed(self) -> bool:
        return self._look() != self._seen

    def _replace_and_release(self) -> None:
        try:
            self._refresh()
        finally:
            self._lock.release()

    def _refresh(self) -> None:
        self._looked_at = self._monotonic()
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        names = ", ".join(shown(path) for path in self._paths)
        try:
            self._value = self._load()
        except UnusableFile as error:
            _log.error("what was read before stays in force: %s", error)
            return
        self.version += 1
        _log.info("read %s anew", names)

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_mark(path) for path in self._paths]


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UnusableFile: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableFile(f"{shown(path)} cannot be read: {error.strerror}") from None


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
