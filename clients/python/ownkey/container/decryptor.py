"""An object to content: push its bytes in, take verified plaintext out."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag

from ownkey.container.derivation import Buffer, MessageKey, open_message
from ownkey.container.errors import FrameOutOfOrder, FrameTampered, LimitExceeded, TrailingData, Truncated
from ownkey.container.frame_buffer import FrameBuffer
from ownkey.container.frames import (
    FINAL_OVERHEAD,
    FINAL_PREFIX,
    REGULAR_OVERHEAD,
    REGULAR_PREFIX,
    U32,
    FrameBinding,
    is_final,
)
from ownkey.container.header import DEFAULT_LIMITS, Header, ReaderLimits


class FrameOpener:
    """Opens the frames of one message. What it gives is verified; what it cannot verify it does not give.

    Serves one reader at a time: :meth:`another` is for the next.
    """

    def __init__(self, key: MessageKey, message_id: bytes, frame_length: int) -> None:
        self._key = key
        self._message_id = message_id
        self._binding = FrameBinding(message_id)
        self._frame_length = frame_length

    @classmethod
    def of(cls, header: Header, data_key: Buffer, limits: ReaderLimits) -> FrameOpener:
        """The opener for an object's frames.

        Raises:
            CommitmentMismatch: The data key is not this object's.
            HeaderTampered: The header was changed.
            LimitExceeded: The frames are larger than the limits allow.
        """
        if header.frame_length > limits.frame_length:
            raise LimitExceeded(f"a frame has at most {limits.frame_length} bytes here, not {header.frame_length}")
        return cls(open_message(data_key, header), header.message_id, header.frame_length)

    def another(self) -> FrameOpener:
        """An opener of the same frames that shares nothing that changes with this one."""
        return FrameOpener(self._key, self._message_id, self._frame_length)

    def size_of(self, start: Buffer) -> int:
        """Bytes of the frame that begins like this; while too little has come to tell, how many bytes will tell."""
        if len(start) < 4:
            return 4
        if not is_final(start):
            return self._frame_length + REGULAR_OVERHEAD
        if len(start) < FINAL_PREFIX:
            return FINAL_PREFIX
        (length,) = U32.unpack_from(start, FINAL_PREFIX - 4)
        if length > self._frame_length:
            raise LimitExceeded(f"the final frame has at most {self._frame_length} bytes here, not {length}")
        return int(length) + FINAL_OVERHEAD

    def is_whole(self, frame: Buffer, size: int) -> bool:
        """Whether ``frame`` holds all ``size`` bytes of itself, and not only those that tell how many there are."""
        return size > FINAL_PREFIX and len(frame) >= size

    def open_into(self, frame: memoryview, number: int, out: memoryview, *, final: bool) -> int:
        """Open one whole frame, which must have that number and be final or not; gives the bytes of plaintext.

        Raises:
            FrameOutOfOrder: It is not frame ``number``.
            FrameTampered: It was changed. Nothing of it is left in ``out``.
            Truncated: It is a regular frame where the final one must be.
        """
        marked = is_final(frame)
        at = 4 if marked else 0
        (found,) = U32.unpack_from(frame, at)
        if found != number:
            raise FrameOutOfOrder(number, found)
        if final and not marked:
            raise Truncated("the object ends with a frame that is not its final one: fetch the whole object")
        prefix, overhead = (FINAL_PREFIX, FINAL_OVERHEAD) if final else (REGULAR_PREFIX, REGULAR_OVERHEAD)
        length = len(frame) - overhead
        iv = self._binding.iv(number)
        # Nonce and length follow from the frame's place; those in the frame must say the same, and are not believed.
        says_so = marked is final and frame[at + 4 : at + 4 + len(iv)] == iv
        if final:
            says_so = says_so and U32.unpack_from(frame, FINAL_PREFIX - 4)[0] == length
        if not says_so:
            raise FrameTampered(number)
        binding = self._binding.final(number, length) if final else self._binding.regular(number, length)
        with out[:length] as place:
            try:
                self._key.decrypt_into(iv, frame[prefix:], binding, place)
            except InvalidTag:
                # The cipher writes before it compares tags.
                place[:] = bytes(length)
                raise FrameTampered(number) from None
        return length


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
        self._opener = FrameOpener.of(header, data_key, limits)
        self._buffer = FrameBuffer(header.frame_length + FINAL_OVERHEAD)
        self._number = 1
        self._finished = False
        self._alive = True

    @property
    def finished(self) -> bool:
        """Whether the final frame was verified, and nothing came after it: only then is the content whole."""
        return self._finished and self._alive

    def output_size(self, length: int) -> int:
        """The most that :meth:`update_into` writes for ``length`` more bytes of the object."""
        return len(self._buffer) + length

    def update(self, data: Buffer) -> bytes:
        """The content of the frames that ``data`` completes; empty when it completes none."""
        out = bytearray(self.output_size(memoryview(data).nbytes))
        return bytes(memoryview(out)[: self.update_into(data, out)])

    def update_into(self, data: Buffer, out: bytearray | memoryview) -> int:
        """The same into a buffer of the caller's; returns the bytes written.

        Raises:
            ValueError: ``out`` is smaller than :meth:`output_size` of the data, or an error ended the object before.
                Nothing was taken.
            ContainerError: What is wrong with the object. Nothing from this call may be used, and no call may follow.
        """
        self._require_alive()
        view = memoryview(data).cast("B")
        size = self.output_size(len(view))
        if len(out) < size:
            raise ValueError(f"the output needs room for {size} bytes, and has {len(out)}")
        self._alive = False
        with memoryview(out) as target:
            written = self._open_whole_frames(view, target)
        self._alive = True
        return written

    def finish(self) -> None:
        """Say that the object has ended.

        Raises:
            Truncated: Its final frame has not come, so that what came is only a part of the content.
            ValueError: An error ended the object before.
        """
        self._require_alive()
        if not self._finished:
            raise Truncated(
                f"the object ends before its final frame, after {self._number - 1} whole ones: fetch it again"
            )

    def _open_whole_frames(self, data: memoryview, out: memoryview) -> int:
        position = written = 0
        while position < len(data):
            if self._finished:
                raise TrailingData
            if len(self._buffer):
                with self._buffer.view() as begun:
                    size = self._opener.size_of(begun)
                piece = data[position : position + size - len(self._buffer)]
                self._buffer.append(piece)
                position += len(piece)
                with self._buffer.view() as frame:
                    if not self._opener.is_whole(frame, size):
                        continue
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
                self._buffer.append(rest[:size])
                position += len(self._buffer)
        return written

    def _open(self, frame: memoryview, out: memoryview, at: int) -> int:
        final = is_final(frame)
        with out[at:] as place:
            length = self._opener.open_into(frame, self._number, place, final=final)
        self._finished = final
        self._number += 1
        return at + length

    def _require_alive(self) -> None:
        if not self._alive:
            raise ValueError("an error ended this object")
