"""What goes out: the same object however its content comes, no frame twice, nothing kept that can change."""

from __future__ import annotations

import copy
import pickle
import secrets
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey.container import (
    Decryptor,
    EncryptedDataKey,
    EncryptionLimitExceeded,
    Encryptor,
    HeaderReader,
    LimitExceeded,
)
from ownkey.container.frames import MAX_FRAMES
from vectors.container.independent import Writer

FRAME = 4096
DATA_KEY = secrets.token_bytes(32)
ENTRY = EncryptedDataKey("test", b"key-1", b"wrapped")
CONTEXT = {"ownkey:tenant": "acme"}


def encryptor(frame_length: int = FRAME) -> Encryptor:
    return Encryptor(DATA_KEY, encryption_context=CONTEXT, encrypted_data_keys=[ENTRY], frame_length=frame_length)


def expected_body(of: Encryptor, content: bytes) -> bytes:
    """What the independent writer makes of the same content under the same message id."""
    entries = [(ENTRY.provider_id.encode(), ENTRY.provider_info, ENTRY.ciphertext)]
    writer = Writer(DATA_KEY, of.header.message_id, of.header.frame_length, CONTEXT, entries)
    return b"".join(writer.frames(content))


def cut(content: bytes, edges: list[int]) -> list[bytes]:
    places = [0, *sorted(edge % (len(content) + 1) for edge in edges), len(content)]
    return [content[start:end] for start, end in pairwise(places)]


near_frame_edges = st.builds(
    lambda frames, extra: max(0, frames * FRAME + extra), st.integers(0, 4), st.integers(-2, 2)
)


@settings(max_examples=150, deadline=None)
@given(
    near_frame_edges, st.lists(st.integers(0, 5 * FRAME), max_size=8), st.sampled_from([bytes, bytearray, memoryview])
)
def test_the_object_does_not_depend_on_how_its_content_comes(size: int, edges: list[int], kind: type) -> None:
    content = secrets.token_bytes(size)
    under_test = encryptor()
    body = b"".join([*(under_test.update(kind(piece)) for piece in cut(content, edges)), under_test.finish()])
    assert body == expected_body(under_test, content)


@settings(max_examples=60, deadline=None)
@given(near_frame_edges, st.lists(st.integers(0, 5 * FRAME), max_size=8))
def test_one_output_buffer_serves_all_calls(size: int, edges: list[int]) -> None:
    content = secrets.token_bytes(size)
    under_test, out, body = encryptor(), bytearray(8 * FRAME), bytearray()
    for piece in cut(content, edges):
        room = under_test.output_size(len(piece))
        written = under_test.update_into(piece, memoryview(out)[:room])
        assert written <= room
        body += out[:written]
    body += out[: under_test.finish_into(out)]
    assert body == expected_body(under_test, content)


