"""Time, handed in from outside so that no test needs to wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)


def elapsed() -> float:
    """Seconds since some moment, by a clock that is never set, and that goes on while the machine sleeps.

    Where the bound of a lease is counted: ``time.monotonic`` stands still in a suspended machine on Linux, so that a
    lease would outlast a night there.
    """
    return _elapsed()


def _sleepless() -> Callable[[], float]:
    number = getattr(time, "CLOCK_BOOTTIME", None)
    if number is None:  # elsewhere than on Linux, where the monotonic clock may do the same
        return time.monotonic
    try:
        time.clock_gettime(number)
    except OSError:  # a sandbox that does not know it
        return time.monotonic
    return lambda: time.clock_gettime(number)


_elapsed = _sleepless()
