"""Many that need a branch key at once: one asks the key store, and the others wait for it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ownkey_server.domain.errors import (
    DatabaseUnavailable,
    DeadlineExceeded,
    KeyNotFound,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.storage.database import Database
from support.branches import LEASE, Instance, ScopedStore, instance, until


async def test_of_many_that_miss_at_once_one_asks(one: Instance) -> None:
    one.store.gate = asyncio.Event()
    first = [asyncio.ensure_future(one.generate()) for _ in range(50)]
    await until(lambda: bool(one.store.calls))
    one.store.gate.set()
    issued = await asyncio.gather(*first)
    assert one.store.calls == ["generate_data_key"]
    assert len({entry.wrapped.provider_info for entry in issued}) == 1
    one.clock.seconds = LEASE
    await asyncio.gather(*(one.unwrap(entry) for entry in issued))
    assert one.store.calls == ["generate_data_key", "unwrap"]


async def test_who_gives_up_waiting_leaves_the_others_waiting(one: Instance) -> None:
    one.store.gate = asyncio.Event()
    patient = asyncio.ensure_future(one.generate())
    impatient = asyncio.ensure_future(one.generate(remaining=0.0))
    gone = asyncio.ensure_future(one.generate())
    with pytest.raises(DeadlineExceeded):
        await impatient
    await until(lambda: bool(one.store.calls))
    gone.cancel()
    one.store.gate.set()
    await patient
    assert one.board.of(one.tenants["acme"].keys["main"], one.clock()).state is KeyState.AVAILABLE  # type: ignore[union-attr]


async def test_the_caller_s_impatience_is_told_apart_from_what_keeps_it_waiting(one: Instance) -> None:
    issued = await one.generate()
    one.clock.seconds = LEASE
    one.store.gate = asyncio.Event()
    with pytest.raises(DeadlineExceeded, match="the key store had not answered"):
        await one.unwrap(issued, remaining=0.02)
    assert one.records[-1].reason == "DEADLINE_EXCEEDED"
    assert one.board.of(one.tenants["acme"].keys["main"], one.clock()).state is KeyState.AVAILABLE  # type: ignore[union-attr]
    one.store.gate.set()
    await one.settle()
    one.clock.seconds = 2 * LEASE
    reading, go = threading.Event(), threading.Event()

    def slow() -> object:
        reading.set()
        assert go.wait(20)
        raise DatabaseUnavailable("as the test says")

    one.source._database.reading = slow  # type: ignore[method-assign, assignment]
    with pytest.raises(DeadlineExceeded, match="database had not answered"):
        await one.unwrap(issued, remaining=0.02)
    patient = asyncio.ensure_future(one.unwrap(issued))
    go.set()
    with pytest.raises(DatabaseUnavailable):
        await patient


@pytest.mark.parametrize("failure", [KeyStoreThrottled, KeyUnreachable, KeyRevoked])
async def test_who_waits_for_another_s_question_is_told_what_came_of_it(
    one: Instance, failure: type[KeyStoreError]
) -> None:
    issued = await one.generate()
    one.clock.seconds = LEASE
    one.store.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(one.unwrap(issued)) for _ in range(3)]
    await until(lambda: len(one.store.calls) >= 2)
    one.store.failure = failure
    one.store.gate.set()
    assert {type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)} == {failure}
    assert len(one.store.calls) == 2


async def test_who_waited_for_another_s_question_gets_only_what_is_its_own_to_use(one: Instance) -> None:
    issued = await one.generate()
    tenant = one.tenants["acme"]
    one.clock.seconds = LEASE
    one.store.gate = asyncio.Event()
    first = asyncio.ensure_future(one.unwrap(issued))
    await until(lambda: len(one.store.calls) >= 2)
    # Between the two, the key was removed, and another bears the policy.
    other = replace(tenant.keys["main"], name="tenants/acme/keys/other")
    policy = replace(tenant.policy, default=replace(tenant.policy.default, key="other"))
    one.put(replace(tenant, keys={"other": other}, policy=policy))
    second = asyncio.ensure_future(one.unwrap(issued))
    await until(lambda: one.branches.counters.shared >= 1)
    one.store.gate.set()
    ends = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(ends[1], KeyNotFound)
    assert one.branches.held == 0


async def test_a_revocation_seen_while_a_question_was_under_way_counts_for_all_who_wait(one: Instance) -> None:
    issued = await one.generate()
    key = one.tenants["acme"].keys["main"]
    one.clock.seconds = LEASE
    one.store.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(one.unwrap(issued)) for _ in range(3)]
    await until(lambda: len(one.store.calls) >= 2)
    one.board.saw(key.name, "keys", KeyState.REVOKED, "disabled", one.clock(), began=one.board.moment)
    one.store.gate.set()
    one.disable()  # the answer under way is that of a moment before
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(end) for end in ends} == {KeyRevoked}
    assert one.branches.held == 0


async def test_who_waits_goes_before_what_nobody_waits_for(database: Database, keys_folder: Path) -> None:
    async with instance(database, keys_folder, scoped=True) as one:
        assert isinstance(one.store, ScopedStore)
        issued = await one.generate()
        await one.unwrap(issued)
        one.clock.seconds = LEASE - 0.04
        await one.settle()
        assert (one.branches.counters.renewed, one.store.behind) == (1, [False, True])
        await one.unwrap(issued)
        one.clock.seconds += LEASE - 0.04
        one.store.gate = asyncio.Event()
        one.branches.look_after()  # a renewal that gets no turn
        await until(lambda: len(one.store.calls) >= 3)
        one.clock.seconds += 1
        waiting = asyncio.ensure_future(one.unwrap(issued))
        await until(lambda: len(one.store.calls) >= 4)
        assert one.store.behind == [False, True, True, False]
        one.store.gate.set()
        await waiting
        await one.settle()
        assert one.branches.held == 1


async def test_of_two_questions_at_a_lease_s_end_the_second_to_land_takes_nothing_from_the_first(
    database: Database, keys_folder: Path
) -> None:
    async with instance(database, keys_folder, scoped=True) as one:
        issued = await one.generate()
        await one.unwrap(issued)
        one.clock.seconds = LEASE - 0.04
        one.store.gate = asyncio.Event()
        asked, filled = len(one.store.calls), one.branches.counters.filled
        one.branches.look_after()  # a renewal that is late
        await until(lambda: len(one.store.calls) > asked)
        one.clock.seconds += 1
        one.branches.look_after()  # the lease ends
        assert one.branches.held == 0
        waiting = asyncio.ensure_future(one.unwrap(issued))
        await until(lambda: len(one.store.calls) > asked + 1)
        one.store.gate.set()
        await waiting
        await one.settle()
        # One lease was made, and held on to: whoever had it from the first answer has it still.
        assert (one.branches.held, one.branches.counters.filled) == (1, filled + 1)
        # And it lasts from the later question on, whichever of the two came back last.
        assert next(iter(one.branches._leases)).until == one.clock.seconds + LEASE
