"""A token in its operator's hands while no server runs: the next one knows what the last one knew."""

from __future__ import annotations

import pytest

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked, KeyStoreThrottled
from ownkey_server.domain.key_state import KeyState
from ownkey_server.keystores.first_uses import FirstUsesHere
from ownkey_server.keystores.pkcs11.messages import Operation
from ownkey_server.keystores.pkcs11.store import Pkcs11KeyStore
from support.key_stores import CONTEXT, KEY, TIMEOUT, OpenStore, answers, until
from support.softhsm import SoftHsm

GCM, KEY_WRAP = ("SENSITIVE", "ENCRYPT", "DECRYPT"), ("SENSITIVE", "WRAP", "UNWRAP")


def exchange(softhsm: SoftHsm, token: str) -> None:
    """Put another key in the place of a key."""
    softhsm.destroy_key(token, KEY)
    softhsm.make_key(token, KEY, *GCM)


@pytest.fixture
def kept() -> FirstUsesHere:
    """What outlives a server; ``tests/e2e/matrix`` has it in the database."""
    return FirstUsesHere()


@pytest.mark.parametrize("rights", [GCM, KEY_WRAP], ids=["aes-gcm", "aes-key-wrap"])
async def test_a_key_destroyed_while_no_server_ran_was_taken_away(
    softhsm: SoftHsm, open_store: OpenStore, token: str, kept: FirstUsesHere, rights: tuple[str, ...]
) -> None:
    softhsm.make_key(token, KEY, *rights)
    before = open_store(token, uses=kept)
    made = await before.generate_data_key(KEY, CONTEXT, TIMEOUT)
    await before.close()
    softhsm.destroy_key(token, KEY)
    after = open_store(token, uses=kept)
    for _ in range(2):
        with pytest.raises(KeyRevoked, match="no key of this label"):
            await after.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)


async def test_rights_taken_while_no_server_ran_were_taken_away(
    softhsm: SoftHsm, open_store: OpenStore, token: str, kept: FirstUsesHere
) -> None:
    softhsm.make_key(token, KEY, *GCM)
    before = open_store(token, uses=kept)
    made = await before.generate_data_key(KEY, CONTEXT, TIMEOUT)
    await before.close()
    softhsm.withdraw_rights(token, KEY)
    after = open_store(token, uses=kept)
    with pytest.raises(KeyRevoked):
        await after.generate_data_key(KEY, CONTEXT, TIMEOUT)
    softhsm.set_rights(token, KEY, "ENCRYPT", "DECRYPT")
    await until(lambda: answers(after))
    assert (await after.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)).plaintext.reveal() == made.plaintext.reveal()


async def test_who_never_saw_it_work_calls_it_no_revocation(
    softhsm: SoftHsm, open_store: OpenStore, token: str, kept: FirstUsesHere
) -> None:
    with pytest.raises(KeyMisconfigured):
        await open_store(token, uses=kept).generate_data_key(KEY, CONTEXT, TIMEOUT)
    # In a token of another serial number it never was, whatever its label is.
    softhsm.make_key(token, KEY, *GCM)
    before = open_store(token, uses=kept)
    assert await answers(before, KEY)
    await before.close()
    softhsm.delete_token(token)
    softhsm.make_token(token)
    after = open_store(token, uses=kept)
    with pytest.raises(KeyMisconfigured):
        await after.generate_data_key(KEY, CONTEXT, TIMEOUT)


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_a_key_enrolled_anew_may_be_another_and_a_key_in_use_may_not(
    softhsm: SoftHsm, open_store: OpenStore, token: str, isolation: str
) -> None:
    softhsm.make_key(token, KEY, *GCM)
    store = open_store(token, isolation=isolation)
    assert isinstance(store, Pkcs11KeyStore)
    assert await answers(store, KEY)
    exchange(softhsm, token)
    assert (await store.describe(KEY, TIMEOUT)).state is KeyState.MISCONFIGURED
    store.forget(KEY)
    assert (await store.describe(KEY, TIMEOUT)).state is KeyState.AVAILABLE
    # And from now on that one is the key.
    exchange(softhsm, token)
    with pytest.raises(KeyMisconfigured, match="another than the one"):
        await store.generate_data_key(KEY, CONTEXT, TIMEOUT)


async def test_a_key_that_has_only_opened_since_the_start_is_known_again_as_well(
    softhsm: SoftHsm, open_store: OpenStore, token: str, kept: FirstUsesHere
) -> None:
    softhsm.make_key(token, KEY, *GCM)
    before = open_store(token, uses=kept)
    made = await before.generate_data_key(KEY, CONTEXT, TIMEOUT)
    await before.close()
    after = open_store(token, uses=kept)
    assert (await after.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)).plaintext
    exchange(softhsm, token)
    for _ in range(2):
        with pytest.raises(KeyMisconfigured, match="another than the one"):
            await after.generate_data_key(KEY, CONTEXT, TIMEOUT)


async def test_looking_without_prejudice_makes_no_mistake_of_a_key_taken_away(
    softhsm: SoftHsm, open_store: OpenStore, token: str, kept: FirstUsesHere
) -> None:
    softhsm.make_key(token, KEY, *GCM)
    before = open_store(token, uses=kept)
    assert await answers(before, KEY)
    await before.close()
    softhsm.destroy_key(token, KEY)
    after = open_store(token, uses=kept)
    assert isinstance(after, Pkcs11KeyStore)
    for _ in range(2):
        with pytest.raises(KeyRevoked, match="no key of this label"):
            await after.generate_data_key(KEY, CONTEXT, TIMEOUT)
        after.forget(KEY)  # as an administrator does who has it activated


class Slow(FirstUsesHere):
    """A database that takes its time, and whoever asks has less."""

    seconds = 0.2

    def has_worked(self, tenant: str, store: str, reference: str, identity: str, timeout: float) -> bool:
        return timeout > self.seconds and super().has_worked(tenant, store, reference, identity, timeout)


async def test_whoever_is_in_a_hurry_makes_no_mistake_of_a_revocation_for_the_others(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    kept = Slow()
    softhsm.make_key(token, KEY, *GCM)
    before = open_store(token, uses=kept)
    assert await answers(before, KEY)
    await before.close()
    softhsm.destroy_key(token, KEY)
    after = open_store(token, uses=kept)
    assert isinstance(after, Pkcs11KeyStore)
    await after.check(TIMEOUT)  # it is logged in
    with pytest.raises((KeyStoreThrottled, KeyRevoked)):
        await after.generate_data_key(KEY, CONTEXT, Slow.seconds)
    with pytest.raises(KeyRevoked, match="no key of this label"):
        await after.generate_data_key(KEY, CONTEXT, TIMEOUT)


async def test_what_was_asked_before_a_key_was_enrolled_anew_is_not_done_after_it(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, *GCM)
    store = open_store(token)
    assert isinstance(store, Pkcs11KeyStore)
    assert await answers(store, KEY)
    late = store._request(Operation.GENERATE, KEY, aad=b"")
    store.forget(KEY)
    assert await answers(store, KEY)
    answer = await store._host.run(late, TIMEOUT)
    assert answer.error is not None
    assert answer.error[0] is KeyStoreThrottled
    assert answer.wrapped is None
