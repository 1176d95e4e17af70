"""Random access: a range of an object's content from a few of its bytes.

A range read proves the bytes that it gives and, by the final frame, the length of the content. It does not prove the
frames that it does not read.
"""

from __future__ import annotations

from collections.abc import Iterator

from ownkey.container.decryptor import FrameOpener
from ownkey.container.derivation import Buffer
from ownkey.container.errors import TrailingData, Truncated
from ownkey.container.header import DEFAULT_LIMITS, Header, ReaderLimits
from ownkey.container.range_stream import ByteSpan, Layout, RangeStream


class RangeDecryptor:
    """Opens ranges of one object.

    Either in memory: fetch :attr:`final_frame`, give it to :meth:`open_final_frame`, then fetch the :meth:`span` of any
    range and :meth:`decrypt` it. Or in bounded memory: push what :attr:`RangeStream.spans` names into a :meth:`stream`.

    Args:
        header: What a :class:`HeaderReader` read from the object's beginning.
        data_key: 32 bytes. Not kept.
        object_size: Bytes of the whole object; the final frame proves it.
        limits: What to accept.

    Raises:
        CommitmentMismatch: The data key is not this object's.
        HeaderTampered: The header was changed.
        LimitExceeded: The frames are larger than the limits allow.
        Truncated: No whole object with this header has this size.
    """

    def __init__(
        self, header: Header, data_key: Buffer, *, object_size: int, limits: ReaderLimits = DEFAULT_LIMITS
    ) -> None:
        self._opener = FrameOpener.of(header, data_key, limits)
        self._layout = Layout.of(header, object_size)
        self._proven = False
        # Memory for a frame, used again: to touch fresh memory takes longer than to decrypt into it.
        self._rooms: list[bytearray] = []

    @property
    def content_size(self) -> int:
        """Bytes of content that the object's size implies; proven once the final frame was opened."""
        return self._layout.content_size

    @property
    def final_frame(self) -> ByteSpan:
        """Where the final frame is in the object."""
        return self._layout.span(self._layout.frames, self._layout.frames + 1)

    def open_final_frame(self, ciphertext: Buffer) -> int:
        """Prove the length of the content by the final frame; gives that length in bytes.

        Raises:
            Truncated: These are not all bytes of the span, or the object's last frame is not its final one.
            TrailingData: These are more bytes than the span has.
            FrameOutOfOrder: The object does not have the number of frames that its size implies.
            FrameTampered: The frame was changed.
        """
        number = self._layout.frames
        frame = _exactly(ciphertext, self.final_frame.length)
        room = self._take_room()
        with memoryview(room) as plain:
            self._opener.another().open_into(frame, number, plain, final=True)
        self._rooms.append(room)
        self._proven = True
        return self.content_size

    def span(self, offset: int, length: int | None = None) -> ByteSpan:
        """Where the frames are that hold a range: the ciphertext to fetch for :meth:`decrypt`.

        Args:
            offset: The first byte of content.
            length: How many; None, or more than there are, means to the end.

        Raises:
            RangeInvalid: The offset lies after the end, or a number is negative.
            ValueError: The final frame was not opened, so that the length of the content is not proven.
        """
        start, end = self._range(offset, length)
        return self._layout.span(*self._layout.covering(start, end))

    def decrypt(self, offset: int, length: int | None, ciphertext: Buffer) -> bytes:
        """The content of a range from exactly the bytes that :meth:`span` named. All of it is in memory at once.

        Raises:
            RangeInvalid: As :meth:`span`.
            Truncated: Bytes of the span are missing.
            TrailingData: There are more of them.
            FrameOutOfOrder: They are of another place in the object.
            FrameTampered: A frame was changed.
            ValueError: As :meth:`span`.
        """
        start, end = self._range(offset, length)
        first, after = self._layout.covering(start, end)
        view = _exactly(ciphertext, self._layout.span(first, after).length)
        opener, room, pieces = self._opener.another(), self._take_room(), []
        position = 0
        with memoryview(room) as plain:
            for number, size, final in self._frames(first, after):
                length = opener.open_into(view[position : position + size], number, plain, final=final)
                base = (number - 1) * self._layout.frame_length
                pieces.append(bytes(plain[max(0, start - base) : min(length, end - base)]))
                position += size
        self._rooms.append(room)
        return b"".join(pieces)

    def stream(self, offset: int, length: int | None = None) -> RangeStream:
        """A reader of a range in bounded memory, which reads and proves the final frame itself.

        Args:
            offset: The first byte of content.
            length: How many; None, or more than there are, means to the end.

        Raises:
            RangeInvalid: The offset lies after the end, or a number is negative.
        """
        return RangeStream(self._opener.another(), self._layout, *self._layout.clamp(offset, length))

    def _take_room(self) -> bytearray:
        return self._rooms.pop() if self._rooms else bytearray(self._layout.plain_length(1))

    def _range(self, offset: int, length: int | None) -> tuple[int, int]:
        if not self._proven:
            raise ValueError("open the final frame first: it proves where the content ends")
        return self._layout.clamp(offset, length)

    def _frames(self, first: int, after: int) -> Iterator[tuple[int, int, bool]]:
        for number in range(first, after):
            yield number, self._layout.span(number, number + 1).length, number == self._layout.frames


def _exactly(ciphertext: Buffer, size: int) -> memoryview:
    view = memoryview(ciphertext).cast("B")
    if len(view) < size:
        raise Truncated(f"{size - len(view)} bytes of the range's ciphertext are missing: fetch the whole span")
    if len(view) > size:
        raise TrailingData(f"the range's ciphertext has {size} bytes, not {len(view)}: give exactly the span's")
    return view
