"""Random access: a range of an object's content from a few of its bytes.

A range read proves the bytes that it gives and, by the final frame, the length of the content. It does not prove the
frames that it does not read.
"""

from __future__ import annotations

from dataclasses import dataclass

from ownkey.container.decryptor import FrameOpener
from ownkey.container.errors import FrameOutOfOrder, RangeInvalid, TrailingData, Truncated
from ownkey.container.frames import FINAL_OVERHEAD, REGULAR_OVERHEAD
from ownkey.container.header import DEFAULT_LIMITS, Buffer, Header, ReaderLimits


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Bytes ``offset`` to ``offset + length`` of an object."""

    offset: int
    length: int


class RangeDecryptor:
    """Opens ranges of one object.

    Args:
        header: What a :class:`HeaderReader` read from the object's beginning.
        data_key: 32 bytes. Not kept.
        object_size: Bytes of the whole object; every range read proves it.
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
        self._opener = FrameOpener(header, data_key, limits)
        self._header_length = header.length
        self._frame_length = header.frame_length
        self._stride = header.frame_length + REGULAR_OVERHEAD
        body = object_size - header.length
        regular_overhead_difference = FINAL_OVERHEAD - REGULAR_OVERHEAD
        self._frames = -(-(body - regular_overhead_difference) // self._stride)
        final_length = body - (self._frames - 1) * self._stride - FINAL_OVERHEAD
        if self._frames < 1 or final_length < 0:
            raise Truncated(f"no whole object with this header has {object_size} bytes")
        self._final_length = final_length

    @property
    def content_size(self) -> int:
        """Bytes of content that the object's size implies; proven once a stream has taken the final frame."""
        return (self._frames - 1) * self._frame_length + self._final_length

    def stream(self, offset: int, length: int | None = None) -> RangeStream:
        """A reader of the content's bytes from ``offset`` on.

        Args:
            offset: The first byte.
            length: How many; None, or more than there are, means to the end.

        Raises:
            RangeInvalid: The offset lies after the end, or is negative.
        """
        size = self.content_size
        if not 0 <= offset <= size or (length is not None and length < 0):
            raise RangeInvalid(f"the range starts at byte {offset}, and the content has {size} bytes")
        end = size if length is None else min(size, offset + length)
        first = offset // self._frame_length
        # The final frame is read in any case, so only the regular frames of the range are asked for.
        last = min(-(-end // self._frame_length), self._frames - 1) if end > offset else first
        count = max(0, last - first)
        final = ByteSpan(
            self._header_length + (self._frames - 1) * self._stride, self._final_length + FINAL_OVERHEAD
        )
        spans = [final]
        if count:
            spans.append(ByteSpan(self._header_length + first * self._stride, count * self._stride))
        return RangeStream(self._opener, tuple(spans), self._frame_length, self._frames, offset, end)


class RangeStream:
    """Reads one range: push the bytes of :attr:`spans` in, in that order, and take the range out.

    Holds at most two frames, however long the range is.
    """

    def __init__(
        self, opener: FrameOpener, spans: tuple[ByteSpan, ...], frame_length: int, frames: int, offset: int, end: int
    ) -> None:
        self._opener = opener
        self._spans = spans
        self._frame_length = frame_length
        self._frames = frames
        self._offset = offset
        self._end = end
        self._number = offset // frame_length + 1
        self._wanted = spans[0].length
        self._left = sum(span.length for span in spans)
        self._buffer = bytearray()
        self._final: bytes | None = None
        self._plain = bytearray(frame_length)
        self._alive = True

    @property
    def spans(self) -> tuple[ByteSpan, ...]:
        """The spans of the object to push in: its final frame, and the frames of the range if there are others."""
        return self._spans

    def output_size(self, length: int) -> int:
        """The most that :meth:`update_into` writes for ``length`` more bytes."""
        return len(self._buffer) + length + len(self._final or b"")

    def update(self, data: Buffer) -> bytes:
        """The bytes of the range that ``data`` completes."""
        out = bytearray(self.output_size(len(data)))
        return bytes(memoryview(out)[: self.update_into(data, out)])

    def update_into(self, data: Buffer, out: bytearray | memoryview) -> int:
        """The same into a buffer of the caller's; returns the bytes written.

        Raises:
            ValueError: ``out`` is smaller than :meth:`output_size` of the data, or an error ended the read before.
            ContainerError: What is wrong with the object. Nothing from this call may be used.
        """
        if not self._alive:
            raise ValueError("an error ended this read")
        if len(out) < self.output_size(len(data)):
            raise ValueError(f"the output needs room for {self.output_size(len(data))} bytes, and has {len(out)}")
        if len(data) > self._left:
            raise TrailingData
        self._alive = False
        self._left -= len(data)
        written = position = 0
        with memoryview(out) as target, memoryview(data).cast("B") as view:
            while position < len(view):
                piece = view[position : position + self._wanted - len(self._buffer)]
                self._buffer += piece
                position += len(piece)
                if len(self._buffer) == self._wanted:
                    written += self._open(target[written:])
        self._alive = True
        return written

    def finish(self) -> None:
        """Say that all spans were pushed in.

        Raises:
            Truncated: They were not.
        """
        if self._left:
            raise Truncated(f"{self._left} bytes of the range's ciphertext are missing")

    def _open(self, out: memoryview) -> int:
        """Open the frame in the buffer; write what of it belongs to the range."""
        final = self._final is None
        number = self._frames if final else self._number
        with memoryview(self._buffer) as frame, memoryview(self._plain) as plain:
            length, is_final = self._opener.open_into(frame, number, plain)
            if is_final is not final:
                raise FrameOutOfOrder(number, self._frames if is_final else number)
            content = self._of_range(plain[:length], number)
        self._buffer.clear()
        written = 0
        if final:
            # It comes first, to prove the length, and goes out last.
            self._final = bytes(content)
            self._wanted = self._frame_length + REGULAR_OVERHEAD
        else:
            written = len(content)
            out[:written] = content
            self._number += 1
        if not self._left_to_open():
            tail = self._final or b""
            out[written : written + len(tail)] = tail
            written += len(tail)
        return written

    def _left_to_open(self) -> bool:
        return len(self._spans) > 1 and (self._number - 1) * self._frame_length < self._last_regular_end()

    def _last_regular_end(self) -> int:
        return min(-(-self._end // self._frame_length), self._frames - 1) * self._frame_length

    def _of_range(self, plain: memoryview, number: int) -> memoryview:
        start = (number - 1) * self._frame_length
        return plain[max(0, self._offset - start) : max(0, self._end - start)]
