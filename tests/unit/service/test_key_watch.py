"""Watchers: whatever happens between two connections, no change is missed, and a slow reader costs little."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey_server.domain.key_history import WHOLE, EvidenceKind, KeyTransition
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.policy import Effect, Outcome, Policy
from ownkey_server.domain.tenants import CustomerKey, Replica, Tenant
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.key_status import KeyReport, KeyStatus
from ownkey_server.service.key_watch import QUEUE, WOKEN_AT_ONCE, Heartbeat, KeyWatches, Missed, Snapshot, Told, Watcher
from ownkey_server.service.probes import Probes
from ownkey_server.service.status_board import StatusBoard
from support.services import KnownTenants, directory_of

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
PROVIDER = CustomerKey("provider/keys/main", (Replica("files", "provider"),))
MAIN = CustomerKey("tenants/acme/keys/main", (Replica("files", "main"),))
ACME = Tenant("acme", NOW, {"main": MAIN}, Policy((), Outcome(Effect.DENY)))


class Hub:
    """Watches over a history in a list."""

    def __init__(self) -> None:
        self.history: list[KeyTransition] = []
        self.pruned = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Hub]:
        def clock() -> datetime:
            return NOW

        with ThreadPoolExecutor(1) as executor:
            self.board = StatusBoard(timedelta(seconds=60))
            self.board.saw(MAIN.name, "files", KeyState.AVAILABLE, "", NOW, began=self.board.moment)
            directory = await directory_of(KnownTenants({"acme": ACME}, PROVIDER), executor)
            probes = Probes(directory, KeyRing({}, self.board, clock, timedelta(1)), self.board, clock, timedelta(1))
            status = KeyStatus(directory, self.board, probes, clock)
            self.watches = KeyWatches(directory, self.board, status, self.missed, clock)
            yield self

    def changes(self, count: int, skipped: int = 0) -> None:
        """So many changes happen, with numbers of other tenants between them."""
        for _ in range(count):
            number = self.watches.number + 1 + skipped
            state = (KeyState.REVOKED, KeyState.AVAILABLE)[len(self.history) % 2]
            change = KeyTransition(number, MAIN.name, WHOLE, None, state, "", EvidenceKind.PROBE, NOW)
            self.history.append(change)
            self.watches.heard([change], number)

    async def missed(self, tenant: str, after: int, last: int, most: int) -> Missed:
        await asyncio.sleep(0)
        found = [one for one in self.history if after < one.sequence <= last]
        whole = after >= self.pruned and len(found) <= most
        return Missed(found if whole else (), whole)


def numbers(told: list[Told]) -> list[int]:
    return [one.sequence for one in told if isinstance(one.what, KeyTransition)]


async def read(watcher: object, count: int) -> list[Told]:
    """So many messages, or all that there are."""
    found: list[Told] = []
    while len(found) < count:
        told = await watcher.next(0)  # type: ignore[attr-defined]
        if told is None or isinstance(told.what, Heartbeat):
            break
        found.append(told)
    return found


# How many changes happen while connected, how many messages are read of them before the connection is lost, and how
# many changes happen before it is there again.
rounds = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 3)), max_size=8)


@settings(max_examples=100, deadline=None)
@given(rounds)
def test_a_reconnect_at_whatever_point_misses_no_change_and_tells_none_twice(cuts: list[tuple[int, ...]]) -> None:
    async def run() -> None:
        async with Hub().running() as hub:
            token: int | None = None
            told: list[int] = []
            begun = 0
            for happen, reads, meanwhile, skipped in cuts:
                with hub.watches.watching("acme", "", token) as watcher:
                    if token is None:
                        begun = hub.watches.number
                    beginning = asyncio.create_task(watcher.beginning())
                    await asyncio.sleep(0)
                    hub.changes(happen, skipped)  # also while the history is being read
                    first = await beginning
                    messages = first + await read(watcher, reads)
                    # The connection is lost behind any message.
                    for one in messages[: max(1, len(first) - 1 + reads)] if token is not None else messages:
                        token = one.sequence
                        told += numbers([one])
                hub.changes(meanwhile, skipped)
            with hub.watches.watching("acme", "", token) as watcher:
                if token is None:
                    begun = hub.watches.number
                told += numbers([*await watcher.beginning(), *await read(watcher, 1000)])
            assert told == [one.sequence for one in hub.history if one.sequence > begun]

    asyncio.run(run())


async def test_who_reads_slowly_is_told_the_present_and_costs_a_bounded_queue() -> None:
    async with Hub().running() as hub:
        with hub.watches.watching("acme", "main", None) as slow, hub.watches.watching("acme", "", None) as quick:
            await slow.beginning()
            await quick.beginning()
            for _ in range(10 * QUEUE):
                hub.changes(1)
                assert len(slow.queue) <= QUEUE
                assert (await read(quick, 2))[0].what is hub.history[-1], "and disturbs nobody"
            told = await read(slow, 10 * QUEUE)
            assert isinstance(told[0].what, Snapshot)
            assert told[0].what.missed
            assert numbers(told) == sorted(numbers(told))
        assert len(hub.watches) == 0


async def test_a_message_is_made_once_for_all_watchers() -> None:
    async with Hub().running() as hub:
        with contextlib.ExitStack() as stack:
            all_watchers = [stack.enter_context(hub.watches.watching("acme", "", None)) for _ in range(100)]
            for one in all_watchers:
                await one.beginning()
            hub.changes(1)
            told = [(await read(one, 1))[0] for one in all_watchers]
        assert len({id(one) for one in told}) == 1


async def test_a_history_that_does_not_reach_back_is_said_to_miss_changes() -> None:
    async with Hub().running() as hub:
        hub.changes(5)
        hub.pruned = 3
        with hub.watches.watching("acme", "", 2) as watcher:
            (only,) = await watcher.beginning()
        assert isinstance(only.what, Snapshot)
        assert only.what.missed
        with hub.watches.watching("acme", "", 3) as watcher:
            assert numbers(await watcher.beginning()) == [4, 5]


CROWD = 10 * WOKEN_AT_ONCE


async def crowd(hub: Hub, stack: contextlib.ExitStack, heard: list[Told], messages: int) -> list[asyncio.Task[None]]:
    """Many watchers that wait for news, and write down what they hear, in the order in which all of them hear it."""
    watchers = [stack.enter_context(hub.watches.watching("acme", "", None)) for _ in range(CROWD)]

    async def listen(watcher: Watcher) -> None:
        for _ in range(messages):
            told = await watcher.next(3600)
            assert told is not None
            heard.append(told)

    for one in watchers:
        await one.beginning()
    tasks = [asyncio.create_task(listen(one)) for one in watchers]
    await asyncio.sleep(0)
    return tasks


async def test_others_have_their_turn_while_thousands_of_watchers_are_told() -> None:
    async with Hub().running() as hub:
        heard: list[Told] = []
        with contextlib.ExitStack() as stack:
            tasks = await crowd(hub, stack, heard, messages=1)
            hub.changes(1)
            told_between_turns, before = [], 0
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0)
                told_between_turns.append(len(heard) - before)
                before = len(heard)
        assert len(heard) == CROWD
        assert max(told_between_turns) <= 2 * WOKEN_AT_ONCE


async def test_all_watchers_hear_of_a_change_before_any_is_told_the_status_that_it_leads_to() -> None:
    async with Hub().running() as hub:
        running = asyncio.create_task(hub.watches.run())
        heard: list[Told] = []
        with contextlib.ExitStack() as stack:
            tasks = await crowd(hub, stack, heard, messages=2)
            # What is so now is no news after the first look, which is over when the hub waits again.
            hub.board.saw(MAIN.name, "files", KeyState.REVOKED, "gone", NOW, began=hub.board.moment)
            hub.changes(1)
            async with asyncio.timeout(20):
                await asyncio.gather(*tasks)
        running.cancel()
        assert all(isinstance(one.what, KeyTransition) for one in heard[:CROWD])
        assert all(isinstance(one.what, KeyReport) for one in heard[CROWD:])


async def test_many_changes_at_once_reach_everybody_once_each_and_wait_in_bounded_room() -> None:
    async with Hub().running() as hub:
        heard: list[Told] = []
        with contextlib.ExitStack() as stack:
            tasks = await crowd(hub, stack, heard, messages=20)
            hub.changes(20)
            assert len(hub.watches._to_wake) == CROWD
            async with asyncio.timeout(20):
                await asyncio.gather(*tasks)
        assert sorted(numbers(heard)) == sorted([*range(1, 21)] * CROWD)


async def test_a_first_watch_is_not_told_again_what_its_snapshot_said() -> None:
    async with Hub().running() as hub:
        with hub.watches.watching("acme", "", None) as watcher:
            [first] = await watcher.beginning()
            assert isinstance(first.what, Snapshot)
            await hub.watches._look("acme")
            assert await read(watcher, 1) == []
            hub.board.saw(MAIN.name, "files", KeyState.REVOKED, "taken", NOW, began=hub.board.moment)
            await hub.watches._look("acme")
            [news] = await read(watcher, 1)
            assert isinstance(news.what, KeyReport)
