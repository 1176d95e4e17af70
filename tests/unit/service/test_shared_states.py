"""Several instances over one database: what one sees all know, and a key is probed by one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.composition.shared_states import StateFeed
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import DatabaseUnavailable, KeyRevoked, KeyUnreachable
from ownkey_server.domain.key_history import WHOLE, KeyTransition, Sighting
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.keystores.base import GeneratedDataKey, KeyDescription, UnwrappedDataKey, WrappedDataKey
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.probes import Probes
from ownkey_server.service.shared_states import SharedStates
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.service.view_cache import on_thread
from ownkey_server.storage import key_states, probe_leases
from ownkey_server.storage.change_feed import ChangeFeed
from ownkey_server.storage.database import Database
from support.key_stores import until
from support.services import KnownTenants, directory_of

KEY = CustomerKey("provider/keys/main", (Replica("hsm", "main"),))
BLOB = EncryptedDataKey("ownkey-embedded", b"main", b"wrapped")
INTERVAL = timedelta(seconds=0.4)


class Hsm:
    """The key store that all instances use, and how often it was asked."""

    name, counts_wraps = "hsm", False

    def __init__(self) -> None:
        self.state = KeyState.AVAILABLE
        self.described = 0

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        self.described += 1
        return KeyDescription(self.state, "" if self.state is KeyState.AVAILABLE else "so it is")

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        if self.state is KeyState.REVOKED:
            raise KeyRevoked(self.name, reference, "so it is")
        if self.state is KeyState.UNREACHABLE:
            raise KeyUnreachable(self.name, reference, "so it is")
        return GeneratedDataKey(SecretBytes(bytes(32)), BLOB)

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> WrappedDataKey:
        return WrappedDataKey(BLOB)

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        return UnwrappedDataKey(SecretBytes(bytes(32)))

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        return True

    async def close(self) -> None:
        pass


class Instance:
    """What one process has of it, over a database that all share."""

    def __init__(self, number: int, hsm: Hsm, database: Database) -> None:
        self.name = f"instance {number}"
        self.hsm = hsm
        self.database = database
        self.away = False
        self.revocations: list[str] = []
        self.transitions: list[KeyTransition] = []

    @contextlib.asynccontextmanager
    async def running(self, *, probing: bool = True) -> AsyncIterator[Instance]:
        with ThreadPoolExecutor(2) as executor:
            self.board = StatusBoard(timedelta(seconds=60), timedelta(0))
            self.board.on_revocation(lambda _key, _replica, cause: self.revocations.append(cause))
            directory = await directory_of(KnownTenants({}, KEY), executor)
            self.ring = KeyRing({"hsm": self.hsm}, self.board, system_clock, timedelta(seconds=5))
            shared = SharedStates(
                self.board, directory, system_clock, self._write, lambda: None, executor, INTERVAL / 3
            )
            shared.on_transitions(lambda changes, _: self.transitions.extend(changes))

            async def claim(names: list[str], seconds: float) -> frozenset[str]:
                return await on_thread(executor, lambda: self._claim(names, seconds))

            self.probes = Probes(
                directory, self.ring, self.board, system_clock, INTERVAL, claim=claim, lease=0.5, rate=1000
            )
            states = StateFeed(shared, asyncio.get_running_loop(), system_clock, timedelta(seconds=60))
            feed = ChangeFeed(self.database, lambda _began, _changes: None, states.ask)
            feed.start(0)
            tasks = [asyncio.create_task(shared.run())]
            self.probing = asyncio.create_task(self.probes.run() if probing else asyncio.sleep(0))
            try:
                yield self
            finally:
                await asyncio.to_thread(feed.stop)
                for task in (*tasks, self.probing):
                    task.cancel()
                await asyncio.wait([*tasks, self.probing])
                await self.probes.close()
                await self.ring.close()

    def state(self) -> KeyState | None:
        evidence = self.board.of(KEY, system_clock())
        return evidence.state if evidence else None

    def _write(self, sightings: Sequence[Sighting]) -> int:
        if self.away:
            raise DatabaseUnavailable("as the test says")
        with self.database.writing() as connection:
            return key_states.record(connection, sightings)

    def _claim(self, names: list[str], seconds: float) -> frozenset[str]:
        if self.away:
            raise DatabaseUnavailable("as the test says")
        with self.database.writing() as connection:
            return probe_leases.claim(connection, self.name, names, seconds)


def whole_history(database: Database) -> list[KeyState]:
    with database.reading() as connection:
        return [
            one.state for one in key_states.transitions(connection, "", after=0, limit=1000) if one.replica == WHOLE
        ]


async def test_a_key_is_probed_once_and_not_once_an_instance_and_by_another_when_the_first_has_died(
    database: Database,
) -> None:
    hsm = Hsm()
    async with contextlib.AsyncExitStack() as stack:
        three = [await stack.enter_async_context(Instance(n, hsm, database).running()) for n in range(3)]
        await until(lambda: _is(hsm.described > 2))
        began, before = asyncio.get_running_loop().time(), hsm.described
        await until(lambda: _is(hsm.described >= before + 6))
        intervals = (asyncio.get_running_loop().time() - began) / INTERVAL.total_seconds()
        # One for each interval, and of the three instances none for itself. Intervals may only be longer than set.
        assert hsm.described - before <= intervals / 0.9 + 2
        assert all(one.state() is KeyState.AVAILABLE for one in three)
        for one in three[:2]:
            one.probing.cancel()
        now = hsm.described
        await until(lambda: _is(hsm.described >= now + 2))


async def test_a_revocation_that_one_finds_all_know_and_it_is_written_once(database: Database) -> None:
    hsm = Hsm()
    async with contextlib.AsyncExitStack() as stack:
        three = [await stack.enter_async_context(Instance(n, hsm, database).running(probing=False)) for n in range(3)]
        for one in three:
            await one.ring.generate(KEY, {}, None)
        await until(lambda: _is(whole_history(database) == [KeyState.AVAILABLE]))
        began = three[1].board.moment
        hsm.state = KeyState.REVOKED
        with pytest.raises(KeyRevoked):
            await three[0].ring.generate(KEY, {}, None)
        await until(lambda: _is(all(one.revocations == ["so it is"] for one in three)))
        assert all(one.state() is KeyState.REVOKED for one in three)
        # A use by another instance that began before it heard of it undoes nothing, here or there.
        three[1].board.saw(KEY.name, "hsm", KeyState.AVAILABLE, "", system_clock(), began=began)
        assert three[1].state() is KeyState.REVOKED
        hsm.state = KeyState.AVAILABLE

        async def used_again_by_one_and_so_for_all() -> bool:
            await three[2].ring.generate(KEY, {}, None)
            return all(one.state() is KeyState.AVAILABLE for one in three)

        await until(used_again_by_one_and_so_for_all)
        assert whole_history(database) == [KeyState.AVAILABLE, KeyState.REVOKED, KeyState.AVAILABLE]
        # Each hears of all changes, its own too: of the place and of the key as a whole.
        wanted = [KeyState.REVOKED, KeyState.REVOKED, KeyState.AVAILABLE, KeyState.AVAILABLE]
        await until(lambda: _is(all([c.state for c in one.transitions][-4:] == wanted for one in three)))


async def test_while_the_database_is_away_each_probes_by_itself_and_writes_when_it_is_back(database: Database) -> None:
    hsm = Hsm()
    one = Instance(1, hsm, database)
    one.away = True
    async with one.running():
        await until(lambda: _is(hsm.described > 2))
        hsm.state = KeyState.UNREACHABLE
        await until(lambda: _is(one.state() is KeyState.UNREACHABLE))
        assert whole_history(database) == []
        one.away = False
        await until(lambda: _is(whole_history(database) == [KeyState.UNREACHABLE]))


async def _is(condition: bool) -> bool:
    return condition
