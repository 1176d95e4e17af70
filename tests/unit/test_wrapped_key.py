from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.container import EncryptedDataKey, HeaderReader
from ownkey.wrapped_key import WrappedKey, WrappedKeyInvalid
from vectors.container.independent import Writer

ENTRY = EncryptedDataKey("ownkey-embedded", b"acme-main", bytes(48))
entries = st.builds(EncryptedDataKey, st.text(max_size=20), st.binary(max_size=40), st.binary(max_size=80))


@given(st.text(max_size=60), st.lists(entries, min_size=1, max_size=16))
def test_what_is_written_is_read_again(key: str, several: list[EncryptedDataKey]) -> None:
    wrapped = WrappedKey(key, tuple(several))
    assert WrappedKey.from_bytes(wrapped.to_bytes()) == wrapped


@given(st.binary(max_size=200))
def test_bytes_that_are_none_give_one_kind_of_error(raw: bytes) -> None:
    try:
        wrapped = WrappedKey.from_bytes(b"\x01" + raw)
    except WrappedKeyInvalid:
        return
    assert wrapped.to_bytes() == b"\x01" + raw


def test_every_cut_and_every_addition_is_refused() -> None:
    raw = WrappedKey("tenants/acme/keys/main", (ENTRY, ENTRY)).to_bytes()
    for wrong in [raw[:at] for at in range(len(raw))] + [raw + b"\x00", raw + raw]:
        with pytest.raises(WrappedKeyInvalid):
            WrappedKey.from_bytes(wrong)


@pytest.mark.parametrize("count", [0, 17])
def test_1_to_16_entries(count: int) -> None:
    with pytest.raises(WrappedKeyInvalid, match="1 to 16"):
        WrappedKey("k", (ENTRY,) * count).to_bytes()
    assert len(WrappedKey.from_bytes(WrappedKey("k", (ENTRY,) * 16).to_bytes()).encrypted_data_keys) == 16


def test_at_most_16_kib() -> None:
    overhead = len(WrappedKey("", (EncryptedDataKey("", b"", b""),)).to_bytes())
    largest = WrappedKey("", (EncryptedDataKey("", b"", bytes(16_384 - overhead)),))
    assert len(largest.to_bytes()) == 16_384
    for wrong in (
        WrappedKey("", (EncryptedDataKey("", b"", bytes(16_385 - overhead)),)),
        WrappedKey("", (EncryptedDataKey("", b"", bytes(70_000)),)),
        WrappedKey("k" * 70_000, (ENTRY,)),
    ):
        with pytest.raises(WrappedKeyInvalid, match="16384"):
            wrong.to_bytes()
    with pytest.raises(WrappedKeyInvalid, match="16384"):
        WrappedKey.from_bytes(b"\x01" + bytes(16_384))


@pytest.mark.parametrize(
    "wrong", [WrappedKey("\ud800", (ENTRY,)), WrappedKey("k", (EncryptedDataKey("\ud800", b"", b""),))]
)
def test_names_without_a_utf_8_form_are_refused(wrong: WrappedKey) -> None:
    with pytest.raises(WrappedKeyInvalid, match="UTF-8"):
        wrong.to_bytes()


def test_another_version_is_refused() -> None:
    raw = WrappedKey("k", (ENTRY,)).to_bytes()
    for version in (0, 2, 255):
        with pytest.raises(WrappedKeyInvalid, match="version"):
            WrappedKey.from_bytes(bytes([version]) + raw[1:])


def test_from_a_header_come_its_entries_and_no_name() -> None:
    header = HeaderReader().feed(Writer(bytes(32), bytes(32)).header)
    assert header is not None
    wrapped = WrappedKey.from_header(header)
    assert wrapped == WrappedKey("", (EncryptedDataKey("test", b"key-1", b"wrapped"),))
    assert WrappedKey.from_bytes(wrapped.to_bytes()) == wrapped
