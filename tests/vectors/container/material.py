"""What the vectors are made from: fixed bytes that stand for random ones, content, and wrapped keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from vectors.container.independent import Entry, Writer, context_bytes, u32

CONTEXT = {
    "ownkey:tenant": "acme",
    "ownkey:asset-class": "phone_recording",
    "ownkey:asset-id": "rec-1",
    "ownkey:hour": "2026-11-23T16",
}


def fixed(name: str) -> bytes:
    """32 bytes that stand for random ones."""
    return hashlib.sha256(f"ownkey vector: {name}".encode()).digest()


def content(length: int) -> bytes:
    return bytes((7 * i + 1) % 251 for i in range(length))


def wrapped_by_gcm(data_key: bytes, context: Mapping[str, str], key_name: str = "acme-main") -> Entry:
    nonce = fixed("wrapping nonce")[:12]
    info = key_name.encode() + u32(128) + u32(12) + nonce
    return b"ownkey-embedded", info, AESGCM(fixed("kek")).encrypt(nonce, data_key, context_bytes(context))


def wrapped_by_key_wrap(data_key: bytes, context: Mapping[str, str], key_name: str = "acme-main") -> Entry:
    bound = hashlib.sha256(context_bytes(context)).digest()
    return b"ownkey-pkcs11-kw", key_name.encode(), aes_key_wrap(fixed("kek"), data_key + bound)


def writer(name: str, **fields: Any) -> Writer:
    data_key = fixed(f"data key of {name}")
    context = fields.pop("context", CONTEXT)
    entries = fields.pop("entries", (wrapped_by_gcm(data_key, context),))
    return Writer(data_key, fixed(f"message id of {name}"), context=context, entries=entries, **fields)
