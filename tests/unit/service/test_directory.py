from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ownkey_server.domain.errors import DatabaseUnavailable, TenantNotFound, ViewStale
from ownkey_server.domain.policy import Effect, Outcome, Policy
from ownkey_server.domain.tenants import CustomerKey, Replica, Tenant
from ownkey_server.storage.views import PROVIDER, Changes
from support.services import KnownTenants, directory_of

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
MAIN = CustomerKey("tenants/acme/keys/main", (Replica("embedded", "acme-main"),))
PROVIDER_KEY = CustomerKey("provider/keys/main", (Replica("embedded", "provider"),))
ACME = Tenant("acme", NOW, {"main": MAIN}, Policy((), Outcome(Effect.DENY)), policy_version=1)


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as running:
        yield running


@pytest.fixture
def known() -> KnownTenants:
    return KnownTenants({"acme": ACME}, PROVIDER_KEY)


def of(*tenants: str, revision: int = 1) -> Changes:
    return Changes(revision, frozenset(tenants))


async def test_a_tenant_is_loaded_once_and_then_known(known: KnownTenants, executor: ThreadPoolExecutor) -> None:
    directory = await directory_of(known, executor)
    assert [await directory.tenant("acme") for _ in range(3)] == [ACME] * 3
    assert known.questions == ["acme"]


async def test_many_who_ask_at_once_ask_the_database_once(known: KnownTenants, executor: ThreadPoolExecutor) -> None:
    directory = await directory_of(known, executor)
    assert await asyncio.gather(*(directory.tenant("acme") for _ in range(50))) == [ACME] * 50
    assert known.questions == ["acme"]


async def test_that_there_is_no_such_tenant_is_known_too_until_there_is(
    known: KnownTenants, executor: ThreadPoolExecutor
) -> None:
    directory = await directory_of(known, executor)
    for _ in range(3):
        with pytest.raises(TenantNotFound):
            await directory.tenant("umbrella")
    assert known.questions == ["umbrella"]
    known.tenants["umbrella"] = replace(ACME, id="umbrella")
    await directory.changed(1000.0, of("umbrella"))
    assert (await directory.tenant("umbrella")).id == "umbrella"


@pytest.mark.parametrize("junk", ["", "Acme", "a" * 64, "a\0b", "../acme", "x" * 1_000_000])
async def test_what_can_be_no_tenant_costs_no_question(
    known: KnownTenants, executor: ThreadPoolExecutor, junk: str
) -> None:
    directory = await directory_of(known, executor)
    with pytest.raises(TenantNotFound) as caught:
        await directory.tenant(junk)
    assert (known.questions, directory.size) == ([], 0)
    assert len(str(caught.value)) < 200


async def test_a_change_counts_from_the_next_question_on(known: KnownTenants, executor: ThreadPoolExecutor) -> None:
    directory = await directory_of(known, executor)
    await directory.tenant("acme")
    known.tenants["acme"] = replace(ACME, policy_version=2)
    await directory.changed(1000.0, of("acme"))
    assert (await directory.tenant("acme")).policy_version == 2
    known.tenants["acme"] = replace(ACME, policy_version=3)
    await directory.changed(1000.0, Changes(9, None))
    assert (await directory.tenant("acme")).policy_version == 3


async def test_a_change_during_loading_is_not_lost(known: KnownTenants, executor: ThreadPoolExecutor) -> None:
    directory = await directory_of(known, executor)
    reading, changed = threading.Event(), threading.Event()

    def wait_once(_: str) -> None:
        if not reading.is_set():
            reading.set()
            changed.wait(10)

    known.before_answer = wait_once
    asking = asyncio.ensure_future(directory.tenant("acme"))
    await asyncio.to_thread(reading.wait, 10)
    known.tenants["acme"] = replace(ACME, policy_version=2)
    await directory.changed(1000.0, of("acme"))
    changed.set()
    assert (await asking).policy_version == 2
    assert (await directory.tenant("acme")).policy_version == 2


async def test_without_word_the_last_view_serves_up_to_its_age_and_not_beyond(
    known: KnownTenants, executor: ThreadPoolExecutor
) -> None:
    time = Time()
    directory = await directory_of(known, executor, max_age=30.0, monotonic=time)
    await directory.tenant("acme")
    known.failure = DatabaseUnavailable("gone")
    time.now += 30
    assert await directory.tenant("acme") == ACME
    time.now += 0.001
    with pytest.raises(ViewStale):
        await directory.tenant("acme")
    assert directory.last_known("acme") == ACME, "an emergency call is decided by it all the same"
    known.failure = None
    await directory.changed(time.now, of())
    assert await directory.tenant("acme") == ACME


