"""When a call is tried once more: as the standard mode of AWS's SDKs does it, within the caller's time and a budget.

Botocore's own retries know no deadline, wait up to a second before the first, and share one budget among all tenants of
a client; so clients make single attempts, and the second is made here.
"""

from __future__ import annotations

import random
import threading

_CAPACITY = 100
_COST = 5
_REFUND = 1
_LONGEST_PAUSE = 0.1


class RetryBudget:
    """Tokens that retries cost and answers earn: while much fails, nothing is tried twice."""

    def __init__(self) -> None:
        self._tokens = _CAPACITY
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether there may be one more retry."""
        with self._lock:
            if self._tokens < _COST:
                return False
            self._tokens -= _COST
            return True

    def served(self, *, again: bool) -> None:
        """A call was served, by the first attempt or by the second."""
        with self._lock:
            self._tokens = min(_CAPACITY, self._tokens + (_COST if again else _REFUND))


def pause() -> float:
    """Seconds before the second attempt."""
    return random.uniform(0.0, _LONGEST_PAUSE)  # noqa: S311 - spreads calls, hides nothing
