"""What comes in: the same content however the object comes, and only what was verified."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey.container import (
    CommitmentMismatch,
    ContainerError,
    Decryptor,
    FrameTampered,
    HeaderReader,
    LimitExceeded,
    ReaderLimits,
    TrailingData,
    Truncated,
)
from vectors.container.independent import Writer
from vectors.container.material import content, fixed, writer

WRITER = writer("a decryptor's object")


def opened(by: Writer = WRITER, limits: ReaderLimits | None = None) -> Decryptor:
    header = HeaderReader().feed(by.header)
    assert header is not None
    return Decryptor(header, by.data_key, limits=limits) if limits else Decryptor(header, by.data_key)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 100),
    st.lists(st.integers(0, 400), max_size=12),
    st.sampled_from([bytes, bytearray, memoryview]),
    st.booleans(),
)
def test_the_content_does_not_depend_on_how_the_object_comes(
    size: int, edges: list[int], kind: type, into: bool
) -> None:
    text = content(size)
    message = WRITER.message(text)
    places = [0, *sorted(edge % (len(message) + 1) for edge in edges), len(message)]
    reader, decryptor, out, found = HeaderReader(), None, bytearray(1024), bytearray()
    for start, end in pairwise(places):
        piece = kind(message[start:end])
        if decryptor is None:
            header = reader.feed(piece)
            if header is None:
                continue
            decryptor, piece = Decryptor(header, WRITER.data_key), reader.rest
        if into:
            room = decryptor.output_size(len(piece))
            found += out[: decryptor.update_into(piece, memoryview(out)[:room])]
        else:
            found += decryptor.update(piece)
    assert decryptor is not None
    decryptor.finish()
    assert found == text


def test_content_comes_out_with_the_last_byte_of_its_frame_and_not_before() -> None:
    decryptor, frames = opened(), WRITER.frames(content(40))
    edges, released, position = {}, 0, 0
    for frame in frames:
        position += len(frame)
        released = min(40, released + 16)
        edges[position] = released
    total = 0
    for at, byte in enumerate(b"".join(frames), 1):
        total += len(decryptor.update(bytes([byte])))
        assert total == max((done for edge, done in edges.items() if edge <= at), default=0)


def test_an_empty_final_frame_after_full_ones_is_read() -> None:
    decryptor = opened()
    body = WRITER.frame(1, content(16)) + WRITER.final(2, b"")
    assert decryptor.update(body) == content(16)
    decryptor.finish()


def test_finished_says_whether_the_content_is_whole() -> None:
    decryptor, (one, last) = opened(), WRITER.frames(content(20))
    decryptor.update(one)
    assert not decryptor.finished
    with pytest.raises(Truncated):
        decryptor.finish()
    decryptor.update(last)
    assert decryptor.finished
    decryptor.finish()
    assert decryptor.update(b"") == b""
    with pytest.raises(TrailingData):
        decryptor.update(b"\x00")
    assert not decryptor.finished


def test_too_small_an_output_takes_nothing() -> None:
    decryptor, body = opened(), b"".join(WRITER.frames(content(40)))
    decryptor.update(body[:5])
    small = bytearray(decryptor.output_size(len(body) - 5) - 1)
    with pytest.raises(ValueError, match="needs room"):
        decryptor.update_into(body[5:], small)
    assert small == bytes(len(small))
    assert decryptor.update(body[5:]) == content(40)
    decryptor.finish()


def test_after_an_error_every_call_fails() -> None:
    decryptor, (one, two, last) = opened(), WRITER.frames(content(40))
    with pytest.raises(ContainerError):
        decryptor.update(two)
    for call in (
        lambda: decryptor.update(one),
        lambda: decryptor.update_into(last, bytearray(99)),
        decryptor.finish,
    ):
        with pytest.raises(ValueError, match="an error ended"):
            call()
    assert not decryptor.finished


def test_nothing_of_a_changed_frame_stays_in_the_callers_buffer() -> None:
    decryptor, (one, two, _) = opened(), WRITER.frames(content(40))
    out = bytearray(b"\xee" * 200)
    changed = two[:-1] + bytes([two[-1] ^ 1])
    with pytest.raises(FrameTampered) as caught:
        decryptor.update_into(one + changed, out)
    assert caught.value.sequence_number == 2
    assert content(40)[16:32] not in out
    assert out[16:32] == bytes(16)


def test_the_callers_buffers_are_given_back() -> None:
    decryptor, data, out = opened(), bytearray(WRITER.frames(content(40))[0]), bytearray(99)
    decryptor.update_into(data, out)
    data.clear()
    out.clear()


def test_no_more_than_a_frame_is_held() -> None:
    decryptor = opened()
    for frame in WRITER.frames(content(320)):
        decryptor.update(frame[:-1])
        assert decryptor.output_size(0) < len(frame)
        decryptor.update(frame[-1:])
        assert decryptor.output_size(0) == 0


def test_frames_larger_than_the_readers_limit_are_refused_by_the_decryptor_too() -> None:
    with pytest.raises(LimitExceeded):
        opened(limits=ReaderLimits(frame_length=15))
    opened(limits=ReaderLimits(frame_length=16))


def test_another_data_key_is_refused_before_any_frame() -> None:
    header = HeaderReader().feed(WRITER.header)
    assert header is not None
    with pytest.raises(CommitmentMismatch):
        Decryptor(header, fixed("another data key"))
    with pytest.raises(ValueError, match="32 bytes"):
        Decryptor(header, bytes(31))
