"""Administrators' processes killed at random moments: a change is made whole, with its record, or not at all."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from e2e.durability import change_groups, trail
from e2e.durability.instances import until
from e2e.durability.test_kill import seeded
from ownkey_server.storage.audit.signing import load_or_make_signer
from ownkey_server.storage.database import Database
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.registry import Change, Reader

GROUPS = ("one", "two", "three")
USERS = 100
KILLS_EACH = 10
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def users_of(generation: int) -> tuple[str, ...]:
    return tuple(sorted(f"{generation:06}-{number}" for number in range(USERS)))


async def change_until_killed(url: str, key: Path, group: str, moments: random.Random) -> int:
    """Let a process change the group, kill it at a random moment; gives the last change that it told of."""
    log = key.with_name(f"{group}.log")
    with log.open("wb") as sink:
        command = [sys.executable, change_groups.__file__, url, str(key), "acme", group, str(USERS)]
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        enough = moments.randint(1, 30)
        await until(lambda: log.read_bytes().count(b"\n") >= enough or process.poll() is not None, "changes are made")
        await asyncio.sleep(moments.uniform(0, 0.03))
        assert process.poll() is None, log.read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()
    return int(log.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2])


async def test_each_change_is_whole_and_recorded_once_however_often_its_process_is_killed(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    moments, key = seeded(), tmp_path / "audit-signing.pem"
    load_or_make_signer(key)
    with database.writing() as connection:
        first = Change(connection, NOW)
        first.insert_tenant("acme", "", NOW, CallGateTable())
        for group in GROUPS:
            first.insert_group("acme", group, users_of(0))

    async def kill_often(group: str, moments: random.Random) -> int:
        for _ in range(KILLS_EACH):
            told = await change_until_killed(database_url, key, group, moments)
        return told

    told = await asyncio.gather(*(kill_often(group, random.Random(moments.random())) for group in GROUPS))
    trail.require_sound(database)
    trail.require_whole(database, key.with_name("audit-signing.pem.pub"))
    recorded = [record["detail"] for record in trail.of_action(trail.records(database), "admin.update_group")]
    with database.reading() as connection:
        reader = Reader(connection)
        revision, changed = reader.revision(), {name: at for at, name in reader.changes_since(0, 10)}
        records = {group.id: group for group in reader.groups("acme")}
    for group, last_told in zip(GROUPS, told, strict=True):
        now = records[group]
        generation = int(now.users[0].partition("-")[0])
        print(f"{group}: {generation} changes, the last one told of is {last_told}")
        assert now.users == users_of(generation), "the users are of two changes"
        assert generation in (last_told, last_told + 1), "a change that was told of is not there"
        of_group = [detail for detail in recorded if detail["resource"] == f"tenants/acme/groups/{group}"]
        added = sorted(tuple(detail["added"]) for detail in of_group)
        assert added == [users_of(number) for number in range(1, generation + 1)], "changes and records differ"
    assert revision == 1 + len(recorded), "each change has a number, and none is lost"
    newest = max(int(group.stamp.etag) for group in records.values())
    assert changed["acme"] == newest == revision
