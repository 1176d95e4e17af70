from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey.container import (
    ContainerError,
    FrameTampered,
    HeaderReader,
    RangeDecryptor,
    RangeInvalid,
    TrailingData,
    Truncated,
)
from vectors.container.independent import Writer

FRAME = 16
sizes = st.integers(0, 5 * FRAME)


class Stored:
    """An object in storage, of which spans can be fetched."""

    def __init__(self, content: bytes, frame_length: int = FRAME) -> None:
        self.content = content
        self.by = Writer(secrets.token_bytes(32), secrets.token_bytes(32), frame_length)
        self.message = self.by.message(content)

    def ranges(self, *, opened: bool = True) -> RangeDecryptor:
        header = HeaderReader().feed(self.message)
        assert header is not None
        ranges = RangeDecryptor(header, self.by.data_key, object_size=len(self.message))
        if opened:
            span = ranges.final_frame
            assert ranges.open_final_frame(self.fetch(span.offset, span.length)) == len(self.content)
        return ranges

    def fetch(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self.message)
        return self.message[offset : offset + length]

    def read(self, ranges: RangeDecryptor, offset: int, length: int | None) -> bytes:
        span = ranges.span(offset, length)
        return ranges.decrypt(offset, length, self.fetch(span.offset, span.length))

    def stream(self, ranges: RangeDecryptor, offset: int, length: int | None, step: int) -> bytes:
        stream, out = ranges.stream(offset, length), bytearray()
        for span in stream.spans:
            raw = self.fetch(span.offset, span.length)
            for at in range(0, len(raw), step):
                out += stream.update(raw[at : at + step])
        stream.finish()
        return bytes(out)


@settings(max_examples=200, deadline=None)
@given(sizes, sizes, st.one_of(st.none(), sizes), st.integers(1, 100))
def test_any_range_is_that_slice_of_the_content(size: int, offset: int, length: int | None, step: int) -> None:
    stored = Stored(bytes(range(size)))
    ranges = stored.ranges()
    if offset > size:
        with pytest.raises(RangeInvalid):
            ranges.span(offset, length)
        with pytest.raises(RangeInvalid):
            ranges.stream(offset, length)
        return
    wanted = stored.content[offset:] if length is None else stored.content[offset : offset + length]
    assert stored.read(ranges, offset, length) == wanted
    assert stored.stream(ranges, offset, length, step) == wanted


def test_a_range_fetches_the_frames_that_hold_it_and_no_others() -> None:
    stored = Stored(bytes(100))
    ranges, start, stride = stored.ranges(), len(stored.by.header), FRAME + 32
    assert (ranges.span(0, 1).offset, ranges.span(0, 1).length) == (start, stride)
    assert (ranges.span(15, 2).offset, ranges.span(15, 2).length) == (start, 2 * stride)
    assert (ranges.span(16, 16).offset, ranges.span(16, 16).length) == (start + stride, stride)
    assert (ranges.span(99, 50).offset, ranges.span(99, 50).length) == (start + 6 * stride, 4 + 40)
    assert ranges.span(50, 0).length == 0
    assert ranges.span(100, 10).length == 0
    final, regular = ranges.stream(20, 30).spans
    assert (final.offset, final.length) == (start + 6 * stride, 4 + 40)
    assert (regular.offset, regular.length) == (start + stride, 3 * stride)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (101, 0), (101, None)])
def test_a_range_outside_the_content_is_refused(offset: int, length: int | None) -> None:
    ranges = Stored(bytes(100)).ranges()
    for ask in (ranges.span, ranges.stream, lambda o, n: ranges.decrypt(o, n, b"")):
        with pytest.raises(RangeInvalid, match="bytes 0 to 100"):
            ask(offset, length)


def test_no_range_is_given_before_the_length_is_proven() -> None:
    stored = Stored(bytes(100))
    ranges = stored.ranges(opened=False)
    with pytest.raises(ValueError, match="final frame"):
        ranges.span(0, 1)
    with pytest.raises(ValueError, match="final frame"):
        ranges.decrypt(0, 1, stored.fetch(len(stored.by.header), 48))


