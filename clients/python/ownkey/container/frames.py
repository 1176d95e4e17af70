"""One frame: its layout, and what is authenticated with it.

::

    regular: u32 number | IV 12 | ciphertext F | tag 16
    final:   u32 ffffffff | u32 number | IV 12 | u32 length n | ciphertext n | tag 16
"""

from __future__ import annotations

import struct

from ownkey.container.derivation import IV_LENGTH, MESSAGE_ID_LENGTH, TAG_LENGTH, Buffer

FINAL_MARK = 0xFFFFFFFF
# A number has 32 bits and counts from 1. The last of them equals the mark, and only a final frame can have it.
MAX_FRAMES = 0xFFFFFFFF
REGULAR_LABEL = b"AWSKMSEncryptionClient Frame"
FINAL_LABEL = b"AWSKMSEncryptionClient Final Frame"

U32 = struct.Struct(">I")
_NUMBER_AND_LENGTH = struct.Struct(">IQ")

REGULAR_PREFIX = 4 + IV_LENGTH
FINAL_PREFIX = 4 + 4 + IV_LENGTH + 4
REGULAR_OVERHEAD = REGULAR_PREFIX + TAG_LENGTH
FINAL_OVERHEAD = FINAL_PREFIX + TAG_LENGTH


def is_final(frame: Buffer) -> bool:
    """Whether a frame, of which at least 4 bytes are there, is marked as the final one."""
    return bool(U32.unpack_from(frame)[0] == FINAL_MARK)


class FrameBinding:
    """Nonce and additional data for each frame of one message, made in place: a frame costs no new objects."""

    def __init__(self, message_id: bytes) -> None:
        self._iv = bytearray(IV_LENGTH)
        self._regular = bytearray(message_id + REGULAR_LABEL + bytes(_NUMBER_AND_LENGTH.size))
        self._final = bytearray(message_id + FINAL_LABEL + bytes(_NUMBER_AND_LENGTH.size))

    def iv(self, number: int) -> bytearray:
        """Eight zeros and the frame's number: deterministic, and different for every frame of a message."""
        U32.pack_into(self._iv, IV_LENGTH - 4, number)
        return self._iv

    def regular(self, number: int, length: int) -> bytearray:
        """What is authenticated with a regular frame."""
        _NUMBER_AND_LENGTH.pack_into(self._regular, MESSAGE_ID_LENGTH + len(REGULAR_LABEL), number, length)
        return self._regular

    def final(self, number: int, length: int) -> bytearray:
        """What is authenticated with the final frame."""
        _NUMBER_AND_LENGTH.pack_into(self._final, MESSAGE_ID_LENGTH + len(FINAL_LABEL), number, length)
        return self._final
