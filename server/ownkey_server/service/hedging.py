"""Two places asked at once, the second when the first is late: the first answer counts.

But the second's no is none to a use that the first place serves: had that been quick, nobody had asked the second. So
it is kept until the first has answered too.

What is still under way then is let go, not stopped: no library can take a question back, its answer tells whether the
place is in order, and a key that it opens has to be wiped by somebody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ownkey_server.domain.errors import KeyStoreError, OwnkeyError

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Raced(Generic[T]):
    """How a race ended.

    Attributes:
        asked: How many places were asked.
        winner: Which of them served, from 0, and what it gave; None when none did.
        failure: Of the first that failed, when none served.
    """

    asked: int
    winner: tuple[int, T] | None = None
    failure: KeyStoreError | None = None


class LetGo(Generic[T]):
    """Questions that nobody waits for any more."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[T]] = set()

    def take(self, task: asyncio.Task[T], discard: Callable[[T], None]) -> None:
        """Let a question go on; ``discard`` gets what it gives."""

        def ended(done: asyncio.Task[T]) -> None:
            self._tasks.discard(done)
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                discard(done.result())
            elif not isinstance(error, OwnkeyError):
                _log.error("a key store failed in a way it must not", exc_info=error)

        self._tasks.add(task)
        task.add_done_callback(ended)

    async def close(self) -> None:
        """End them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def race(
    first: Coroutine[Any, Any, T],
    second: Callable[[], Coroutine[Any, Any, T] | None],
    patience: float,
    *,
    discard: Callable[[T], None],
    passable: Callable[[int, BaseException], KeyStoreError | None],
    let_go: LetGo[T],
) -> Raced[T]:
    """Ask a place, and after ``patience`` seconds another.

    Args:
        first: Asks the first.
        second: Gives what asks the other; None when it may not be asked after all.
        patience: How long the first may take before the other is asked.
        discard: Wipes an answer that nobody takes.
        passable: The error, if the other place may still serve; it may raise what ends the race.
        let_go: Takes what is still under way at the end.

    Raises:
        OwnkeyError: An answer that is no outage, such as a revocation: of the first place, and then it counts before a
            success that came with it; or of the other, when the first does not serve.
    """
    running = {asyncio.create_task(first): 0}
    asked, failure = 1, None
    others_no: OwnkeyError | None = None
    try:
        done, _ = await asyncio.wait(running, timeout=patience)
        if not done and (other := second()) is not None:
            running[asyncio.create_task(other)] = 1
            asked = 2
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda one: (one.exception() is None, running[one])):
                number, error = running.pop(task), task.exception()
                if error is None:
                    return Raced(asked, (number, task.result()))
                outage: KeyStoreError | None = None
                try:
                    outage = passable(number, error)
                except OwnkeyError as end:
                    error = end
                if outage is not None:
                    failure = failure or outage
                elif number and isinstance(error, OwnkeyError):
                    others_no = error
                else:
                    raise error
        if others_no is not None:
            raise others_no
        return Raced(asked, failure=failure)
    finally:
        for task in running:
            let_go.take(task, discard)
