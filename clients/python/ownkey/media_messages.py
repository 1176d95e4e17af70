"""The messages of the media streams, without a copy through protobuf for the bytes that matter.

A chunk message is one length-delimited field: a tag byte, the length as a varint, the bytes (protobuf encoding guide,
"Length-Delimited Records"). Reading such a message is a slice, and writing one is a few bytes before the payload.
Whatever is not exactly that, generated code reads. Client and server share this.
"""

from __future__ import annotations

from ownkey.v1 import key_service_pb2

_CHUNK_TAG = (key_service_pb2.EncryptMediaRequest.CHUNK_FIELD_NUMBER << 3) | 2
# A tag byte and a varint of at most five bytes.
MAX_PREFIX = 6


def chunk_prefix(length: int) -> bytes:
    """The bytes that go before a chunk of that length to make it a message."""
    prefix = bytearray([_CHUNK_TAG])
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def chunk_of(raw: bytes) -> memoryview | None:
    """The chunk in a message that holds a chunk and nothing else; None for any other message. Shares ``raw``'s memory.

    A view of ``bytes``, so that who gets it may keep it without a copy.
    """
    if not raw or raw[0] != _CHUNK_TAG:
        return None
    length = shift = 0
    for position in range(1, min(len(raw), MAX_PREFIX)):
        byte = raw[position]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            start = position + 1
            return memoryview(raw)[start:] if len(raw) - start == length else None
        shift += 7
    return None
