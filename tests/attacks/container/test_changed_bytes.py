"""Every single-byte change of an object is noticed, before any plaintext of its frame goes out."""

from __future__ import annotations

import pytest

from attacks.container.objects import CONTENT, assert_refused, expect_nothing_wrong, read, small
from ownkey.container import ContainerError, HeaderReader, RangeDecryptor

CHANGES = [0x01, 0x80, 0xFF]


@pytest.mark.parametrize("change", CHANGES)
def test_every_changed_byte_is_refused_and_releases_only_the_frames_before_it(change: int) -> None:
    by = small()
    message = by.message(CONTENT)
    expect_nothing_wrong(message, by.data_key, CONTENT)
    header, stride = len(by.header), 16 + 32
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= change
        frames_before = max(0, at - header) // stride
        assert_refused(bytes(changed), by.data_key, may_release=CONTENT[: 16 * min(frames_before, 3)])


@pytest.mark.parametrize("change", CHANGES)
def test_every_changed_byte_is_refused_by_a_range_read_that_fetches_it(change: int) -> None:
    by = small()
    message = by.message(CONTENT)

    def read_all(raw: bytes) -> bytes:
        header = HeaderReader().feed(raw)
        assert header is not None
        ranges = RangeDecryptor(header, by.data_key, object_size=len(raw))
        stream = ranges.stream(0)
        pieces = [stream.update(raw[span.offset : span.offset + span.length]) for span in stream.spans]
        stream.finish()
        final = ranges.final_frame
        ranges.open_final_frame(raw[final.offset : final.offset + final.length])
        span = ranges.span(0)
        assert b"".join(pieces) == ranges.decrypt(0, None, raw[span.offset : span.offset + span.length])
        return b"".join(pieces)

    assert read_all(message) == CONTENT
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= change
        if header_is_cut(message, bytes(changed)):
            continue
        with pytest.raises(ContainerError):
            read_all(bytes(changed))


def header_is_cut(message: bytes, changed: bytes) -> bool:
    """Whether the change makes the header longer than the object, so that there is none to read yet."""
    try:
        return HeaderReader().feed(changed) is None
    except ContainerError:
        return False


def test_a_changed_byte_is_never_reported_with_key_or_content() -> None:
    by = small()
    message = by.message(CONTENT)
    secrets_of_it = [by.data_key, CONTENT, CONTENT[:16]]
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= 1
        error = read(bytes(changed), by.data_key).error
        text = f"{error!s} {error!r}"
        assert not any(secret.hex() in text or repr(secret) in text for secret in secrets_of_it)
        assert "\n" not in str(error)
        assert error is not None
        assert error.__cause__ is None
