"""A second writer of the container, from the specification and the standard library, to hold the engine against.

It shares nothing with `ownkey.container` and takes the message id, as no part of ownkey does: so it stays in tests/.
Only AES-GCM itself comes from a library; HKDF is built from HMAC.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Entry = tuple[bytes, bytes, bytes]


def u16(number: int) -> bytes:
    return struct.pack(">H", number)


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def lp16(value: bytes) -> bytes:
    return u16(len(value)) + value


def hkdf_sha512(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, for no more than one block of output."""
    extracted = hmac.digest(salt, key, hashlib.sha512)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha512)[:length]


def message_key(data_key: bytes, message_id: bytes) -> bytes:
    return hkdf_sha512(data_key, message_id, b"\x04\x78DERIVEKEY", 32)


def commitment(data_key: bytes, message_id: bytes) -> bytes:
    return hkdf_sha512(data_key, message_id, b"COMMITKEY", 32)


def context_bytes(context: Mapping[str, str]) -> bytes:
    pairs = sorted((key.encode(), value.encode()) for key, value in context.items())
    return u16(len(pairs)) + b"".join(lp16(key) + lp16(value) for key, value in pairs) if pairs else b""


def branch_wrapping_key(branch_key: bytes, salt: bytes) -> bytes:
    """SP 800-108r1, counter mode with HMAC-SHA-256, for one block of output."""
    return hmac.digest(branch_key, u32(1) + b"ownkey-branch" + b"\x00" + salt + u32(256), hashlib.sha256)


def branch_entry(
    branch_key: bytes, branch_id: str, salt: bytes, nonce: bytes, data_key: bytes, context: Mapping[str, str]
) -> Entry:
    """A data key wrapped under a branch key; salt and nonce are given, as no part of ownkey takes them."""
    info = b"v1." + branch_id.encode()
    aad = lp16(b"ownkey-branch") + lp16(info) + context_bytes(context)
    sealed = AESGCM(branch_wrapping_key(branch_key, salt)).encrypt(nonce, data_key, aad)
    return b"ownkey-branch", info, b"\x01" + salt + nonce + sealed


def iv(number: int) -> bytes:
    return bytes(8) + u32(number)


@dataclass(frozen=True)
class Writer:
    """Writes the parts of one message; every field can be wrong on purpose."""

    data_key: bytes
    message_id: bytes
    frame_length: int = 16
    context: Mapping[str, str] = field(default_factory=lambda: {"ownkey:tenant": "acme"})
    entries: Sequence[Entry] = ((b"test", b"key-1", b"wrapped"),)
    start: bytes = b"\x02\x04\x78"
    framing: bytes = b"\x02"
    raw_context: bytes | None = None
    raw_entries: bytes | None = None
    raw_frame_length: int | None = None
    commitment: bytes | None = None

    @property
    def key(self) -> AESGCM:
        return AESGCM(message_key(self.data_key, self.message_id))

    @property
    def header_body(self) -> bytes:
        context = context_bytes(self.context) if self.raw_context is None else self.raw_context
        entries = u16(len(self.entries)) + b"".join(lp16(part) for entry in self.entries for part in entry)
        return b"".join(
            (
                self.start,
                self.message_id,
                lp16(context),
                entries if self.raw_entries is None else self.raw_entries,
                self.framing,
                u32(self.frame_length if self.raw_frame_length is None else self.raw_frame_length),
                commitment(self.data_key, self.message_id) if self.commitment is None else self.commitment,
            )
        )

    @property
    def header(self) -> bytes:
        return self.header_body + self.key.encrypt(iv(0), b"", self.header_body)

    def aad(self, label: bytes, number: int, length: int) -> bytes:
        return self.message_id + b"AWSKMSEncryptionClient " + label + u32(number) + struct.pack(">Q", length)

    def frame(self, number: int, plaintext: bytes, nonce: bytes | None = None) -> bytes:
        nonce = nonce or iv(number)
        sealed = self.key.encrypt(nonce, plaintext, self.aad(b"Frame", number, len(plaintext)))
        return u32(number) + nonce + sealed

    def final(self, number: int, plaintext: bytes) -> bytes:
        sealed = self.key.encrypt(iv(number), plaintext, self.aad(b"Final Frame", number, len(plaintext)))
        return b"\xff\xff\xff\xff" + u32(number) + iv(number) + u32(len(plaintext)) + sealed

    def frames(self, plaintext: bytes) -> list[bytes]:
        """All frames, the final one last: full when the length is a multiple of the frame length."""
        length = self.frame_length
        edges = range(0, max(1, len(plaintext)), length)
        pieces = [plaintext[edge : edge + length] for edge in edges]
        regular = [self.frame(number, piece) for number, piece in enumerate(pieces[:-1], 1)]
        return [*regular, self.final(len(pieces), pieces[-1])]

    def message(self, plaintext: bytes) -> bytes:
        return self.header + b"".join(self.frames(plaintext))
