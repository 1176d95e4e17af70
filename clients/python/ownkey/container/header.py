"""The header of an object: what it says, its bytes, and how it is read from a stream.

AWS Encryption SDK message format, version 2, suite 0x0478 (AES-256-GCM, HKDF-SHA-512, key commitment, no signature),
framed. docs/formats.md has it byte by byte.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ownkey.container import derivation
from ownkey.container.context import parse_context, serialize_context
from ownkey.container.derivation import Buffer
from ownkey.container.errors import HeaderInvalid, LimitExceeded, UnsupportedFormat

VERSION_AND_SUITE = b"\x02\x04\x78"
FRAMED = 2
MAX_KEYS_WRITTEN = 8
MIN_FRAME_LENGTH_WRITTEN = 1 << 12
MAX_FRAME_LENGTH_WRITTEN = 1 << 22

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_FIXED_START = len(VERSION_AND_SUITE) + derivation.MESSAGE_ID_LENGTH + 2
_FIXED_END = 1 + 4 + derivation.COMMITMENT_LENGTH


@dataclass(frozen=True, slots=True)
class EncryptedDataKey:
    """The data key, wrapped under one key.

    Attributes:
        provider_id: What kind of key store wrapped it.
        provider_info: Which of its keys, and what else it needs to unwrap.
        ciphertext: The wrapped data key.
    """

    provider_id: str
    provider_info: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return f"EncryptedDataKey({self.provider_id[:64]!r}, {self.provider_info[:64]!r}, {len(self.ciphertext)} bytes)"

    def to_bytes(self) -> bytes:
        """The entry as it stands in a header: each part with its length (16 bits).

        Raises:
            LimitExceeded: A part has more than 65,535 bytes.
            HeaderInvalid: The provider id has no UTF-8 form.
        """
        try:
            name = self.provider_id.encode()
        except UnicodeEncodeError:
            raise HeaderInvalid("the provider id of a wrapped key has no UTF-8 form") from None
        info, ciphertext = self.provider_info, self.ciphertext
        sizes = len(name), len(info), len(ciphertext)
        if max(sizes) > 0xFFFF:
            raise LimitExceeded("a part of a wrapped key has at most 65,535 bytes")
        pack = _U16.pack
        return b"".join((pack(sizes[0]), name, pack(sizes[1]), info, pack(sizes[2]), ciphertext))


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """What a reader accepts: everything is bounded before memory is taken or a key is asked.

    Attributes:
        frame_length: Plaintext bytes in a frame, at most.
        minimum_frame_length: The same, at least: frames of a byte cost more than they hold.
        encrypted_data_keys: Wrapped keys in a header.
        header_length: Bytes of a header.
    """

    frame_length: int = 1 << 24
    minimum_frame_length: int = 1
    encrypted_data_keys: int = 16
    header_length: int = 1 << 16


DEFAULT_LIMITS = ReaderLimits()


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one object. It is made once, with a message id of its own, and never changed.

    A second header under the same message id would repeat a nonce and let anybody forge frames, so nothing here makes
    one: see docs/formats.md, "One header per message id".

    Attributes:
        message_id: 32 random bytes, unique for ever.
        encryption_context: The pairs stored in, and bound to, the object.
        encrypted_data_keys: The object's data key, wrapped under one or more keys.
        frame_length: Plaintext bytes in a frame.
        commitment: 32 bytes by which the object commits to its data key.
        body: Everything before the tag, verbatim.
        tag: 16 bytes that authenticate the body.
    """

    message_id: bytes
    encryption_context: Mapping[str, str]
    encrypted_data_keys: tuple[EncryptedDataKey, ...]
    frame_length: int
    commitment: bytes
    body: bytes
    tag: bytes

    def __repr__(self) -> str:
        pairs, keys = len(self.encryption_context), len(self.encrypted_data_keys)
        return f"Header({self.message_id.hex()}, {pairs} pairs, {keys} wrapped keys, frames of {self.frame_length})"

    @property
    def length(self) -> int:
        """Bytes of body and tag."""
        return len(self.body) + len(self.tag)

    def to_bytes(self) -> bytes:
        """Body and tag, verbatim."""
        return self.body + self.tag


def create_header(
    data_key: Buffer,
    context: Mapping[str, str],
    keys: Sequence[EncryptedDataKey],
    frame_length: int,
) -> tuple[Header, derivation.MessageKey]:
    """A new header with a new message id, and the key for its frames.

    Raises:
        LimitExceeded: The profile does not allow so many keys or pairs, or such frames.
        HeaderInvalid: The context is not well formed.
    """
    if not 1 <= len(keys) <= MAX_KEYS_WRITTEN:
        raise LimitExceeded(f"an object has 1 to {MAX_KEYS_WRITTEN} wrapped keys, not {len(keys)}")
    in_range = MIN_FRAME_LENGTH_WRITTEN <= frame_length <= MAX_FRAME_LENGTH_WRITTEN
    if not in_range or frame_length & (frame_length - 1):
        raise LimitExceeded(f"a frame length is a power of two from 4,096 to 4,194,304, not {frame_length}")
    message_id = secrets.token_bytes(derivation.MESSAGE_ID_LENGTH)
    message_key, commitment = derivation.derive(data_key, message_id)
    serialized = serialize_context(context)
    body = b"".join(
        (
            VERSION_AND_SUITE,
            message_id,
            _U16.pack(len(serialized)),
            serialized,
            _U16.pack(len(keys)),
            *(key.to_bytes() for key in keys),
            bytes([FRAMED]),
            _U32.pack(frame_length),
            commitment,
        )
    )
    if len(body) + derivation.TAG_LENGTH > DEFAULT_LIMITS.header_length:
        raise LimitExceeded(f"a header has at most {DEFAULT_LIMITS.header_length} bytes")
    tag = derivation.header_tag(message_key, body)
    pairs = MappingProxyType(dict(context))
    return Header(message_id, pairs, tuple(keys), frame_length, commitment, body, tag), message_key


