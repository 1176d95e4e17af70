"""A PKCS#11 module in processes of its own: what it does to its process, it does to nothing else.

Processes are started one after the other, as callers need them: while one starts, callers go on with those that there
are. One that does not answer within the patience is killed; one that is gone, for whatever reason, is started again, at
once the first time and then after growing pauses. What it was doing is lost, since it may be what the module died of;
whatever else waits, sent to it or not, is done by the next.

Where there is a single process, it is sent a few calls ahead, so that it need not wait for us between two of them.
Where there are several, a call waits here for the one that is free first: behind one that hangs, none is held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from ownkey_server.keystores.pkcs11.child import Child
from ownkey_server.keystores.pkcs11.host import MAX_QUEUED, PATIENCE_SECONDS, ModuleBusy, ModuleStuck
from ownkey_server.keystores.pkcs11.messages import Answer, Request
from ownkey_server.keystores.pkcs11.module import SECONDS_BETWEEN_REINITIALIZATIONS
from ownkey_server.keystores.pkcs11.pipe import Call

_log = logging.getLogger(__name__)

# An interpreter starts, and the first call loads the module and logs in, perhaps over a network.
START_SECONDS = 10.0
# How many calls a single process has at once. More would not keep it any busier, and would be done for callers whose
# time has run out meanwhile.
MOST_SENT = 4


class ModuleProcesses:
    """The processes of one key store, and who waits for them. Belongs to the event loop that first uses it.

    Args:
        path: The vendor's library.
        arguments: What it is initialized with; None for nothing.
        store: The key store's name, which a list of processes shows.
        count: How many processes there are, each with a session of its own.
        max_queued: How many calls may wait.
        patience: Seconds after which a running call counts as hung.
        start: The same for the start of a process and its first call.
        pause: Seconds from one reinitialization of the module in a process until the next may be.
        lock_memory: Whether the processes keep their memory out of swap.
    """

    def __init__(
        self,
        path: Path,
        arguments: str | None = None,
        *,
        store: str = "",
        count: int = 1,
        max_queued: int = MAX_QUEUED,
        patience: float = PATIENCE_SECONDS,
        start: float = START_SECONDS,
        pause: float = SECONDS_BETWEEN_REINITIALIZATIONS,
        lock_memory: bool = False,
    ) -> None:
        self._max_queued = max_queued
        options = [f"--store={store}", f"--pause={pause}", *(["--lock-memory"] if lock_memory else [])]
        self._children = [Child(path, arguments, options, patience, start, self) for _ in range(count)]
        # Those that are up and have nothing to do. The one used last is taken first: its caches are warm.
        self._idle: list[Child] = []
        self._waiting: deque[Call] = deque()
        self._sent_to: dict[Call, Child] = {}
        self._down = list(self._children)
        self._starting: asyncio.Task[None] | None = None
        self._paused: set[Child] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of those that run."""
        return [pid for child in self._children if (pid := child.pid) is not None]

    async def run(self, request: Request, timeout: float) -> Answer:
        """Let a process do it; errors as of :meth:`ModuleHost.run`."""
        self._require_open()
        if self._paused:
            self._require_one_in_order()
        if len(self._waiting) >= self._max_queued:
            raise ModuleBusy(f"{len(self._waiting)} calls are waiting already")
        call = Call(request, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._hand_out()
        try:
            async with asyncio.timeout(timeout):
                return await call.answer
        except TimeoutError:
            child = self._sent_to.get(call)
            if child is None:
                self._require_one_in_order()
                raise ModuleBusy("the time ran out before the call's turn came") from None
            if child.trouble:
                raise ModuleStuck(child.trouble) from None
            raise ModuleBusy(f"the {timeout:g} s that there were have run out") from None
        finally:
            if self._sent_to.pop(call, None) is None:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(call)

    async def leave(self, request: Request) -> None:  # noqa: ARG002 - all that is here is the store's
        """End the processes, after what they are doing."""
        self._closed = True
        closed = "the key store is closed"
        self._turn_away(closed)
        for child in self._children:
            _fail(child.ahead, closed)
        if self._starting is not None:
            await asyncio.wait({self._starting})
        for child in self._children:
            await child.end()

    def answered(self, child: Child) -> None:
        """Give it more to do. Its first answer is that it is up."""
        if not child.is_busy:
            self._idle.append(child)
        self._hand_out()

    def lost(self, child: Child, ahead: Sequence[Call]) -> None:
        """Have what it had not begun done by the next, and start it again after its pause."""
        for call in reversed(ahead):
            self._sent_to.pop(call, None)
            self._waiting.appendleft(call)
        self._forget_idle(child)
        if self._closed:
            self._turn_away("the key store is closed")
        else:
            self._pause(child)

    def ended(self, child: Child) -> None:
        """Start it again when it is needed."""
        self._forget_idle(child)
        self._down.append(child)

    def _hand_out(self) -> None:
        """Give whoever waits to those who can take more, or start another."""
        while self._waiting:
            call = self._waiting[0]
            if call.answer.done():
                self._waiting.popleft()
                continue
            child = self._next_for(call)
            if child is None:
                self._start_another()
                return
            self._waiting.popleft()
            self._sent_to[call] = child
            child.send(call)

    def _next_for(self, call: Call) -> Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.is_up():
                return child
            self._down.append(child)
        if len(self._children) == 1 and call.may_be_sent_ahead and self._children[0].takes_ahead(MOST_SENT):
            return self._children[0]
        return None

    def _start_another(self) -> None:
        """Start one, unless one is starting, or there is reason to see first how another fares."""
        if self._starting is None and self._down and not self._paused and not self._closed:
            self._starting = asyncio.ensure_future(self._start(self._down.pop()))
            self._starting.add_done_callback(self._started)

    async def _start(self, child: Child) -> None:
        try:
            await child.start()
        except ModuleStuck:
            self._pause(child)
        except BaseException:
            self._down.append(child)
            raise

    def _started(self, starting: asyncio.Task[None]) -> None:
        self._starting = None
        if not starting.cancelled() and (error := starting.exception()) is not None:
            _log.error("a process of a PKCS#11 module cannot be started", exc_info=error)
        self._hand_out()

    def _pause(self, child: Child) -> None:
        pause = child.next_pause()
        if not pause:
            self._end_pause(child)
            return
        self._paused.add(child)
        asyncio.get_running_loop().call_later(pause, self._end_pause, child)
        # Whoever waits is told now: what is asked again later is theirs to say.
        why = self._why_none_serves()
        if why:
            self._turn_away(why)

    def _turn_away(self, why: str) -> None:
        _fail(self._waiting, why)
        self._waiting.clear()

    def _end_pause(self, child: Child) -> None:
        self._paused.discard(child)
        self._down.append(child)
        self._hand_out()

    def _forget_idle(self, child: Child) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(child)

    def _require_open(self) -> None:
        if self._closed:
            raise ModuleStuck("the key store is closed")

    def _require_one_in_order(self) -> None:
        self._require_open()
        why = self._why_none_serves()
        if why:
            raise ModuleStuck(why)

    def _why_none_serves(self) -> str:
        """What is wrong where something is, and no process that is up has served since it last was; else nothing."""
        if any(child.pid is not None and not child.trouble for child in self._children):
            return ""
        return next((child.trouble for child in self._children if child.trouble), "")


def _fail(calls: Iterable[Call], why: str) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(ModuleStuck(why))
