"""A PKCS#11 module in processes of its own: what it does to its process, it does to nothing else.

Each process has one request at a time, and processes are started one after the other, as callers need them: while one
starts, callers go on with those that there are. One that does not answer within the patience is killed; one that is
gone, for whatever reason, is started again, at once the first time and then after growing pauses. Requests that wait
are handed to the next; the one that was being done is lost, since it may be what the module died of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from ownkey_server.keystores.pkcs11.host import MAX_QUEUED, PATIENCE_SECONDS, ModuleBusy, ModuleStuck, take_note
from ownkey_server.keystores.pkcs11.messages import (
    HEADER_LENGTH,
    MOST_NUMBERS,
    Answer,
    MessageBroken,
    Request,
    length_of,
    number_of,
    pack_request,
    unpack_answer,
    wipe,
)
from ownkey_server.keystores.pkcs11.module import SECONDS_BETWEEN_REINITIALIZATIONS

_log = logging.getLogger(__name__)

WORKER = "ownkey_server.keystores.pkcs11.worker"
ARGUMENTS_VARIABLE = "OWNKEY_MODULE_ARGUMENTS"
# An interpreter starts, and the first call loads the module and logs in, perhaps over a network.
START_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
_STANDARD_ERROR = 2
# A process that has lived this long did not die of being started.
SOUND_SECONDS = 5.0


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
        self._workers = [_Worker(path, arguments, options, patience, start) for _ in range(count)]
        # Those that are up. The one used last is taken first: its caches are warm.
        self._idle: list[_Worker] = []
        self._waiting: deque[asyncio.Future[_Worker]] = deque()
        self._down = list(self._workers)
        self._starting: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[Answer]] = set()
        self._paused: set[_Worker] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of those that run."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    async def run(self, request: Request, timeout: float) -> Answer:
        """Let a process do it; errors as of :meth:`ModuleHost.run`."""
        self._require_open()
        if self._paused:
            self._require_one_in_order()
        if len(self._waiting) >= self._max_queued:
            raise ModuleBusy(f"{len(self._waiting)} calls are waiting already")
        deadline = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                worker = await self._next()
        except TimeoutError:
            self._require_one_in_order()
            raise ModuleBusy("the time ran out before the call's turn came") from None
        if self._closed:  # in the meantime: whoever else waits is to hear of it too
            self._offer(worker)
            self._require_open()
        # A task of its own: the process is not free again before it has answered, whether or not the caller waits.
        running = asyncio.ensure_future(self._exchange(worker, request))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        running.add_done_callback(take_note)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.shield(running)
        except TimeoutError:
            if worker.trouble:
                raise ModuleStuck(worker.trouble) from None
            raise ModuleBusy(f"the {timeout:g} s that there were have run out") from None

    async def leave(self, request: Request) -> None:  # noqa: ARG002 - all that is here is the store's
        """End the processes, after what they are doing."""
        self._closed = True
        self._turn_away("the key store is closed")
        await asyncio.gather(*self._running, *([self._starting] if self._starting else []), return_exceptions=True)
        for worker in self._workers:
            await worker.end()

    async def _exchange(self, worker: _Worker, request: Request) -> Answer:
        try:
            answer = await worker.exchange(request)
        except ModuleStuck:
            self._pause(worker)
            raise
        except BaseException:
            self._offer(worker)
            raise
        self._offer(worker)
        return answer

    async def _next(self) -> _Worker:
        """The next that is free; another one is started if there is none."""
        while True:
            if self._idle:
                worker = self._idle.pop()
            else:
                turn: asyncio.Future[_Worker] = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                self._start_another()
                try:
                    worker = await turn
                except asyncio.CancelledError:
                    if turn.done() and not turn.cancelled() and turn.exception() is None:
                        self._offer(turn.result())
                    raise
                finally:
                    with contextlib.suppress(ValueError):
                        self._waiting.remove(turn)
            if worker.pid is not None:
                return worker
            self._down.append(worker)

    def _offer(self, worker: _Worker) -> None:
        """Give one that is free to who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(worker)
                return
        self._idle.append(worker)

    def _start_another(self) -> None:
        """Start one, unless one is starting, or there is reason to see first how another fares."""
        if self._starting is None and self._down and not self._paused and not self._closed:
            self._starting = asyncio.ensure_future(self._start(self._down.pop()))
            self._starting.add_done_callback(self._started)

    async def _start(self, worker: _Worker) -> None:
        try:
            await worker.start()
        except ModuleStuck:
            self._pause(worker)
        except BaseException:
            self._down.append(worker)
            raise
        else:
            self._offer(worker)

    def _started(self, starting: asyncio.Task[None]) -> None:
        self._starting = None
        if not starting.cancelled() and (error := starting.exception()) is not None:
            _log.error("a process of a PKCS#11 module cannot be started", exc_info=error)
        if self._waiting:
            self._start_another()

    def _pause(self, worker: _Worker) -> None:
        pause = worker.next_pause()
        self._paused.add(worker)
        asyncio.get_running_loop().call_later(pause, self._end_pause, worker)
        if pause:
            # Whoever waits is told now: what is asked again later is theirs to say.
            why = self._why_none_serves()
            if why:
                self._turn_away(why)

    def _turn_away(self, why: str) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(ModuleStuck(why))

    def _end_pause(self, worker: _Worker) -> None:
        self._paused.discard(worker)
        self._down.append(worker)
        if self._waiting:
            self._start_another()

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
        if any(worker.pid is not None and not worker.trouble for worker in self._workers):
            return ""
        return next((worker.trouble for worker in self._workers if worker.trouble), "")


