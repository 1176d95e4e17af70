"""A child process as the parent sees it: started, listened to with patience, and ended for certain."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

from ownkey_server.hsm.check.plan import Plan

# Closing its sessions at the token takes a healthy module a moment.
_SECONDS_TO_END = 3.0
_LONGEST_LINE = 1 << 20
_COMMAND = (sys.executable, "-P", "-m", "ownkey_server.hsm.check.child")


class Silent(Exception):
    """The child has said nothing for longer than the patience: the module hangs."""


class Mad(Exception):
    """The child says what no child says: the module has written over its memory."""


class Child:
    """One process with the module. A context manager: whatever happens, it ends.

    Args:
        plan: What to check.
        steps: Which steps it does.
        pin: For its one login.
        show_noise: Whether what the module itself prints is shown.
    """

    def __init__(self, plan: Plan, steps: Sequence[str], pin: str, *, show_noise: bool = False) -> None:
        self._patience = plan.patience
        self._buffer = b""
        reader, writer = os.pipe()
        self._descriptor = reader
        try:
            # Of a group of its own: Ctrl-C is for the parent, which then ends it in good order.
            self._process = subprocess.Popen(  # noqa: S603
                [*_COMMAND, str(writer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=None if show_noise else subprocess.DEVNULL,
                pass_fds=(writer,),
                process_group=0,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._say(json.dumps({"plan": plan.plain(), "steps": list(steps), "pin": pin}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def go(self) -> None:
        """Let it begin to measure."""
        self._say("go")

    def events(self) -> Iterator[dict[str, Any]]:
        """What it says, until it has ended.

        Raises:
            Silent: It says nothing any more.
            Mad: It says what no child says.
        """
        while (line := self._line()) is not None:
            try:
                event = json.loads(line)
            except ValueError:
                raise Mad from None
            if not isinstance(event, dict):
                raise Mad
            yield event

    def how_it_ended(self) -> str:
        """How the process ended that says nothing more, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_SECONDS_TO_END)
            if code < 0:
                with contextlib.suppress(ValueError):
                    return f"by signal {-code} ({signal.Signals(-code).name})"
            return f"with exit code {code}"
        return "its answers, and went on running"

    def end(self) -> None:
        """End it: politely, so that it leaves nothing at the token, then for certain."""
        try:
            if self._process.poll() is None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_SECONDS_TO_END)
        finally:
            self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it has a pipe
        with contextlib.suppress(BrokenPipeError):  # how it ended, its silence tells
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _line(self) -> bytes | None:
        end = time.monotonic() + self._patience
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LONGEST_LINE:
                raise Mad
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise Silent
            if not (read := os.read(self._descriptor, 1 << 16)):
                return None
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
