"""Branch keys in the database: kept before they are used, opened by whoever may, and by nobody else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ownkey.container import new_branch_id
from ownkey.wrapped_key import WrappedKey
from ownkey_server.domain.branch_keys import BranchKeyState
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyNotFound,
    KeyRevoked,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import KeyLifecycle
from ownkey_server.keystores import catalog
from ownkey_server.keystores.catalog import Pkcs11Options
from ownkey_server.secret_sources import SecretReference
from ownkey_server.storage import branch_keys as kept
from ownkey_server.storage.database import Database
from support.branches import KEY, LEASE, Instance, chat, instance, recording, tenant_of, until
from support.softhsm import SoftHsm


async def test_a_branch_key_wraps_until_its_age_and_opens_for_ever(one: Instance) -> None:
    old = await one.generate()
    one.clock.seconds = timedelta(days=30).total_seconds() + 1
    new = await one.generate()
    assert old.wrapped.provider_info != new.wrapped.provider_info
    await one.unwrap(old)
    await one.unwrap(new)
    with one.database.reading() as connection:
        found = kept.listed(connection, "acme", KEY, "", 10)
    assert {(one.version, one.state) for one in found} == {
        (1, BranchKeyState.DECRYPT_ONLY),
        (2, BranchKeyState.ACTIVE),
    }


async def test_a_restart_and_another_instance_open_what_was_wrapped(database: Database, keys_folder: Path) -> None:
    async with instance(database, keys_folder) as first, instance(database, keys_folder) as second:
        mine, other = await asyncio.gather(first.generate(), second.generate())
        assert mine.wrapped.provider_info == other.wrapped.provider_info
        assert (await second.unwrap(mine)).plaintext.reveal() == mine.plaintext.reveal()
        assert (await first.unwrap(other)).plaintext.reveal() == other.plaintext.reveal()
    with database.reading() as connection:
        assert len(kept.listed(connection, "acme", None, "", 10)) == 1
    async with instance(database, keys_folder) as third:
        assert (await third.unwrap(mine)).plaintext.reveal() == mine.plaintext.reveal()
        assert third.store.calls == ["unwrap"]


async def test_a_death_between_making_and_using_loses_nothing(database: Database, keys_folder: Path) -> None:
    async with instance(database, keys_folder) as first:
        made, use = await first.source.make("acme", first.tenants["acme"].keys["main"])
        use.value.plaintext.wipe()  # before it was kept: nobody ever had it
        made, use = await first.source.make("acme", first.tenants["acme"].keys["main"])
        await first.source.keep(made, use, "")
        use.value.plaintext.wipe()  # after
    async with instance(database, keys_folder) as second:
        issued = await second.generate()
        assert issued.wrapped.provider_info == b"v1." + made.id.encode()
        assert second.store.calls == ["unwrap"]


async def test_what_could_not_be_kept_wraps_nothing(one: Instance) -> None:
    def the_transaction_fails() -> None:
        raise RuntimeError("killed")

    one.changes.before_commit = the_transaction_fails
    with pytest.raises(RuntimeError):
        await one.generate()
    assert one.branches.held == 0
    one.changes.before_commit = lambda: None
    await one.unwrap(await one.generate())


async def test_a_change_of_the_active_branch_key_counts_at_once_elsewhere(
    database: Database, keys_folder: Path
) -> None:
    async with instance(database, keys_folder) as first, instance(database, keys_folder) as second:
        before = await first.generate()
        assert (await second.generate()).wrapped.provider_info == before.wrapped.provider_info
        made, _ = await first.source.make("acme", first.tenants["acme"].keys["main"])
        with database.writing() as connection:
            kept.add(connection, made, before.wrapped.provider_info[3:].decode())
        second.put(replace(second.tenants["acme"]))  # another view, as when the feed tells of a change
        assert (await second.generate()).wrapped.provider_info == b"v1." + made.id.encode()
        await second.unwrap(before)


async def test_recordings_are_wrapped_directly_and_open_whatever_policy_says_later(one: Instance) -> None:
    direct = await one.generate(recording())
    assert direct.wrapped.provider_id == "ownkey-embedded"
    await one.unwrap(direct, recording())
    through = await one.generate()
    assert through.wrapped.provider_id == "ownkey-branch"


async def test_another_tenant_s_branch_key_is_not_found(database: Database, keys_folder: Path) -> None:
    tenants = [tenant_of("acme"), tenant_of("globex")]
    async with instance(database, keys_folder, tenants=tenants) as one:
        theirs = await one.generate()
        context = dict(theirs.context) | {"ownkey:tenant": "globex"}
        for cached in (True, False):
            with pytest.raises(KeyNotFound):
                await one.unwrap(theirs, chat("globex"), context=context, named_key="")
            if cached:
                one.clock.seconds = LEASE
        assert one.store.calls == ["generate_data_key"]


async def test_changed_bytes_are_refused_and_say_nothing_of_the_key(one: Instance) -> None:
    issued = await one.generate()
    raw = issued.wrapped.ciphertext
    for position in range(len(raw)):
        changed = replace(issued.wrapped, ciphertext=raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        with pytest.raises(CiphertextInvalid):
            await one.unwrap(issued, entries=[changed])
    for broken in (raw[:-1], raw + b"\0", b""):
        with pytest.raises(CiphertextInvalid):
            await one.unwrap(issued, entries=[replace(issued.wrapped, ciphertext=broken)])
    with pytest.raises(CiphertextInvalid):
        await one.unwrap(issued, context=dict(issued.context) | {"more": "x"})
    for info in (b"v1." + b"0" * 32, b"v2." + issued.wrapped.provider_info[3:], issued.wrapped.provider_info.upper()):
        with pytest.raises(KeyNotFound):
            await one.unwrap(issued, entries=[replace(issued.wrapped, provider_info=info)])
    with pytest.raises(KeyNotFound):
        await one.unwrap(issued, named_key="tenants/acme/keys/other")
    evidence = one.board.of(one.tenants["acme"].keys["main"], one.clock())
    assert evidence is not None
    assert evidence.state is KeyState.AVAILABLE
    assert one.branches.held == 1


async def test_a_branch_key_that_was_exchanged_in_the_database_ends_its_lease(one: Instance) -> None:
    issued = await one.generate()
    await one.unwrap(issued)
    branch_id = issued.wrapped.provider_info[3:].decode()
    # Somebody who may use the customer key, and write to the database, puts a key of their own in its place.
    with one.database.writing() as connection:
        (branch,) = kept.find(connection, "acme", [branch_id])
    use = await one.ring.generate(one.tenants["acme"].keys["main"], branch.context, None)
    with one.database.writing() as connection:
        kept.rewrap(connection, branch, KEY, WrappedKey(KEY, (use.value.wrapped,)).to_bytes())
    one.clock.seconds = LEASE - 0.04
    await one.settle()
    assert one.branches.held == 0


async def test_a_retired_key_s_branch_keys_open_and_wrap_nothing_and_a_removed_one_s_do_neither(one: Instance) -> None:
    issued = await one.generate()
    tenant = one.tenants["acme"]
    retired = replace(tenant.keys["main"], lifecycle=KeyLifecycle.RETIRED)
    one.put(replace(tenant, keys={"main": retired}))
    await one.unwrap(issued)
    with pytest.raises(KeyMisconfigured, match="retired"):
        await one.generate()
    other = replace(tenant.keys["main"], name="tenants/acme/keys/other")
    policy = replace(tenant.policy, default=replace(tenant.policy.default, key="other"))
    one.put(replace(tenant, keys={"other": other}, policy=policy))
    with pytest.raises(KeyNotFound):
        await one.unwrap(issued)
    assert one.branches.held == 0


async def test_all_keys_are_wiped_at_the_end(database: Database, keys_folder: Path) -> None:
    async with instance(database, keys_folder) as one:
        await one.generate()
        plaintext = next(iter(one.branches._leases)).plaintext
        assert plaintext.reveal() != bytes(32)
        assert plaintext.reveal().hex() not in repr(next(iter(one.branches._leases)))
    assert plaintext.reveal() == bytes(32)


async def test_the_lease_is_counted_from_before_the_key_store_was_asked(one: Instance) -> None:
    issued = await one.generate()
    one.clock.seconds = LEASE
    one.store.gate = asyncio.Event()
    waiting = asyncio.ensure_future(one.unwrap(issued))
    await until(lambda: len(one.store.calls) >= 2)
    one.clock.seconds = LEASE + 20  # it takes its time
    one.store.gate.set()
    await waiting
    one.clock.seconds = 2 * LEASE - 0.001
    await one.unwrap(issued)
    assert len(one.store.calls) == 2
    one.clock.seconds = 2 * LEASE
    await one.unwrap(issued)
    assert len(one.store.calls) == 3


@pytest.mark.parametrize("mechanism", ["aes-gcm", "aes-key-wrap"])
async def test_a_token_makes_opens_and_takes_back_branch_keys(
    database: Database, tmp_path: Path, softhsm: SoftHsm, mechanism: str
) -> None:
    label = f"branches-{new_branch_id()[:16]}"
    pin = SecretReference.file(softhsm.make_token(label))
    store = catalog.open_key_store("keys", Pkcs11Options(softhsm.module, label, pin, mechanism), softhsm.modules)
    async with instance(database, tmp_path, holder=store) as one:
        issued = await one.generate()
        for _ in range(20):
            assert (await one.unwrap(issued)).plaintext.reveal() == issued.plaintext.reveal()
        assert one.store.calls == ["generate_data_key"]
        one.clock.seconds = LEASE
        await one.unwrap(issued)
        assert one.store.calls == ["generate_data_key", "unwrap"]
        softhsm.withdraw_rights(label, "acme-main")
        one.clock.seconds = 2 * LEASE - 0.001
        await one.unwrap(issued)
        one.clock.seconds = 2 * LEASE
        with pytest.raises(KeyRevoked):
            await one.unwrap(issued)
        assert one.branches.held == 0
    await store.close()
