"""A token in the hands of its operator, of other processes, and of whoever can send wrapped keys."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.keystores.base import KeyMaker
from support.key_stores import CONTEXT, KEY, OTHER_KEY, TIMEOUT, OpenStore, answers, until
from support.softhsm import ALL_RIGHTS, PIN, SoftHsm

# The operator at work while we run


async def test_a_key_destroyed_by_another_process_is_revoked_and_no_other_is(
    softhsm: SoftHsm, store: KeyMaker, token: str
) -> None:
    made = await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
    softhsm.destroy_key(token, KEY)
    with pytest.raises(KeyRevoked):
        await store.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)
    assert await answers(store, OTHER_KEY)


async def test_a_destroyed_key_is_never_told_as_an_outage_whoever_asks(
    softhsm: SoftHsm, store: KeyMaker, token: str
) -> None:
    """A token being deleted looks the same for half a second: whoever asks in it waits until it can be told."""
    softhsm.destroy_key(token, KEY)
    uses = [store.generate_data_key(KEY, CONTEXT, TIMEOUT) for _ in range(8)]
    probes = [state_of(store) for _ in range(3)]
    outcomes = await asyncio.gather(*uses, *probes, return_exceptions=True)
    assert [type(one) for one in outcomes[:8]] == [KeyRevoked] * 8
    assert outcomes[8:] == [KeyState.REVOKED] * 3


async def test_who_cannot_wait_until_it_is_certain_is_told_of_no_outage_either(
    softhsm: SoftHsm, store: KeyMaker, token: str
) -> None:
    softhsm.destroy_key(token, KEY)
    with pytest.raises(KeyStoreThrottled) as caught:
        await store.generate_data_key(KEY, CONTEXT, 0.3)
    assert caught.value.ours
    assert (await store.describe(KEY, 0.05)).state in (KeyState.UNKNOWN, KeyState.REVOKED)
    assert await state_of(store) is KeyState.REVOKED


async def test_a_key_destroyed_before_the_server_started_is_misconfigured(
    softhsm: SoftHsm, store: KeyMaker, token: str, open_store: OpenStore
) -> None:
    softhsm.destroy_key(token, KEY)
    assert (await open_store(token).describe(KEY, TIMEOUT)).state is KeyState.MISCONFIGURED


async def test_a_token_lost_under_load_is_an_outage_and_serves_again_with_its_own_key_alone(
    softhsm: SoftHsm, store: KeyMaker, token: str
) -> None:
    made = await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
    seen: set[str] = set()
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            try:
                await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
                seen.add("ok")
            except KeyStoreError as error:
                seen.add(type(error).__name__)
                await asyncio.sleep(0)

    async def state() -> KeyState:
        return (await store.describe(KEY, TIMEOUT)).state

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(load())
        original = await asyncio.to_thread(softhsm.take_out, token)
        await until(lambda: is_true(state, KeyState.UNREACHABLE))
        await asyncio.to_thread(softhsm.make_token, token)
        await until(lambda: is_true(state, KeyState.MISCONFIGURED))  # the new token never had the key
        seen.clear()
        await store.create(KEY)
        # It would wrap, and nobody with the key of before would ever open that.
        for _ in range(3):
            assert await is_true(state, KeyState.MISCONFIGURED)
        assert seen == {"KeyMisconfigured"}
        await asyncio.to_thread(softhsm.delete_token, token)
        await asyncio.to_thread(softhsm.put_in, token, original)
        await until(lambda: answers(store))
        stop.set()
    assert "KeyRevoked" not in seen
    assert (await store.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)).plaintext.reveal() == made.plaintext.reveal()


async def test_a_token_made_after_the_server_started_is_found(softhsm: SoftHsm, open_store: OpenStore) -> None:
    label = "made-late"
    softhsm.write_pin(label)
    store = open_store(label)
    assert (await store.describe(KEY, TIMEOUT)).state is KeyState.UNREACHABLE
    softhsm.make_token(label)
    await store.create(KEY)
    await until(lambda: answers(store))


async def test_one_dead_token_does_not_disturb_the_other_of_its_module(softhsm: SoftHsm, open_store: OpenStore) -> None:
    stores = []
    for label in ("dead", "alive"):
        softhsm.make_token(label)
        stores.append(open_store(label))
        await stores[-1].create(KEY)
        assert await answers(stores[-1])
    dead, alive = stores
    softhsm.unplug("dead")
    failures: list[KeyStoreError] = []

    async def ask(store: KeyMaker) -> None:
        try:
            await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
        except KeyStoreError as error:
            failures.append(error)

    await asyncio.gather(*(ask(store) for _ in range(50) for store in (dead, alive)))
    assert len(failures) == 50
    assert all(isinstance(error, KeyUnreachable) for error in failures)
    softhsm.plug_in("dead")
    await until(lambda: answers(dead))
    assert await answers(alive)


async def test_a_dead_token_does_not_hide_the_others_of_its_module(
    softhsm: SoftHsm, open_store: OpenStore, store: KeyMaker, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    softhsm.make_token("hiding")
    hiding = open_store("hiding")
    await hiding.create(KEY)
    softhsm.unplug("hiding")
    assert (await hiding.describe(KEY, TIMEOUT)).state is KeyState.UNREACHABLE
    softhsm.plug_in("hiding")
    await until(lambda: answers(hiding))
    softhsm.unplug("hiding")
    # As when the module was reinitialized just now: it still lists the token, which answers nothing.
    monkeypatch.setattr(softhsm.modules.thread(softhsm.module).module, "reinitialize", lambda: False)
    assert await answers(open_store(token))


async def test_rights_taken_from_a_key_revoke_what_was_wrapped_with_them_and_not_the_rest(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", *ALL_RIGHTS)
    store = open_store(token)
    by_gcm = (await store.generate_data_key(KEY, CONTEXT, TIMEOUT)).wrapped
    assert by_gcm.provider_id == "ownkey-pkcs11"
    softhsm.set_rights(token, KEY, "WRAP", "UNWRAP")
    with pytest.raises(KeyRevoked):
        await store.unwrap(KEY, by_gcm, CONTEXT, TIMEOUT)
    by_key_wrap = (await store.generate_data_key(KEY, CONTEXT, TIMEOUT)).wrapped
    assert by_key_wrap.provider_id == "ownkey-pkcs11-kw"
    softhsm.set_rights(token, KEY, *ALL_RIGHTS)
    for wrapped in (by_gcm, by_key_wrap):
        await store.unwrap(KEY, wrapped, CONTEXT, TIMEOUT)


async def test_rights_taken_are_seen_by_a_store_that_wraps_in_another_way(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", *ALL_RIGHTS)
    by_gcm = (await open_store(token, "aes-gcm").generate_data_key(KEY, CONTEXT, TIMEOUT)).wrapped
    store = open_store(token, "aes-key-wrap")
    await store.unwrap(KEY, by_gcm, CONTEXT, TIMEOUT)
    softhsm.set_rights(token, KEY, "WRAP", "UNWRAP")
    # The key is well by its own way: that must not make the blob look forged.
    with pytest.raises(KeyRevoked):
        await store.unwrap(KEY, by_gcm, CONTEXT, TIMEOUT)
    assert await answers(store)


# PINs


async def test_a_wrong_pin_is_tried_once_and_then_waits_for_another(
    softhsm: SoftHsm, open_store: OpenStore, store: KeyMaker, token: str
) -> None:
    await store.close()  # a login is the whole process's: this one's must end first
    file = softhsm.write_pin(token, "000000")
    late = open_store(token)
    for _ in range(3):
        with pytest.raises(KeyMisconfigured) as caught:
            await late.generate_data_key(KEY, CONTEXT, TIMEOUT)
        assert "000000" not in str(caught.value) + repr(caught.value.__cause__)
    # The token would take it now, and is not asked: what was refused once may lock a token the next time.
    softhsm.change_pin(token, PIN, "000000")
    description = await late.describe(KEY, TIMEOUT)
    assert description.state is KeyState.MISCONFIGURED
    found = file.stat()
    softhsm.write_pin(token, "000000")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000))
    await until(lambda: answers(late))
    softhsm.change_pin(token, "000000", PIN)


async def test_a_pin_file_that_others_may_read_is_refused(softhsm: SoftHsm, open_store: OpenStore, token: str) -> None:
    file = softhsm.folder / f"{token}.pin"
    file.chmod(0o644)
    description = await open_store(token).describe(KEY, TIMEOUT)
    assert description.state is KeyState.MISCONFIGURED
    assert f"chmod 600 {file}" in description.cause


# Labels that name more than one thing


async def test_another_key_of_the_label_is_never_used(
    softhsm: SoftHsm, open_store: OpenStore, store: KeyMaker, token: str
) -> None:
    """As when a token comes back after its operator loaded the wrong key: what it wrapped, no other token opened."""
    softhsm.destroy_key(token, KEY)
    await until(lambda: is_in(store, KEY, KeyState.REVOKED))
    softhsm.make_key(token, KEY, "SENSITIVE", *ALL_RIGHTS)
    await until(lambda: is_in(store, KEY, KeyState.MISCONFIGURED))
    with pytest.raises(KeyMisconfigured, match="another than the one that has worked"):
        await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
    assert await answers(store, OTHER_KEY)
    # Whoever starts afresh has the key that there is.
    assert await answers(open_store(token), KEY)


async def test_a_key_whose_way_was_exchanged_is_taken_away_and_no_fault_of_ours(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    """As a fault, it would lead to the key's next place: around what its holder did here."""
    softhsm.make_key(token, KEY, "SENSITIVE", "ENCRYPT", "DECRYPT")
    store = open_store(token)
    made = await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
    softhsm.set_rights(token, KEY, "WRAP", "UNWRAP")
    with pytest.raises(KeyRevoked):
        await store.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)
    assert await state_of(store) is KeyState.REVOKED
    softhsm.set_rights(token, KEY, "ENCRYPT", "DECRYPT")
    await until(lambda: answers(store))


