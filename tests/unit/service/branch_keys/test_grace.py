"""What an outage does to a lease, and a grace, and what no grace is for."""

from __future__ import annotations

import asyncio
import functools
from datetime import timedelta

import pytest

from ownkey_server.domain.audit import Action
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    TenantNotFound,
)
from ownkey_server.domain.tenants import KeyLifecycle
from ownkey_server.storage import branch_keys as kept
from ownkey_server.storage.registry import Change, required
from support.branches import LEASE, Instance


@pytest.mark.parametrize("failure", [KeyUnreachable, KeyStoreThrottled])
async def test_an_outage_lets_a_lease_run_to_its_end_and_no_further(
    one: Instance, failure: type[KeyStoreError]
) -> None:
    issued = await one.generate()
    await one.unwrap(issued)
    one.store.failure = failure
    one.clock.seconds = LEASE - 0.04
    await one.settle()
    await one.unwrap(issued)
    one.clock.seconds = LEASE
    for _ in range(3):
        with pytest.raises(failure):
            await one.unwrap(issued)
    one.store.failure = None
    await one.unwrap(issued)


async def test_a_grace_bridges_an_outage_says_so_and_ends(graced: Instance) -> None:
    issued = await graced.generate()
    graced.store.failure = KeyUnreachable
    graced.clock.seconds = LEASE + 30
    opened = await graced.unwrap(issued)
    assert graced.records[-1].detail["outage_grace_seconds"] == 30.0
    assert graced.records[-1].cached
    assert opened.lease_expires_at == graced.clock() + timedelta(seconds=30)
    calls = len(graced.store.calls)
    for _ in range(100):
        await graced.unwrap(issued)
    assert len(graced.store.calls) - calls <= 1  # nobody waits, and nobody storms the key store
    graced.clock.seconds = LEASE + 110
    opened = await graced.unwrap(issued)
    assert opened.lease_expires_at == graced.clock() + timedelta(seconds=10)
    graced.clock.seconds = LEASE + 120
    await graced.settle()
    with pytest.raises(KeyUnreachable):
        await graced.unwrap(issued)
    assert graced.branches.held == 0


async def test_a_grace_is_none_against_a_revocation_nor_against_any_other_answer(graced: Instance) -> None:
    issued = await graced.generate()
    graced.store.failure = KeyUnreachable
    graced.clock.seconds = LEASE + 10
    await graced.unwrap(issued)
    graced.store.failure = None
    graced.disable()
    graced.clock.seconds += 2
    # The key store could not say no yet: the grace serves once more, and by that the key store is asked.
    graced.store.gate = asyncio.Event()
    opened = await graced.unwrap(issued)
    assert opened.plaintext.reveal() == issued.plaintext.reveal()
    assert graced.records[-1].detail["outage_grace_seconds"] == 12.0
    graced.store.gate.set()
    await graced.settle()
    assert graced.branches.held == 0
    # From its no on, and with all of the grace still to come, nothing serves: not when it is away again either.
    with pytest.raises(KeyRevoked):
        await graced.unwrap(issued)
    graced.store.failure = KeyUnreachable
    for seconds in (LEASE + 13, LEASE + 60, LEASE + 119):
        graced.clock.seconds = seconds
        with pytest.raises(KeyStoreError):
            await graced.unwrap(issued)
    assert graced.branches.held == 0


async def test_an_outage_is_no_way_around_a_revocation_that_was_seen(graced: Instance) -> None:
    issued = await graced.generate()
    key = graced.known.tenants["acme"].keys["main"]
    graced.disable()
    await graced.ring.probe(key)
    graced.store.failure = KeyUnreachable
    graced.board.saw_error(key.name, KeyUnreachable("keys", "acme-main", "away"), graced.clock())
    for seconds in (1, LEASE - 1, LEASE + 30):
        graced.clock.seconds = seconds
        with pytest.raises(KeyStoreError):
            await graced.unwrap(issued)
    assert graced.branches.held == 0


