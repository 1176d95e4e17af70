"""The messages of the media streams, without a copy through protobuf for the bytes that matter.

A chunk message is one length-delimited field: a tag byte, the length as a varint, the bytes (protobuf encoding guide,
"Length-Delimited Records"). Reading such a message is a slice; writing one is two bytes or a few before the payload.
Whatever is not exactly that, generated code reads.
"""

from __future__ import annotations

from collections.abc import Callable

from ownkey.v1 import key_service_pb2

CHUNK_TAG = (key_service_pb2.EncryptMediaRequest.CHUNK_FIELD_NUMBER << 3) | 2
# A tag byte and a varint of at most five bytes: room before the payload for both.
PREFIX_ROOM = 6


def chunk_of(raw: bytes) -> memoryview | None:
    """The chunk in a request that holds a chunk and nothing else; None for any other message. Shares ``raw``'s memory.

    A view of ``bytes``, so that who gets it may keep it without a copy.
    """
    if not raw or raw[0] != CHUNK_TAG:
        return None
    length = shift = 0
    for position in range(1, min(len(raw), PREFIX_ROOM)):
        byte = raw[position]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            start = position + 1
            return memoryview(raw)[start:] if len(raw) - start == length else None
        shift += 7
    return None


class ChunkWriter:
    """Makes response messages from bytes that an engine writes in place.

    One buffer serves every stream of a server: between the engine's writing and the message's making nothing else runs,
    so memory does not grow with the number of streams.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def message(self, size: int, write_into: Callable[[memoryview], int]) -> bytes | None:
        """The message with the chunk that ``write_into`` writes, or None when it writes nothing.

        Args:
            size: The most that it will write.
            write_into: Gets a buffer of ``size`` bytes or more, and returns how many it wrote.
        """
        if not size:
            return None
        if len(self._buffer) < PREFIX_ROOM + size:
            self._buffer = bytearray(PREFIX_ROOM + size)
        with memoryview(self._buffer) as view:
            written = write_into(view[PREFIX_ROOM:])
            if not written:
                return None
            prefix = _prefix(written)
            start = PREFIX_ROOM - len(prefix)
            view[start:PREFIX_ROOM] = prefix
            return bytes(view[start : PREFIX_ROOM + written])


def chunk_message(chunk: bytes) -> bytes:
    """The response message that holds this chunk."""
    return _prefix(len(chunk)) + chunk


def _prefix(length: int) -> bytes:
    prefix = bytearray([CHUNK_TAG])
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)