@pytest.mark.parametrize(
    ("given", "told"), [(ALL_RIGHTS, KeyMisconfigured), (("ENCRYPT", "DECRYPT"), KeyRevoked)], ids=["all", "gcm"]
)
async def test_another_key_of_the_label_is_not_used_either_where_its_rights_are_others(
    softhsm: SoftHsm, open_store: OpenStore, token: str, given: tuple[str, ...], told: type[KeyStoreError]
) -> None:
    """It wraps in another way than the first did, so that what that one wrapped by GCM proves nothing."""
    softhsm.make_key(token, "other-rights", "SENSITIVE", *given)
    store = open_store(token)
    made = await store.generate_data_key("other-rights", CONTEXT, TIMEOUT)
    assert made.wrapped.provider_id == "ownkey-pkcs11"
    softhsm.destroy_key(token, "other-rights")
    softhsm.make_key(token, "other-rights", "SENSITIVE", "WRAP", "UNWRAP")
    with pytest.raises(told):
        await store.generate_data_key("other-rights", CONTEXT, TIMEOUT)


async def is_in(store: KeyMaker, reference: str, state: KeyState) -> bool:
    return (await store.describe(reference, TIMEOUT)).state is state


async def test_two_keys_of_one_label_are_refused(
    softhsm: SoftHsm, store: KeyMaker, token: str, open_store: OpenStore
) -> None:
    softhsm.make_key(token, "twin", "SENSITIVE", *ALL_RIGHTS)
    softhsm.make_key(token, "twin", "SENSITIVE", *ALL_RIGHTS)
    description = await store.describe("twin", TIMEOUT)
    assert description.state is KeyState.MISCONFIGURED
    assert "2 keys" in description.cause
    assert await answers(store)


