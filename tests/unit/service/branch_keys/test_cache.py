"""What is remembered of branch keys is bounded, and what is recorded too late is not given out."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.errors import (
    KeyRevoked,
)
from ownkey_server.storage.database import Database
from support.branches import LEASE, Instance, chat, instance, tenant_of


async def test_of_as_many_tenants_as_there_is_room_for_it_is_known_which_branch_key_wraps(
    database: Database, keys_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"tenant-{number}" for number in range(5)]
    async with instance(database, keys_folder, tenants=[tenant_of(name) for name in names], capacity=4) as one:
        for name in names[:4]:
            await one.generate(chat(name))
        read = one.source.active
        asked: list[str] = []

        async def counted(tenant: str, key: str) -> BranchKey | None:
            asked.append(tenant)
            return await read(tenant, key)

        one.source.active = counted  # type: ignore[method-assign]
        for name in names[:4]:
            # The same tenant, loaded once more: another object, and nothing was changed.
            one.known.tenants[name] = replace(one.known.tenants[name])
            one.directory.forget(name)
            await one.generate(chat(name))
        assert (asked, one.branches.counters.forgotten) == ([], 0)
        await one.generate(chat(names[4]))
        assert one.branches.counters.forgotten == 1
        await one.generate(chat(names[0]))
        assert asked == [names[4], names[0]]
        assert [r.levelno for r in caplog.records if "was forgotten 1 times" in r.message] == [logging.WARNING]


async def test_what_is_recorded_too_late_is_not_given_out(one: Instance) -> None:
    issued = await one.generate()
    one.disable()

    def the_disk_is_slow() -> None:
        one.clock.seconds = LEASE

    one.clock.seconds = LEASE - 0.001
    one.uses.before_write = the_disk_is_slow
    with pytest.raises(KeyRevoked):
        await one.unwrap(issued)


async def test_the_cache_is_bounded_and_one_tenant_does_not_drive_out_the_others(
    database: Database, keys_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tenants = [tenant_of("acme"), tenant_of("globex")]
    async with instance(database, keys_folder, tenants=tenants, capacity=4, max_age=timedelta(seconds=1)) as one:
        mine = await one.generate(chat("globex"))
        held = []
        for _ in range(8):  # a new branch key each time
            one.clock.seconds += 2
            held.append(await one.generate())
        assert (one.branches.held, one.branches.counters.evicted) == (4, 5)
        calls = len(one.store.calls)
        await one.unwrap(mine, chat("globex"))
        assert len(one.store.calls) == calls
        await one.unwrap(held[0])
        assert len(one.store.calls) == calls + 1
        warnings = [
            r for r in caplog.records if r.levelno == logging.WARNING and "branch keys were let go" in r.message
        ]
        assert len(warnings) == 1
