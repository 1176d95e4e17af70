"""What this instance sees of keys is written for all, and what others have seen is taken note of here.

Changes are written at once, and what goes on as it was now and then, so that others know that it is still so. While the
database is away each instance goes by what it sees itself, and writes it when the database is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from datetime import timedelta
from functools import partial
from typing import TypeVar

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.domain.key_history import EvidenceKind, KeyTransition, PlaceState, Sighting
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, tenant_of
from ownkey_server.service.directory import Directory
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.service.view_cache import on_thread

_log = logging.getLogger(__name__)

# What is seen within this time is written together.
GATHER_SECONDS = 0.05
RETRY_SECONDS = 1.0
PRUNE_SECONDS = 3600.0
MOST_AT_ONCE = 500
MANY = 50_000

A = TypeVar("A")
Place = tuple[str, str]


class SharedStates:
    """Belongs to one event loop.

    Args:
        write: Writes sightings to the database, and gives the number up to which these are then known.
        prune: Lets go of what is too old to be kept there.
        executor: Where both wait.
        refresh: How often it is written that a key is still as it was.
    """

    def __init__(
        self,
        board: StatusBoard,
        directory: Directory,
        clock: Clock,
        write: Callable[[Sequence[Sighting]], int],
        prune: Callable[[], object],
        executor: Executor,
        refresh: timedelta,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._directory = directory
        self._clock = clock
        self._write = write
        self._prune = prune
        self._executor = executor
        self._refresh = refresh
        self._monotonic = monotonic
        # What was seen and is not written, with the last shared change that was known when it was seen.
        self._unwritten: dict[Place, int] = {}
        self._held: dict[Place, PlaceState] = {}
        self._mine: dict[Place, Sighting] = {}
        self._written: dict[Place, tuple[int, KeyState]] = {}
        self._wake = asyncio.Event()
        self._away = False
        self._on_transitions: list[Callable[[Sequence[KeyTransition], int], None]] = []
        self._on_written: list[Callable[[], None]] = []
        board.on_sight(self._seen)

    @property
    def away(self) -> bool:
        """Whether the last writing failed, so that others do not know what is seen here."""
        return self._away

    async def run(self) -> None:
        """Write what is seen, until cancelled."""
        pruned_at = self._monotonic()
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._wake.clear()
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - logged whole
                # A defect must not end that others hear of what is seen here.
                _log.exception("the states of keys could not be written")
                await asyncio.sleep(RETRY_SECONDS)
            if self._away:
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()
            elif self._monotonic() - pruned_at > PRUNE_SECONDS:
                pruned_at = self._monotonic()
                await self._on_thread(self._prune)

    async def flush(self) -> None:
        """Write what is not written yet."""
        while self._unwritten:
            batch = dict(list(self._unwritten.items())[:MOST_AT_ONCE])
            sightings = [one for one in (self._sighting(place, known) for place, known in batch.items()) if one]
            for place in batch:
                del self._unwritten[place]
            if not sightings:
                continue
            self._mine |= {(one.key, one.replica): one for one in sightings}
            number = await self._on_thread(partial(self._write, sightings))
            if number is None:
                for place, known in batch.items():
                    self._unwritten.setdefault(place, known)
                return
            for tell in self._on_written:
                tell()
            for one in sightings:
                self._written[one.key, one.replica] = number, one.state
                if one.state is KeyState.REVOKED:
                    # At once: the word of it may be overtaken by that of its end on the way back.
                    self._board.is_shared(one.key, one.replica, number)

    def on_transitions(self, tell: Callable[[Sequence[KeyTransition], int], None]) -> None:
        """Have ``tell`` called with the changes of state that are new, and up to which number they go."""
        self._on_transitions.append(tell)

    def on_written(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called whenever something was written."""
        self._on_written.append(tell)

    def heard(self, states: Iterable[PlaceState], transitions: Sequence[KeyTransition], number: int) -> None:
        """Take note of what was written since, up to that number."""
        now = self._clock()
        for state in states:
            place = state.key, state.replica
            self._held[place] = state
            mine = self._mine.get(place)
            own = mine is not None and (mine.state, mine.observed_at) == (state.state, state.observed_at)
            self._board.apply(state, now, own=own)
        self._board.knows(number)
        for tell in self._on_transitions:
            tell(transitions, number)
        if len(self._held) > MANY:
            self._held.clear()
            self._mine.clear()
            self._written.clear()

    def begin_anew(self) -> None:
        """Forget what others held: the database may be an older copy."""
        self._held.clear()

    def _seen(self, key_name: str, replica: str) -> None:
        place = key_name, replica
        if place in self._unwritten or self._is_news(place):
            self._unwritten[place] = self._board.known
            self._wake.set()

    def _is_news(self, place: Place) -> bool:
        judged, held = self._board.judged(*place), self._held.get(place)
        if judged is None or judged.told.state is KeyState.UNKNOWN:
            return False
        if held is None or held.state is not judged.told.state or held.cause != judged.told.cause:
            number, state = self._written.get(place, (0, None))
            # What was written a moment ago is on its way back.
            return number <= self._board.known or state is not judged.told.state
        return not judged.recovering and judged.now.observed_at - held.observed_at >= self._refresh

    def _sighting(self, place: Place, known: int) -> Sighting | None:
        key, judged = self._key(place[0]), self._board.judged(*place)
        if key is None or judged is None or judged.told.state is KeyState.UNKNOWN:
            return None
        if judged.kind is EvidenceKind.SHARED:
            return None  # somebody else's word came since
        alone = len(key.replicas) == 1
        told = self._board.of_replica(*place, judged.now.observed_at, alone=alone, told=True) or judged.told
        return Sighting(
            key=key.name,
            replicas=tuple(one.name for one in key.replicas),
            replica=place[1],
            state=judged.told.state,
            cause=told.cause,
            kind=judged.kind,
            observed_at=judged.now.observed_at,
            since=judged.since,
            known=known,
            revoked_at=told.revoked_at,
            ours=told.ours,
        )

    def _key(self, name: str) -> CustomerKey | None:
        tenant_id = tenant_of(name)
        if not tenant_id:
            return self._directory.provider_key
        tenant = self._directory.last_known(tenant_id)
        return None if tenant is None else next((one for one in tenant.keys.values() if one.name == name), None)

    async def _on_thread(self, work: Callable[[], A]) -> A | None:
        """What it gives; None when the database is away."""
        try:
            given = await on_thread(self._executor, work)
        except DatabaseUnavailable as error:
            if not self._away:
                _log.warning("the states of keys are not shared with other instances: %s", error.cause)
            self._away = True
            return None
        if self._away:
            _log.info("the states of keys are shared with other instances again")
        self._away = False
        return given
