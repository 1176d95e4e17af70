"""The wrapped key: bytes that applications keep beside their content for years."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey.container import ContainerError, EncryptedDataKey, Encryptor
from ownkey.wrapped_key import MAX_LENGTH, WrappedKey, WrappedKeyInvalid

ENTRY = EncryptedDataKey("ownkey-embedded", b"main", b"wrapped")
EXAMPLE = WrappedKey("tenants/acme/keys/main", (ENTRY,))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
entries = st.builds(EncryptedDataKey, texts, st.binary(max_size=60), st.binary(max_size=60))
wrapped_keys = st.builds(WrappedKey, texts, st.lists(entries, min_size=1, max_size=16).map(tuple))


def test_the_bytes_are_as_published() -> None:
    assert EXAMPLE.to_bytes() == (
        b"\x01\x00\x16tenants/acme/keys/main\x00\x01\x00\x0fownkey-embedded\x00\x04main\x00\x07wrapped"
    )


@settings(max_examples=100)
@given(wrapped_keys)
def test_what_is_written_is_read(wrapped_key: WrappedKey) -> None:
    assert WrappedKey.from_bytes(wrapped_key.to_bytes()) == wrapped_key


@settings(max_examples=200)
@given(st.binary(max_size=80), st.booleans())
def test_whatever_is_read_is_written_again_alike(raw: bytes, begins_well: bool) -> None:
    raw = b"\x01\x00\x00\x00\x01" + raw if begins_well else raw
    try:
        wrapped_key = WrappedKey.from_bytes(raw)
    except WrappedKeyInvalid:
        return
    assert wrapped_key.to_bytes() == raw


def test_every_truncation_and_every_added_byte_is_refused() -> None:
    raw = EXAMPLE.to_bytes()
    for end in range(len(raw)):
        with pytest.raises(WrappedKeyInvalid):
            WrappedKey.from_bytes(raw[:end])
    with pytest.raises(WrappedKeyInvalid, match="must end there"):
        WrappedKey.from_bytes(raw + b"\x00")


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(WrappedKeyInvalid, match="version"):
        WrappedKey.from_bytes(bytes([version]) + EXAMPLE.to_bytes()[1:])


@pytest.mark.parametrize("count", [0, 17, 65_535])
def test_one_to_sixteen_entries_are_read(count: int) -> None:
    entry = ENTRY.to_bytes()
    with pytest.raises(WrappedKeyInvalid, match="1 to 16"):
        WrappedKey.from_bytes(b"\x01\x00\x00" + count.to_bytes(2) + entry * min(count, 17))


@pytest.mark.parametrize("count", [0, 17])
def test_one_to_sixteen_entries_are_written(count: int) -> None:
    with pytest.raises(WrappedKeyInvalid, match="1 to 16"):
        WrappedKey("", (ENTRY,) * count).to_bytes()


def test_16_kib_are_the_most() -> None:
    room = MAX_LENGTH - len(WrappedKey("", (EncryptedDataKey("", b"", b""),)).to_bytes())
    largest = WrappedKey("", (EncryptedDataKey("", b"", bytes(room)),))
    assert WrappedKey.from_bytes(largest.to_bytes()) == largest
    with pytest.raises(WrappedKeyInvalid, match="16384"):
        WrappedKey.from_bytes(largest.to_bytes() + b"\x00")
    for too_large in (
        WrappedKey("", (EncryptedDataKey("", b"", bytes(room + 1)),)),
        WrappedKey("", (EncryptedDataKey("", b"", bytes(70_000)),)),
        WrappedKey("k" * 70_000, (ENTRY,)),
    ):
        with pytest.raises(WrappedKeyInvalid, match="16384"):
            too_large.to_bytes()


@pytest.mark.parametrize(
    "wrapped_key",
    [WrappedKey("\ud800", (ENTRY,)), WrappedKey("", (EncryptedDataKey("\ud800", b"", b""),))],
    ids=["key", "provider id"],
)
def test_what_has_no_utf_8_form_is_not_written(wrapped_key: WrappedKey) -> None:
    with pytest.raises(WrappedKeyInvalid, match="UTF-8"):
        wrapped_key.to_bytes()


@pytest.mark.parametrize(
    "raw",
    [EXAMPLE.to_bytes().replace(b"acme", b"\xff\xff\xff\xff"), b"\x01\x00\x00\x00\x01\x00\x01\xff\x00\x00\x00\x00"],
)
def test_what_is_not_utf_8_is_not_read(raw: bytes) -> None:
    with pytest.raises(WrappedKeyInvalid, match="not well formed"):
        WrappedKey.from_bytes(raw)


def test_it_is_an_error_of_the_container() -> None:
    assert issubclass(WrappedKeyInvalid, ContainerError)


def test_an_objects_header_gives_its_wrapped_key_without_a_key_name() -> None:
    header = Encryptor(secrets.token_bytes(32), encryption_context={}, encrypted_data_keys=[ENTRY, ENTRY]).header
    assert WrappedKey.from_header(header) == WrappedKey("", (ENTRY, ENTRY))