async def test_two_tokens_of_one_label_are_refused(softhsm: SoftHsm, open_store: OpenStore) -> None:
    label = "twins"
    softhsm.make_token(label)
    softhsm.make_token(label)
    store = open_store(label)
    with pytest.raises(KeyStoreError):
        await store.create(KEY)
    await until(lambda: is_true(lambda: state_of(store), KeyState.MISCONFIGURED))


# Mechanisms


async def test_auto_takes_gcm_where_it_can_and_key_wrap_where_it_must(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, "all", "SENSITIVE", *ALL_RIGHTS)
    softhsm.make_key(token, "wraps", "SENSITIVE", "WRAP", "UNWRAP")
    store = open_store(token)
    made = {label: await store.generate_data_key(label, CONTEXT, TIMEOUT) for label in ("all", "wraps")}
    assert made["all"].wrapped.provider_id == "ownkey-pkcs11"
    assert made["wraps"].wrapped.provider_id == "ownkey-pkcs11-kw"


async def test_what_was_wrapped_one_way_opens_in_a_store_set_to_the_other(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", *ALL_RIGHTS)
    stores = [open_store(token, mechanism) for mechanism in ("aes-gcm", "aes-key-wrap")]
    for writer, reader in itertools.permutations(stores):
        made = await writer.generate_data_key(KEY, CONTEXT, TIMEOUT)
        opened = await reader.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)
        assert opened.plaintext.reveal() == made.plaintext.reveal()


