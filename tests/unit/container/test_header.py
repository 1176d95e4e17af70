"""The header: read within bounds, kept verbatim, and one for each message id."""

from __future__ import annotations

import dataclasses
import inspect
import secrets
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey import container
from ownkey.container import (
    ContainerError,
    EncryptedDataKey,
    Encryptor,
    Header,
    HeaderInvalid,
    HeaderReader,
    LimitExceeded,
    ReaderLimits,
)
from vectors.container.independent import lp16, u16
from vectors.container.material import writer

WRITER = writer("a header")
ENTRY = EncryptedDataKey("test", b"key-1", b"wrapped")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
contexts = st.dictionaries(texts.filter(lambda key: key and not key.startswith("aws-crypto-")), texts, max_size=32)
entries = st.builds(EncryptedDataKey, texts, st.binary(max_size=80), st.binary(max_size=80))


def read(data: bytes, **limits: int) -> Header | None:
    return HeaderReader(limits=ReaderLimits(**limits)).feed(data)


def new_header(**changes: object) -> Header:
    arguments = {"encryption_context": {"ownkey:tenant": "acme"}, "encrypted_data_keys": [ENTRY], **changes}
    return Encryptor(secrets.token_bytes(32), **arguments).header  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(contexts, st.lists(entries, min_size=1, max_size=8), st.sampled_from([1 << bits for bits in range(12, 23)]))
def test_what_is_written_is_read(context: dict[str, str], keys: list[EncryptedDataKey], frame_length: int) -> None:
    header = new_header(encryption_context=context, encrypted_data_keys=keys, frame_length=frame_length)
    again = read(header.to_bytes())
    assert again == header
    assert again is not None
    assert again.to_bytes() == header.to_bytes()
    assert again.encryption_context == context
    assert again.encrypted_data_keys == tuple(keys)
    assert again.length == len(header.to_bytes())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WRITER.header) - 1), st.integers(1, 255), st.binary(max_size=3))
def test_whatever_is_read_is_kept_verbatim(at: int, change: int, more: bytes) -> None:
    data = bytearray(WRITER.header + more)
    data[at] ^= change
    try:
        header = read(bytes(data))
    except ContainerError:
        return
    assert header is None or header.to_bytes() == data[: header.length]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_header_or_an_error_of_the_container(data: bytes, begins_well: bool) -> None:
    try:
        header = read(b"\x02\x04\x78" + data if begins_well else data)
    except ContainerError:
        return
    assert header is None or header.length <= 203


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(WRITER.header) + 50), max_size=10))
def test_a_header_comes_in_any_pieces_and_what_follows_is_left(edges: list[int]) -> None:
    data = WRITER.header + bytes(range(50))
    reader, found, rest = HeaderReader(), None, b""
    places = [0, *sorted(edges), len(data)]
    for start, end in pairwise(places):
        if found is None:
            found = reader.feed(data[start:end])
            rest = bytes(reader.rest)
        else:
            rest += data[start:end]
    assert found is not None
    assert found.to_bytes() == WRITER.header
    assert rest == bytes(range(50))


def test_a_header_is_there_with_its_last_byte_and_not_before() -> None:
    reader = HeaderReader()
    assert all(reader.feed(bytes([byte])) is None for byte in WRITER.header[:-1])
    assert reader.feed(WRITER.header[-1:]) is not None


def test_a_reader_reads_one_header() -> None:
    reader = HeaderReader()
    reader.feed(WRITER.header)
    with pytest.raises(ValueError, match="was read"):
        reader.feed(WRITER.header)


def test_a_reader_that_failed_stays_failed() -> None:
    reader = HeaderReader()
    with pytest.raises(ContainerError):
        reader.feed(b"RIFF")
    with pytest.raises(ValueError, match="error ended"):
        reader.feed(WRITER.header)


def test_limits_are_checked_at_their_edges() -> None:
    length, frame_length = len(WRITER.header), WRITER.frame_length
    assert read(WRITER.header, header_length=length, frame_length=frame_length, encrypted_data_keys=1) is not None
    for limits in ({"header_length": length - 1}, {"frame_length": frame_length - 1}, {"encrypted_data_keys": 0}):
        with pytest.raises(LimitExceeded):
            read(WRITER.header, **limits)


def test_an_error_comes_with_the_first_bytes_that_tell() -> None:
    """A length that is too large is refused when it is read, not once so many bytes have come."""
    start = WRITER.header[:35]
    cases = {
        "another kind of file": b"RIF",
        "count of wrapped keys": start + u16(0) + u16(17),
        "a wrapped key past the limit": start + u16(0) + u16(1) + u16(65_530),
        "a context past the limit": start + u16(65_535),
    }
    for name, data in cases.items():
        with pytest.raises(ContainerError):
            read(data)
        assert read(data[:-1]) is None, name


def test_the_context_of_a_header_cannot_be_changed() -> None:
    for header in (new_header(), read(WRITER.header)):
        assert header is not None
        with pytest.raises(TypeError):
            header.encryption_context["ownkey:tenant"] = "other"  # type: ignore[index]
        with pytest.raises(dataclasses.FrozenInstanceError):
            header.tag = bytes(16)  # type: ignore[misc]


