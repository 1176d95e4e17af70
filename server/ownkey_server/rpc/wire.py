"""Reading a few fields of a message that may be broken, or made to be slow, everywhere else.

An emergency call must not fail because some other field of its request is too long, is no UTF-8, or is cut off. So its
callee is read from the wire itself (protobuf encoding guide, "Message Structure"), as far as it can be. Whoever reaches
the server can ask for that, so what it may cost is bounded by the number of fields, whatever the number of bytes:

- a request of at most :data:`WHOLE` bytes is read whole, by the C parser, in less than a millisecond whatever it holds;
- of a longer one, and of what the C parser refuses, the first :data:`MAX_FIELDS` fields are looked at one by one. No
  honest request is longer, and none has nearly as many fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10
# A URI is not longer; the number is at one of its ends, however long a display name in between may be.
MAX_TEXT = 8192
# The longest request that the C parser gets: it takes half a millisecond for 96 KiB of the worst, and 0.1 s for 11 MiB.
WHOLE = 96 * 1024
# One by one, fields cost some 3 microseconds each. A whole request about a call has at most 23.
MAX_FIELDS = 256


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message: its number, and of one with a length, where it lies; it may end after the message does."""

    number: int
    start: int = 0
    length: int | None = None


def walk(raw: bytes | memoryview) -> Iterator[Field]:
    """The fields of a message, one after the other, up to its end or to what is no field."""
    position, end = 0, len(raw)
    while position < end:
        tag, position = _varint(raw, position)
        kind, number = tag & 7, tag >> 3
        if kind == VARINT:
            _, position = _varint(raw, position)
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        elif kind == LENGTH_DELIMITED:
            length, position = _varint(raw, position)
            yield Field(number, position, length)
            position += length
            continue
        else:
            return
        yield Field(number)


class Peek:
    """Some fields of a message, as texts.

    Args:
        numbers: Which fields. Other fields, and what is wrong with them, do not matter.
    """

    def __init__(self, *numbers: int) -> None:
        self._numbers = frozenset(numbers)
        self._message = _message_of_bytes(self._numbers)

    def __call__(self, raw: bytes) -> Peeked:
        """What is found in the message, whatever it is."""
        if len(raw) > WHOLE:
            return self._one_by_one(raw)
        parsed = self._message()
        try:
            parsed.MergeFromString(raw)
        except DecodeError:
            # What came before the defect is kept: it counts beyond what is looked at one by one.
            return self._one_by_one(raw, self._texts(parsed))
        return Peeked(self._texts(parsed), 0)

    def _texts(self, parsed: Message) -> dict[int, str]:
        return {field.number: _text(value, 0, len(value)) for field, value in parsed.ListFields()}

    def _one_by_one(self, raw: bytes, parsed: dict[int, str] | None = None) -> Peeked:
        found: dict[int, tuple[int, int]] = {}
        looked_at = 0
        for field in walk(raw):
            if looked_at == MAX_FIELDS:
                break
            looked_at += 1
            if field.length is not None and field.number in self._numbers:
                found[field.number] = (field.start, min(len(raw), field.start + field.length))
        texts = {number: _text(raw, start, end) for number, (start, end) in found.items()}
        # Beyond so many fields, what was parsed before the defect came later in the message, and the last one counts.
        return Peeked(texts | (parsed or {}) if looked_at == MAX_FIELDS else (parsed or {}) | texts, looked_at)


@dataclass(frozen=True, slots=True)
class Peeked:
    """What was found.

    Attributes:
        texts: By field; the last one if a field stands several times. Bytes that are no UTF-8 are replaced. Of a very
            long text, the beginning and the end are given.
        looked_at: How many fields were looked at one by one.
    """

    texts: dict[int, str]
    looked_at: int

    def text(self, number: int) -> str:
        """The text of a field; empty when there is none."""
        return self.texts.get(number, "")


def _text(raw: bytes, start: int, end: int) -> str:
    if end - start > MAX_TEXT:
        found = raw[start : start + MAX_TEXT // 2] + b" " + raw[end - MAX_TEXT // 2 : end]
    else:
        found = raw[start:end]
    return found.decode("utf-8", "replace")


def _message_of_bytes(numbers: frozenset[int]) -> type[Message]:
    """A message with these fields alone, as bytes: text that is no UTF-8 would keep the whole of it from being read."""
    file = descriptor_pb2.FileDescriptorProto(name="peek.proto", package="ownkey.peek", syntax="proto3")
    message = file.message_type.add(name="Peek")
    for number in sorted(numbers):
        message.field.add(
            name=f"field_{number}",
            number=number,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ownkey.peek.Peek"))


def _varint(raw: bytes | memoryview, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it; the end of the message when there is none."""
    number = 0
    for index, byte in enumerate(raw[position : position + MAX_VARINT]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + index + 1
    return 0, len(raw)