class _Worker:
    """One process."""

    def __init__(self, path: Path, arguments: str | None, options: list[str], patience: float, start: float) -> None:
        self._path = path
        # Not on its command line, which everybody may read.
        self._environment = None if arguments is None else {**os.environ, ARGUMENTS_VARIABLE: arguments}
        self._options = options
        self._patience = patience
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._started_at = 0.0
        self._number = 0
        self._is_fresh = True
        self._failures = 0
        self.trouble = ""
        """What happened to it, until it has answered again."""

    @property
    def pid(self) -> int | None:
        """Of the process, if it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def exchange(self, request: Request) -> Answer:
        """Send the request and wait for the answer.

        Raises:
            ModuleStuck: It did not come, and the process is gone.
        """
        self._number = self._number % (MOST_NUMBERS - 1) + 1
        message = pack_request(request, self._number)
        try:
            async with asyncio.timeout(self._start if self._is_fresh else self._patience):
                await self._send(message)
                answer = await self._receive(self._number)
        except TimeoutError:
            raise await self._lost("did not answer, and was killed") from None
        except (OSError, MessageBroken, EOFError) as error:
            raise await self._lost(
                f"gave no sound answer ({error})" if isinstance(error, MessageBroken) else ""
            ) from error
        except ModuleStuck:
            raise
        except BaseException:
            # Nobody is left to take the answer: the next caller must not get it.
            self._close_socket()
            if self._process is not None:
                self._process.kill()
            raise
        finally:
            wipe(message)
        self._is_fresh, self.trouble = False, ""
        return answer

    def next_pause(self) -> float:
        """Seconds until it is started again: none the first time, then longer and longer, and never all at once."""
        self._failures = self._failures + 1 if time.monotonic() - self._started_at < SOUND_SECONDS else 1
        if self._failures == 1:
            return 0.0
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 2, 10))
        return float(longest * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    async def end(self) -> None:
        """Close its socket, which ends it; kill it if that does not."""
        process, self._process = self._process, None
        self._close_socket()
        if process is None:
            return
        if not await _ended(process):
            await _killed(process)

    async def start(self) -> None:
        """Start the process, and wait until it is up. The module is loaded by the first request.

        Raises:
            ModuleStuck: It does not come up.
        """
        if self._process is not None:
            _log.warning("the process of the module %s %s; it is started again", self._path, _end_of(self._process))
        self._close_socket()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        self._started_at, self._is_fresh = time.monotonic(), True
        command = [sys.executable, "-P", "-m", WORKER, str(self._path), "--parent", str(os.getpid()), *self._options]
        try:
            with theirs:
                # What a vendor's library prints goes where our log goes.
                # From this thread, which lives as long as the server: the process ends with the thread that made it.
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own program
                    command, stdin=theirs.fileno(), stdout=_STANDARD_ERROR, env=self._environment
                )
            async with asyncio.timeout(self._start):
                await self._receive(0)
        except TimeoutError:
            raise await self._lost("did not start in time, and was killed") from None
        except (OSError, MessageBroken, EOFError) as error:
            raise await self._lost("") from error

    async def _lost(self, why: str) -> ModuleStuck:
        """Make sure that it is gone, and say what happened."""
        process = self._process
        self._close_socket()
        if process is None:
            self.trouble = "the module's process cannot be started"
            return ModuleStuck(self.trouble)
        if not why:
            await _ended(process)  # its end of the socket closes before it can be seen to have ended
            why = _end_of(process)
        if process.poll() is None:
            await _killed(process)
        _log.warning("the module %s: its process %s", self._path, why)
        self._process = None
        self.trouble = f"the module's process {why}"
        return ModuleStuck(self.trouble)

    async def _send(self, message: bytearray) -> None:
        if self._socket is None:
            raise EOFError
        await asyncio.get_running_loop().sock_sendall(self._socket, message)

    async def _receive(self, number: int) -> Answer:
        header = bytearray(HEADER_LENGTH)
        await self._fill(header)
        if number_of(header) != number:
            raise MessageBroken("it answers another request")
        message = bytearray(length_of(header))
        try:
            await self._fill(message)
            return unpack_answer(memoryview(message))
        finally:
            wipe(message)

    async def _fill(self, buffer: bytearray) -> None:
        if self._socket is None:
            raise EOFError
        loop, view = asyncio.get_running_loop(), memoryview(buffer)
        while view:
            count = await loop.sock_recv_into(self._socket, view)
            if not count:
                raise EOFError
            view = view[count:]

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it ends within a second."""
    try:
        await asyncio.to_thread(process.wait, 1.0)
    except subprocess.TimeoutExpired:
        return False
    return True


async def _killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    await _ended(process)  # one that hangs in the kernel cannot be killed, and is not waited for


def _end_of(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code is None:
        return "has gone silent"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"died of {signal.Signals(-code).name}"
    return f"ended with code {code}"
