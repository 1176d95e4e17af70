"""What every key store must make of a key that does not work: taken away, gone for now, or never right."""

from __future__ import annotations

import asyncio

import pytest

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked, KeyStoreError, KeyStoreThrottled, KeyUnreachable
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores.base import KeyMaker, KeyStore
from support.key_stores import CONTEXT, TIMEOUT, Subject, answers, both_ways, until

# Revoked, and given back


@pytest.mark.needs("revoke")
async def test_a_key_that_its_holder_disabled_is_revoked_both_ways(
    subject: Subject, store: KeyStore, key: str, other_key: str
) -> None:
    uses = await both_ways(store, key)
    subject.revoke()
    for use in uses:
        with pytest.raises(KeyRevoked) as caught:
            await use()
        assert caught.value.key == key
    assert (await store.describe(key, TIMEOUT)).state is KeyState.REVOKED
    assert await answers(store, other_key)


@pytest.mark.needs("revoke")
async def test_a_key_given_back_works_again_without_a_restart(subject: Subject, store: KeyStore, key: str) -> None:
    uses = await both_ways(store, key)
    subject.revoke()
    assert (await store.describe(key, TIMEOUT)).state is KeyState.REVOKED
    subject.restore()
    await until(lambda: answers(store, key))
    for use in uses:
        await use()


@pytest.mark.needs("forbid_opening")
async def test_a_key_that_only_wraps_is_not_available(subject: Subject, store: KeyStore, key: str) -> None:
    assert await answers(store, key)
    subject.forbid_opening()
    assert (await store.describe(key, TIMEOUT)).state is KeyState.REVOKED


@pytest.mark.needs("forbid_opening")
@pytest.mark.needs("never_worked")
async def test_a_key_that_never_opened_anything_is_misconfigured(subject: Subject, store: KeyStore, key: str) -> None:
    subject.forbid_opening()
    assert (await store.describe(key, TIMEOUT)).state is KeyState.MISCONFIGURED


# Outages


async def test_outage_is_never_reported_as_revocation(subject: Subject, store: KeyStore, key: str) -> None:
    uses = await both_ways(store, key)
    subject.break_off()
    for use in uses:
        with pytest.raises(KeyUnreachable):
            await use()
    description = await store.describe(key, TIMEOUT)
    assert description.state is KeyState.UNREACHABLE
    assert description.cause


async def test_it_comes_back_from_an_outage_without_a_restart(subject: Subject, store: KeyStore, key: str) -> None:
    uses = await both_ways(store, key)
    subject.break_off()
    assert (await store.describe(key, TIMEOUT)).state is KeyState.UNREACHABLE
    subject.mend()
    await until(lambda: answers(store, key))
    for use in uses:
        await use()


async def test_an_outage_under_load_ends_in_clean_errors_and_then_in_answers(
    subject: Subject, store: KeyStore, key: str
) -> None:
    uses = await both_ways(store, key)

    async def load() -> list[object]:
        return await asyncio.gather(*(use() for use in uses * 20), return_exceptions=True)

    before = asyncio.ensure_future(load())
    await asyncio.sleep(0)
    subject.break_off()
    during = await load()
    subject.mend()
    await until(lambda: answers(store, key))
    assert all(isinstance(result, KeyUnreachable) for result in during)
    assert not [r for r in await before if isinstance(r, BaseException) and not isinstance(r, KeyUnreachable)]
    assert not [r for r in await load() if isinstance(r, BaseException)]


@pytest.mark.needs("revoke")
async def test_a_revocation_during_an_outage_shows_when_the_outage_ends(
    subject: Subject, store: KeyStore, key: str
) -> None:
    assert await answers(store, key)
    subject.revoke()
    subject.break_off()
    assert (await store.describe(key, TIMEOUT)).state is KeyState.UNREACHABLE
    subject.mend()

    async def revoked() -> bool:
        state = (await store.describe(key, TIMEOUT)).state
        assert state in {KeyState.UNREACHABLE, KeyState.REVOKED}
        return state is KeyState.REVOKED

    await until(revoked)


@pytest.mark.needs("hang")
async def test_a_hung_store_is_given_up_in_time(subject: Subject, store: KeyStore, key: str) -> None:
    uses = await both_ways(store, key)
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    async with subject.hang():
        for use in (
            lambda: store.generate_data_key(key, CONTEXT, 0.05),
            lambda: store.wrap(key, SecretBytes(bytes(32)), CONTEXT, 0.05),
            lambda: store.unwrap(key, made.wrapped, CONTEXT, 0.05),
        ):
            async with asyncio.timeout(TIMEOUT):
                with pytest.raises((KeyUnreachable, KeyStoreThrottled)):
                    await use()

        async def unreachable() -> bool:
            state = (await store.describe(key, 0.05)).state
            assert state in {KeyState.UNKNOWN, KeyState.UNREACHABLE}
            return state is KeyState.UNREACHABLE

        await until(unreachable)
    await until(lambda: answers(store, key))
    for use in uses:
        await use()


async def test_a_caller_without_time_says_nothing_about_the_key(store: KeyStore, key: str) -> None:
    await both_ways(store, key)
    for _ in range(20):
        try:
            await store.generate_data_key(key, CONTEXT, 0.0)
        except KeyStoreError as error:
            assert type(error) is KeyStoreThrottled  # noqa: PT017 - a store that answers at once need not raise
            assert error.ours  # noqa: PT017
    assert await answers(store, key)


# Keys that never worked


async def test_a_key_that_was_never_there_is_misconfigured(store: KeyStore, key: str, missing: str) -> None:
    with pytest.raises(KeyMisconfigured):
        await store.generate_data_key(missing, CONTEXT, TIMEOUT)
    assert (await store.describe(missing, TIMEOUT)).state is KeyState.MISCONFIGURED
    assert await answers(store, key)


@pytest.mark.parametrize("reference", ["", "..", "../acme-main", "a/b", "a\0b", "a\nb", "ä" * 400, "x" * 5000])
async def test_a_strange_name_is_misconfigured_and_harmless(store: KeyStore, reference: str, key: str) -> None:
    with pytest.raises(KeyMisconfigured):
        await store.generate_data_key(reference, CONTEXT, TIMEOUT)
    assert (await store.describe(reference, TIMEOUT)).state is KeyState.MISCONFIGURED
    assert await answers(store, key)


@pytest.mark.needs("create")
async def test_a_key_made_later_is_found_without_a_restart(subject: Subject, store: KeyStore) -> None:
    assert (await store.describe("later", TIMEOUT)).state is KeyState.MISCONFIGURED
    holder = subject.open("holder")
    assert isinstance(holder, KeyMaker)
    await holder.create("later")
    await holder.close()
    await until(lambda: answers(store, "later"))


@pytest.mark.needs("create")
async def test_no_key_is_ever_overwritten(subject: Subject, store: KeyMaker, key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    with pytest.raises(KeyStoreError):
        await store.create(key)
    assert (await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)).plaintext.reveal() == made.plaintext.reveal()
