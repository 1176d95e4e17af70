"""Any chunking, any size: the content comes back, and the object is the one that the independent writer makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey.container import Buffer, Decryptor, EncryptedDataKey, Encryptor, HeaderReader
from vectors.container.independent import Writer

FRAME = 4096
DATA_KEY = bytes(range(32))
CONTEXT = {"ownkey:tenant": "acme"}
ENTRY = EncryptedDataKey("test", b"key-1", b"wrapped")
SIZES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 3 * FRAME - 1, 3 * FRAME, 3 * FRAME + 1]
KINDS = [bytes, bytearray, lambda piece: memoryview(bytes(piece)), lambda piece: memoryview(bytearray(piece))]

sizes = st.one_of(st.sampled_from(SIZES), st.integers(0, 4 * FRAME))
cuts = st.lists(st.one_of(st.sampled_from(SIZES), st.integers(0, 5 * FRAME)), max_size=8)
kinds = st.sampled_from(KINDS)


def content_of(size: int) -> bytes:
    return bytes(i * i % 253 for i in range(size))


def pieces(data: bytes, at: Sequence[int]) -> Iterator[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in at), len(data)]
    for start, end in pairwise(edges):
        yield data[start:end]


def new_encryptor() -> Encryptor:
    return Encryptor(DATA_KEY, encryption_context=CONTEXT, encrypted_data_keys=[ENTRY], frame_length=FRAME)


def expected(encryptor: Encryptor, content: bytes) -> bytes:
    entries = [(b"test", b"key-1", b"wrapped")]
    return Writer(DATA_KEY, encryptor.header.message_id, FRAME, CONTEXT, entries).message(content)


@settings(max_examples=150, deadline=None)
@given(sizes, cuts, kinds)
def test_any_chunking_of_content_makes_the_one_valid_object(size: int, at: list[int], kind: type) -> None:
    content, encryptor = content_of(size), new_encryptor()
    written = bytearray(encryptor.header.to_bytes())
    for piece in pieces(content, at):
        given_piece = kind(piece)
        written += encryptor.update(given_piece)
        spoil(given_piece)
    written += encryptor.finish()
    assert written == expected(encryptor, content)


def spoil(piece: Buffer) -> None:
    """A caller may use its buffer again: the engine must not have kept a view of it."""
    if isinstance(piece, bytearray) or (isinstance(piece, memoryview) and not piece.readonly):
        piece[:] = bytes(len(piece))


@settings(max_examples=150, deadline=None)
@given(sizes, cuts, kinds)
def test_any_chunking_of_an_object_gives_the_content(size: int, at: list[int], kind: type) -> None:
    content, encryptor = content_of(size), new_encryptor()
    message = expected(encryptor, content)
    reader, decryptor, released = HeaderReader(), None, bytearray()
    for piece in pieces(message, at):
        given_piece = kind(piece)
        if decryptor is None:
            header = reader.feed(given_piece)
            if header is None:
                spoil(given_piece)
                continue
            decryptor = Decryptor(header, DATA_KEY)
            released += decryptor.update(reader.rest)
        else:
            released += decryptor.update(given_piece)
        spoil(given_piece)
    assert decryptor is not None
    decryptor.finish()
    assert decryptor.finished
    assert released == content


@settings(max_examples=100, deadline=None)
@given(sizes, cuts)
def test_buffers_of_the_caller_get_the_same_bytes_and_the_announced_size_suffices(size: int, at: list[int]) -> None:
    content, encryptor = content_of(size), new_encryptor()
    out = bytearray(b"\xaa" * (8 * FRAME))
    written = bytearray(encryptor.header.to_bytes())
    for piece in pieces(content, at):
        room = encryptor.output_size(len(piece))
        count = encryptor.update_into(piece, memoryview(out)[:room])
        assert count <= room
        written += out[:count]
    written += out[: encryptor.finish_into(out)]
    assert written == expected(encryptor, content)
    reader = HeaderReader()
    header = reader.feed(bytes(written))
    assert header is not None
    decryptor, released = Decryptor(header, DATA_KEY), bytearray()
    for piece in pieces(bytes(reader.rest), at):
        room = decryptor.output_size(len(piece))
        count = decryptor.update_into(piece, memoryview(out)[:room])
        assert count <= room
        released += out[:count]
    decryptor.finish()
    assert released == content


def test_a_full_frame_is_held_back_until_more_comes_since_it_may_be_the_last() -> None:
    encryptor = new_encryptor()
    assert encryptor.update(bytes(FRAME)) == b""
    assert len(encryptor.update(b"x")) == FRAME + 32
    assert len(encryptor.finish()) == 1 + 40


def test_a_frame_that_is_held_back_as_immutable_bytes_is_not_copied() -> None:
    encryptor = new_encryptor()
    piece = bytes(FRAME)
    encryptor.update(piece)
    assert encryptor._held is not None
    assert encryptor._held.obj is piece
    changeable = new_encryptor()
    changeable.update(memoryview(bytearray(FRAME)))
    assert changeable._held is None


@pytest.mark.parametrize("size", [0, FRAME, 2 * FRAME])
def test_content_that_fills_its_frames_ends_with_a_full_final_frame(size: int) -> None:
    encryptor = new_encryptor()
    body = encryptor.update(bytes(size)) + encryptor.finish()
    regular = max(0, size // FRAME - 1)
    assert len(body) == regular * (FRAME + 32) + min(size, FRAME) + 40