@pytest.mark.parametrize("size", [FRAME, 3 * FRAME])
def test_the_final_frame_is_full_when_the_length_is_a_multiple_of_the_frame_length(size: int) -> None:
    under_test = encryptor()
    body = under_test.update(bytes(size))
    assert len(body) == (size // FRAME - 1) * (FRAME + 32)
    final = under_test.finish()
    assert len(final) == FRAME + 40
    assert final[:4] == b"\xff\xff\xff\xff"


def test_an_empty_object_has_one_empty_final_frame() -> None:
    under_test = encryptor()
    assert under_test.update(b"") == b""
    final = under_test.finish()
    assert final[:24] == b"\xff\xff\xff\xff" + (1).to_bytes(4) + (1).to_bytes(12) + bytes(4)
    assert len(final) == 40


@pytest.mark.parametrize(
    "lend",
    [lambda shared: shared, memoryview, lambda shared: memoryview(shared).toreadonly()],
    ids=["bytearray", "memoryview", "read-only-memoryview"],
)
def test_a_reused_input_buffer_does_not_change_the_frame_held_back(lend: object) -> None:
    content = secrets.token_bytes(2 * FRAME)
    under_test, shared = encryptor(), bytearray(FRAME)
    body = b""
    for start in (0, FRAME):
        shared[:] = content[start : start + FRAME]
        body += under_test.update(lend(shared))  # type: ignore[operator]
        shared[:] = bytes(FRAME)
    body += under_test.finish()
    assert body == expected_body(under_test, content)


@pytest.mark.parametrize("view", [False, True], ids=["bytes", "memoryview-of-bytes"])
def test_a_full_frame_held_back_is_not_copied_when_nobody_can_change_it(view: bool) -> None:
    frame = 1 << 22
    content, under_test = secrets.token_bytes(frame), encryptor(frame)
    tracemalloc.start()
    try:
        under_test.update(memoryview(content) if view else content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < frame // 16
    assert under_test.finish() == expected_body(under_test, content)


def test_a_lent_buffer_is_given_back_after_the_call() -> None:
    under_test, data, out = encryptor(), bytearray(3 * FRAME), bytearray(4 * FRAME)
    under_test.update_into(data, out)
    # A bytearray with a view on it cannot be resized.
    data.clear()
    out.clear()
    final = bytearray(2 * FRAME)
    under_test.finish_into(final)
    final.clear()


def test_too_small_an_output_takes_nothing() -> None:
    content = secrets.token_bytes(3 * FRAME)
    under_test = encryptor()
    first = under_test.update(content[:100])
    room = under_test.output_size(len(content) - 100)
    small = bytearray(room - 1)
    with pytest.raises(ValueError, match="needs room"):
        under_test.update_into(content[100:], small)
    assert small == bytes(room - 1)
    body = first + under_test.update(content[100:])
    with pytest.raises(ValueError, match="needs room"):
        under_test.finish_into(bytearray(FRAME + 39))
    assert body + under_test.finish() == expected_body(under_test, content)


def test_after_the_end_every_call_fails() -> None:
    under_test = encryptor()
    under_test.finish()
    for call in (
        lambda: under_test.update(b"more"),
        lambda: under_test.update(b""),
        lambda: under_test.update_into(b"more", bytearray(99)),
        under_test.finish,
        lambda: under_test.finish_into(bytearray(99)),
    ):
        with pytest.raises(ValueError, match="finished"):
            call()


def test_after_an_error_inside_a_call_no_frame_number_is_used_again() -> None:
    under_test = encryptor()
    with pytest.raises((TypeError, BufferError)):
        under_test.update_into(bytes(3 * FRAME), memoryview(bytes(4 * FRAME)))  # cannot be written to
    for call in (lambda: under_test.update(bytes(3 * FRAME)), under_test.finish):
        with pytest.raises(ValueError, match="ended"):
            call()


def test_a_message_ends_at_its_last_frame_number_and_takes_nothing_more() -> None:
    under_test = encryptor()
    # Four thousand million frames are too many for a test.
    under_test._number = MAX_FRAMES - 1
    under_test.update(bytes(FRAME))
    with pytest.raises(EncryptionLimitExceeded):
        under_test.update(bytes(2 * FRAME))
    assert under_test.update(bytes(1))[:4] == (MAX_FRAMES - 1).to_bytes(4)
    with pytest.raises(EncryptionLimitExceeded):
        under_test.update(bytes(FRAME))
    assert under_test.finish()[:8] == b"\xff" * 8


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_encryptor_cannot_be_copied(duplicate: object) -> None:
    with pytest.raises(TypeError, match="nonces"):
        duplicate(encryptor())  # type: ignore[operator]


@pytest.mark.parametrize("frame_length", [0, 1, 2048, 4095, 4097, 6144, 1 << 23, -4096])
def test_only_powers_of_two_from_4_kib_to_4_mib_are_frame_lengths(frame_length: int) -> None:
    with pytest.raises(LimitExceeded, match="power of two"):
        encryptor(frame_length)


@pytest.mark.parametrize("count", [0, 9])
def test_an_object_has_one_to_eight_wrapped_keys(count: int) -> None:
    with pytest.raises(LimitExceeded, match="1 to 8"):
        Encryptor(DATA_KEY, encryption_context=CONTEXT, encrypted_data_keys=[ENTRY] * count)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_data_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Encryptor(bytes(length), encryption_context=CONTEXT, encrypted_data_keys=[ENTRY])


def test_a_header_that_no_reader_takes_is_not_written() -> None:
    entry = EncryptedDataKey("test", b"key-1", bytes(60_000))
    with pytest.raises(LimitExceeded, match="header"):
        Encryptor(DATA_KEY, encryption_context=CONTEXT, encrypted_data_keys=[entry, entry])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_callers_data_key_can_be_wiped_at_once(kind: type) -> None:
    data_key = bytearray(DATA_KEY)
    under_test = Encryptor(kind(data_key), encryption_context=CONTEXT, encrypted_data_keys=[ENTRY], frame_length=FRAME)
    data_key[:] = bytes(32)
    reader = HeaderReader()
    header = reader.feed(under_test.header.to_bytes())
    assert header is not None
    decryptor = Decryptor(header, DATA_KEY)
    assert decryptor.update(under_test.update(b"content") + under_test.finish()) == b"content"
