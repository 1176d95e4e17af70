"""From a data key and a message id to the key of one message (AWS Encryption SDK specification, suite 0x0478)."""

from __future__ import annotations

import hmac
from typing import Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ownkey.container.errors import CommitmentMismatch, HeaderTampered

DATA_KEY_LENGTH = 32
MESSAGE_ID_LENGTH = 32
COMMITMENT_LENGTH = 32
IV_LENGTH = 12
TAG_LENGTH = 16
SUITE = b"\x04\x78"
ENCRYPTION_LABEL = SUITE + b"DERIVEKEY"
COMMITMENT_LABEL = b"COMMITKEY"
# The header's tag is a GCM tag over nothing, with the nonce that no frame has: frames count from 1.
HEADER_IV = bytes(IV_LENGTH)

Buffer: TypeAlias = bytes | bytearray | memoryview
MessageKey: TypeAlias = AESGCM


class AuthenticatedHeader(Protocol):
    """What of a header goes into its authentication."""

    @property
    def message_id(self) -> bytes: ...  # noqa: D102
    @property
    def commitment(self) -> bytes: ...  # noqa: D102
    @property
    def body(self) -> bytes: ...  # noqa: D102
    @property
    def tag(self) -> bytes: ...  # noqa: D102


def derive(data_key: Buffer, message_id: bytes) -> tuple[MessageKey, bytes]:
    """The key for the frames of one message, and its commitment (32 bytes).

    HKDF-SHA-512 with the message id as salt, under two labels (RFC 5869; AWS Encryption SDK specification, "Algorithm
    suites"). It runs once for each label, so that what the two share never becomes an object that cannot be wiped.
    """
    if len(data_key) != DATA_KEY_LENGTH:
        raise ValueError(f"a data key has {DATA_KEY_LENGTH} bytes, not {len(data_key)}")
    commitment = HKDF(hashes.SHA512(), COMMITMENT_LENGTH, message_id, COMMITMENT_LABEL).derive(data_key)
    encryption_key = bytearray(DATA_KEY_LENGTH)
    HKDF(hashes.SHA512(), DATA_KEY_LENGTH, message_id, ENCRYPTION_LABEL).derive_into(data_key, encryption_key)
    key = AESGCM(encryption_key)
    encryption_key[:] = bytes(DATA_KEY_LENGTH)
    return key, commitment


def header_tag(key: MessageKey, body: bytes) -> bytes:
    """The tag (16 bytes) of a header's body."""
    return key.encrypt(HEADER_IV, b"", body)


def open_message(data_key: Buffer, header: AuthenticatedHeader) -> MessageKey:
    """The key for a message's frames, once the data key and the header are shown to belong together.

    Raises:
        CommitmentMismatch: The data key is another message's. Compared in constant time, before the tag.
        HeaderTampered: The header was changed.
    """
    key, expected = derive(data_key, header.message_id)
    if not hmac.compare_digest(expected, header.commitment):
        raise CommitmentMismatch
    try:
        key.decrypt(HEADER_IV, header.tag, header.body)
    except InvalidTag:
        raise HeaderTampered from None
    return key
