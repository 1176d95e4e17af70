"""The format of sealed key files: a key under a passphrase, by Argon2id (RFC 9106) and AES-256-GCM.

One *seal* serves a whole store: Argon2id is slow by intention, and runs once. All numbers are big-endian::

    header    37   "OWNKSEAL", version 1 (1), Argon2id memory in KiB (4), passes (4), lanes (4), salt (16)

    .seal          header, nonce (12), tag (16)
    NAME.key       header, nonce (12), ciphertext (32), tag (16)

The sealing key is the 32 bytes that Argon2id gives. A key is encrypted with its file's header and then its name (UTF-8)
as additional data, so that neither a file of another name nor one of another seal opens. ``.seal`` encrypts nothing,
with the header alone: it tells a wrong passphrase from a damaged key. Since the header is authenticated, nobody can
lower its cost; and a reader refuses one that would cost more than 256 MiB or ten passes.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from ownkey_server.domain.secret_bytes import SecretBytes

KEY_LENGTH = 32
MAGIC = b"OWNKSEAL"
VERSION = 1
_HEADER = struct.Struct(">8sBIII16s")
_SALT_LENGTH = 16
_NONCE_LENGTH = 12
_TAG_LENGTH = 16
HEADER_LENGTH = _HEADER.size
SEAL_LENGTH = HEADER_LENGTH + _NONCE_LENGTH + _TAG_LENGTH
SEALED_KEY_LENGTH = SEAL_LENGTH + KEY_LENGTH


class SealInvalid(Exception):
    """A seal or a sealed key cannot be opened. The message says why."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one guess of a passphrase costs. The default is the second recommendation of RFC 9106, section 4.

    Attributes:
        memory_kib: 8 to 256 MiB, in KiB.
        passes: 1 to 10.
        lanes: 1 to 8.
    """

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 4

    @property
    def bearable(self) -> bool:
        """Whether it is neither next to nothing nor an attack on the reader."""
        return 8 * 1024 <= self.memory_kib <= 256 * 1024 and 1 <= self.passes <= 10 and 1 <= self.lanes <= 8


class Seal:
    """Seals the keys of one store, and opens them."""

    def __init__(self, header: bytes, cipher: AESGCM) -> None:
        self._header = header
        self._cipher = cipher

    @classmethod
    def make(cls, passphrase: SecretBytes, cost: Cost | None = None) -> Seal:
        """A new seal, with a salt of its own. Takes a tenth of a second or more."""
        cost = cost or Cost()
        salt = os.urandom(_SALT_LENGTH)
        header = _HEADER.pack(MAGIC, VERSION, cost.memory_kib, cost.passes, cost.lanes, salt)
        return cls(header, _derived(passphrase, cost, salt))

    @classmethod
    def open(cls, document: bytes, passphrase: SecretBytes) -> Seal:
        """The seal in a ``.seal`` file. Takes a tenth of a second or more.

        Raises:
            SealInvalid: It is none, it asks for too much, or the passphrase is another.
        """
        if len(document) != SEAL_LENGTH or not is_sealed(document):
            raise SealInvalid(f"it is no seal: it must have {SEAL_LENGTH} bytes and begin with {MAGIC.decode()}")
        header = document[:HEADER_LENGTH]
        _, version, memory, passes, lanes, salt = _HEADER.unpack(header)
        if version != VERSION:
            raise SealInvalid(f"it is of version {version}, and this ownkey knows version {VERSION}")
        cost = Cost(memory, passes, lanes)
        if not cost.bearable:
            raise SealInvalid(f"it asks for {memory:,} KiB of memory, {passes} passes and {lanes} lanes: out of bounds")
        seal = cls(header, _derived(passphrase, cost, salt))
        try:
            seal._decrypt(document, header)
        except InvalidTag:
            raise SealInvalid("the passphrase is wrong, or the seal was changed") from None
        return seal

    @property
    def document(self) -> bytes:
        """What the ``.seal`` file holds."""
        return self._encrypt(b"", self._header)

    def close_key(self, reference: str, key: bytes | bytearray) -> bytes:
        """A key's file."""
        return self._encrypt(key, self._header + reference.encode())

    def made(self, content: bytes | bytearray) -> bool:
        """Whether a key's file names this seal."""
        return content[:HEADER_LENGTH] == self._header

    def open_key(self, reference: str, content: bytes | bytearray) -> bytearray:
        """The key in a file that names this seal.

        Raises:
            SealInvalid: It is not what was written under that name.
        """
        if len(content) != SEALED_KEY_LENGTH:
            raise SealInvalid(f"it has {len(content)} bytes, and not {SEALED_KEY_LENGTH}")
        try:
            return self._decrypt(content, self._header + reference.encode())
        except InvalidTag:
            raise SealInvalid("it was changed, or is another key's") from None

    def _encrypt(self, plaintext: bytes | bytearray, aad: bytes) -> bytes:
        nonce = os.urandom(_NONCE_LENGTH)
        return self._header + nonce + self._cipher.encrypt(nonce, plaintext, aad)

    def _decrypt(self, content: bytes | bytearray, aad: bytes) -> bytearray:
        rest = bytes(content[HEADER_LENGTH:])
        plaintext = bytearray(len(rest) - _NONCE_LENGTH - _TAG_LENGTH)
        self._cipher.decrypt_into(rest[:_NONCE_LENGTH], rest[_NONCE_LENGTH:], aad, plaintext)
        return plaintext


def is_sealed(content: bytes | bytearray) -> bool:
    """Whether a file says of itself that it is sealed, or was before it was cut off."""
    return content.startswith(MAGIC)


def _derived(passphrase: SecretBytes, cost: Cost, salt: bytes) -> AESGCM:
    key = bytearray(KEY_LENGTH)
    argon2 = Argon2id(
        salt=salt, length=KEY_LENGTH, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.memory_kib
    )
    argon2.derive_into(passphrase.reveal(), key)  # type: ignore[arg-type]  # any buffer will do
    cipher = AESGCM(key)
    key[:] = bytes(KEY_LENGTH)
    return cipher
