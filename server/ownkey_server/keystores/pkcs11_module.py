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

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library  # noqa: N812 - the binding's own name is a common word

T = TypeVar("T")

MAX_QUEUED = 256


class ModuleBusy(Exception):
    """The call was never started: too many wait, or its time ran out while it did."""


class ModuleStuck(Exception):
    """The module has not come back from a call in time."""


class Pkcs11Module:
    """A module and its thread.

    Args:
        path: The vendor's library.
        max_queued: How many calls may wait for the thread.
        monotonic: The clock, in seconds.
    """

    def __init__(
        self, path: Path, *, max_queued: int = MAX_QUEUED, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any], float] | None] = queue.SimpleQueue()
        self._max_queued = max_queued
        self._monotonic = monotonic
        self._queued = 0
        self._running_until: float | None = None
        self._library: Library | None = None
        self._generation = 0
        # A daemon: a call that hangs in C must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"pkcs11 {path.name}", daemon=True)
        self._thread.start()

    async def call(self, work: Callable[[], T], timeout: float) -> T:
        """Run ``work`` on the module's thread; its result, or its error.

        Args:
            work: May use the module, and only here.
            timeout: Seconds until the caller gives up, waiting for the thread included.

        Raises:
            ModuleBusy: The call was never started.
            ModuleStuck: It was started and has not come back, or the thread is held up by another that has not.
        """
        if self._is_stuck():
            raise ModuleStuck("the module has not come back from an earlier call")
        if self._queued >= self._max_queued:
            raise ModuleBusy(f"{self._queued} calls are waiting already")
        deadline = self._monotonic() + timeout
        self._queued += 1
        future: Future[T] = Future()
        self._work.put((future, work, deadline))
        try:
            # Shielded, since a running call cannot be cancelled: only whether it still waits can be found out.
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), timeout)
        except TimeoutError:
            if future.cancel() and not self._is_stuck():
                raise ModuleBusy("the time ran out before the call's turn came") from None
            raise ModuleStuck(f"the module has not answered in {timeout:g} s") from None
        finally:
            future.cancel()
            self._queued -= 1

    def library(self) -> Library:
        """The loaded module. Only on its thread."""
        if self._library is None:
            self._library = pkcs11.lib(str(self._path))
        return self._library

    @property
    def generation(self) -> int:
        """Changes with every reinitialization, which ends all sessions and handles of the module."""
        return self._generation

    def reinitialize(self) -> None:
        """Start the module anew, so that it sees tokens as they are now. Only on its thread."""
        library = self.library()
        self._generation += 1
        library.reinitialize()

    def close(self) -> None:
        """End the thread once it has done what waits. Idempotent; later calls are never started."""
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work, deadline = item
            if not future.set_running_or_notify_cancel():
                continue
            self._running_until = deadline
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
                self._running_until = None
                future.set_exception(error)
            else:
                self._running_until = None
                future.set_result(result)

    def _is_stuck(self) -> bool:
        until = self._running_until
        return until is not None and self._monotonic() > until
