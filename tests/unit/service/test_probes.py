"""When keys are probed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.probes import LOOK_SECONDS, Probes
from ownkey_server.service.status_board import StatusBoard
from support.key_stores import until
from support.services import KnownTenants, directory_of

PROVIDER = CustomerKey("provider/keys/main", (Replica("files", "provider"),))


class CountedRing(KeyRing):
    probed = 0

    async def probe(self, key: CustomerKey) -> None:
        self.probed += 1


async def test_a_key_that_traffic_shows_to_work_is_looked_at_once_a_minute_all_the_same() -> None:
    now = [datetime(2026, 11, 23, 16, 30, tzinfo=UTC)]
    board = StatusBoard(timedelta(seconds=60))
    rounds = 0

    def clock() -> datetime:
        nonlocal rounds
        rounds += 1
        board.saw(PROVIDER.name, "files", KeyState.AVAILABLE, "", now[0], began=board.moment)  # traffic, all the time
        return now[0]

    with ThreadPoolExecutor(1) as executor:
        directory = await directory_of(KnownTenants({}, PROVIDER), executor)
        ring = CountedRing({}, board, clock, timedelta(seconds=5))
        probes = Probes(directory, ring, board, clock, timedelta(seconds=0.02))
        running = asyncio.create_task(probes.run())

        async def some_rounds(seen: list[int]) -> None:
            seen[:] = [rounds]

            async def passed() -> bool:
                return rounds > seen[0] + 20

            await until(passed)

        for minutes in range(1, 4):
            await some_rounds([])
            assert ring.probed == minutes
            now[0] += timedelta(seconds=LOOK_SECONDS)
        running.cancel()
        await asyncio.wait([running])
        await probes.close()
