from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.container.frame_buffer import FrameBuffer


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_it_holds_what_came_and_no_more_memory_than_a_frame(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    buffer = FrameBuffer(len(whole))
    for piece in pieces:
        buffer.append(memoryview(piece))
        assert len(buffer._memory) <= len(whole)
    assert bytes(buffer.view()) == whole
    assert len(buffer) == len(whole)


def test_memory_grows_only_as_bytes_come() -> None:
    buffer = FrameBuffer(1 << 24)
    buffer.append(memoryview(bytes(100)))
    assert len(buffer._memory) == 100


@pytest.mark.parametrize("size", [1, 1000])
def test_the_next_frame_takes_the_same_memory(size: int) -> None:
    buffer = FrameBuffer(1000)
    buffer.append(memoryview(b"a" * 1000))
    memory = buffer._memory
    buffer.clear()
    assert len(buffer) == 0
    buffer.append(memoryview(b"b" * size))
    assert buffer._memory is memory
    assert bytes(buffer.view()) == b"b" * size
