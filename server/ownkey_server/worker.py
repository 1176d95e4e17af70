"""One of several server processes, as it sees itself: ``ownkey serve`` that a supervisor has started.

The two hold the ends of one socket pair. The worker writes a byte to it once it serves; and it ends when the
supervisor's end closes, which the kernel sees to even if the supervisor was killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from typing import Self

_log = logging.getLogger(__name__)

# The worker's number and the file descriptor of its end, such as "2:7". For the supervisor alone to set.
VARIABLE = "OWNKEY_WORKER"


class Worker:
    """This process as a worker.

    Attributes:
        number: Which of the workers it is, from 1.
    """

    def __init__(self, number: int, line: socket.socket) -> None:
        self.number = number
        self._line = line

    @classmethod
    def from_environment(cls) -> Self | None:
        """What the supervisor that started this process says it is; None when none did.

        Raises:
            OSError: The variable was not set by a supervisor.
        """
        value = os.environ.pop(VARIABLE, None)
        if value is None:
            return None
        number, _, descriptor = value.partition(":")
        try:
            line = socket.socket(fileno=int(descriptor))
            line.set_inheritable(False)
            return cls(int(number), line)
        except (ValueError, OSError) as error:
            raise OSError(f"environment variable {VARIABLE} is not for you to set: use --workers") from error

    def tell_serving(self) -> None:
        """Tell the supervisor that this worker serves."""
        with contextlib.suppress(OSError):  # it has gone: the thread that watches for that ends this process
            self._line.sendall(b"1")

    def end_with_supervisor(self, patience_seconds: float) -> None:
        """From now on, end this process when the supervisor does: as SIGTERM would, and after the patience at once."""
        threading.Thread(target=self._watch, args=(patience_seconds,), name="supervisor-watch", daemon=True).start()

    def _watch(self, patience_seconds: float) -> None:
        # In a thread, and not in the event loop: a worker that hangs must not outlive its supervisor either.
        with contextlib.suppress(OSError):
            self._line.recv(1)
        _log.warning("the supervisor has gone: draining")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience_seconds)
        os._exit(1)


def environment(number: int, descriptor: int) -> Mapping[str, str]:
    """What a process needs in its environment to be worker ``number``, with that end of the pair."""
    return {VARIABLE: f"{number}:{descriptor}"}
