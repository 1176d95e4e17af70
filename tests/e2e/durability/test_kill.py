"""Processes killed at random moments: whatever a caller has received is recorded, and opens."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from pathlib import Path

from e2e.durability import trail
from e2e.durability.instances import Fleet, Instance, fleet, until
from e2e.durability.load import Load, require_all_open
from ownkey_server.storage.database import Database

INSTANCES = 3
KILLS = 51
WORKER_KILLS = 6
# About as long as a start takes, so that some are killed in the middle of it.
START_SECONDS = 0.8
LOST = {("UNAVAILABLE", "")}


def seeded() -> random.Random:
    """Random numbers that a failure can be repeated with."""
    seed = int(os.environ.get("OWNKEY_TEST_SEED") or random.randrange(2**32))
    print(f"repeat with OWNKEY_TEST_SEED={seed}")
    return random.Random(seed)


async def be_killed(instance: Instance, load: Load, times: int, moments: random.Random) -> None:
    """Kill it again and again: mostly while it answers, and now and then while it starts."""
    for _ in range(times):
        if moments.random() < 0.2:
            await asyncio.sleep(moments.uniform(0, START_SECONDS))
        else:
            await instance.serving()
            enough = load.answers[instance.name] + moments.randint(1, 100)
            await until(lambda enough=enough: load.answers[instance.name] >= enough, "calls are answered")  # type: ignore[misc]
            await asyncio.sleep(moments.uniform(0, 0.01))
        instance.kill()
        instance.start()


async def require_nothing_lost(servers: Fleet, load: Load, database: Database) -> int:
    """Everything that was received is recorded and opens; gives the number of chains."""
    assert set(load.failures) <= LOST, load.failures
    await require_all_open(await servers.instances[0].serving(), load.received)
    for instance in servers.instances:
        await instance.stop()
    trail.require_recorded(database, load.received)
    trail.require_sound(database)
    return trail.require_whole(database, servers.public_key)


async def test_no_data_key_leaves_without_its_record_however_often_servers_are_killed(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    moments, load = seeded(), Load()
    async with fleet(tmp_path / "servers", database_url, INSTANCES) as servers:
        async with load.on(*servers.instances):
            await asyncio.gather(
                *(
                    be_killed(one, load, KILLS // INSTANCES, random.Random(moments.random()))
                    for one in servers.instances
                )
            )
            await asyncio.gather(*(one.serving() for one in servers.instances))
        chains = await require_nothing_lost(servers, load, database)
    print(f"{KILLS} kills, {len(load.received)} data keys received, {chains} chains, lost calls: {load.failures}")
    assert len(load.received) > KILLS


async def test_killed_workers_are_replaced_and_no_data_key_leaves_without_its_record(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    moments, load = seeded(), Load()
    async with fleet(tmp_path / "servers", database_url, 0) as servers:
        parent = servers.add("--workers", "2")
        parent.start()
        await parent.serving()
        async with load.on(parent, callers=8):
            for killed in range(WORKER_KILLS):
                serving = _workers(parent)[-2:] if killed == 0 else [pid for pid in _workers(parent) if _runs(pid)]
                enough = load.answers[parent.name] + moments.randint(1, 100)
                await until(lambda enough=enough: load.answers[parent.name] >= enough, "calls are answered")  # type: ignore[misc]
                os.kill(moments.choice(serving), signal.SIGKILL)
                await until(lambda killed=killed: len(_workers(parent)) == killed + 3, "it is replaced")  # type: ignore[misc]
        await require_nothing_lost(servers, load, database)
    print(f"{WORKER_KILLS} kills, {len(load.received)} data keys received, lost calls: {load.failures}")


def _workers(parent: Instance) -> list[int]:
    """Of all that ever served."""
    return [int(pid) for pid in re.findall(r"is ready \(pid (\d+)\)", parent.log)]


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
