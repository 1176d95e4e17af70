"""A branch key is held as a lease: used, recorded, renewed, and ended by a revocation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ownkey_server.domain.audit import Action
from ownkey_server.domain.errors import (
    AuditUnavailable,
    DatabaseUnavailable,
    KeyRevoked,
)
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.storage.database import Database
from support.branches import KEY, LEASE, Instance, instance, recording, tenant_of, until


async def test_one_call_of_the_key_store_serves_thousands_of_data_keys(one: Instance) -> None:
    """10,000 data keys within five minutes: at most 1 + elapsed / lease calls, in whole leases."""
    elapsed, began = 300.0, one.clock.seconds
    for number in range(10_000):
        one.clock.seconds = began + elapsed * number / 10_000
        issued = await one.generate()
        await one.settle()
        if number % 1000 == 0:
            assert (await one.unwrap(issued)).plaintext.reveal() == issued.plaintext.reveal()
    assert one.store.calls == ["generate_data_key", *["unwrap"] * (len(one.store.calls) - 1)]
    assert 4 <= len(one.store.calls) <= 1 + elapsed / LEASE
    assert one.branches.counters.cached >= 9_990


async def test_a_lease_in_use_is_renewed_before_anybody_waits_and_an_idle_one_is_wiped(one: Instance) -> None:
    await one.generate()
    one.clock.seconds += 10
    await one.generate()
    one.clock.seconds = LEASE - 0.04
    await one.settle()
    assert (one.branches.counters.renewed, one.store.calls) == (1, ["generate_data_key", "unwrap"])
    one.clock.seconds = LEASE + 1
    await one.generate()  # by the renewed lease
    assert len(one.store.calls) == 2
    held = next(iter(one.branches._leases))
    one.clock.seconds = 2 * LEASE - 0.05
    await one.settle()
    assert one.branches.counters.renewed == 2  # it was used once since
    one.clock.seconds = 4 * LEASE
    await one.settle()
    assert (one.branches.held, one.branches.counters.lapsed, len(one.store.calls)) == (0, 1, 3)
    assert held.plaintext.reveal() == bytes(32)


async def test_every_use_is_in_the_trail_and_says_whether_the_key_store_was_asked(one: Instance) -> None:
    issued = await one.generate()
    await one.unwrap(issued)
    first, second = one.records
    assert (first.action, first.cached, first.replica) == (Action.GENERATE_DATA_KEY, False, "keys")
    assert (second.action, second.cached, second.replica) == (Action.UNWRAP, True, "")
    made = one.changes.records[0]
    assert (made.action, made.key, made.tenant) == (Action.MAKE_BRANCH_KEY, KEY, "acme")
    assert first.detail["branch"] == second.detail["branch"] == made.detail["branch"]
    one.clock.seconds = LEASE
    await one.unwrap(issued)
    *_, opened, third = one.records
    assert {opened.action, third.action} == {Action.OPEN_BRANCH_KEY, Action.UNWRAP}
    assert next(r for r in (opened, third) if r.action == Action.UNWRAP).cached is False


async def test_a_branch_key_whose_opening_cannot_be_recorded_is_not_used(one: Instance) -> None:
    issued = await one.generate()
    one.clock.seconds = LEASE
    one.store.gate = asyncio.Event()
    waiting = asyncio.ensure_future(one.unwrap(issued))
    await until(lambda: one.store.calls[1:] == ["unwrap"])
    one.uses.failure = DatabaseUnavailable("as the test says")
    one.store.gate.set()
    with pytest.raises(AuditUnavailable):
        await waiting
    assert [lease.until for lease in one.branches._leases] == [LEASE]  # none but the one that has ended
    one.uses.failure = None


async def test_a_use_of_a_key_in_several_places_says_what_each_of_them_did(
    database: Database, keys_folder: Path
) -> None:
    places = (Replica("gone", "acme-main"), Replica("keys", "acme-main"))
    key = CustomerKey(KEY, places)
    async with instance(database, keys_folder, tenants=[tenant_of(keys={"main": key})]) as one:
        opened = await one.ring.generate(one.tenants["acme"].keys["main"], {}, None)
        assert opened.replica == "keys"
        await one.unwrap(await one.generate(recording()), recording())
        await one.generate()
        one.clock.seconds = LEASE
        await one.generate()
        both = [("gone", "KEY_MISCONFIGURED"), ("keys", "ok")]
        made = one.changes.records[0]
        for record in (*one.records[:2], made, next(r for r in one.records if r.action == Action.OPEN_BRANCH_KEY)):
            calls = [(call["replica"], call["result"]) for call in record.detail["key_store_calls"]]
            assert (record.replica, calls) == ("keys", both)
        assert "key_store_calls" not in one.records[2].detail  # the branch key's own record has them


async def test_after_a_revocation_nothing_is_served_beyond_the_lease(one: Instance) -> None:
    issued = await one.generate()
    one.disable()
    for second in range(0, 3 * int(LEASE), 3):
        one.clock.seconds = float(second)
        await one.settle()
        served = True
        try:
            opened = await one.unwrap(issued)
        except KeyRevoked:
            served = False
        else:
            assert opened.plaintext.reveal() == issued.plaintext.reveal()
        # A twentieth of it ahead of its end the key store is asked anew, and says no.
        assert served is (second < 0.95 * LEASE), f"{second} s after the revocation"
    assert one.branches.held == 0


async def test_a_renewal_that_the_key_store_refuses_ends_and_wipes_the_lease_at_once(one: Instance) -> None:
    issued = await one.generate()
    await one.unwrap(issued)
    plaintext = next(iter(one.branches._leases)).plaintext
    one.disable()
    one.clock.seconds = LEASE - 0.04
    await one.settle()
    assert (one.branches.held, plaintext.reveal()) == (0, bytes(32))
    with pytest.raises(KeyRevoked):
        await one.unwrap(issued)
    one.enable()
    await one.unwrap(issued)


async def test_a_revocation_that_a_probe_found_ends_leases_at_once(one: Instance) -> None:
    issued = await one.generate()
    one.disable()
    await one.ring.probe(one.tenants["acme"].keys["main"])
    with pytest.raises(KeyRevoked):
        await one.unwrap(issued)
    with pytest.raises(KeyRevoked):
        await one.generate()
    assert one.branches.held == 0
    one.enable()  # nobody has to wait for the next probe then
    await one.unwrap(issued)


async def test_the_key_of_a_revoked_lease_is_wiped_though_nobody_asks_for_it(one: Instance) -> None:
    await one.generate()
    plaintext = next(iter(one.branches._leases)).plaintext
    one.disable()
    await one.ring.probe(one.tenants["acme"].keys["main"])
    one.clock.seconds += 6
    await one.settle()
    assert plaintext.reveal() == bytes(32)
