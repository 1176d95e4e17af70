from __future__ import annotations

import secrets

import pytest

from ownkey.container import (
    CommitmentMismatch,
    Decryptor,
    FrameTampered,
    HeaderReader,
    HeaderTampered,
    TrailingData,
    Truncated,
)
from vectors.container.independent import Writer

CONTENT = bytes(range(1, 57))


def written() -> tuple[Writer, Decryptor, bytes]:
    by = Writer(secrets.token_bytes(32), secrets.token_bytes(32))
    reader = HeaderReader()
    header = reader.feed(by.message(CONTENT))
    assert header is not None
    return by, Decryptor(header, by.data_key), bytes(reader.rest)


def test_a_wrong_key_is_told_from_a_changed_header_before_any_plaintext() -> None:
    by, _, _ = written()
    raw = bytearray(by.header)
    raw[raw.index(b"acme")] ^= 1
    changed = HeaderReader().feed(raw)
    assert changed is not None
    with pytest.raises(HeaderTampered):
        Decryptor(changed, by.data_key)
    with pytest.raises(CommitmentMismatch):
        Decryptor(changed, secrets.token_bytes(32))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_data_key_has_32_bytes(length: int) -> None:
    by, _, _ = written()
    header = HeaderReader().feed(by.header)
    assert header is not None
    with pytest.raises(ValueError, match="32 bytes"):
        Decryptor(header, bytes(length))


def test_a_frame_goes_out_as_soon_as_it_is_whole_and_not_before() -> None:
    _, decryptor, rest = written()
    assert decryptor.update(rest[:47]) == b""
    assert decryptor.update(rest[47:48]) == CONTENT[:16]


def test_an_object_is_finished_with_its_final_frame_only() -> None:
    _, decryptor, rest = written()
    decryptor.update(rest[:-1])
    assert not decryptor.finished
    with pytest.raises(Truncated, match="after 3 whole"):
        decryptor.finish()
    decryptor.update(rest[-1:])
    assert decryptor.finished
    decryptor.finish()


def test_after_an_error_nothing_more_comes_out() -> None:
    _, decryptor, rest = written()
    changed = bytearray(rest)
    changed[20] ^= 1
    with pytest.raises(FrameTampered) as caught:
        decryptor.update(changed)
    assert caught.value.sequence_number == 1
    for call in (lambda: decryptor.update(rest), lambda: decryptor.update(b""), decryptor.finish):
        with pytest.raises(ValueError, match="error"):
            call()
    assert not decryptor.finished


def test_an_object_with_bytes_after_its_end_is_not_finished() -> None:
    _, decryptor, rest = written()
    assert decryptor.update(rest) == CONTENT
    assert decryptor.update(b"") == b""
    with pytest.raises(TrailingData):
        decryptor.update(b"\x00")
    assert not decryptor.finished
    with pytest.raises(ValueError, match="error"):
        decryptor.finish()


def test_plaintext_that_failed_its_tag_is_not_left_in_the_caller_s_buffer() -> None:
    """The cipher writes it there before it knows."""
    _, decryptor, rest = written()
    changed = bytearray(rest[:48])
    changed[-1] ^= 1  # the tag alone, so that the plaintext would be the right one
    out = bytearray(decryptor.output_size(len(changed)))
    with pytest.raises(FrameTampered):
        decryptor.update_into(changed, out)
    assert CONTENT[:16] not in out
    assert not any(out)


def test_a_buffer_that_is_too_small_is_refused_and_nothing_is_taken() -> None:
    _, decryptor, rest = written()
    decryptor.update(rest[:5])
    with pytest.raises(ValueError, match="room"):
        decryptor.update_into(rest[5:], bytearray(decryptor.output_size(len(rest) - 5) - 1))
    assert decryptor.update(rest[5:]) == CONTENT


def test_an_empty_final_frame_is_accepted() -> None:
    by = Writer(secrets.token_bytes(32), secrets.token_bytes(32))
    header = HeaderReader().feed(by.header)
    assert header is not None
    decryptor = Decryptor(header, by.data_key)
    assert decryptor.update(by.frame(1, CONTENT[:16]) + by.final(2, b"")) == CONTENT[:16]
    decryptor.finish()
