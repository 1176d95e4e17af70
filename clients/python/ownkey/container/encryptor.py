"""Content to an object: push plaintext in, take whole frames out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn, SupportsIndex

from ownkey.container.derivation import Buffer
from ownkey.container.errors import EncryptionLimitExceeded
from ownkey.container.frame_buffer import FrameBuffer
from ownkey.container.frames import (
    FINAL_MARK,
    FINAL_OVERHEAD,
    FINAL_PREFIX,
    MAX_FRAMES,
    REGULAR_OVERHEAD,
    REGULAR_PREFIX,
    U32,
    FrameBinding,
)
from ownkey.container.header import EncryptedDataKey, Header, create_header

FRAME_LENGTH_MEDIA = 262_144
FRAME_LENGTH_VOICE = 16_384
FRAME_LENGTH_DOCUMENT = 65_536


class Encryptor:
    """Encrypts one object under one data key. Holds at most one frame, and never two calls at once.

    The caller stores ``header.to_bytes()``, then what :meth:`update` gives, then what :meth:`finish` gives. The last
    full frame is held back until more comes, since the final frame is marked as such.

    An error inside a call ends the object's life: a frame number is never used twice with different bytes.

    Args:
        data_key: 32 bytes, of this object alone. Not kept.
        encryption_context: The pairs to store and bind; what the data key was wrapped with.
        encrypted_data_keys: The data key wrapped under 1 to 8 keys.
        frame_length: Plaintext bytes in a frame: a power of two from 4,096 to 4,194,304.

    Raises:
        LimitExceeded: The profile does not allow so many keys or pairs, or such frames.
        HeaderInvalid: The context is not well formed.
    """

    def __init__(
        self,
        data_key: Buffer,
        *,
        encryption_context: Mapping[str, str],
        encrypted_data_keys: Sequence[EncryptedDataKey],
        frame_length: int = FRAME_LENGTH_MEDIA,
    ) -> None:
        self._header, self._key = create_header(data_key, encryption_context, encrypted_data_keys, frame_length)
        self._binding = FrameBinding(self._header.message_id)
        self._frame_length = frame_length
        self._stride = frame_length + REGULAR_OVERHEAD
        self._number = 1
        # What has come but is not encrypted yet: bytes in the buffer, or one whole frame of somebody's bytes.
        self._buffer = FrameBuffer(frame_length)
        self._held: memoryview | None = None
        self._alive = True

    @property
    def header(self) -> Header:
        """The object's header, with its tag: complete before any content comes."""
        return self._header

    def output_size(self, length: int) -> int:
        """The most that :meth:`update_into` writes for ``length`` more bytes of content."""
        pending = self._frame_length if self._held is not None else len(self._buffer)
        return max(0, pending + length - 1) // self._frame_length * self._stride

    def update(self, data: Buffer) -> bytes:
        """The frames that ``data`` completes, as one piece; empty when it completes none."""
        out = bytearray(self.output_size(memoryview(data).nbytes))
        return bytes(memoryview(out)[: self.update_into(data, out)])

    def update_into(self, data: Buffer, out: bytearray | memoryview) -> int:
        """The same into a buffer of the caller's, which may be used again afterwards; returns the bytes written.

        The buffer must not overlap ``data``. Bulk data is not copied: a frame is encrypted from where it lies.

        Raises:
            ValueError: ``out`` is smaller than :meth:`output_size` of the data, or the object is finished. Nothing
                was taken.
            EncryptionLimitExceeded: The object would have more frames than a message may have. Nothing was taken.
        """
        self._require_alive()
        view = memoryview(data).cast("B")
        size = self.output_size(len(view))
        if len(out) < size:
            raise ValueError(f"the output needs room for {size} bytes, and has {len(out)}")
        if self._number + size // self._stride > MAX_FRAMES:
            raise EncryptionLimitExceeded
        if not view:
            return 0
        self._alive = False
        with memoryview(out) as target:
            written = self._encrypt_whole_frames(view, target)
        self._alive = True
        return written

    def finish(self) -> bytes:
        """The final frame, with all that is left; it may be empty or full. Ends the object."""
        out = bytearray(self._frame_length + FINAL_OVERHEAD)
        return bytes(memoryview(out)[: self.finish_into(out)])

    def finish_into(self, out: bytearray | memoryview) -> int:
        """The same into a buffer of the caller's; returns the bytes written.

        Raises:
            ValueError: ``out`` is too small, or the object is finished already.
        """
        self._require_alive()
        size = FINAL_OVERHEAD + (self._frame_length if self._held is not None else len(self._buffer))
        if len(out) < size:
            raise ValueError(f"the output needs room for {size} bytes, and has {len(out)}")
        self._alive = False
        rest = self._held if self._held is not None else self._buffer.view()
        with memoryview(out) as target:
            U32.pack_into(target, 0, FINAL_MARK)
            U32.pack_into(target, 4, self._number)
            iv = self._binding.iv(self._number)
            target[8 : 8 + len(iv)] = iv
            U32.pack_into(target, FINAL_PREFIX - 4, len(rest))
            with target[FINAL_PREFIX:size] as place:
                self._key.encrypt_into(iv, rest, self._binding.final(self._number, len(rest)), place)
        self._held = None
        rest.release()
        self._buffer = FrameBuffer(0)
        return size

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """A copy would use the same frame numbers under the same key: there is none, by copy or by pickle."""
        raise TypeError("an Encryptor cannot be copied: two of them would use the same nonces")

    def _encrypt_whole_frames(self, data: memoryview, out: memoryview) -> int:
        """Encrypt every frame of which it is certain that it is not the last, and keep the rest."""
        length, position, written = self._frame_length, 0, 0
        if self._held is not None:
            written = self._encrypt_frame(self._held, out, written)
            self._held = None
        elif len(self._buffer):
            position = min(length - len(self._buffer), len(data))
            self._buffer.append(data[:position])
            if position == len(data):
                return written
            written = self._encrypt_frame(self._buffer.view(), out, written)
            self._buffer.clear()
        # Straight from the caller's memory: in bulk nothing is copied.
        while len(data) - position > length:
            written = self._encrypt_frame(data[position : position + length], out, written)
            position += length
        rest = data[position:]
        if len(rest) == length and type(rest.obj) is bytes:
            self._held = rest  # nobody can change it, so it need not be copied
        else:
            self._buffer.append(rest)
        return written

    def _encrypt_frame(self, plaintext: memoryview, out: memoryview, at: int) -> int:
        with plaintext:
            end = at + self._stride
            iv = self._binding.iv(self._number)
            U32.pack_into(out, at, self._number)
            out[at + 4 : at + REGULAR_PREFIX] = iv
            with out[at + REGULAR_PREFIX : end] as place:
                self._key.encrypt_into(iv, plaintext, self._binding.regular(self._number, self._frame_length), place)
            self._number += 1
            return end

    def _require_alive(self) -> None:
        if not self._alive:
            raise ValueError("this object is finished, or an error ended it")
