"""Reading one field of a message that may be broken everywhere else.

An emergency call must not fail because some other field of its request is too long, is no UTF-8, or is cut off. So its
callee is read from the wire itself (protobuf encoding guide, "Message Structure"), as far as it can be.
"""

from __future__ import annotations

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10
# A URI is not longer; the number is at one of its ends, however long a display name in between may be.
MAX_TEXT = 8192


def peek_text(raw: bytes, field_number: int) -> str:
    """The text of a field, the last one if it stands several times; empty when there is none.

    Bytes that are no UTF-8 are replaced. Of a very long text, the beginning and the end are given.
    """
    found = b""
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        kind = tag & 7
        if kind == VARINT:
            _, position = _varint(raw, position)
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        elif kind == LENGTH_DELIMITED:
            length, position = _varint(raw, position)
            if tag >> 3 == field_number:
                found = raw[position : position + length]
            position += length
        else:
            break
    if len(found) > MAX_TEXT:
        found = found[: MAX_TEXT // 2] + b" " + found[-MAX_TEXT // 2 :]
    return found.decode("utf-8", "replace")


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it; the end of the message when there is none."""
    number = 0
    for index, byte in enumerate(raw[position : position + MAX_VARINT]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + index + 1
    return 0, len(raw)