class HeaderReader:
    """Reads a header from a stream, in pieces of any size, and holds no more than a header may be.

    Nothing that it returns is authentic yet: that takes the data key.
    """

    def __init__(self, *, limits: ReaderLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._rest: Buffer = b""
        self._alive = True
        self._parser = self._parse()
        self._needed = next(self._parser)

    @property
    def rest(self) -> Buffer:
        """What came after the header in the piece that completed it. Shares that piece's memory."""
        return self._rest

    def feed(self, data: Buffer) -> Header | None:
        """Take the next piece; the header once it is whole, else None.

        Raises:
            UnsupportedFormat: This is not the format, or not the profile of it that we read.
            LimitExceeded: The header asks for more than the limits allow.
            HeaderInvalid: It is not well formed.
            ValueError: The header was whole before, or an error ended the reading.
        """
        if not self._alive:
            raise ValueError("this header was read, or an error ended the reading")
        self._alive = False
        header = self._take(memoryview(data).cast("B"))
        self._alive = header is None
        return header

    def _take(self, view: memoryview) -> Header | None:
        while True:
            missing = self._needed - len(self._buffer)
            self._buffer += view[:missing]
            view = view[missing:]
            if len(self._buffer) < self._needed:
                return None
            try:
                self._needed = next(self._parser)
            except StopIteration as done:
                self._rest = view
                header: Header = done.value
                return header

    def _parse(self) -> Generator[int, None, Header]:
        """Yields how many bytes must be there before it can go on."""
        buffer = self._buffer
        # The first bytes tell another kind of file before more of it is taken.
        yield len(VERSION_AND_SUITE)
        if buffer != VERSION_AND_SUITE:
            raise UnsupportedFormat(_what_it_is(bytes(buffer)))
        yield _FIXED_START
        start = _FIXED_START
        (length,) = _U16.unpack_from(buffer, start - 2)
        end = self._bounded(start + length + 2)
        yield end
        context = parse_context(bytes(buffer[start : end - 2]))
        (count,) = _U16.unpack_from(buffer, end - 2)
        if not 1 <= count <= self._limits.encrypted_data_keys:
            raise LimitExceeded(f"an object has 1 to {self._limits.encrypted_data_keys} wrapped keys, not {count}")
        keys = []
        for _ in range(count):
            parts = []
            for _ in range(3):
                yield self._bounded(end + 2)
                (length,) = _U16.unpack_from(buffer, end)
                start, end = end + 2, end + 2 + length
                yield self._bounded(end)
                parts.append(bytes(buffer[start:end]))
            keys.append(_entry(*parts))
        start, end = end, end + _FIXED_END
        yield self._bounded(end + derivation.TAG_LENGTH)
        if buffer[start] != FRAMED:
            raise UnsupportedFormat("the object is not framed, and ownkey reads framed ones only")
        (frame_length,) = _U32.unpack_from(buffer, start + 1)
        least, most = self._limits.minimum_frame_length, self._limits.frame_length
        if not least <= frame_length <= most:
            raise LimitExceeded(f"a frame has {least} to {most} bytes here, not {frame_length}")
        return Header(
            message_id=bytes(buffer[3 : 3 + derivation.MESSAGE_ID_LENGTH]),
            encryption_context=MappingProxyType(context),
            encrypted_data_keys=tuple(keys),
            frame_length=frame_length,
            commitment=bytes(buffer[end - derivation.COMMITMENT_LENGTH : end]),
            body=bytes(buffer[:end]),
            tag=bytes(buffer[end:]),
        )

    def _bounded(self, needed: int) -> int:
        if needed > self._limits.header_length:
            raise LimitExceeded(f"a header has at most {self._limits.header_length} bytes")
        return needed


def _entry(provider_id: bytes, provider_info: bytes, ciphertext: bytes) -> EncryptedDataKey:
    try:
        return EncryptedDataKey(provider_id.decode(), provider_info, ciphertext)
    except UnicodeDecodeError:
        raise HeaderInvalid("the provider id of a wrapped key is not UTF-8") from None


def _what_it_is(start: bytes) -> str:
    if start[:1] == b"\x01":
        return "the object is in version 1 of the format, which does not commit to its key; ownkey reads version 2"
    if start[:1] == b"\x02":
        return f"the object is in suite 0x{start[1:].hex()}, and ownkey reads suite 0x0478 only"
    return "this is not an encrypted object"
