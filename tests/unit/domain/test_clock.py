from __future__ import annotations

import time

from ownkey_server.domain.clock import elapsed


def test_it_goes_on_as_time_does_and_is_never_behind_the_clock_that_stops_while_a_machine_sleeps() -> None:
    first, awake = elapsed(), time.monotonic()
    time.sleep(0.01)
    assert elapsed() - first >= 0.01
    # Both count from the start of a Linux machine: they differ by the time that it slept.
    assert not hasattr(time, "CLOCK_BOOTTIME") or elapsed() >= awake


def test_on_linux_it_is_the_clock_that_counts_sleep() -> None:
    if hasattr(time, "CLOCK_BOOTTIME"):
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert before <= elapsed() <= time.clock_gettime(time.CLOCK_BOOTTIME)
