"""One process of a module, as the server sees it: how it starts, what became of it, and how it ends."""

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
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ownkey_server.keystores.pkcs11.host import ModuleStuck
from ownkey_server.keystores.pkcs11.pipe import Call, Pipe

_log = logging.getLogger(__name__)

WORKER = "ownkey_server.keystores.pkcs11.worker"
ARGUMENTS_VARIABLE = "OWNKEY_MODULE_ARGUMENTS"
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
_STANDARD_ERROR = 2
# A process that has lived this long did not die of being started.
SOUND_SECONDS = 5.0


class Owner(Protocol):
    """Whoever gives a process its calls."""

    def answered(self, child: Child) -> None:
        """It has answered, and may have nothing to do."""

    def lost(self, child: Child, ahead: Sequence[Call]) -> None:
        """It is gone, and not because we wanted it to be. It had not begun these calls."""

    def ended(self, child: Child) -> None:
        """It has ended while it had nothing to do."""


class Child:
    """One process.

    Args:
        path: The vendor's library.
        arguments: What it is initialized with; None for nothing.
        options: Of the program.
        patience: Seconds after which the call that it is in counts as hung.
        start: The same for its start and its first call.
        owner: Is told what becomes of it.
    """

    def __init__(
        self, path: Path, arguments: str | None, options: list[str], patience: float, start: float, owner: Owner
    ) -> None:
        self._path = path
        # Not on its command line, which everybody may read.
        self._environment = None if arguments is None else {**os.environ, ARGUMENTS_VARIABLE: arguments}
        self._options = options
        self._patience = patience
        self._start = start
        self._owner = owner
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe | None = None
        self._burying: asyncio.Task[None] | None = None
        self._last_answer: asyncio.Future[None] | None = None
        self._started_at = 0.0
        self._failures = 0
        self.trouble = ""
        """What happened to it, until it has answered again."""

    @property
    def pid(self) -> int | None:
        """Of the process, if it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def is_busy(self) -> bool:
        """Whether it has not answered everything."""
        return self._pipe is not None and self._pipe.waits_for > 0

    @property
    def ahead(self) -> tuple[Call, ...]:
        """What was sent to it behind the call that it is in."""
        return self._pipe.calls[1:] if self._pipe is not None else ()

    def is_up(self) -> bool:
        """Whether it can be sent a call. One that is found to have ended with nothing to do is no more heard of."""
        if self._pipe is not None and self.pid is None:
            self._close_pipe()
        return self._pipe is not None

    def takes_ahead(self, most: int) -> bool:
        """Whether a call may be sent to it before its turn: it has answered before, and has fewer than so many."""
        return self._pipe is not None and not self._pipe.is_fresh and self._pipe.waits_for < most

    def send(self, call: Call) -> None:
        """Have a call done, after those that it has. It must be up."""
        if self._pipe is None:
            raise RuntimeError("a process that is not up was given a call")
        self._pipe.send(call)

    async def start(self) -> None:
        """Start the process, and wait until it is up. The module is loaded by the first request.

        Raises:
            ModuleStuck: It does not come up.
        """
        if self._process is not None:
            _log.warning("the process of the module %s %s; it is started again", self._path, _end_of(self._process))
        self._started_at = time.monotonic()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", WORKER, str(self._path), "--parent", str(os.getpid()), *self._options]
        try:
            with theirs:
                # What a vendor's library prints goes where our log goes.
                # From this thread, which lives as long as the server: the process ends with the thread that made it.
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own program
                    command, stdin=theirs.fileno(), stdout=_STANDARD_ERROR, env=self._environment
                )
        except OSError as error:
            ours.close()
            self._process, self.trouble = None, "the module's process cannot be started"
            raise ModuleStuck(self.trouble) from error
        up = Call(None, asyncio.get_running_loop().create_future())
        self._pipe = Pipe(ours, self._patience, self._start, self._answered, self._silent)
        self._pipe.send(up)
        await up.answer

    def next_pause(self) -> float:
        """Seconds until it is started again: none the first time, then longer and longer, and never all at once."""
        self._failures = self._failures + 1 if time.monotonic() - self._started_at < SOUND_SECONDS else 1
        if self._failures == 1:
            return 0.0
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 2, 10))
        return float(longest * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    async def end(self) -> None:
        """Close its socket after what it is doing, which ends it; kill it if that does not."""
        if self.is_busy:
            self._last_answer = asyncio.get_running_loop().create_future()
            await self._last_answer
        if self._burying is not None:
            await asyncio.wait({self._burying})
        process, self._process = self._process, None
        self._close_pipe()
        if process is not None and not await _ended(process):
            await _killed(process)

    def _answered(self) -> None:
        if self._pipe is not None and not self._pipe.is_fresh:
            self.trouble = ""
        if self._last_answer is not None and not self._last_answer.done():
            self._last_answer.set_result(None)
        self._owner.answered(self)

    def _silent(self, why: str) -> None:
        """Nothing comes of it any more, because it is gone or because it shall be."""
        calls = self._close_pipe()
        if (calls or why) and self._process is not None:
            self._burying = asyncio.ensure_future(self._bury(self._process, why, calls))
        else:
            self._owner.ended(self)

    def _close_pipe(self) -> list[Call]:
        pipe, self._pipe = self._pipe, None
        return pipe.close() if pipe is not None else []

    async def _bury(self, process: subprocess.Popen[bytes], why: str, calls: Sequence[Call]) -> None:
        """Make sure that it is gone, and say what happened to those whom it concerns."""
        try:
            if not why:
                await _ended(process)  # its end of the socket closes before it can be seen to have ended
                why = _end_of(process)
            if process.poll() is None:
                await _killed(process)
        finally:
            process.kill()
            self._process = None
            self.trouble = f"the module's process {why}"
            if calls and not calls[0].answer.done():
                calls[0].answer.set_exception(ModuleStuck(self.trouble))
            if self._last_answer is not None and not self._last_answer.done():
                self._last_answer.set_result(None)
        _log.warning("the module %s: its process %s", self._path, why)
        if not calls or calls[0].request is not None:  # of its start another waits
            self._owner.lost(self, calls[1:])


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