def test_the_callers_context_and_keys_are_not_shared() -> None:
    context, keys = {"ownkey:tenant": "acme"}, [ENTRY]
    header = new_header(encryption_context=context, encrypted_data_keys=keys)
    context["ownkey:tenant"] = "other"
    keys.clear()
    assert header.encryption_context == {"ownkey:tenant": "acme"}
    assert header.encrypted_data_keys == (ENTRY,)


def test_a_header_shows_no_more_of_itself_than_a_log_line_takes() -> None:
    header = new_header()
    shown = repr(header)
    assert len(shown) < 500
    assert repr(header.body)[2:-1] not in shown
    assert repr(header.tag)[2:-1] not in shown
    assert repr(header.commitment)[2:-1] not in shown


def test_nothing_shows_the_data_key() -> None:
    data_key = bytes(range(65, 97))
    encryptor = Encryptor(data_key, encryption_context={}, encrypted_data_keys=[ENTRY])
    decryptor = container.Decryptor(encryptor.header, data_key)
    ranges = container.RangeDecryptor(encryptor.header, data_key, object_size=encryptor.header.length + 40)
    for thing in (encryptor, decryptor, ranges, ranges.stream(0), encryptor.header):
        assert "ABCDEFGH" not in repr(thing)
        assert data_key.hex() not in repr(thing)
    with pytest.raises(ContainerError) as caught:
        container.Decryptor(new_header(), data_key)
    assert "ABCDEFGH" not in repr(caught.value)


# One header for each message id. The header's tag is a GCM tag with nonce zero under a key that depends on the data key
# and the message id alone: a second header under both would let anybody forge frames. docs/formats.md says how.


def test_two_objects_of_one_data_key_have_different_message_ids_and_keys() -> None:
    data_key = secrets.token_bytes(32)
    headers = [Encryptor(data_key, encryption_context={}, encrypted_data_keys=[ENTRY]).header for _ in range(50)]
    assert len({header.message_id for header in headers}) == 50
    assert len({header.commitment for header in headers}) == 50
    assert len({header.tag for header in headers}) == 50


def test_no_call_takes_a_message_id() -> None:
    """The only parameter of that name belongs to the record that a reader fills, which makes no tag."""
    taking = [
        name
        for name in container.__all__
        if inspect.isclass(thing := getattr(container, name)) or inspect.isfunction(thing)
        for call in [thing, *(member for _, member in inspect.getmembers(thing, inspect.isfunction))]
        if not (inspect.isclass(call) and issubclass(call, Exception))
        and "message_id" in inspect.signature(call).parameters
    ]
    assert set(taking) == {"Header"}


def test_no_call_gives_a_header_other_wrapped_keys() -> None:
    methods = {name for name, _ in inspect.getmembers(Header, inspect.isfunction) if not name.startswith("_")}
    assert methods == {"to_bytes"}
    assert not {name for name in container.__all__ if "header" in name.lower()} - {
        "Header", "HeaderInvalid", "HeaderReader", "HeaderTampered"
    }  # fmt: skip


def test_a_header_made_by_hand_is_authenticated_by_nothing() -> None:
    """`dataclasses.replace` changes what a record says, not the bytes that it stands for, nor their tag."""
    data_key = secrets.token_bytes(32)
    header = Encryptor(data_key, encryption_context={}, encrypted_data_keys=[ENTRY]).header
    other = dataclasses.replace(header, encrypted_data_keys=(EncryptedDataKey("test", b"key-2", b"other"),))
    assert other.to_bytes() == header.to_bytes()
    other = dataclasses.replace(header, body=header.body.replace(b"key-1", b"key-2"))
    with pytest.raises(container.HeaderTampered):
        container.Decryptor(other, data_key)


def test_a_header_is_the_same_each_time_it_is_asked_for() -> None:
    encryptor = Encryptor(
        secrets.token_bytes(32), encryption_context={}, encrypted_data_keys=[ENTRY], frame_length=4096
    )
    before = encryptor.header
    encryptor.update(bytes(9000))
    encryptor.finish()
    assert encryptor.header is before
    with pytest.raises(AttributeError):
        encryptor.header = new_header()  # type: ignore[misc]


@pytest.mark.parametrize("part", ["provider_info", "ciphertext"])
def test_a_part_of_a_wrapped_key_has_no_more_than_its_length_can_say(part: str) -> None:
    fields = {"provider_id": "test", "provider_info": b"", "ciphertext": b"", part: bytes(65_536)}
    with pytest.raises(LimitExceeded, match="65,535"):
        EncryptedDataKey(**fields).to_bytes()  # type: ignore[arg-type]


def test_a_provider_id_has_a_utf_8_form() -> None:
    with pytest.raises(HeaderInvalid, match="UTF-8"):
        EncryptedDataKey("\ud800", b"", b"").to_bytes()


def test_a_wrapped_key_is_written_as_its_parts_with_their_lengths() -> None:
    assert EncryptedDataKey("é", b"info", b"w").to_bytes() == lp16("é".encode()) + lp16(b"info") + lp16(b"w")