async def test_word_that_was_asked_for_earlier_does_not_make_a_view_younger(
    known: KnownTenants, executor: ThreadPoolExecutor
) -> None:
    time = Time()
    directory = await directory_of(known, executor, max_age=30.0, monotonic=time)
    await directory.tenant("acme")
    time.now += 40
    await directory.changed(time.now - 35, of())
    with pytest.raises(ViewStale):
        await directory.tenant("acme")


async def test_what_cannot_be_loaded_is_an_error_and_no_unknown_tenant(
    known: KnownTenants, executor: ThreadPoolExecutor
) -> None:
    directory = await directory_of(known, executor)
    known.failure = DatabaseUnavailable("gone")
    with pytest.raises(DatabaseUnavailable):
        await directory.tenant("acme")
    known.failure = None
    assert await directory.tenant("acme") == ACME


async def test_the_cache_is_bounded_and_keeps_whom_one_asks_for(
    known: KnownTenants, executor: ThreadPoolExecutor
) -> None:
    known.tenants |= {f"t{number}": replace(ACME, id=f"t{number}") for number in range(10)}
    directory = await directory_of(known, executor, capacity=3)
    for number in range(10):
        await directory.tenant("acme")
        await directory.tenant(f"t{number}")
    assert directory.size == 3
    assert known.questions.count("acme") == 1


async def test_the_provider_s_key_follows_changes(known: KnownTenants, executor: ThreadPoolExecutor) -> None:
    directory = await directory_of(known, executor)
    known.provider = replace(PROVIDER_KEY, replicas=(Replica("hsm", "provider"),))
    await directory.changed(1000.0, of("acme"))
    assert directory.provider_key == PROVIDER_KEY
    await directory.changed(1000.0, of(PROVIDER))
    assert directory.provider_key == known.provider


async def test_keys_of_tenants_that_nobody_asks_for_are_not_in_use(
    known: KnownTenants, executor: ThreadPoolExecutor
) -> None:
    time = Time()
    other = CustomerKey("tenants/t1/keys/main", (Replica("embedded", "t1"),))
    known.tenants["t1"] = replace(ACME, id="t1", keys={"main": other})
    directory = await directory_of(known, executor, monotonic=time, max_age=1e9)
    await directory.tenant("acme")
    time.now += 500
    await directory.tenant("t1")
    assert directory.keys_in_use(600) == [other, MAIN, PROVIDER_KEY]
    time.now += 200
    assert directory.keys_in_use(600) == [other, PROVIDER_KEY]


async def test_a_changed_tenant_s_last_view_serves_emergency_calls_until_it_is_loaded_anew(
    known: KnownTenants, executor: ThreadPoolExecutor
) -> None:
    directory = await directory_of(known, executor)
    await directory.tenant("acme")
    known.failure = DatabaseUnavailable("gone")
    for changes in (of("acme"), Changes(9, frozenset({"acme"}))):
        await directory.changed(1000.0, changes)
        assert directory.last_known("acme") == ACME
        with pytest.raises(DatabaseUnavailable):
            await directory.tenant("acme")
    known.failure = None
    known.tenants["acme"] = replace(ACME, policy_version=2)
    assert (await directory.tenant("acme")).policy_version == 2


async def test_a_deleted_tenant_is_gone(known: KnownTenants, executor: ThreadPoolExecutor) -> None:
    directory = await directory_of(known, executor)
    await directory.tenant("acme")
    del known.tenants["acme"]
    await directory.changed(1000.0, of("acme"))
    with pytest.raises(TenantNotFound):
        await directory.tenant("acme")
    assert directory.last_known("acme") is None


async def test_who_asks_for_tenants_that_are_none_drives_no_tenant_out(
    known: KnownTenants, executor: ThreadPoolExecutor
) -> None:
    directory = await directory_of(known, executor, capacity=3)
    await directory.tenant("acme")
    for number in range(1500):
        with pytest.raises(TenantNotFound):
            await directory.tenant(f"nobody-{number}")
    assert directory.last_known("acme") == ACME
    assert await directory.tenant("acme") == ACME
    assert known.questions.count("acme") == 1
