from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ownkey.container import new_branch_id
from ownkey.wrapped_key import WrappedKey
from ownkey_server.domain.audit import Action
from ownkey_server.domain.branch_keys import BranchKey, BranchKeyState
from ownkey_server.domain.errors import (
    AuditUnavailable,
    CiphertextInvalid,
    DatabaseUnavailable,
    DeadlineExceeded,
    KeyMisconfigured,
    KeyNotFound,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    TenantNotFound,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, KeyLifecycle, Replica
from ownkey_server.keystores import catalog
from ownkey_server.keystores.catalog import Pkcs11Options
from ownkey_server.secret_sources import SecretReference
from ownkey_server.storage import branch_keys as kept
from ownkey_server.storage.database import Database
from ownkey_server.storage.registry import Change, required
from support.branches import LEASE, Instance, ScopedStore, chat, instance, recording, tenant_of
from support.softhsm import SoftHsm

KEY = "tenants/acme/keys/main"


@pytest.fixture
def keys_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
async def one(database: Database, keys_folder: Path) -> AsyncIterator[Instance]:
    async with instance(database, keys_folder) as made:
        yield made


@pytest.fixture
async def graced(database: Database, keys_folder: Path) -> AsyncIterator[Instance]:
    async with instance(database, keys_folder, tenants=[tenant_of(grace=120.0)]) as made:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


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
