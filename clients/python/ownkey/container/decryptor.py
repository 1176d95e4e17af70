"""An object to content: push its bytes in, take verified plaintext out."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag

from ownkey.container.derivation import MessageKey, open_message
from ownkey.container.errors import FrameOutOfOrder, FrameTampered, LimitExceeded, TrailingData, Truncated
from ownkey.container.frames import (
    FINAL_MARK,
    FINAL_OVERHEAD,
    FINAL_PREFIX,
    REGULAR_OVERHEAD,
    REGULAR_PREFIX,
    U32,
    FrameBinding,
)
from ownkey.container.header import DEFAULT_LIMITS, Buffer, Header, ReaderLimits


class FrameOpener:
    """Opens the frames of one message. What it gives is verified; what it cannot verify it does not give.

    Raises:
        CommitmentMismatch: The data key is not this object's.
        HeaderTampered: The header was changed.
        LimitExceeded: The frames are larger than the limits allow.
    """

    def __init__(self, header: Header, data_key: Buffer, limits: ReaderLimits) -> None:
        if header.frame_length > limits.frame_length:
            raise LimitExceeded(f"a frame has at most {limits.frame_length} bytes, not {header.frame_length}")
        self._key: MessageKey = open_message(data_key, header)
        self._binding = FrameBinding(header.message_id)
        self._frame_length = header.frame_length
        self._regular_size = header.frame_length + REGULAR_OVERHEAD

    def size_of(self, start: Buffer) -> int:
        """Bytes of the frame that begins like this; while too little has come to tell, how many bytes will tell."""
        if len(start) < 4:
            return 4
        if U32.unpack_from(start)[0] != FINAL_MARK:
            return self._regular_size
        if len(start) < FINAL_PREFIX:
            return FINAL_PREFIX
        (length,) = U32.unpack_from(start, FINAL_PREFIX - 4)
        if length > self._frame_length:
            raise LimitExceeded(f"the final frame has at most {self._frame_length} bytes here, not {length}")
        return int(length) + FINAL_OVERHEAD

    def is_whole(self, frame: Buffer, size: int) -> bool:
        """Whether ``frame`` holds all ``size`` bytes of itself, and not only those that tell how many there are."""
        return size > FINAL_PREFIX and len(frame) >= size

    def open_into(self, frame: memoryview, number: int, out: memoryview) -> tuple[int, bool]:
        """Open one whole frame; gives the bytes of plaintext written, and whether it is the final frame.

        Raises:
            FrameOutOfOrder: It is not frame ``number``.
            FrameTampered: It was changed. Nothing of it is left in ``out``.
        """
        final = U32.unpack_from(frame)[0] == FINAL_MARK
        prefix = FINAL_PREFIX if final else REGULAR_PREFIX
        at = 4 if final else 0
        (found,) = U32.unpack_from(frame, at)
        if found != number:
            raise FrameOutOfOrder(number, found)
        iv = self._binding.iv(number)
        length = len(frame) - (FINAL_OVERHEAD if final else REGULAR_OVERHEAD)
        binding = self._binding.final(number, length) if final else self._binding.regular(number, length)
        # The nonce follows from the number; the one in the frame must say the same, and is not otherwise believed.
        if frame[at + 4 : at + 4 + len(iv)] != iv:
            raise FrameTampered(number)
        with out[:length] as place:
            try:
                self._key.decrypt_into(iv, frame[prefix:], binding, place)
            except InvalidTag:
                place[:] = bytes(length)
                raise FrameTampered(number) from None
        return length, final


class Decryptor:
    """Decrypts one object. Holds at most one frame, and gives plaintext only after its tag.

    Args:
        header: What a :class:`HeaderReader` read.
        data_key: 32 bytes. Not kept.
        limits: What to accept.

    Raises:
        CommitmentMismatch: The data key is not this object's.
        HeaderTampered: The header was changed.
        LimitExceeded: The frames are larger than the limits allow.
    """

    def __init__(self, header: Header, data_key: Buffer, *, limits: ReaderLimits = DEFAULT_LIMITS) -> None:
        self._opener = FrameOpener(header, data_key, limits)
        self._buffer = bytearray()
        self._number = 1
        self._finished = False
        self._alive = True

    @property
    def finished(self) -> bool:
        """Whether the final frame was verified: only then is the content whole."""
        return self._finished

    def output_size(self, length: int) -> int:
        """The most that :meth:`update_into` writes for ``length`` more bytes of the object."""
        return len(self._buffer) + length

    def update(self, data: Buffer) -> bytes:
        """The content of the frames that ``data`` completes; empty when it completes none."""
        out = bytearray(self.output_size(len(data)))
        return bytes(memoryview(out)[: self.update_into(data, out)])

    def update_into(self, data: Buffer, out: bytearray | memoryview) -> int:
        """The same into a buffer of the caller's; returns the bytes written.

        Raises:
            ValueError: ``out`` is smaller than :meth:`output_size` of the data, or an error ended the object before.
            ContainerError: What is wrong with the object. Nothing from this call may be used.
        """
        if not self._alive:
            raise ValueError("an error ended this object")
        if len(out) < self.output_size(len(data)):
            raise ValueError(f"the output needs room for {self.output_size(len(data))} bytes, and has {len(out)}")
        self._alive = False
        with memoryview(out) as target:
            written = self._open_whole_frames(memoryview(data).cast("B"), target)
        self._alive = True
        return written

    def finish(self) -> None:
        """Say that the object has ended.

        Raises:
            Truncated: Its final frame has not come, so that what came is only a part of the content.
        """
        if not self._finished:
            raise Truncated(f"the object ends before its final frame: {self._number - 1} frames were whole")

    def _open_whole_frames(self, data: memoryview, out: memoryview) -> int:
        position = written = 0
        while position < len(data):
            if self._finished:
                raise TrailingData
            if self._buffer:
                size = self._opener.size_of(self._buffer)
                piece = data[position : position + size - len(self._buffer)]
                self._buffer += piece
                position += len(piece)
                if not self._opener.is_whole(self._buffer, size):
                    continue
                with memoryview(self._buffer) as frame:
                    written = self._open(frame, out, written)
                self._buffer.clear()
                continue
            # Straight from the caller's memory when the frame is whole there.
            rest = data[position:]
            size = self._opener.size_of(rest)
            if self._opener.is_whole(rest, size):
                written = self._open(rest[:size], out, written)
                position += size
            else:
                self._buffer += rest[:size]
                position += len(self._buffer)
        return written

    def _open(self, frame: memoryview, out: memoryview, at: int) -> int:
        length, self._finished = self._opener.open_into(frame, self._number, out[at:])
        self._number += 1
        return at + length
