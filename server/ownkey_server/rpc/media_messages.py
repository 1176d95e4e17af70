"""Response messages of the media streams, made in place from what an engine writes."""

from __future__ import annotations

from collections.abc import Callable

from ownkey.media_messages import MAX_PREFIX, chunk_prefix


class ChunkWriter:
    """Makes response messages from bytes that an engine writes.

    One buffer serves every stream of a server: between the engine's writing and the message's making nothing else runs,
    so memory does not grow with the number of streams.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def message(self, size: int, write_into: Callable[[memoryview], int]) -> bytes | None:
        """The message with the chunk that ``write_into`` writes, or None when it writes nothing.

        Args:
            size: The most that it will write.
            write_into: Gets a buffer of ``size`` bytes or more, and returns how many it wrote. It is called even for a
                size of 0: an engine may take what it is given and write nothing yet.
        """
        if len(self._buffer) < MAX_PREFIX + size:
            self._buffer = bytearray(MAX_PREFIX + size)
        with memoryview(self._buffer) as view:
            written = write_into(view[MAX_PREFIX:])
            if not written:
                return None
            prefix = chunk_prefix(written)
            start = MAX_PREFIX - len(prefix)
            view[start:MAX_PREFIX] = prefix
            return bytes(view[start : MAX_PREFIX + written])


def chunk_message(chunk: bytes) -> bytes:
    """The response message that holds this chunk."""
    return chunk_prefix(len(chunk)) + chunk
