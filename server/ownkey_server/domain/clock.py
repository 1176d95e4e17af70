"""Time, handed in from outside so that no test needs to wait for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)
