"""Tokens that differ from SoftHSM, as their vendors document it: none is used wrongly, none wraps what nobody opens."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from ownkey.container import EncryptedDataKey, serialize_context
from ownkey_server.domain.errors import CiphertextInvalid, KeyMisconfigured
from ownkey_server.domain.key_state import KeyState
from ownkey_server.keystores import catalog
from ownkey_server.keystores.base import KeyMaker
from ownkey_server.keystores.catalog import Pkcs11Options
from ownkey_server.keystores.pkcs11.profiles import built_in
from ownkey_server.secret_sources import SecretReference
from support.key_stores import CONTEXT, KEY, TIMEOUT, OpenStore, answers, until
from support.nss import Nss
from support.softhsm import ALL_RIGHTS, SoftHsm
from support.vendor_token import compiled

OpenVendor = Callable[..., KeyMaker]


@pytest.fixture
async def open_vendor(softhsm: SoftHsm, token: str) -> AsyncIterator[OpenVendor]:
    """Opens the token as one with the quirks given, by a profile and a mechanism."""
    opened: list[KeyMaker] = []

    def open_one(
        *quirks: str, profile: str = "auto", mechanism: str = "auto", arguments: str | None = None
    ) -> KeyMaker:
        pin = SecretReference.file(softhsm.folder / f"{token}.pin")
        options = Pkcs11Options(
            compiled(softhsm, *quirks), token, pin, mechanism, profile=profile, module_arguments=arguments
        )
        opened.append(catalog.open_key_store("hsm", options, softhsm.modules))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


async def round_trip(writer: KeyMaker, reader: KeyMaker | None = None) -> EncryptedDataKey:
    """What a store wraps, once a store has opened it and refused it in another context."""
    made = await writer.generate_data_key(KEY, CONTEXT, TIMEOUT)
    opened = await (reader or writer).unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)
    assert opened.plaintext.reveal() == made.plaintext.reveal()
    with pytest.raises(CiphertextInvalid):
        await (reader or writer).unwrap(KEY, made.wrapped, {}, TIMEOUT)
    return made.wrapped


# A token that makes the IV of AES-GCM itself (AWS CloudHSM)


async def test_an_iv_that_the_token_made_is_the_one_that_is_kept(
    open_vendor: OpenVendor, open_store: OpenStore, token: str
) -> None:
    store = open_vendor("cloudhsm")
    await store.create(KEY)
    wrapped = [await round_trip(store) for _ in range(3)]
    assert {one.provider_id for one in wrapped} == {"ownkey-pkcs11"}
    ivs = {one.provider_info[-12:] for one in wrapped}
    assert len(ivs) == 3
    assert bytes(12) not in ivs
    # The format is the same: any other token with the key opens it.
    assert await round_trip(store, open_store(token)) is not None


async def test_what_was_wrapped_under_our_iv_opens_in_a_token_that_makes_its_own(
    softhsm: SoftHsm, open_vendor: OpenVendor, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", *ALL_RIGHTS)
    await round_trip(open_store(token), open_vendor("cloudhsm"))


async def test_a_token_that_makes_ivs_is_not_given_ours_in_silence(
    open_vendor: OpenVendor, softhsm: SoftHsm, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", *ALL_RIGHTS)
    description = await open_vendor("cloudhsm", profile="softhsm", mechanism="aes-gcm").describe(KEY, TIMEOUT)
    assert not description.state.usable


async def test_a_token_that_was_to_make_the_iv_and_did_not_wraps_nothing(
    softhsm: SoftHsm, open_store: OpenStore, open_vendor: OpenVendor, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", *ALL_RIGHTS)
    # Zeros would be the IV of every wrap: two of them give the key away.
    with pytest.raises(KeyMisconfigured, match="no IV of its own"):
        await open_vendor("generic-token", profile="aws-cloudhsm", mechanism="aes-gcm").generate_data_key(
            KEY, CONTEXT, TIMEOUT
        )


async def test_a_vendors_own_mechanism_wraps_as_the_standards_does(
    softhsm: SoftHsm, open_vendor: OpenVendor, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", "WRAP", "UNWRAP")
    cloud, plain = open_vendor("cloudhsm"), open_store(token)
    assert (await round_trip(cloud, plain)).provider_id == "ownkey-pkcs11-kw"
    await round_trip(plain, cloud)


# A token whose key wrap is an encryption, and whose GCM in FIPS mode has another IV (Thales Luna)


async def test_key_wrap_by_encryption_is_the_same_key_wrap(
    softhsm: SoftHsm, open_vendor: OpenVendor, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", *ALL_RIGHTS)
    luna, plain = open_vendor("luna", mechanism="aes-key-wrap"), open_store(token, "aes-key-wrap")
    assert (await round_trip(luna, plain)).provider_id == "ownkey-pkcs11-kw"
    await round_trip(plain, luna)


async def test_a_longer_ciphertext_than_ours_is_never_handed_out(open_vendor: OpenVendor) -> None:
    store = open_vendor("luna", "fips")
    await store.create(KEY)
    with pytest.raises(KeyMisconfigured, match=r"64 bytes and not 48.*set another mechanism"):
        await store.generate_data_key(KEY, CONTEXT, TIMEOUT)


# Other answers (Entrust nShield), and mechanisms that are not there


async def test_a_forged_blob_is_only_that_whatever_the_token_answers(open_vendor: OpenVendor) -> None:
    store = open_vendor("nshield")
    await store.create(KEY)
    for _ in range(10):
        await round_trip(store)
    assert await answers(store)


async def test_a_token_without_gcm_wraps_by_key_wrap(open_vendor: OpenVendor) -> None:
    store = open_vendor("no-gcm")
    await store.create(KEY)
    assert (await round_trip(store)).provider_id == "ownkey-pkcs11-kw"


async def test_a_token_with_neither_is_refused_and_says_why(open_vendor: OpenVendor) -> None:
    store = open_vendor("no-gcm", "no-key-wrap", profile="nss-softokn")
    with pytest.raises(KeyMisconfigured, match="AES-GCM or AES key wrap"):
        await store.create(KEY)


async def test_no_changed_byte_is_accepted_by_key_wrap_with_padding(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", "WRAP", "UNWRAP")
    store = open_store(token, "aes-key-wrap-pad")
    wrapped = await round_trip(store)
    for position in range(len(wrapped.ciphertext)):
        changed = bytearray(wrapped.ciphertext)
        changed[position] ^= 1 << (position % 8)
        with pytest.raises(CiphertextInvalid):
            await store.unwrap(KEY, replace(wrapped, ciphertext=bytes(changed)), CONTEXT, TIMEOUT)
    assert await answers(store)


async def test_key_wrap_with_padding_is_a_format_of_its_own(
    softhsm: SoftHsm, open_store: OpenStore, token: str
) -> None:
    softhsm.make_key(token, KEY, "SENSITIVE", "WRAP", "UNWRAP")
    padded, plain = open_store(token, "aes-key-wrap-pad"), open_store(token, "aes-key-wrap")
    wrapped = await round_trip(padded, plain)
    assert wrapped.provider_id == "ownkey-pkcs11-kwp"
    with pytest.raises(CiphertextInvalid):
        await plain.unwrap(KEY, EncryptedDataKey("ownkey-pkcs11-kw", *_rest(wrapped)), CONTEXT, TIMEOUT)
    assert await answers(plain)


def _rest(wrapped: EncryptedDataKey) -> tuple[bytes, bytes]:
    return wrapped.provider_info, wrapped.ciphertext


# Arguments of the module, and an operator's own profile


async def test_a_module_is_initialized_with_its_arguments_each_time(open_vendor: OpenVendor) -> None:
    store = open_vendor("arguments", arguments="where=here")
    await store.create(KEY)
    await round_trip(store)


@pytest.mark.parametrize(
    ("arguments", "said"), [(None, "wants module_arguments"), ("x", "does not take its module_arg")]
)
async def test_a_module_without_the_right_arguments_says_so(
    open_vendor: OpenVendor, arguments: str | None, said: str
) -> None:
    with pytest.raises(KeyMisconfigured, match=said):
        await open_vendor("arguments", arguments=arguments).create(KEY)


async def test_an_operators_own_profile_counts(open_vendor: OpenVendor, tmp_path: Path) -> None:
    own = tmp_path / "ours.toml"
    own.write_text(
        'title = "Ours"\nstatus = "tried"\nsources = ["our laboratory"]\nnotes = []\nlike = "softhsm"\n'
        '[mechanisms]\norder = ["aes-key-wrap"]\n',
        encoding="utf-8",
    )
    store = open_vendor("example", profile=str(own))
    await store.create(KEY)
    assert (await round_trip(store)).provider_id == "ownkey-pkcs11-kw"


async def test_a_profile_that_was_broken_after_the_start_says_so(open_vendor: OpenVendor, tmp_path: Path) -> None:
    own = tmp_path / "ours.toml"
    own.write_text('title = "Ours"\n', encoding="utf-8")
    with pytest.raises(KeyMisconfigured, match=r"ours\.toml: "):
        await open_vendor("example", profile=str(own)).create(KEY)


# NSS


async def test_nss_gives_away_what_is_not_extractable(nss: Nss) -> None:
    options = nss.make_token("thief")
    store = catalog.open_key_store("nss", options, nss.modules)
    await store.create(KEY)
    wrapped = await round_trip(store)
    await store.close()
    extractable, stolen = nss.stolen("thief", KEY)
    assert extractable == "False"
    secret = aes_key_unwrap(stolen, wrapped.ciphertext)
    assert secret[32:] == hashlib.sha256(serialize_context(CONTEXT)).digest()
    assert built_in()["nss-softokn"].wraps_unextractable


async def test_a_token_whose_serial_number_tells_nothing_never_calls_a_missing_key_revoked(nss: Nss) -> None:
    options = nss.make_token("missing")
    store = catalog.open_key_store("nss", options, nss.modules)
    await store.create(KEY)
    await round_trip(store)
    nss.destroy_key("missing", KEY)

    async def misconfigured() -> bool:
        state = (await store.describe(KEY, TIMEOUT)).state
        assert state in {KeyState.UNREACHABLE, KeyState.MISCONFIGURED}
        return state is KeyState.MISCONFIGURED

    await until(misconfigured)
    await store.close()