async def test_a_key_that_lacks_the_demanded_mechanism_is_misconfigured(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", "WRAP", "UNWRAP")
    description = await open_store(token, "aes-gcm").describe(KEY, TIMEOUT)
    assert description.state is KeyState.MISCONFIGURED
    assert "aes-gcm" in description.cause


async def test_blobs_that_claim_a_way_the_key_never_goes_change_nothing(store: KeyMaker) -> None:
    forged = EncryptedDataKey("ownkey-pkcs11-kw", KEY.encode(), os.urandom(72))
    for _ in range(50):
        with pytest.raises(CiphertextInvalid):
            await store.unwrap(KEY, forged, CONTEXT, TIMEOUT)
        await store.generate_data_key(KEY, CONTEXT, TIMEOUT)


# Together with others

_USE_TOKEN = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType
module, token, pin, label = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    for round in range(60):
        made = session.generate_key(KeyType.AES, 256, label=f"passing-{round}", store=True)
        made.encrypt(bytes(1024), mechanism_param=bytes(16))
        list(session.get_objects({Attribute.LABEL: label}))
        made.destroy()
print("done")
"""


async def test_many_tasks_and_another_process_on_one_token_get_along(
    softhsm: SoftHsm, store: KeyMaker, token: str
) -> None:
    other = asyncio.create_task(asyncio.to_thread(softhsm.run_python, _USE_TOKEN, str(softhsm.module), token, PIN, KEY))

    async def round_trip(number: int) -> None:
        context = {**CONTEXT, "number": str(number)}
        made = await store.generate_data_key(KEY, context, TIMEOUT)
        assert (await store.unwrap(KEY, made.wrapped, context, TIMEOUT)).plaintext.reveal() == made.plaintext.reveal()

    rounds = 0
    while not other.done() or not rounds:
        await asyncio.gather(*(round_trip(number) for number in range(64)))
        rounds += 1
    assert (await other).strip() == "done"


async def state_of(store: KeyMaker) -> KeyState:
    return (await store.describe(KEY, TIMEOUT)).state


async def is_true(state: Callable[[], object], wanted: KeyState) -> bool:
    return await state() is wanted  # type: ignore[misc]
