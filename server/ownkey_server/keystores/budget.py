"""How often something may be done: a token bucket of which background work may not take the last half."""

from __future__ import annotations

import time
from collections.abc import Callable

_BURST_SECONDS = 2.0


class RateBudget:
    """So many calls a second, with a burst of twice as many.

    Args:
        per_second: The rate; None is no limit.
        clock: Monotonic seconds.
    """

    def __init__(self, per_second: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second or 0.0
        self._most = max(1.0, self._rate * _BURST_SECONDS)
        self._clock = clock
        self._left = self._most
        self._at = clock()

    def take(self, *, background: bool = False) -> bool:
        """Whether one more may be done now."""
        if not self._rate:
            return True
        self._fill()
        least = 1.0 + (self._most / 2 if background else 0.0)
        # A bucket for a single call has no half to leave.
        if self._left < min(least, self._most):
            return False
        self._left -= 1.0
        return True

    @property
    def full(self) -> bool:
        """Whether nothing was taken of late, so that a new one would be the same."""
        if self._rate:
            self._fill()
        return self._left >= self._most

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
