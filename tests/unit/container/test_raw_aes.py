"""The layout of a data key wrapped by AES-GCM."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.container import parse_raw_aes_provider_info, raw_aes_provider_info

IV = bytes(range(12))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_the_layout_is_name_tag_bits_iv_length_iv() -> None:
    assert raw_aes_provider_info("acme-main", IV) == b"acme-main" + b"\x00\x00\x00\x80\x00\x00\x00\x0c" + IV


@given(names, names, st.binary(min_size=12, max_size=12))
def test_it_is_read_under_the_same_name_and_no_other(name: str, other: str, iv: bytes) -> None:
    info = raw_aes_provider_info(name, iv)
    assert parse_raw_aes_provider_info(info, name) == iv
    assert (parse_raw_aes_provider_info(info, other) is None) is (name != other)


@pytest.mark.parametrize(
    "info",
    [
        b"",
        b"acme",
        raw_aes_provider_info("acme", IV)[:-1],
        raw_aes_provider_info("acme", IV) + b"\x00",
        b"acme\x00\x00\x00\x60\x00\x00\x00\x0c" + IV,
        b"acme\x00\x00\x00\x80\x00\x00\x00\x10" + IV + bytes(4),
        raw_aes_provider_info("acme-2", IV),
        raw_aes_provider_info("acm", IV),
    ],
    ids=["empty", "name alone", "short", "long", "tag of 96 bits", "iv of 16", "longer name", "shorter name"],
)
def test_nothing_else_is_read(info: bytes) -> None:
    assert parse_raw_aes_provider_info(info, "acme") is None


@pytest.mark.parametrize("length", [0, 11, 13, 16])
def test_an_iv_has_12_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        raw_aes_provider_info("acme", bytes(length))
