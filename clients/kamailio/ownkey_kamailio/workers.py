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
_PRESENT, _WAITING = 1, 2
_SHARED = struct.Struct("=dI")  # until when nothing is asked; calls without an answer, one after the other


class Workers:
    """The shared memory.

    Args:
        at_once: How many may wait for ownkey at the same time; at least one worker always stays free, if there are two.
        failures: After so many calls without an answer, one after the other ...
        pause: ... nothing is asked for so many seconds.
        clock: Monotonic, and the same in all processes.
    """

    def __init__(self, at_once: int, failures: int, pause: float, clock: Callable[[], float]) -> None:
        self._memory = mmap.mmap(-1, PLACES + _SHARED.size)
        self._at_once = at_once
        self._failures = failures
        self._pause = pause
        self._clock = clock
        self._place = 0

    def enter(self, rank: int) -> None:
        """Be the worker of that rank. Once a process, after the fork."""
        self._place = rank % PLACES
        self._memory[self._place] = _PRESENT

    @contextlib.contextmanager
    def waiting(self) -> Iterator[bool]:
        """Wait for ownkey in the block, if it is given True: too many others may wait, or ownkey may be away."""
        until, _ = self._shared()
        if self._clock() < until:
            yield False
            return
        self._memory[self._place] = _WAITING
        try:
            places = self._memory[:PLACES]
            waiting = places.count(_WAITING)
            workers = waiting + places.count(_PRESENT)
            yield waiting <= max(1, min(self._at_once, workers - 1))
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

    def _shared(self) -> tuple[float, int]:
        until, failures = _SHARED.unpack_from(self._memory, PLACES)
        return float(until), int(failures)