@pytest.mark.parametrize("lifecycle", [KeyLifecycle.RETIRED, KeyLifecycle.REMOVED])
async def test_nothing_is_kept_under_a_key_that_left_meanwhile(one: Instance, lifecycle: KeyLifecycle) -> None:
    key = one.known.tenants["acme"].keys["main"]
    with one.database.writing() as connection:
        change = Change(connection, one.clock())
        change.insert_key(key.name, "acme", lifecycle, key.replicas, None)
    with pytest.raises(KeyMisconfigured, match="retired or removed meanwhile"):
        await one.generate()
    with one.database.reading() as connection:
        assert kept.under(connection, key.name) == 0


async def test_nothing_is_kept_for_a_tenant_that_was_deleted_meanwhile(one: Instance) -> None:
    with one.database.writing() as connection:
        change = Change(connection, one.clock())
        change.delete_tenant(required(change.tenant("acme"), ""), "*")
    with pytest.raises(TenantNotFound):
        await one.generate()
    with one.database.reading() as connection:
        assert kept.of_tenant(connection, "acme", None) == 0
    # The key was used all the same, and the trail says so.
    assert (one.records[0].action, one.records[0].reason) == (Action.MAKE_BRANCH_KEY, "TENANT_NOT_FOUND")


@pytest.mark.parametrize("failure", [KeyStoreThrottled, KeyMisconfigured, CiphertextInvalid])
async def test_a_grace_is_for_an_unreachable_key_store_alone(graced: Instance, failure: type[KeyStoreError]) -> None:
    issued = await graced.generate()
    graced.store.failure = failure
    graced.clock.seconds = LEASE + 1
    with pytest.raises(failure):
        await graced.unwrap(issued)


async def test_a_grace_ends_with_the_outage_when_the_key_store_says_that_it_is_too_busy(graced: Instance) -> None:
    issued = await graced.generate()
    graced.store.failure = KeyUnreachable
    graced.clock.seconds = LEASE + 10
    await graced.unwrap(issued)
    graced.store.failure = KeyStoreThrottled
    graced.clock.seconds += 2
    graced.store.gate = asyncio.Event()
    await graced.unwrap(issued)  # it could not say so yet
    graced.store.gate.set()
    await graced.settle()
    for _ in range(2):
        with pytest.raises(KeyStoreThrottled):
            await graced.unwrap(issued)
    graced.store.failure = KeyUnreachable  # away again, and within what the tenant has chosen
    await graced.unwrap(issued)
    assert graced.records[-1].detail["outage_grace_seconds"] == 12.0


async def test_a_bound_of_our_own_is_no_sign_that_an_outage_is_over(graced: Instance) -> None:
    issued = await graced.generate()
    graced.store.failure = KeyUnreachable
    graced.clock.seconds = LEASE + 10
    await graced.unwrap(issued)
    graced.store.failure = functools.partial(KeyStoreThrottled, ours=True)
    calls = len(graced.store.calls)
    for seconds in (2.0, 4.0):
        graced.clock.seconds = LEASE + 10 + seconds
        await graced.unwrap(issued)
        await graced.settle()
        used = [record for record in graced.records if record.action == Action.UNWRAP]
        assert used[-1].detail["outage_grace_seconds"] == 10 + seconds
    assert len(graced.store.calls) == calls + 2


async def test_after_an_outage_a_lease_is_whole_again(graced: Instance) -> None:
    issued = await graced.generate()
    graced.store.failure = KeyUnreachable
    graced.clock.seconds = LEASE + 10
    await graced.unwrap(issued)
    graced.store.failure = None
    graced.clock.seconds += 2
    await graced.unwrap(issued)
    await graced.settle()
    opened = await graced.unwrap(issued)
    assert "outage_grace_seconds" not in graced.records[-1].detail
    assert opened.lease_expires_at == graced.clock() + timedelta(seconds=30)
