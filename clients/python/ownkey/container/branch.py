"""A data key wrapped under a branch key: the entry of an object whose key store was not asked for every data key.

::

    provider id:   ownkey-branch
    provider info: "v1." | branch id, 32 hex digits
    ciphertext:    01 | salt 16 | IV 12 | encrypted data key 32 | tag 16

    wrapping key = KBKDF(branch key, label = provider id, context = salt)   SP 800-108r1, counter mode, HMAC-SHA-256
    AES-256-GCM(wrapping key, IV), additional data: lp16(provider id) | lp16(provider info) | serialized context

The branch key itself is wrapped by a key store, as any data key is. Who has it opened, opens the entry with
:func:`unwrap_with_branch_key`, and needs no server for that. docs/formats.md has it byte by byte.
"""

from __future__ import annotations

import re
import secrets
import struct
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from ownkey.container.context import serialize_context
from ownkey.container.derivation import Buffer
from ownkey.container.errors import BranchEntryInvalid
from ownkey.container.header import EncryptedDataKey

BRANCH_PROVIDER_ID = "ownkey-branch"
KEY_LENGTH = 32
SALT_LENGTH = 16
IV_LENGTH = 12
TAG_LENGTH = 16
CIPHERTEXT_LENGTH = 1 + SALT_LENGTH + IV_LENGTH + KEY_LENGTH + TAG_LENGTH

_VERSION = b"\x01"
_INFO_START = b"v1."
_INFO = re.compile(rb"v1\.([0-9a-f]{32})")
_ID = re.compile(r"[0-9a-f]{32}")
_U16 = struct.Struct(">H")


def new_branch_id() -> str:
    """The id of a new branch key: 128 random bits, in hex."""
    return secrets.token_hex(16)


def branch_id_of(entry: EncryptedDataKey) -> str | None:
    """The id of the branch key that the entry names; None when another kind of key wrapped it."""
    if entry.provider_id != BRANCH_PROVIDER_ID:
        return None
    found = _INFO.fullmatch(entry.provider_info)
    return found[1].decode() if found else None


def wrap_with_branch_key(
    branch_key: Buffer, branch_id: str, data_key: Buffer, context: Mapping[str, str]
) -> EncryptedDataKey:
    """Wrap a data key (32 bytes) under a branch key (32 bytes), bound to an encryption context.

    Salt and IV are drawn here, and cannot be given: each wrap has a key of its own.

    Raises:
        ValueError: A key has another length, or the id is none.
        ContainerError: The context is none that can be written.
    """
    _require_length(branch_key)
    _require_length(data_key)
    if not _ID.fullmatch(branch_id):
        raise ValueError("a branch id has 32 hex digits")
    info = _INFO_START + branch_id.encode()
    salt, iv = secrets.token_bytes(SALT_LENGTH), secrets.token_bytes(IV_LENGTH)
    sealed = AESGCM(_wrapping_key(branch_key, salt)).encrypt(iv, data_key, _additional_data(info, context))
    return EncryptedDataKey(BRANCH_PROVIDER_ID, info, _VERSION + salt + iv + sealed)


def unwrap_with_branch_key(branch_key: Buffer, entry: EncryptedDataKey, context: Mapping[str, str]) -> bytes:
    """The data key (32 bytes) that was wrapped under the branch key.

    Raises:
        BranchEntryInvalid: Another branch key, another context, or changed bytes: one error for all, so that it is no
            oracle.
        ValueError: The branch key has another length.
    """
    _require_length(branch_key)
    raw = entry.ciphertext
    if branch_id_of(entry) is None or len(raw) != CIPHERTEXT_LENGTH or raw[:1] != _VERSION:
        raise BranchEntryInvalid
    salt, iv, sealed = raw[1:17], raw[17:29], raw[29:]
    key = AESGCM(_wrapping_key(branch_key, salt))
    try:
        return key.decrypt(iv, sealed, _additional_data(entry.provider_info, context))
    except InvalidTag:
        raise BranchEntryInvalid from None


def _wrapping_key(branch_key: Buffer, salt: bytes) -> bytes:
    derivation = KBKDFHMAC(
        algorithm=SHA256(),
        mode=Mode.CounterMode,
        length=KEY_LENGTH,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=BRANCH_PROVIDER_ID.encode(),
        context=salt,
        fixed=None,
    )
    return derivation.derive(branch_key)


def _additional_data(info: bytes, context: Mapping[str, str]) -> bytes:
    name = BRANCH_PROVIDER_ID.encode()
    return b"".join((_U16.pack(len(name)), name, _U16.pack(len(info)), info, serialize_context(context)))


def _require_length(key: Buffer) -> None:
    if len(key) != KEY_LENGTH:
        raise ValueError(f"a key has {KEY_LENGTH} bytes here, not {len(key)}")
