"""What Kamailio's worker processes know of one another: who waits for ownkey, and whether ownkey answers at all.

A few bytes of shared memory, made before Kamailio forks. No locks: a process that dies must not leave one behind. By a
race a call may be turned away that could have waited, and never one more wait.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Callable, Iterator

PLACES = 1024
# A crowd of calls comes at the same moment now and then. Each waits for so long until it is its turn to ask, while
# ownkey answers; a worker is not kept longer from an emergency call.
PATIENCE_SECONDS, STEP_SECONDS = 0.1, 0.001
_PRESENT, _WAITING = 1, 2
_SHARED = struct.Struct("=dI")  # until when nothing is asked; calls without an answer, one after the other


class Workers:
    """The shared memory.

    Args:
        at_once: How many may wait for ownkey at the same time; at least one worker always stays free, if there are two.
        failures: After so many calls without an answer, one after the other ...
        pause: ... nothing is asked for so many seconds, and then by one worker alone until there is an answer.
        clock: Monotonic, and the same in all processes.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        at_once: int,
        failures: int,
        pause: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._memory = mmap.mmap(-1, PLACES + _SHARED.size)
        self._at_once = at_once
        self._failures = failures
        self._pause = pause
        self._clock = clock
        self._sleep = sleep
        self._place = 0

    def enter(self, rank: int) -> None:
        """Be the worker of that rank. Once a process, after the fork."""
        self._place = rank % PLACES
        self._memory[self._place] = _PRESENT

    @contextlib.contextmanager
    def waiting(self) -> Iterator[bool]:
        """Wait for ownkey in the block, if it is given True: too many others may wait, or ownkey may be away."""
        try:
            yield self._take_turn()
        finally:
            self._memory[self._place] = _PRESENT

    def answered(self) -> None:
        """Tell that ownkey answered."""
        if self._shared()[1]:
            _SHARED.pack_into(self._memory, PLACES, 0.0, 0)

    def did_not_answer(self) -> bool:
        """Tell that it did not; gives whether that was one too many, so that a pause begins."""
        until, failures = self._shared()
        failures = min(failures + 1, self._failures)
        begins = failures >= self._failures
        _SHARED.pack_into(self._memory, PLACES, self._clock() + self._pause if begins else until, failures)
        return begins

    def _take_turn(self) -> bool:
        given_up = self._clock() + PATIENCE_SECONDS
        while True:
            until, failures = self._shared()
            if self._clock() < until:
                return False
            self._memory[self._place] = _WAITING
            if self._among_few(failures):
                return True
            self._memory[self._place] = _PRESENT
            if failures or self._clock() >= given_up:
                return False
            self._sleep(STEP_SECONDS)

    def _among_few(self, failures: int) -> bool:
        places = self._memory[:PLACES]
        waiting = places.count(_WAITING)
        if failures >= self._failures:
            return waiting <= 1
        workers = waiting + places.count(_PRESENT)
        return waiting <= max(1, min(self._at_once, workers - 1))

    def _shared(self) -> tuple[float, int]:
        until, failures = _SHARED.unpack_from(self._memory, PLACES)
        return float(until), int(failures)
