"""A process for each token: the vendor's module is loaded there, and whatever it does is seen from outside.

Operations are values that know how to run at a token's bench; they go to the process, with their PINs, through a socket
that nobody else has, and never on a command line or in the environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from ownkey_server.hsm.errors import HsmError, ModuleDied, Trouble
from ownkey_server.hsm.wire import AnswerForbidden, unpacked

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

START_SECONDS = 30.0
SECONDS = 30.0
END_SECONDS = 2.0
# Of an answer: a token with a hundred thousand keys says less of them.
LARGEST = 64 << 20


class Operation(Protocol[T_co]):
    """Something to do where the module is: a value that can be pickled, and so can its result."""

    def run(self, bench: Bench) -> T_co:
        """Do it."""
        ...


class ModuleProcess:
    """A process with a module in it, for one token.

    Args:
        module: The vendor's library.
        arguments: What it is initialized with; None for nothing.
        profile: The family of its tokens; ``auto`` knows it by what token and module say.
        verbose: Let what the module prints be seen.
    """

    def __init__(
        self, module: Path, arguments: str | None = None, profile: str = "auto", *, verbose: bool = False
    ) -> None:
        self._module = module
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: a file in the user's folder must not stand in for a module of Python's.
            command = [sys.executable, "-P", "-m", "ownkey_server.hsm.process_main", str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if verbose else subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._owes_answer = True
        try:
            self._connection.send((module, arguments, profile))
            self._receive(START_SECONDS, "being loaded")
        except BaseException:
            self.close()
            raise

    def ask(self, operation: Operation[T], seconds: float = SECONDS) -> T:
        """Have something done; its result.

        Args:
            operation: What to do.
            seconds: After which the module counts as hung, and its process is ended.

        Raises:
            HsmError: It could not be done.
            ModuleDied: Whether it was done is not known.
        """
        doing = type(operation).__name__
        if self._owes_answer:
            # Whoever waited for it was interrupted: it must not pass for the answer to this.
            with contextlib.suppress(HsmError):
                self._receive(seconds, doing)
        try:
            self._owes_answer = True
            self._connection.send(operation)
        except OSError:
            raise self._died(doing) from None
        result: T = self._receive(seconds, doing)
        return result

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, seconds: float, doing: str) -> Any:
        try:
            if not self._connection.poll(seconds):
                self._process.kill()
                raise ModuleDied(f"the module {self._module} has not come back in {seconds:g} s ({doing})", _LOOK)
            content = self._connection.recv_bytes(LARGEST)
            self._owes_answer = False
        except (EOFError, OSError):
            raise self._died(doing) from None
        try:
            answer, more = unpacked(content)
            if answer == "done":
                return more
            message, trouble, hint = map(str, more)
            refusal = HsmError(message, Trouble(trouble), hint)
        except (AnswerForbidden, ValueError, TypeError):
            self._process.kill()
            raise ModuleDied(f"the process of the module {self._module} answers what no operation does") from None
        raise refusal

    def _died(self, doing: str) -> ModuleDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        code = self._process.returncode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with code {code}"
        return ModuleDied(f"the module {self._module} ended its process {how} ({doing})", _LOOK)


_LOOK = "nothing that was half made is used; `ownkey hsm list` shows what is in the token, -v what the module prints"


def end_with_parent() -> None:
    """Have the kernel end this process with the one that started it, were it hung in C. In the process itself."""
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415

    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG of linux/prctl.h
    if os.getppid() != parent:
        os._exit(1)
