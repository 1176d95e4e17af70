"""Which keys have ever worked, over all instances and restarts: kept in the database, and off the way of every use."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor

from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.keystores.first_uses import FirstUsesHere

_log = logging.getLogger(__name__)

# A database that is away is not asked again at every use of every key.
RETRY_SECONDS = 10.0

Use = tuple[str, str, str, str]
"""Tenant, key store, reference and identity."""


class FirstUsesKept:
    """Remembers first uses. Used by many threads.

    Args:
        remember: Writes one to the database.
        recall: Whether the database has one.
        writing: Where the first waits for the database, nobody waiting for it.
        reading: Where the second does, for somebody who was denied a key.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self,
        remember: Callable[[str, str, str, str], None],
        recall: Callable[[str, str, str, str], bool],
        writing: Executor,
        reading: Executor,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remember = remember
        self._recall = recall
        self._writing = writing
        self._reading = reading
        self._monotonic = monotonic
        self._here = FirstUsesHere()
        self._unwritten: set[Use] = set()
        self._retry_at = 0.0
        self._lock = threading.Lock()

    def note(self, tenant: str, store: str, reference: str, identity: str) -> None:
        """A key has just worked. Waits for nothing."""
        if self._here.add(tenant, store, reference, identity):
            self._submit((tenant, store, reference, identity))
        elif self._unwritten and self._monotonic() >= self._retry_at:
            with self._lock:
                again, self._unwritten = self._unwritten, set()
            for use in again:
                self._submit(use)

    def has_worked(self, tenant: str, store: str, reference: str, identity: str, timeout: float) -> bool:
        """Whether a key ever worked; False too when the database does not say so in time. Not for the event loop."""
        if self._here.has_worked(tenant, store, reference, identity, timeout):
            return True
        try:
            found = self._reading.submit(self._recall, tenant, store, reference, identity).result(timeout)
        except (TimeoutError, DatabaseUnavailable, RuntimeError) as error:  # the last: the server ends
            _log.warning("it is not known whether %s of %s has worked before: %s", reference, store, _why(error))
            return False
        if found:
            self._here.add(tenant, store, reference, identity)
        return found

    def _submit(self, use: Use) -> None:
        try:
            self._writing.submit(self._write, use)
        except RuntimeError:  # the server ends: the next one sees the key work too
            _log.debug("no note was made of a first use at the end")

    def _write(self, use: Use) -> None:
        try:
            self._remember(*use)
        except DatabaseUnavailable as error:
            _log.warning("it could not be written that %s of %s works: %s", use[2], use[1], error)
            with self._lock:
                self._unwritten.add(use)
                self._retry_at = self._monotonic() + RETRY_SECONDS


def _why(error: Exception) -> str:
    return "the database does not answer in time" if isinstance(error, TimeoutError) else str(error)
