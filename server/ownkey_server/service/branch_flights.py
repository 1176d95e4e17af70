"""Questions about branch keys that are under way: of those that need the same at once, one asks, and all have it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.errors import DeadlineExceeded, OwnkeyError
from ownkey_server.service.branch_loans import Borrower

_log = logging.getLogger(__name__)

DATABASE, KEY_STORE = "this service's database", "the key store"


class NoBranchKey(Exception):
    """The tenant has no branch key of that id."""


@dataclass(frozen=True, slots=True)
class Landed:
    """What came of a question, and whether a key store was asked so that there is a lease."""

    branch: BranchKey
    asked: bool


class Flight:
    """One question.

    Attributes:
        waits_for: Who has not answered yet.
        task: What is under way.
    """

    def __init__(self, work: Callable[[Flight], Coroutine[None, None, Landed]], name: str) -> None:
        self.waits_for = DATABASE
        self.task = asyncio.get_running_loop().create_task(work(self), name=name)


class Flights:
    """The questions under way. Belongs to one event loop.

    Args:
        monotonic: The present time of the clock that borrowers' deadlines are of.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._flights: dict[tuple[object, ...], Flight] = {}

    def under_way(self, what: tuple[object, ...]) -> bool:
        """Whether that is being asked."""
        return what in self._flights

    def join(
        self, what: tuple[object, ...], work: Callable[[Flight], Coroutine[None, None, Landed]]
    ) -> tuple[Flight, bool]:
        """The one question of its kind that is under way, begun now if there is none; and whether there was one."""
        running = self._flights.get(what)
        if running is not None:
            return running, True
        flight = self._flights[what] = Flight(work, " ".join(str(part) for part in what))

        def landed(done: asyncio.Task[Landed]) -> None:
            self._flights.pop(what, None)
            # Nobody may be waiting any more; what is no error of ours was recorded.
            if (
                not done.cancelled()
                and (error := done.exception())
                and not isinstance(error, OwnkeyError | NoBranchKey)
            ):
                _log.error("a branch key could not be had", exc_info=error)

        flight.task.add_done_callback(landed)
        return flight, False

    async def wait(self, flight: Flight, borrower: Borrower) -> Landed:
        """What comes of a question, which goes on if the borrower stops waiting.

        Raises:
            DeadlineExceeded: The borrower's time is up. That says nothing of a key store, nor of the database.
            OwnkeyError: Whatever the question ended with.
        """
        deadline = borrower.deadline
        left = None if deadline is None else max(0.0, deadline - self._monotonic())
        done, _ = await asyncio.wait({flight.task}, timeout=left)
        if not done:
            raise DeadlineExceeded(f"{flight.waits_for} had not answered when the caller's deadline came")
        return flight.task.result()

    async def settle(self) -> None:
        """Wait until none is under way."""
        while self._flights:
            await asyncio.wait([flight.task for flight in self._flights.values()])

    async def close(self) -> None:
        """End them."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
