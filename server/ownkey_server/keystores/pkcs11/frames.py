"""Messages out of the bytes of a socket: as many as one read has brought, and each wiped when it is done with."""

from __future__ import annotations

from collections.abc import Iterator

from ownkey_server.keystores.pkcs11.messages import HEADER_LENGTH, length_of, number_of

_ROOM = 1 << 14


class Frames:
    """What has come of a stream, cut into messages. There may be a PIN or a data key in it."""

    def __init__(self) -> None:
        self._buffer = bytearray(_ROOM)
        self._begin = self._end = 0

    def room(self) -> memoryview:
        """Where the next bytes go; there is always some."""
        return memoryview(self._buffer)[self._end :]

    def came(self, count: int) -> None:
        """So many bytes were put there."""
        self._end += count

    def whole(self) -> Iterator[tuple[int, memoryview]]:
        """The number of each message that is whole by now, and what follows its header.

        Each is wiped when the next one is asked for.

        Raises:
            MessageBroken: What comes next is no message.
        """
        buffer = memoryview(self._buffer)
        wanted = HEADER_LENGTH
        while self._end - self._begin >= HEADER_LENGTH:
            body = self._begin + HEADER_LENGTH
            header = buffer[self._begin : body]
            wanted = HEADER_LENGTH + length_of(header)
            if self._end - self._begin < wanted:
                break
            begin, self._begin = self._begin, self._begin + wanted
            try:
                yield number_of(header), buffer[body : self._begin]
            finally:
                buffer[begin : self._begin] = bytes(wanted)
            wanted = HEADER_LENGTH
        self._make_room(wanted)

    def wipe(self) -> None:
        """Overwrite all that is left."""
        self._buffer[:] = bytes(len(self._buffer))
        self._begin = self._end = 0

    def _make_room(self, wanted: int) -> None:
        """Have what has come of the next message, which has that length, at the beginning of a buffer that it fits."""
        left = self._buffer[self._begin : self._end]
        if self._begin and not left:
            self._begin = self._end = 0
        elif self._begin or wanted > len(self._buffer):
            self.wipe()
            if wanted > len(self._buffer):
                self._buffer = bytearray(wanted)
            self._buffer[: len(left)] = left
            self._end = len(left)
            left[:] = bytes(len(left))
