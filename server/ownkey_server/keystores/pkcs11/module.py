"""The one owner of a PKCS#11 module in this process: a thread through which every call of the module goes.

python-pkcs11 0.10 initializes a module for a single thread and lets others run during its calls, so that two threads in
one module crash it. A thread also bounds what a module can do to the rest: a call that hangs in C holds up this thread
and nothing else, and callers are told so at once instead of queueing behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(slots=True)
class _Call:
    """Work for the thread, and where its outcome is waited for."""

    work: Callable[[], Any]
    deadline: float
    loop: asyncio.AbstractEventLoop
    outcome: asyncio.Future[Any]
    given_up: bool = False

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Hand the outcome over. From the thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self.loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(result)
        else:
            self.outcome.set_exception(error)


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
        self._work: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
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
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        call = _Call(work, self._monotonic() + timeout, loop, outcome)
        self._queued += 1
        self._work.put(call)
        try:
            async with asyncio.timeout(timeout):
                return await outcome
        except TimeoutError:
            if self._is_stuck():
                raise ModuleStuck(f"the module has not answered in {timeout:g} s") from None
            raise ModuleBusy(f"the {timeout:g} s that there were have run out") from None
        finally:
            call.given_up = True
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

    @property
    def rests_for(self) -> float:
        """Seconds until it may be reinitialized again; 0 when it may now."""
        at = self._reinitialized_at
        return 0.0 if at is None else max(0.0, at + self._pause - self._monotonic())

    def reinitialize(self) -> bool:
        """Start the module anew, so that it sees tokens as they are now. Only on its thread.

        Returns:
            Whether it was: not again so soon after the last time, whoever asks. One dead token would otherwise keep
            ending the sessions of the others.
        """
        if self.rests_for > 0:
            return False
        self._reinitialized_at = self._monotonic()
        library = self.library()
        self._generation += 1
        library.reinitialize()
        return True

    def close(self) -> None:
        """End the thread once it has done what waits. Idempotent; later calls are never started."""
        self._work.put(None)

    def _run(self) -> None:
        while (call := self._work.get()) is not None:
            if call.given_up:
                continue
            self._running_since = now = self._monotonic()
            result, error = None, None
            try:
                if now > call.deadline:
                    raise ModuleBusy("the time ran out before the call's turn came")  # noqa: TRY301
                result = call.work()
            except BaseException as raised:  # noqa: BLE001 - it belongs to whoever asked
                error = raised
            self._running_since = None
            call.settle(result, error)
            # Nothing of the call, a data key least of all, stays here until the next one comes.
            del call, result, error

    def _is_stuck(self) -> bool:
        since = self._running_since
        return since is not None and self._monotonic() - since > self._patience
