"""Where callers are careless: buffers of other items, errors that are kept, and what other writers may send."""

from __future__ import annotations

import array
import secrets
from collections.abc import Generator

import pytest

from ownkey.container import (
    CommitmentMismatch,
    Decryptor,
    EncryptedDataKey,
    Encryptor,
    Header,
    HeaderReader,
    HeaderTampered,
    parse_raw_aes_provider_info,
    raw_aes_provider_info,
)
from ownkey.container.context import parse_context
from vectors.container.independent import Writer, context_bytes
from vectors.container.material import writer

DATA_KEY = secrets.token_bytes(32)
ENTRY = EncryptedDataKey("test", b"key-1", b"wrapped")


def encryptor(*entries: EncryptedDataKey) -> Encryptor:
    context = {"ownkey:tenant": "acme"}
    return Encryptor(DATA_KEY, encryption_context=context, encrypted_data_keys=entries or [ENTRY], frame_length=4096)


def test_an_error_that_somebody_keeps_does_not_lock_the_engine_s_buffer() -> None:
    one = encryptor()
    one.update(b"some")
    with pytest.raises(ValueError, match="room") as kept:
        one.finish_into(bytearray(1))
    one.update(b" more")
    assert kept.value.__traceback__ is not None
    assert Decryptor(one.header, DATA_KEY).update(one.finish()) == b"some more"


def test_items_of_more_than_a_byte_count_as_their_bytes() -> None:
    one = encryptor()
    numbers = array.array("I", range(5000))
    body = one.update(memoryview(numbers)) + one.finish()
    assert Decryptor(one.header, DATA_KEY).update(body) == numbers.tobytes()


def test_a_header_with_large_wrapped_keys_still_shows_little() -> None:
    header = encryptor(*[EncryptedDataKey("p" * 10_000, bytes(10_000), bytes(10_000))] * 2).header
    assert header.message_id.hex() in repr(header)
    assert len(repr(header)) < 200
    assert len(repr(header.encrypted_data_keys[0])) < 500


def test_a_wrong_key_is_told_from_a_changed_header() -> None:
    by = writer("a header to change")
    raw = bytearray(by.header)
    raw[raw.index(b"acme")] ^= 1
    changed = HeaderReader().feed(raw)
    assert changed is not None
    with pytest.raises(HeaderTampered):
        Decryptor(changed, by.data_key)
    with pytest.raises(CommitmentMismatch):
        Decryptor(changed, DATA_KEY)


def test_a_byte_at_a_time_is_not_parsed_again_and_again() -> None:
    """64 KiB in pieces of one byte would take minutes."""
    raw = Writer(bytes(32), bytes(32), entries=[(b"p", b"i", bytes(4000))] * 15).header
    reader, steps = HeaderReader(), 0
    parser = reader._parser

    def counted() -> Generator[int, None, Header]:
        nonlocal steps
        while True:
            steps += 1
            try:
                yield next(parser)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    reader._parser = counted()
    for byte in raw[:-1]:
        assert reader.feed(bytes([byte])) is None
    assert reader.feed(raw[-1:]) is not None
    assert steps < 150


def test_larger_contexts_of_other_writers_are_read() -> None:
    context = {f"key-{i:03}": "value" for i in range(100)}
    assert parse_context(context_bytes(context)) == context


def test_a_key_name_may_look_like_a_whole_provider_info_and_is_still_only_itself() -> None:
    iv = bytes(range(12))
    tricky = "a\x00\x00\x00\x80\x00\x00\x00\x0c" + "0" * 12
    info = raw_aes_provider_info(tricky, iv)
    assert parse_raw_aes_provider_info(info, tricky) == iv
    assert parse_raw_aes_provider_info(info, "a") is None
