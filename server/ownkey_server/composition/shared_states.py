"""How the states of keys are shared with other instances, as the settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta

from ownkey_server.domain.canaries import Canary
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.domain.key_history import KeyTransition, PlaceState, Sighting
from ownkey_server.domain.tenants import Replica
from ownkey_server.service.canaries import Canaries
from ownkey_server.service.directory import Directory
from ownkey_server.service.shared_states import SharedStates
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.settings import Settings
from ownkey_server.storage import canaries, key_notices, key_states, probe_leases
from ownkey_server.storage.database import Database

MOST_AT_ONCE = 1000
HEAR_SECONDS = 5.0


def open_shared_states(
    settings: Settings, board: StatusBoard, directory: Directory, clock: Clock, database: Database, executor: Executor
) -> SharedStates:
    """What this instance sees is written into ``database``, on ``executor``."""
    keep = timedelta(days=settings.keys.history_days)
    listeners: Sequence[key_states.Listener] = (key_notices.tell,)

    def write(sightings: Sequence[Sighting]) -> int:
        with database.writing() as connection:
            return key_states.record(connection, sightings, listeners)

    def prune() -> None:
        with database.writing() as connection:
            key_states.prune(connection, clock() - keep)
            probe_leases.prune(connection)

    refresh = timedelta(seconds=settings.keys.probe_interval_seconds / 3)
    return SharedStates(board, directory, clock, write, prune, executor, refresh)


def open_canaries(database: Database, executor: Executor, clock: Clock) -> Canaries:
    """The canaries of the database."""

    def find(key: str, place: Replica) -> Canary | None:
        with database.reading() as connection:
            return canaries.find(connection, key, place)

    def keep(place: Replica, canary: Canary) -> None:
        with database.writing() as connection:
            canaries.keep(connection, place, canary, clock())

    return Canaries(find, keep, executor)


class StateFeed:
    """Asks the database what others have seen, on the thread of the feed of changes.

    Args:
        shared: Takes note of it.
        loop: The event loop of that.
        max_age: What was seen longer ago proves nothing, unless a key was taken away.
    """

    def __init__(self, shared: SharedStates, loop: asyncio.AbstractEventLoop, clock: Clock, max_age: timedelta) -> None:
        self._shared = shared
        self._loop = loop
        self._clock = clock
        self._max_age = max_age
        self._number: int | None = None

    def ask(self, database: Database) -> None:
        """Hear of everything that is new.

        Raises:
            DatabaseUnavailable: It does not answer, or nobody has time to hear of it: it comes again.
        """
        while True:
            since: datetime | None = None
            with database.reading() as connection:
                newest = key_states.newest(connection)
                number = self._number
                if number is None or newest < number:
                    # At the start, or an older copy of the database: what still counts of all there is.
                    number, since = 0, self._clock() - self._max_age
                    self._tell_anew()
                if newest == number:
                    self._number = newest
                    return
                states = key_states.changed_since(connection, number, MOST_AT_ONCE, since)
                whole = len(states) < MOST_AT_ONCE
                reached = newest if whole else states[-1].number
                # At the start nobody watches yet.
                changes = [] if since else key_states.transitions_between(connection, number, reached)
            self._tell(states, changes, reached)
            self._number = reached
            if whole:
                return

    def _tell_anew(self) -> None:
        self._loop.call_soon_threadsafe(self._shared.begin_anew)

    def _tell(self, states: list[PlaceState], changes: list[KeyTransition], number: int) -> None:
        async def hear() -> None:
            self._shared.heard(states, changes, number)

        told = asyncio.run_coroutine_threadsafe(hear(), self._loop)
        try:
            told.result(HEAR_SECONDS)
        except TimeoutError:
            told.cancel()
            raise DatabaseUnavailable("the event loop is too busy to hear of states") from None
