"""Who has the key opens what a key store wrapped, and wraps what it opens, by published standards and no code of ours.

AES-256-GCM as raw AES keyrings do it, and RFC 3394 and 5649 with SHA-256 of the context: see docs/key-stores.md.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores import catalog
from ownkey_server.keystores.base import KeyStore
from ownkey_server.keystores.catalog import EmbeddedOptions, Pkcs11Options
from ownkey_server.secret_sources import SecretReference
from support.softhsm import PIN, SoftHsm

CONTEXT = {"ownkey:tenant": "acme", "ownkey:asset-id": "call-7"}
KEY = "acme-main"
DATA_KEY = bytes(range(32))
# Written out here, so that a change of our own serialization shows: count, then each key and value with its length.
AAD = (
    struct.pack(">H", 2)
    + struct.pack(">H", 15) + b"ownkey:asset-id" + struct.pack(">H", 6) + b"call-7"
    + struct.pack(">H", 13) + b"ownkey:tenant" + struct.pack(">H", 4) + b"acme"
)  # fmt: skip
SIZES = struct.pack(">II", 128, 12)


async def check_gcm(store: KeyStore, kek: bytes, provider_id: str) -> None:
    wrapped = (await store.wrap(KEY, SecretBytes(DATA_KEY), CONTEXT, 10.0)).entry
    assert wrapped.provider_id == provider_id
    assert wrapped.provider_info[:-12] == KEY.encode() + SIZES
    iv = wrapped.provider_info[-12:]
    assert AESGCM(kek).decrypt(iv, wrapped.ciphertext, AAD) == DATA_KEY

    iv = os.urandom(12)
    theirs = EncryptedDataKey(provider_id, KEY.encode() + SIZES + iv, AESGCM(kek).encrypt(iv, DATA_KEY, AAD))
    assert (await store.unwrap(KEY, theirs, CONTEXT, 10.0)).plaintext.reveal() == DATA_KEY


async def test_the_embedded_store_wraps_as_raw_aes_keyrings_do(tmp_path: Path) -> None:
    store = catalog.open_key_store("embedded", EmbeddedOptions(tmp_path), catalog.Modules())
    await store.create(KEY)
    await check_gcm(store, (tmp_path / f"{KEY}.key").read_bytes(), "ownkey-embedded")


_IMPORT_KEY = """
import sys, pkcs11
from pkcs11 import Attribute
module, token, pin, label, value = sys.argv[1:]
template = {
    Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: pkcs11.KeyType.AES,
    Attribute.VALUE: bytes.fromhex(value), Attribute.LABEL: label, Attribute.TOKEN: True,
    Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.ENCRYPT: True, Attribute.DECRYPT: True,
    Attribute.WRAP: True, Attribute.UNWRAP: True,
}
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    session.create_object(template)
"""


@pytest.mark.parametrize("mechanism", ["aes-gcm", "aes-key-wrap", "aes-key-wrap-pad"])
async def test_a_token_wraps_as_the_standards_say(softhsm: SoftHsm, mechanism: str) -> None:
    token = f"interop-{mechanism}"
    pin_file = softhsm.make_token(token)
    kek = os.urandom(32)
    softhsm.run_python(_IMPORT_KEY, str(softhsm.module), token, PIN, KEY, kek.hex())
    options = Pkcs11Options(softhsm.module, token, SecretReference.file(pin_file), mechanism)
    store = catalog.open_key_store("hsm", options, softhsm.modules)
    if mechanism == "aes-gcm":
        await check_gcm(store, kek, "ownkey-pkcs11")
    elif mechanism == "aes-key-wrap":
        await check_key_wrap(store, kek, "ownkey-pkcs11-kw", aes_key_wrap, aes_key_unwrap)
    else:
        padded = (aes_key_wrap_with_padding, aes_key_unwrap_with_padding)
        await check_key_wrap(store, kek, "ownkey-pkcs11-kwp", *padded)
    await store.close()


async def check_key_wrap(
    store: KeyStore,
    kek: bytes,
    provider_id: str,
    wrap: Callable[[bytes, bytes], bytes],
    unwrap: Callable[[bytes, bytes], bytes],
) -> None:
    wrapped = (await store.wrap(KEY, SecretBytes(DATA_KEY), CONTEXT, 10.0)).entry
    assert (wrapped.provider_id, wrapped.provider_info) == (provider_id, KEY.encode())
    both = DATA_KEY + hashlib.sha256(AAD).digest()
    assert unwrap(kek, wrapped.ciphertext) == both

    theirs = EncryptedDataKey(provider_id, KEY.encode(), wrap(kek, both))
    assert (await store.unwrap(KEY, theirs, CONTEXT, 10.0)).plaintext.reveal() == DATA_KEY
