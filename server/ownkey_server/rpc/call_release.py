"""Giving up a call whose client does not even take the status that ends it."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

_log = logging.getLogger(__name__)

# Calls that are given up at about the same time, as in an attack, are looked for together.
_TOGETHER_SECONDS = 0.05

Handler = asyncio.Task[Any]


class CallReleaser:
    """Ends calls without their clients' help.

    A status goes after the bytes that were written before it, so that a client that reads nothing keeps a call, and a
    message of it, for as long as the connection lives. grpc.aio has no way to reset a call from the server; Core does
    it when the last reference to the call is dropped. Besides the handler's task one other holds it: the task that
    grpc.aio starts for each call to wait for its end. It is found as the one task whose coroutine refers to the
    handler's. Proven against a real server by ``tests/attacks/transport/test_slow_readers.py``.
    """

    def __init__(self) -> None:
        self._doomed: set[Handler] = set()

    def release(self, handler: Handler) -> None:
        """End the call that ``handler`` serves; its client sees CANCELLED, or a reset stream."""
        if not self._doomed:
            asyncio.get_running_loop().call_later(_TOGETHER_SECONDS, self._sweep)
        self._doomed.add(handler)

    def _sweep(self) -> None:
        doomed = {handler for handler in self._doomed if not handler.done()}
        self._doomed.clear()
        if not doomed:
            return
        lost = set(doomed)
        for task in asyncio.all_tasks():
            held = _handlers_of(task)
            if held & doomed:
                task.cancel()
                lost -= held
        for handler in doomed:
            handler.cancel()
        if lost:
            _log.warning("%d calls could not be reset; what they hold goes with their connections", len(lost))


def _handlers_of(task: asyncio.Task[Any]) -> set[Handler]:
    """The tasks that a task's coroutine holds among its variables."""
    coroutine = task.get_coro()
    if type(coroutine).__module__ == "builtins":
        return set()  # a coroutine of Python: grpc's are compiled
    return {
        held
        for scope in gc.get_referents(coroutine)
        for held in gc.get_referents(scope)
        if isinstance(held, asyncio.Task)
    }
