"""What every key store must do, whatever it is made of: keep data keys, bound to key and context, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import typing
from collections.abc import Callable
from dataclasses import replace

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyRevoked,
    KeyStoreError,
    KeyUnreachable,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import place_name
from ownkey_server.keystores.base import DATA_KEY_LENGTH, KeyStore
from ownkey_server.keystores.catalog import KeyStoreOptions
from support.key_stores import CONTEXT, TIMEOUT, Subject, answers, both_ways

REORDERED = dict(reversed(CONTEXT.items()))
OTHER_CONTEXTS = {
    "missing pair": {k: v for k, v in CONTEXT.items() if k != "site"},
    "extra pair": {**CONTEXT, "more": "x"},
    "changed value": {**CONTEXT, "ownkey:asset-id": "call-8"},
    "changed key": {("Site" if k == "site" else k): v for k, v in CONTEXT.items()},
    "moved boundary": {**CONTEXT, "site": "Köl", "nsite": ""},
    "empty": {},
}


def test_every_kind_of_key_store_is_held_to_it(kinds_under_contract: frozenset[type]) -> None:
    assert kinds_under_contract == frozenset(typing.get_args(KeyStoreOptions))


# Round trips


async def test_a_generated_data_key_unwraps_to_the_same_bytes(store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    opened = await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)
    assert len(made.plaintext) == DATA_KEY_LENGTH
    assert opened.plaintext.reveal() == made.plaintext.reveal()


@pytest.mark.parametrize("data_key", [bytes(32), b"\xff" * 32, bytes(range(32))], ids=["zeros", "ones", "count"])
async def test_a_wrapped_data_key_unwraps_to_the_same_bytes(store: KeyStore, data_key: bytes, key: str) -> None:
    wrapped = (await store.wrap(key, SecretBytes(data_key), CONTEXT, TIMEOUT)).entry
    assert (await store.unwrap(key, wrapped, CONTEXT, TIMEOUT)).plaintext.reveal() == data_key
    assert data_key not in wrapped.ciphertext


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
async def test_what_could_not_be_opened_again_is_never_wrapped(store: KeyStore, length: int, key: str) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        await store.wrap(key, SecretBytes(bytes(length)), CONTEXT, TIMEOUT)


async def test_another_server_with_the_same_keys_opens_it(store: KeyStore, second_store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    opened = await second_store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)
    assert opened.plaintext.reveal() == made.plaintext.reveal()


async def test_an_empty_context_is_a_context(store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, {}, TIMEOUT)
    assert (await store.unwrap(key, made.wrapped, {}, TIMEOUT)).plaintext.reveal() == made.plaintext.reveal()
    with pytest.raises(CiphertextInvalid):
        await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)


async def test_data_keys_and_wrapped_keys_never_repeat(store: KeyStore, key: str) -> None:
    made = [await store.generate_data_key(key, CONTEXT, TIMEOUT) for _ in range(200)]
    assert len({bytes(one.plaintext.reveal()) for one in made}) == len(made)
    assert len({(one.wrapped.provider_info, one.wrapped.ciphertext) for one in made}) == len(made)


async def test_64_calls_at_once_do_not_mix_up(store: KeyStore, key: str, other_key: str) -> None:
    async def round_trip(number: int) -> bool:
        context = {**CONTEXT, "number": str(number)}
        reference = (key, other_key)[number % 2]
        made = await store.generate_data_key(reference, context, TIMEOUT)
        opened = await store.unwrap(reference, made.wrapped, context, TIMEOUT)
        return opened.plaintext.reveal() == made.plaintext.reveal()

    assert all(await asyncio.gather(*(round_trip(number) for number in range(64))))


# Binding to key and context


@pytest.mark.parametrize("other", OTHER_CONTEXTS.values(), ids=OTHER_CONTEXTS)
@pytest.mark.needs("integrity")
async def test_another_context_opens_nothing(store: KeyStore, other: dict[str, str], key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    with pytest.raises(CiphertextInvalid):
        await store.unwrap(key, made.wrapped, other, TIMEOUT)


async def test_the_order_of_pairs_does_not_matter(store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    assert (await store.unwrap(key, made.wrapped, REORDERED, TIMEOUT)).plaintext.reveal() == made.plaintext.reveal()


async def test_another_key_opens_nothing(store: KeyStore, key: str, other_key: str) -> None:
    made = await store.generate_data_key(other_key, CONTEXT, TIMEOUT)
    assert store.recognizes(other_key, made.wrapped)
    assert not store.recognizes(key, made.wrapped)
    with pytest.raises(CiphertextInvalid):
        await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)


@pytest.mark.needs("wrong_key")
async def test_another_keys_blob_under_this_keys_name_opens_nothing(store: KeyStore, key: str, other_key: str) -> None:
    mine = (await store.generate_data_key(key, CONTEXT, TIMEOUT)).wrapped
    other = (await store.generate_data_key(other_key, CONTEXT, TIMEOUT)).wrapped
    relabelled = replace(other, provider_info=other.provider_info.replace(other_key.encode(), key.encode()))
    assert store.recognizes(key, relabelled)
    for forged in (relabelled, replace(mine, ciphertext=other.ciphertext)):
        with pytest.raises(CiphertextInvalid):
            await store.unwrap(key, forged, CONTEXT, TIMEOUT)
    assert await answers(store, key)


async def test_recognizing_needs_no_working_store(subject: Subject, store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    subject.break_off()
    assert store.recognizes(key, made.wrapped)


# Changed bytes: never opened, and never taken for a sick key


async def assert_harmless(store: KeyStore, key: str, forged: EncryptedDataKey) -> None:
    with pytest.raises(CiphertextInvalid) as caught:
        await store.unwrap(key, forged, CONTEXT, TIMEOUT)
    assert caught.value.replica == place_name(store.name, key)
    assert caught.value.key == key


@pytest.mark.needs("wrong_key")
@pytest.mark.needs("integrity")
async def test_no_changed_byte_of_the_ciphertext_is_accepted(store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    whole = made.wrapped.ciphertext
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        await assert_harmless(store, key, replace(made.wrapped, ciphertext=bytes(changed)))
        # The key is in order after each: its use is neither refused nor delayed.
        assert (await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)).plaintext.reveal() == made.plaintext.reveal()


async def test_no_changed_byte_of_the_provider_info_is_accepted(store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    whole = made.wrapped.provider_info
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        await assert_harmless(store, key, replace(made.wrapped, provider_info=bytes(changed)))
    assert await answers(store, key)


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: b"",
        lambda whole: whole[:1],
        lambda whole: whole[:-1],
        lambda whole: whole[:-8],
        lambda whole: whole[8:],
        lambda whole: whole + b"\0",
        lambda whole: whole + bytes(8),
        lambda whole: whole * 2,
        lambda whole: bytes(len(whole)),
        lambda whole: bytes(1 << 20),
    ],
    ids=["empty", "one byte", "short", "shorter", "headless", "long", "longer", "twice", "zeros", "1 MiB"],
)
@pytest.mark.needs("wrong_key")
@pytest.mark.needs("integrity")
async def test_a_ciphertext_of_another_size_is_only_invalid(
    store: KeyStore, change: Callable[[bytes], bytes], key: str
) -> None:
    wrapped = (await store.generate_data_key(key, CONTEXT, TIMEOUT)).wrapped
    await assert_harmless(store, key, replace(wrapped, ciphertext=change(wrapped.ciphertext)))
    await assert_harmless(store, key, replace(wrapped, provider_info=change(wrapped.provider_info)))
    assert await answers(store, key)


@pytest.mark.parametrize("provider_id", ["", "aws-kms", "ownkey-embedded", "ownkey-pkcs11", "ownkey-pkcs11-kw"])
async def test_a_blob_in_another_kinds_name_is_only_invalid(store: KeyStore, provider_id: str, key: str) -> None:
    wrapped = (await store.generate_data_key(key, CONTEXT, TIMEOUT)).wrapped
    if provider_id == wrapped.provider_id:
        provider_id = provider_id.upper()  # its own name, but for the case
    for info in (wrapped.provider_info, key.encode()):
        for size in (48, 72):
            forged = EncryptedDataKey(provider_id, info, os.urandom(size))
            await assert_harmless(store, key, forged)
            assert (await store.unwrap(key, wrapped, CONTEXT, TIMEOUT)) is not None


@pytest.mark.needs("wrong_key")
@pytest.mark.needs("integrity")
async def test_a_flood_of_forgeries_does_not_stop_the_key(store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    forged = replace(made.wrapped, ciphertext=bytes(len(made.wrapped.ciphertext)))

    async def good() -> bool:
        opened = await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)
        return opened.plaintext.reveal() == made.plaintext.reveal()

    work = [call for _ in range(32) for call in (assert_harmless(store, key, forged), good())]
    results = await asyncio.gather(*work)
    assert results == [None, True] * 32


# Describing, closing, and keeping secrets


async def test_a_working_key_is_described_as_available_with_no_cause(store: KeyStore, key: str) -> None:
    description = await store.describe(key, TIMEOUT)
    assert description.state is KeyState.AVAILABLE
    assert description.cause == ""


async def test_it_says_its_name(subject: Subject) -> None:
    opened = subject.open("hsm-frankfurt")
    assert opened.name == "hsm-frankfurt"
    with pytest.raises(KeyStoreError) as caught:
        await opened.generate_data_key("never-made", CONTEXT, TIMEOUT)
    assert caught.value.replica == "hsm-frankfurt"
    await opened.close()


async def test_closing_twice_is_closing_once(store: KeyStore, second_store: KeyStore, key: str) -> None:
    uses = await both_ways(store, key)
    await store.close()
    await store.close()
    for use in uses:
        with pytest.raises(KeyUnreachable):
            await use()
    assert (await store.describe(key, TIMEOUT)).state is KeyState.UNREACHABLE
    assert await answers(second_store, key)


@pytest.mark.needs("revoke")
@pytest.mark.needs("wrong_key")
@pytest.mark.needs("integrity")
async def test_no_secret_is_shown_or_logged(
    subject: Subject, store: KeyStore, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    caplog.set_level(logging.DEBUG)
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    shown = [repr(made), str(made), repr(store), str(subject.options)]
    forged = replace(made.wrapped, ciphertext=bytes(len(made.wrapped.ciphertext)))
    with pytest.raises(CiphertextInvalid) as invalid:
        await store.unwrap(key, forged, CONTEXT, TIMEOUT)
    subject.revoke()
    with pytest.raises(KeyRevoked) as revoked:
        await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)
    for error in (invalid.value, revoked.value):
        shown += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    text = "\n".join([*shown, caplog.text])
    secret = bytes(made.plaintext.reveal())
    for form in (
        secret.hex(),
        base64.b64encode(secret).decode(),
        repr(secret)[2:-1],
        str(list(secret)),
        *subject.secrets(),
    ):
        assert form not in text
