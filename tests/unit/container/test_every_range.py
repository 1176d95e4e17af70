"""Every range of small objects, and every way in which an object can lie about its length."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from ownkey.container import (
    ByteSpan,
    ContainerError,
    FrameOutOfOrder,
    FrameTampered,
    HeaderReader,
    LimitExceeded,
    RangeDecryptor,
    RangeStream,
    Truncated,
)
from vectors.container.material import content, writer

WRITER = writer("an object read by ranges", frame_length=4)
SIZES = range(14)  # from nothing to past the third frame


def ranges_of(message: bytes, size: int | None = None) -> RangeDecryptor:
    header = HeaderReader().feed(WRITER.header)
    assert header is not None
    return RangeDecryptor(header, WRITER.data_key, object_size=len(message) if size is None else size)


def fetch(message: bytes, span: ByteSpan) -> bytes:
    return message[span.offset : span.offset + span.length]


def opened(message: bytes) -> RangeDecryptor:
    ranges = ranges_of(message)
    ranges.open_final_frame(fetch(message, ranges.final_frame))
    return ranges


def wanted(stream: RangeStream, message: bytes) -> bytes:
    return b"".join(fetch(message, span) for span in stream.spans)


def proven_length(message: bytes, size: int) -> int:
    ranges = ranges_of(message, size)
    return ranges.open_final_frame(fetch(message, ranges.final_frame))


def read_by_stream(message: bytes, size: int) -> bytes:
    stream = ranges_of(message, size).stream(0)
    found = stream.update(wanted(stream, message))
    stream.finish()
    return found


def every_range(size: int) -> Iterator[tuple[int, int | None]]:
    for offset in range(size + 1):
        yield from ((offset, length) for length in (None, *range(size - offset + 3)))


@pytest.mark.parametrize("size", SIZES)
def test_every_range_reads_in_memory(size: int) -> None:
    text = content(size)
    message = WRITER.message(text)
    ranges = opened(message)
    for offset, length in every_range(size):
        found = ranges.decrypt(offset, length, fetch(message, ranges.span(offset, length)))
        assert found == text[offset : size if length is None else offset + length]


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("size", SIZES)
def test_every_range_reads_as_a_stream(size: int, step: int) -> None:
    text = content(size)
    message = WRITER.message(text)
    ranges = ranges_of(message)
    for offset, length in every_range(size):
        stream = ranges.stream(offset, length)
        data = wanted(stream, message)
        found = b"".join(stream.update(data[at : at + step]) for at in range(0, len(data), step))
        stream.finish()
        assert found == text[offset : size if length is None else offset + length]


@pytest.mark.parametrize("size", [0, 3, 4, 5, 8, 9, 12])
def test_only_the_objects_own_size_is_believed(size: int) -> None:
    """Told another size, a reader ends with an error, and never with a shorter or longer content."""
    message = WRITER.message(content(size))
    assert proven_length(message, len(message)) == size
    assert read_by_stream(message, len(message)) == content(size)
    for claimed in (*range(len(message)), *range(len(message) + 1, len(message) + 120)):
        padded = message.ljust(claimed, b"\x00")
        with pytest.raises(ContainerError):
            proven_length(padded, claimed)
        with pytest.raises(ContainerError):
            read_by_stream(padded, claimed)


def test_an_object_cut_at_a_frames_edge_and_closed_with_its_own_final_frame_is_refused() -> None:
    *regular, last = WRITER.frames(content(15))
    message = WRITER.header + b"".join(regular[:-1]) + last
    for read in (proven_length, read_by_stream):
        with pytest.raises(FrameOutOfOrder) as caught:
            read(message, len(message))
        assert (caught.value.expected, caught.value.found) == (3, 4)


def test_an_object_without_its_final_frame_is_truncated() -> None:
    """With eight bytes more, its last frame has a final one's length: only the mark tells."""
    message = WRITER.header + b"".join(WRITER.frame(number, content(4)) for number in (1, 2, 3)) + bytes(8)
    for read in (proven_length, read_by_stream):
        with pytest.raises(Truncated, match="not its final"):
            read(message, len(message))


def test_every_byte_of_a_ranges_ciphertext_counts() -> None:
    message = WRITER.message(content(15))
    ranges = opened(message)
    in_memory, streamed = fetch(message, ranges.span(5, 6)), wanted(ranges.stream(5, 6), message)
    for data, read in (
        (in_memory, lambda changed: ranges.decrypt(5, 6, changed)),
        (streamed, lambda changed: ranges.stream(5, 6).update(changed)),
    ):
        assert read(data) == content(15)[5:11]
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 0x40
            with pytest.raises(ContainerError):
                read(changed)


def test_a_stream_refuses_authentic_frames_of_another_place() -> None:
    message = WRITER.message(content(20))
    ranges = opened(message)
    final, other = fetch(message, ranges.final_frame), fetch(message, ranges.span(8, 4))
    for instead in (other, fetch(message, ranges.span(0, 4))):
        with pytest.raises(FrameOutOfOrder):
            ranges.stream(4, 4).update(final + instead)
    with pytest.raises(FrameOutOfOrder):
        ranges.stream(4, 4).update(final + final[: len(other)])
    # Where the final frame must come first, none but that does.
    with pytest.raises((FrameOutOfOrder, FrameTampered)):
        ranges.stream(4, 4).update(other + bytes(len(final)))


@pytest.mark.parametrize("offset", [1 << 40, 1 << 70])
def test_an_offset_of_any_size_is_refused_without_arithmetic_going_wrong(offset: int) -> None:
    ranges = opened(WRITER.message(content(10)))
    with pytest.raises(ContainerError):
        ranges.span(offset, 1)
    assert ranges.span(0, offset) == ranges.span(0)


def test_an_object_has_no_more_frames_than_there_are_numbers() -> None:
    """Sizes alone, since nobody has such an object at hand."""
    most = 2**32 - 1
    size = len(WRITER.header) + most * (4 + 32) + 8
    assert ranges_of(b"", size).content_size == most * 4
    with pytest.raises(LimitExceeded, match=f"{most} frames"):
        ranges_of(b"", size + 4 + 32)


def test_what_was_lent_to_a_stream_is_given_back() -> None:
    """A bytearray cannot be resized while a view of it is held."""
    message = WRITER.message(content(15))
    stream, out = ranges_of(message).stream(3, 9), bytearray(500)
    pieces = [bytearray(fetch(message, span)) for span in stream.spans]
    for piece in pieces:
        stream.update_into(piece, out)
    for lent in (*pieces, out):
        lent.clear()


def test_a_long_range_streams_in_the_memory_of_a_few_frames() -> None:
    by = writer("a long object read by ranges", frame_length=65_536)
    message = by.message(bytes(64 * 65_536 + 5))
    header = HeaderReader().feed(by.header)
    assert header is not None
    stream = RangeDecryptor(header, by.data_key, object_size=len(message)).stream(1000)
    total = 0
    tracemalloc.start()
    try:
        for span in stream.spans:
            end = span.offset + span.length
            total += sum(
                len(stream.update(message[at : min(at + 50_000, end)])) for at in range(span.offset, end, 50_000)
            )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stream.finish()
    assert total == 64 * 65_536 + 5 - 1000
    assert peak < 8 * 65_536
