from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey.container import ContainerError, EncryptedDataKey, HeaderInvalid, HeaderReader, UnsupportedFormat
from vectors.container.independent import Writer, context_bytes, lp16, u16, u32

KEY, MESSAGE_ID = bytes(32), bytes(range(32))
text = st.text(max_size=20).filter(lambda value: "\ud800" not in value)
entries = st.lists(st.tuples(text, st.binary(max_size=40), st.binary(max_size=80)), min_size=1, max_size=16)
contexts = st.dictionaries(text.filter(bool), text, max_size=8)


@settings(max_examples=150, deadline=None)
@given(contexts, entries, st.integers(1, 1 << 24), st.integers(1, 200))
def test_whatever_parses_serializes_to_the_same_bytes(
    context: dict[str, str], parts: list[tuple[str, bytes, bytes]], frame_length: int, step: int
) -> None:
    raw_entries = [(name.encode(), info, wrapped) for name, info, wrapped in parts]
    raw = Writer(KEY, MESSAGE_ID, frame_length, context, raw_entries).header
    reader, header = HeaderReader(), None
    for at in range(0, len(raw), step):
        assert header is None
        header = reader.feed(raw[at : at + step])
    assert header is not None
    assert header.to_bytes() == raw
    assert header.length == len(raw)
    assert bytes(reader.rest) == b""
    # And from the fields alone, so that none of them says another thing than the bytes.
    again = b"".join(
        (
            b"\x02\x04\x78" + header.message_id,
            lp16(context_bytes(header.encryption_context)),
            u16(len(header.encrypted_data_keys)),
            *(entry.to_bytes() for entry in header.encrypted_data_keys),
            b"\x02" + u32(header.frame_length) + header.commitment + header.tag,
        )
    )
    assert again == raw


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_that_are_no_header_give_a_container_error_or_ask_for_more(data: st.DataObject) -> None:
    raw = bytearray(Writer(KEY, MESSAGE_ID).header)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=6)):
        raw[at] = value
    reader = HeaderReader()
    try:
        header = reader.feed(bytes(raw) + data.draw(st.binary(max_size=50)))
    except ContainerError:
        return
    if header is not None:
        assert header.to_bytes() == raw[: header.length] or header.length > len(raw)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\x01\x80\x00", "version 1"),
        (b"\x02\x05\x78", "0x0578"),
        (b"\x02\x01\x78", "0x0178"),
        (b"RIF", "not an encrypted object"),
        (b"\x00\x00\x00", "not an encrypted object"),
    ],
)
def test_another_kind_of_file_is_told_by_its_first_three_bytes(start: bytes, what: str) -> None:
    with pytest.raises(UnsupportedFormat, match=what):
        HeaderReader().feed(start)


def test_what_follows_the_header_is_the_rest() -> None:
    raw = Writer(KEY, MESSAGE_ID).header
    reader = HeaderReader()
    assert reader.feed(raw[:50]) is None
    assert bytes(reader.rest) == b""
    assert reader.feed(raw[50:] + b"frames") is not None
    assert bytes(reader.rest) == b"frames"


def test_a_reader_that_is_done_or_failed_takes_no_more() -> None:
    done, failed = HeaderReader(), HeaderReader()
    assert done.feed(Writer(KEY, MESSAGE_ID).header) is not None
    with pytest.raises(UnsupportedFormat):
        failed.feed(b"RIFF")
    for reader in (done, failed):
        with pytest.raises(ValueError, match="read"):
            reader.feed(b"more")


def test_a_header_is_read_in_time_that_grows_with_its_length_alone() -> None:
    """A byte at a time must not parse what came before again and again: 64 KiB would take minutes."""
    entries = [(b"p", b"i", bytes(4000))] * 15
    raw = Writer(KEY, MESSAGE_ID, entries=entries).header
    reader = HeaderReader()
    steps = 0
    parser = reader._parser

    def counted():  # type: ignore[no-untyped-def]
        nonlocal steps
        while True:
            steps += 1
            try:
                yield next(parser)
            except StopIteration as end:
                return end.value

    reader._parser = counted()
    for byte in raw[:-1]:
        assert reader.feed(bytes([byte])) is None
    assert reader.feed(raw[-1:]) is not None
    assert steps < 150


def test_the_context_of_a_header_cannot_be_changed() -> None:
    header = HeaderReader().feed(Writer(KEY, MESSAGE_ID).header)
    assert header is not None
    assert isinstance(header.encryption_context, MappingProxyType)


def test_a_provider_id_without_a_utf_8_form_is_refused() -> None:
    with pytest.raises(HeaderInvalid, match="UTF-8"):
        EncryptedDataKey("\ud800", b"", b"").to_bytes()