def test_a_changed_final_frame_proves_nothing() -> None:
    stored = Stored(bytes(100))
    ranges = stored.ranges(opened=False)
    span = ranges.final_frame
    for at in range(span.length):
        changed = bytearray(stored.fetch(span.offset, span.length))
        changed[at] ^= 1
        with pytest.raises(ContainerError):
            ranges.open_final_frame(changed)
        with pytest.raises(ContainerError):
            ranges.stream(0, 1).update(changed)
    with pytest.raises(ValueError, match="final frame"):
        ranges.span(0, 1)


def test_a_stream_proves_the_length_before_it_gives_any_content() -> None:
    stored = Stored(bytes(range(100)))
    stream = stored.ranges(opened=False).stream(0, 32)
    final, regular = stream.spans
    assert final.offset > regular.offset
    assert stream.update(stored.fetch(final.offset, final.length)) == b""
    assert stream.update(stored.fetch(regular.offset, regular.length)) == stored.content[:32]
    stream.finish()


def test_too_little_or_too_much_ciphertext_is_refused() -> None:
    stored = Stored(bytes(100))
    ranges = stored.ranges()
    span = ranges.span(0, 40)
    raw = stored.fetch(span.offset, span.length)
    with pytest.raises(Truncated, match="1 bytes"):
        ranges.decrypt(0, 40, raw[:-1])
    with pytest.raises(TrailingData, match="span"):
        ranges.decrypt(0, 40, raw + b"\x00")
    with pytest.raises(Truncated):
        ranges.open_final_frame(b"")
    stream = ranges.stream(0, 40)
    with pytest.raises(Truncated):
        stream.finish()
    with pytest.raises(TrailingData):
        stream.update(bytes(10_000))
    for call in (lambda: stream.update(b""), stream.finish):
        with pytest.raises(ValueError, match="error"):
            call()


def test_a_changed_frame_stops_a_stream_at_the_frame_before_it() -> None:
    stored = Stored(bytes(range(100)))
    stream = stored.ranges().stream(0, 64)
    final, regular = stream.spans
    stream.update(stored.fetch(final.offset, final.length))
    raw = bytearray(stored.fetch(regular.offset, regular.length))
    raw[2 * 48 + 20] ^= 1
    assert stream.update(raw[: 2 * 48]) == stored.content[:32]
    with pytest.raises(FrameTampered) as caught:
        stream.update(raw[2 * 48 :])
    assert caught.value.sequence_number == 3


@pytest.mark.parametrize("size", [0, 1, 39])
def test_a_size_that_no_whole_object_has_is_refused(size: int) -> None:
    by = Writer(bytes(32), bytes(32))
    header = HeaderReader().feed(by.header)
    assert header is not None
    for object_size in (size, len(by.header) + size):
        with pytest.raises(Truncated, match="no whole object"):
            RangeDecryptor(header, by.data_key, object_size=object_size)


def test_streams_of_one_object_do_not_disturb_each_other() -> None:
    stored = Stored(secrets.token_bytes(64 * 4096), frame_length=4096)
    ranges = stored.ranges()
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(stored.stream, ranges, offset, 100_000, 999) for offset in range(0, 100_000, 10_000)]
        reads += [pool.submit(stored.read, ranges, offset, 100_000) for offset in range(0, 100_000, 10_000)]
    for index, read in enumerate(reads):
        offset = index % 10 * 10_000
        assert read.result() == stored.content[offset : offset + 100_000]


def test_an_announced_size_suffices_and_a_smaller_buffer_is_refused() -> None:
    stored = Stored(bytes(range(100)))
    stream = stored.ranges().stream(5, 90)
    out = bytearray()
    for span in stream.spans:
        raw = stored.fetch(span.offset, span.length)
        for at in range(0, len(raw), 7):
            piece = raw[at : at + 7]
            room = stream.output_size(len(piece))
            with pytest.raises(ValueError, match="room"):
                stream.update_into(piece, bytearray(room - 1))
            buffer = bytearray(room)
            out += buffer[: stream.update_into(piece, buffer)]
    stream.finish()
    assert out == stored.content[5:95]
