"""A key of a file, in memory: how it wraps, what it opens, and whether another is the same.

It wraps by AES-256-GCM with a random IV, in the layout of the raw AES keyring (docs/key-stores.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ownkey.container import (
    EncryptedDataKey,
    parse_raw_aes_provider_info,
    raw_aes_provider_info,
    serialize_context,
)
from ownkey.container.raw_aes import IV_LENGTH, TAG_LENGTH
from ownkey_server.keystores.base import DATA_KEY_LENGTH

PROVIDER_ID = "ownkey-embedded"


class NotOpened(Exception):
    """The key does not open these bytes. The message says why, as far as can be told."""


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """A key, and which file it was read from.

    Attributes:
        reference: Its name, which stands in what it wraps.
        cipher: It.
        inode: Of the file.
        changed: When the file's status changed last, in nanoseconds.
    """

    reference: str
    cipher: AESGCM
    inode: int
    changed: int

    def wrap(self, data_key: bytearray, context: Mapping[str, str]) -> EncryptedDataKey:
        """A data key, wrapped and bound to the encryption context."""
        iv = os.urandom(IV_LENGTH)
        ciphertext = self.cipher.encrypt(iv, data_key, serialize_context(context))
        return EncryptedDataKey(PROVIDER_ID, raw_aes_provider_info(self.reference, iv), ciphertext)

    def unwrap(self, wrapped: EncryptedDataKey, context: Mapping[str, str]) -> bytes:
        """The data key again.

        Raises:
            NotOpened: It was wrapped by another key, in another context, or changed.
        """
        iv = parse_raw_aes_provider_info(wrapped.provider_info, self.reference)
        whole = len(wrapped.ciphertext) == DATA_KEY_LENGTH + TAG_LENGTH
        if wrapped.provider_id != PROVIDER_ID or iv is None or not whole:
            raise NotOpened("the wrapped key was not made by this key")
        try:
            return self.cipher.decrypt(iv, wrapped.ciphertext, serialize_context(context))
        except InvalidTag:
            raise NotOpened("wrong key, wrong encryption context, or changed bytes") from None

    def is_same_key(self, other: LoadedKey) -> bool:
        """Whether the other opens what this one has encrypted: neither key itself is kept in clear to compare."""
        iv = os.urandom(IV_LENGTH)
        try:
            other.cipher.decrypt(iv, self.cipher.encrypt(iv, b"", None), None)
        except InvalidTag:
            return False
        return True


def names(reference: str, wrapped: EncryptedDataKey) -> bool:
    """Whether a wrapped key names exactly this key, judged by its provider fields alone."""
    named = wrapped.provider_id == PROVIDER_ID
    return named and parse_raw_aes_provider_info(wrapped.provider_info, reference) is not None
