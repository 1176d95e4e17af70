"""Where the frames of an object lie, and a range of them read in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

from ownkey.container.decryptor import FrameOpener
from ownkey.container.derivation import Buffer
from ownkey.container.errors import LimitExceeded, RangeInvalid, TrailingData, Truncated
from ownkey.container.frame_buffer import FrameBuffer
from ownkey.container.frames import FINAL_OVERHEAD, MAX_FRAMES, REGULAR_OVERHEAD
from ownkey.container.header import Header


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Bytes ``offset`` to ``offset + length`` of an object."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the frames of one object lie. Frames count from 1, as in their numbers.

    Attributes:
        start: Where the first frame begins: the length of the header.
        frame_length: Bytes of content in a regular frame.
        frames: How many there are, the final one included.
        final_length: Bytes of content in the final frame.
    """

    start: int
    frame_length: int
    frames: int
    final_length: int

    @classmethod
    def of(cls, header: Header, object_size: int) -> Layout:
        """The layout that an object's size implies.

        Raises:
            Truncated: No whole object with this header has this size.
            LimitExceeded: Nor is there so large an object.
        """
        stride = header.frame_length + REGULAR_OVERHEAD
        body = object_size - header.length
        # The final frame has at least its overhead, and at most that and a frame's content.
        frames = -(-(body - FINAL_OVERHEAD + REGULAR_OVERHEAD) // stride)
        final_length = body - (frames - 1) * stride - FINAL_OVERHEAD
        if frames < 1 or final_length < 0:
            raise Truncated(f"no whole object with this header has {object_size} bytes: fetch it again")
        if frames > MAX_FRAMES:
            raise LimitExceeded(f"an object has at most {MAX_FRAMES} frames, not {frames}: is this its size?")
        return cls(header.length, header.frame_length, frames, final_length)

    @property
    def content_size(self) -> int:
        """Bytes of content."""
        return (self.frames - 1) * self.frame_length + self.final_length

    def plain_length(self, number: int) -> int:
        """Bytes of content in one frame."""
        return self.final_length if number == self.frames else self.frame_length

    def span(self, first: int, after: int) -> ByteSpan:
        """The bytes of frames ``first`` to ``after``, the latter not included."""
        stride = self.frame_length + REGULAR_OVERHEAD
        length = (after - first) * stride
        if first < after > self.frames:
            length += self.final_length + FINAL_OVERHEAD - stride
        return ByteSpan(self.start + (first - 1) * stride, length)

    def clamp(self, offset: int, length: int | None) -> tuple[int, int]:
        """The first byte of a range of content, and the one after its last.

        Raises:
            RangeInvalid: The offset lies after the end, or a number is negative.
        """
        size = self.content_size
        if not 0 <= offset <= size or (length is not None and length < 0):
            count = "" if length is None else f" and has {length} bytes"
            raise RangeInvalid(f"the range starts at byte {offset}{count}, but the content has bytes 0 to {size}")
        return offset, size if length is None else min(size, offset + length)

    def covering(self, start: int, end: int) -> tuple[int, int]:
        """The frames that hold a range of content: the first, and the one after the last."""
        first = min(start // self.frame_length + 1, self.frames)
        return first, min(-(-end // self.frame_length), self.frames) + 1 if end > start else first


class RangeStream:
    """Reads one range: push the bytes of :attr:`spans` in, in that order, and take the range out.

    Made by :meth:`RangeDecryptor.stream`. Holds at most two frames, however long the range is.
    """

    def __init__(self, opener: FrameOpener, layout: Layout, start: int, end: int) -> None:
        self._opener = opener
        self._layout = layout
        self._start = start
        self._end = end
        self._number, after = layout.covering(start, end)
        # The final frame is read in any case and first, to prove the length before anything goes out.
        self._after = min(after, layout.frames)
        spans = (layout.span(layout.frames, layout.frames + 1), layout.span(self._number, self._after))
        self._spans = tuple(span for span in spans if span.length)
        self._left = sum(span.length for span in self._spans)
        self._buffer = FrameBuffer(layout.frame_length + FINAL_OVERHEAD)
        self._scratch = bytearray()
        self._final: bytes | None = None
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
        out = bytearray(self.output_size(memoryview(data).nbytes))
        return bytes(memoryview(out)[: self.update_into(data, out)])

    def update_into(self, data: Buffer, out: bytearray | memoryview) -> int:
        """The same into a buffer of the caller's; returns the bytes written.

        Raises:
            ValueError: ``out`` is smaller than :meth:`output_size` of the data, or an error ended the read before.
            ContainerError: What is wrong with the object. Nothing from this call may be used, and no call may follow.
        """
        self._require_alive()
        view = memoryview(data).cast("B")
        size = self.output_size(len(view))
        if len(out) < size:
            raise ValueError(f"the output needs room for {size} bytes, and has {len(out)}")
        self._alive = False
        if len(view) > self._left:
            raise TrailingData(f"the range's ciphertext has {len(view) - self._left} bytes less: push the spans only")
        self._left -= len(view)
        with memoryview(out) as target:
            written = self._open_whole_frames(view, target)
        self._alive = True
        return written

    def finish(self) -> None:
        """Say that all spans were pushed in.

        Raises:
            Truncated: They were not.
            ValueError: An error ended the read before.
        """
        self._require_alive()
        if self._left:
            raise Truncated(f"{self._left} bytes of the range's ciphertext are missing: fetch them and read again")

    def _open_whole_frames(self, data: memoryview, out: memoryview) -> int:
        written = position = 0
        while position < len(data):
            number = self._layout.frames if self._final is None else self._number
            wanted = self._layout.span(number, number + 1).length
            piece = data[position : position + wanted - len(self._buffer)]
            position += len(piece)
            if len(piece) == wanted:
                written = self._open(piece, number, out, written)
                continue
            self._buffer.append(piece)
            if len(self._buffer) == wanted:
                with self._buffer.view() as frame:
                    written = self._open(frame, number, out, written)
                self._buffer.clear()
        return written

    def _open(self, frame: memoryview, number: int, out: memoryview, at: int) -> int:
        """Open a frame and write what of it belongs to the range: the final frame's part last of all."""
        length = self._layout.plain_length(number)
        base = (number - 1) * self._layout.frame_length
        begin, end = max(0, self._start - base), max(0, min(length, self._end - base))
        if self._final is None:
            with self._room(length) as plain:
                self._opener.open_into(frame, number, plain, final=True)
                self._final = bytes(plain[begin:end])
        else:
            if (begin, end) == (0, length):
                self._opener.open_into(frame, number, out[at:], final=False)
            else:
                with self._room(length) as plain:
                    self._opener.open_into(frame, number, plain, final=False)
                    out[at : at + end - begin] = plain[begin:end]
            at += end - begin
            self._number += 1
        if self._number < self._after:
            return at
        tail = self._final
        out[at : at + len(tail)] = tail
        return at + len(tail)

    def _room(self, length: int) -> memoryview:
        if len(self._scratch) < length:
            self._scratch = bytearray(length)
        return memoryview(self._scratch)

    def _require_alive(self) -> None:
        if not self._alive:
            raise ValueError("an error ended this read")
