"""Whether a cancellation is the caller's own."""

from __future__ import annotations

import asyncio


def by_the_caller() -> bool:
    """Whether whoever waits for this task has cancelled it.

    Otherwise a ``CancelledError`` comes from something that the task waits for, and is a failure like any other.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
