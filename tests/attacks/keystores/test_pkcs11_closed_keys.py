"""A key whose holder took the right to wrap goes on opening, and bytes that are not its own stay no outage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import CiphertextInvalid, KeyMisconfigured, KeyRevoked
from ownkey_server.domain.key_state import KeyState
from ownkey_server.keystores.base import KeyMaker
from support.key_stores import CONTEXT, KEY, TIMEOUT, OpenStore
from support.softhsm import ALL_RIGHTS, SoftHsm

OPENING = {"aes-gcm": "DECRYPT", "aes-key-wrap": "UNWRAP"}


def forged(entry: EncryptedDataKey) -> EncryptedDataKey:
    return replace(entry, ciphertext=bytes(len(entry.ciphertext)))


async def opened(store: KeyMaker, entry: EncryptedDataKey) -> bytes:
    return bytes((await store.unwrap(KEY, entry, CONTEXT, TIMEOUT)).plaintext.reveal())


@pytest.mark.parametrize("mechanism", OPENING)
async def test_a_closed_key_opens_and_wraps_nothing_and_one_does_not_disturb_the_other(
    softhsm: SoftHsm, open_store: OpenStore, token: str, mechanism: str
) -> None:
    store = open_store(token, mechanism)
    await store.create(KEY)
    made = await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
    softhsm.set_rights(token, KEY, OPENING[mechanism])
    for _ in range(3):
        with pytest.raises(KeyRevoked):
            await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
        assert await opened(store, made.wrapped) == made.plaintext.reveal()
    assert (await store.describe(KEY, TIMEOUT)).state is KeyState.REVOKED
    # After a restart, too.
    again = open_store(token, mechanism)
    assert await opened(again, made.wrapped) == made.plaintext.reveal()
    # And when the right is given back, at once.
    softhsm.set_rights(token, KEY, *ALL_RIGHTS)
    assert (await again.describe(KEY, TIMEOUT)).state is KeyState.AVAILABLE


@pytest.mark.parametrize("mechanism", OPENING)
async def test_forged_bytes_are_no_outage_of_a_closed_key(
    softhsm: SoftHsm, open_store: OpenStore, token: str, mechanism: str
) -> None:
    store = open_store(token, mechanism)
    await store.create(KEY)
    made = await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
    softhsm.set_rights(token, KEY, OPENING[mechanism])
    fresh = open_store(token, mechanism)
    assert await opened(fresh, made.wrapped) == made.plaintext.reveal()
    for one in (store, fresh):
        for _ in range(3):
            with pytest.raises(CiphertextInvalid):
                await one.unwrap(KEY, forged(made.wrapped), CONTEXT, TIMEOUT)
            with pytest.raises(CiphertextInvalid):
                await one.unwrap(KEY, made.wrapped, {"ownkey:tenant": "another"}, TIMEOUT)
            assert await opened(one, made.wrapped) == made.plaintext.reveal()


async def test_a_closed_key_that_loses_its_last_right_is_revoked(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    store = open_store(token)
    await store.create(KEY)
    made = await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
    softhsm.set_rights(token, KEY, "DECRYPT")
    assert await opened(store, made.wrapped) == made.plaintext.reveal()
    softhsm.withdraw_rights(token, KEY)
    with pytest.raises(KeyRevoked):
        await store.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)


async def test_a_key_that_only_wraps_is_of_no_use(softhsm: SoftHsm, open_store: OpenStore, token: str) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", "ENCRYPT")
    with pytest.raises(KeyMisconfigured):
        await open_store(token).generate_data_key(KEY, CONTEXT, TIMEOUT)
