"""Frames that are authentic, but not where they were written."""

from __future__ import annotations

import secrets
from itertools import permutations

import pytest

from attacks.container.objects import CONTENT, assert_refused, expect_nothing_wrong, small
from ownkey.container import (
    CommitmentMismatch,
    ContainerError,
    FrameOutOfOrder,
    FrameTampered,
    HeaderReader,
    RangeDecryptor,
    TrailingData,
    Truncated,
)


def after(order: list[int]) -> bytes:
    """The content of the frames that are in their place before the first that is not."""
    in_place = 0
    while in_place < len(order) and order[in_place] == in_place:
        in_place += 1
    return CONTENT[: 16 * in_place]


def test_frames_in_any_other_order_are_refused() -> None:
    by = small()
    frames = by.frames(CONTENT)
    expect_nothing_wrong(by.header + b"".join(frames), by.data_key, CONTENT)
    for order in permutations(range(4)):
        if order == (0, 1, 2, 3):
            continue
        error = assert_refused(
            by.header + b"".join(frames[i] for i in order), by.data_key, may_release=after(list(order))
        )
        assert isinstance(error, FrameOutOfOrder)


@pytest.mark.parametrize("dropped", range(4))
def test_a_dropped_frame_is_noticed(dropped: int) -> None:
    by = small()
    frames = by.frames(CONTENT)
    del frames[dropped]
    error = assert_refused(by.header + b"".join(frames), by.data_key, may_release=CONTENT[: 16 * dropped])
    assert isinstance(error, Truncated if dropped == 3 else FrameOutOfOrder)


@pytest.mark.parametrize("repeated", range(4))
def test_a_repeated_frame_is_noticed(repeated: int) -> None:
    by = small()
    frames = by.frames(CONTENT)
    frames.insert(repeated, frames[repeated])
    error = assert_refused(by.header + b"".join(frames), by.data_key, may_release=CONTENT[: 16 * (repeated + 1)])
    assert isinstance(error, TrailingData if repeated == 3 else FrameOutOfOrder)


@pytest.mark.parametrize("at", range(4))
def test_a_frame_of_another_object_under_the_same_data_key_is_refused(at: int) -> None:
    by = small()
    frames, others = by.frames(CONTENT), small(by.data_key).frames(CONTENT)
    frames[at] = others[at]
    error = assert_refused(by.header + b"".join(frames), by.data_key, may_release=CONTENT[: 16 * at])
    assert isinstance(error, FrameTampered)


def test_the_header_of_another_object_under_the_same_data_key_is_refused() -> None:
    by = small()
    message = small(by.data_key).header + b"".join(by.frames(CONTENT))
    assert isinstance(assert_refused(message, by.data_key, may_release=b""), FrameTampered)


def test_the_header_of_another_object_is_refused() -> None:
    by = small()
    message = small().header + b"".join(by.frames(CONTENT))
    assert isinstance(assert_refused(message, by.data_key, may_release=b""), CommitmentMismatch)


def test_anything_after_the_final_frame_is_refused() -> None:
    by = small()
    message = by.message(CONTENT)
    for tail in (b"\x00", secrets.token_bytes(100), message, by.frames(CONTENT)[0], by.frames(CONTENT)[-1]):
        assert isinstance(assert_refused(message + tail, by.data_key, may_release=CONTENT), TrailingData)


def test_a_range_read_refuses_frames_of_another_place() -> None:
    by = small()
    message = by.message(CONTENT)
    header = HeaderReader().feed(message)
    assert header is not None
    ranges = RangeDecryptor(header, by.data_key, object_size=len(message))
    final = ranges.final_frame
    ranges.open_final_frame(message[final.offset : final.offset + final.length])
    first, second = ranges.span(0, 16), ranges.span(16, 16)
    with pytest.raises(FrameOutOfOrder):
        ranges.decrypt(0, 16, message[second.offset : second.offset + second.length])
    with pytest.raises(FrameOutOfOrder):
        ranges.decrypt(16, 16, message[first.offset : first.offset + first.length])


def test_a_range_read_refuses_an_object_cut_at_any_size() -> None:
    """Whatever length the object pretends to have: the final frame is not there."""
    by = small()
    message = by.message(CONTENT)
    header = HeaderReader().feed(message)
    assert header is not None

    def open_final_frame(size: int) -> int:
        ranges = RangeDecryptor(header, by.data_key, object_size=size)
        span = ranges.final_frame
        padded = message + bytes(1000)
        return ranges.open_final_frame(padded[span.offset : span.offset + span.length])

    assert open_final_frame(len(message)) == len(CONTENT)
    for size in [*range(len(message)), *range(len(message) + 1, len(message) + 150)]:
        with pytest.raises(ContainerError):
            open_final_frame(size)
