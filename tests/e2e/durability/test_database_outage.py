"""The database goes away under load and comes back: no key without a record, and nothing decided by an old view."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from e2e.durability import trail
from e2e.durability.changes import add_tenant, change, require_in_force, seen, set_policy
from e2e.durability.instances import Fleet, fleet, until
from e2e.durability.load import Load, data_key, require_all_open
from e2e.durability.watch import (
    Ask,
    Watch,
    check_policy,
    emergency_call,
    emergency_call_of_a_stranger,
    health,
    other_call,
)
from ownkey_server.storage import upgrade
from ownkey_server.storage.database import Database
from support import postgres as postgres_server
from support.postgres import PostgresServer
from support.rpc import Rpc, connected

# Bounds that are promised in seconds say nothing on a machine that is busy with other tests.
pytestmark = pytest.mark.alone

AWAY_SECONDS = 30.0
VIEW_SECONDS = 10.0
FROZEN_SECONDS = 12.0
# A promise of this product: afterwards it serves again by itself.
RECOVERY_SECONDS = 10.0
UNKNOWN = "CALL_REASON_KEY_UNKNOWN"
IMPAIRED = {"AUDIT_UNAVAILABLE", "DATABASE_UNAVAILABLE", "VIEW_STALE"}
ALWAYS = {"emergency": emergency_call, "emergency of a stranger": emergency_call_of_a_stranger, "health": health}


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresServer]:
    """A PostgreSQL server for these tests alone."""
    with postgres_server.server() as running:
        yield running


@pytest.fixture
def url(cluster: PostgresServer) -> str:
    """Of a database with today's schema."""
    made = cluster.new_database()
    database = Database(made)
    upgrade.upgrade(database)
    database.close()
    return made


