"""A PKCS#11 module in this process: a thread through which every call of the module goes.

A thread bounds what a module can do to the rest: a call that hangs in C holds up this thread and nothing else, and
callers are told so at once instead of queueing behind it. A module that crashes takes the server with it, which one in
a process of its own does not (``process``).
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
from typing import Any, TypeVar

from ownkey_server.keystores.pkcs11.host import MAX_QUEUED, PATIENCE_SECONDS, ModuleBusy, ModuleStuck
from ownkey_server.keystores.pkcs11.messages import Answer, Request
from ownkey_server.keystores.pkcs11.module import SECONDS_BETWEEN_REINITIALIZATIONS, LoadedModule
from ownkey_server.keystores.pkcs11.operations import Desk

T = TypeVar("T")


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


class ModuleThread:
    """A module and its thread, for all key stores that use the module.

    Args:
        path: The vendor's library.
        arguments: What it is initialized with; None for nothing.
        max_queued: How many calls may wait for the thread.
        patience: Seconds after which a running call counts as hung.
        pause: Seconds from one reinitialization until the next may be.
        monotonic: The clock, in seconds.

    Attributes:
        module: The module, for work that runs on the thread.
    """

    def __init__(
        self,
        path: Path,
        arguments: str | None = None,
        *,
        max_queued: int = MAX_QUEUED,
        patience: float = PATIENCE_SECONDS,
        pause: float = SECONDS_BETWEEN_REINITIALIZATIONS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.module = LoadedModule(path, arguments, pause=pause, monotonic=monotonic)
        self._desk = Desk(self.module, monotonic)
        self._work: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._max_queued = max_queued
        self._patience = patience
        self._monotonic = monotonic
        self._queued = 0
        self._running_since: float | None = None
        # A daemon: a call that hangs in C must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"pkcs11 {path.name}", daemon=True)
        self._thread.start()

    async def run(self, request: Request, timeout: float) -> Answer:
        """Do what the request says, on the module's thread."""
        return await self.call(lambda: self._desk.serve(request), timeout)

    async def leave(self, request: Request) -> None:
        """Close the store's session. The thread stays: other stores may use it."""
        # A token that does not answer has nothing left to close.
        with contextlib.suppress(ModuleBusy, ModuleStuck):
            await self.run(request, 1.0)

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

    def end(self) -> None:
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
