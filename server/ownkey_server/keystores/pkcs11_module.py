"""The one owner of a PKCS#11 module in this process: a thread through which every call of the module goes.

python-pkcs11 0.10 initializes a module for a single thread and lets others run during its calls, so that two threads in
one module crash it. A thread also bounds what a module can do to the rest: a call that hangs in C holds up this thread
and nothing else, and callers are told so at once instead of queueing behind it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pkcs11
from pkcs11.exceptions import PKCS11Error

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library  # noqa: N812 - the binding's own name is a common word

T = TypeVar("T")

MAX_QUEUED = 256
# A call that has run this long has hung: what a module does takes milliseconds, a login over a network perhaps one
# second. How long callers wait has no part in it: one in a hurry must not make a healthy module look dead to others.
PATIENCE_SECONDS = 2.0
# Each reinitialization ends every session of every token of the module.
SECONDS_BETWEEN_REINITIALIZATIONS = 1.0


class ModuleBusy(Exception):
    """Too many calls wait, or this one's time ran out, and nothing says that the module is not well."""


class ModuleStuck(Exception):
    """The module does not come back from a call: this one or an earlier one."""


class ModuleMissing(Exception):
    """The module cannot be loaded."""


class Pkcs11Module:
    """A module and its thread.

    Args:
        path: The vendor's library.
        max_queued: How many calls may wait for the thread.
        patience: Seconds after which a running call counts as hung.
        pause: Seconds from one reinitialization until the next may be.
        monotonic: The clock, in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_queued: int = MAX_QUEUED,
        patience: float = PATIENCE_SECONDS,
        pause: float = SECONDS_BETWEEN_REINITIALIZATIONS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any], float] | None] = queue.SimpleQueue()
        self._max_queued = max_queued
        self._patience = patience
        self._pause = pause
        self._monotonic = monotonic
        self._queued = 0
        self._running_since: float | None = None
        self._library: Library | None = None
        self._generation = 0
        self._reinitialized_at: float | None = None
        # A daemon: a call that hangs in C must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"pkcs11 {path.name}", daemon=True)
        self._thread.start()

    async def call(self, work: Callable[[], T], timeout: float) -> T:
        """Run ``work`` on the module's thread; its result, or its error.

        Args:
            work: May use the module, and only here.
            timeout: Seconds until the caller gives up, waiting for the thread included.

        Raises:
            ModuleBusy: The queue is full, or the time ran out. Work that had not begun never will.
            ModuleStuck: The module has hung. Work that had begun may yet be done.
        """
        if self._is_stuck():
            raise ModuleStuck("the module does not come back from an earlier call")
        if self._queued >= self._max_queued:
            raise ModuleBusy(f"{self._queued} calls are waiting already")
        future: Future[T] = Future()
        self._queued += 1
        self._work.put((future, work, self._monotonic() + timeout))
        try:
            # Shielded, since a running call cannot be cancelled: only whether it still waits can be found out.
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), timeout)
        except TimeoutError:
            if self._is_stuck():
                raise ModuleStuck(f"the module has not answered in {timeout:g} s") from None
            raise ModuleBusy(f"the {timeout:g} s that there were have run out") from None
        finally:
            future.cancel()
            self._queued -= 1

    def library(self) -> Library:
        """The loaded module. Only on its thread.

        Raises:
            ModuleMissing: There is no module at the path, or it does not load.
        """
        if self._library is None:
            try:
                self._library = pkcs11.lib(str(self._path))
            except PKCS11Error as error:
                if type(error) is not PKCS11Error:
                    raise  # it was loaded, and says itself what is wrong
                raise ModuleMissing(f"the module {self._path} cannot be loaded") from error
        return self._library

    @property
    def generation(self) -> int:
        """Changes with every reinitialization, which ends all sessions and handles of the module."""
        return self._generation

    def reinitialize(self) -> bool:
        """Start the module anew, so that it sees tokens as they are now. Only on its thread.

        Returns:
            Whether it was: not again so soon after the last time, whoever asks. One dead token would otherwise keep
            ending the sessions of the others.
        """
        now = self._monotonic()
        if self._reinitialized_at is not None and now - self._reinitialized_at < self._pause:
            return False
        self._reinitialized_at = now
        library = self.library()
        self._generation += 1
        library.reinitialize()
        return True

    def close(self) -> None:
        """End the thread once it has done what waits. Idempotent; later calls are never started."""
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work, deadline = item
            if not future.set_running_or_notify_cancel():
                continue
            self._running_since = now = self._monotonic()
            try:
                if now > deadline:
                    raise ModuleBusy("the time ran out before the call's turn came")  # noqa: TRY301
                result = work()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
                self._running_since = None
                future.set_exception(error)
            else:
                self._running_since = None
                future.set_result(result)

    def _is_stuck(self) -> bool:
        since = self._running_since
        return since is not None and self._monotonic() - since > self._patience