@pytest.fixture
async def servers(url: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Two instances."""
    settings = {"OWNKEY_STORAGE__VIEW_MAX_AGE_SECONDS": str(VIEW_SECONDS)}
    async with fleet(tmp_path / "servers", url, 2, **settings) as running:
        yield running


def kinds(load: Load, seconds: float) -> dict[str, Ask]:
    """Every kind of call; whoever asks for a data key waits so many seconds for it."""

    async def generate(rpc: Rpc) -> None:
        load.received.append(await data_key(rpc, seconds))

    return {"generate": generate, "check": check_policy, "call": other_call, **ALWAYS}


async def recovered(watch: Watch, since: float) -> float:
    """Wait until everything is answered everywhere again, and see it for a while; gives the seconds it took."""
    every = {call.kind for call in watch.calls}
    await until(lambda: watch.answered_everywhere(every, since), "everything works again", RECOVERY_SECONDS)
    took = time.monotonic() - since
    await until(lambda: time.monotonic() > since + took + 2, "two seconds go by")
    for kind in every:
        assert watch.outcomes(kind, since + took) == {""}, f"{kind} fails again after it had recovered"
    return took


def require_always_served(watch: Watch, what: str) -> None:
    for kind in ALWAYS:
        assert watch.outcomes(kind) == {""}
        longest = max(call.seconds for call in watch.of(kind))
        print(f"{what}: {len(watch.of(kind))} calls of kind {kind}, the longest took {longest * 1000:.0f} ms")
        assert longest < 1.0, kind


async def require_nothing_lost(servers: Fleet, load: Load) -> None:
    """Everything that was received is recorded and opens, and the trail is whole."""
    for instance in servers.instances:
        await require_all_open(instance.address, load.received)
        await instance.stop()
    database = Database(servers.url)
    trail.require_recorded(database, load.received)
    trail.require_whole(database, servers.public_key)
    database.close()


async def test_without_its_database_no_key_leaves_and_afterwards_all_is_well_again(
    cluster: PostgresServer, servers: Fleet
) -> None:
    watch, load = Watch(), Load()
    async with watch.on([one.address for one in servers.instances], kinds(load, 20)):
        await until(lambda: len(load.received) > 100, "data keys are made")
        await asyncio.to_thread(cluster.kill)
        gone = time.monotonic()
        await until(lambda: time.monotonic() > gone + AWAY_SECONDS, "the outage lasts", AWAY_SECONDS + 5)
        returning = time.monotonic()
        await asyncio.to_thread(cluster.start)
        back = time.monotonic()
        took = await recovered(watch, back)
    while_away = [call for call in watch.of("generate", gone) if call.ended < returning]
    print(f"without a database: {Counter(call.outcome for call in while_away)}; well again after {took:.1f} s")
    assert len(while_away) > 100
    assert {call.outcome for call in while_away} <= IMPAIRED
    assert watch.outcomes("check", gone, gone + VIEW_SECONDS - 1) == {""}
    assert watch.outcomes("check", gone + VIEW_SECONDS + 0.5, returning - 0.5) == {"VIEW_STALE"}
    # Telephony has an answer all the same, from memory: first as ever, then as for a key of which nothing is known.
    assert watch.outcomes("call", gone, gone + VIEW_SECONDS - 1) == {""}
    assert watch.outcomes("call", gone + VIEW_SECONDS + 0.5, returning - 0.5) == {UNKNOWN}
    require_always_served(watch, "without a database")
    await require_nothing_lost(servers, load)


async def test_while_its_database_hangs_calls_fail_in_time_and_the_service_does_not_hang(
    cluster: PostgresServer, servers: Fleet
) -> None:
    watch, load = Watch(), Load()
    patience = 2.0
    async with watch.on([one.address for one in servers.instances], kinds(load, patience)):
        await until(lambda: len(load.received) > 100, "data keys are made")
        thaw = freeze(cluster)
        frozen = time.monotonic()
        try:
            await until(lambda: time.monotonic() > frozen + FROZEN_SECONDS, "it hangs for a while", FROZEN_SECONDS + 5)
        finally:
            thawed = time.monotonic()
            thaw()
        took = await recovered(watch, thawed)
    hung = [call for call in watch.of("generate", frozen) if call.ended < thawed]
    print(f"hung: {Counter(call.outcome for call in hung)}; well again after {took:.1f} s")
    assert {call.outcome for call in hung} <= IMPAIRED | {"DEADLINE_EXCEEDED"}
    assert watch.outcomes("generate", frozen + 6, thawed - 0.1) <= IMPAIRED, "it must be told at once by now"
    assert max(call.seconds for call in watch.of("generate")) < patience + 1
    assert watch.outcomes("check", frozen, frozen + VIEW_SECONDS - 1) == {""}
    assert watch.outcomes("check", frozen + VIEW_SECONDS + 0.5, thawed) == {"VIEW_STALE"}
    assert watch.outcomes("call", frozen, frozen + VIEW_SECONDS - 1) == {""}
    assert watch.outcomes("call", frozen + VIEW_SECONDS + 0.5, thawed) == {UNKNOWN}
    for kind in ("check", "call"):
        assert max(call.seconds for call in watch.of(kind)) < 1.0
    require_always_served(watch, "hung")
    await require_nothing_lost(servers, load)


async def test_changes_are_in_force_within_a_second_although_every_connection_was_cut(url: str, servers: Fleet) -> None:
    cut = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"
    )
    database, delays = Database(url), []
    async with connected(servers.instances[0].address) as first, connected(servers.instances[1].address) as second:
        await change(database, add_tenant("cut"))
        for rpc in (first, second):
            await seen(rpc, "cut", "first", 0)
        for number in range(10):
            with database.writing() as connection:
                connection.execute(cut)
            since = await change(database, set_policy("cut", f"change-{number}"))
            delays += await asyncio.gather(*(seen(rpc, "cut", f"change-{number}", since) for rpc in (first, second)))
    database.close()
    require_in_force(delays, "after cut connections")


def freeze(cluster: PostgresServer):  # type: ignore[no-untyped-def]
    """Let every process of the database stand still; gives what lets them go on."""
    postmaster = int((cluster._data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    stopped = [postmaster]
    os.kill(postmaster, signal.SIGSTOP)  # first, so that it starts no others
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == postmaster:
            stopped.append(int(stat.parent.name))
            os.kill(stopped[-1], signal.SIGSTOP)

    def thaw() -> None:
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)

    return thaw


async def test_a_server_whose_database_hangs_still_ends_when_it_is_told_to(
    cluster: PostgresServer, url: str, tmp_path: Path
) -> None:
    settings = {"OWNKEY_SERVER__DRAIN_SECONDS": "1"}
    async with fleet(tmp_path / "servers", url, 1, **settings) as servers:
        [one] = servers.instances
        watch = Watch()
        async with watch.on([one.address], {"check": check_policy}):
            await until(lambda: len(watch.calls) > 10, "it serves")
        thaw = freeze(cluster)
        try:
            await one.stop(40)
        finally:
            thaw()
