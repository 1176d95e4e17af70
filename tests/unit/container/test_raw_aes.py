from __future__ import annotations

import pytest

from ownkey.container import parse_raw_aes_provider_info, raw_aes_provider_info

IV = bytes(range(12))


def test_the_provider_info_is_name_sizes_and_iv() -> None:
    assert raw_aes_provider_info("acme-main", IV).hex() == b"acme-main".hex() + "000000800000000c" + IV.hex()


def test_the_iv_is_found_for_exactly_that_key_name() -> None:
    info = raw_aes_provider_info("acme-main", IV)
    assert parse_raw_aes_provider_info(info, "acme-main") == IV
    for other in ("acme", "acme-mai", "acme-main2", "Acme-main", "", "acme-main\x00"):
        assert parse_raw_aes_provider_info(info, other) is None


def test_a_name_that_begins_like_another_is_not_it() -> None:
    """A name may hold the very bytes of the sizes, and still be only itself."""
    tricky = "a\x00\x00\x00\x80\x00\x00\x00\x0c" + "0" * 12
    info = raw_aes_provider_info(tricky, IV)
    assert parse_raw_aes_provider_info(info, tricky) == IV
    assert parse_raw_aes_provider_info(info, "a") is None


@pytest.mark.parametrize("change", [b"\x00\x00\x00\x60\x00\x00\x00\x0c", b"\x00\x00\x00\x80\x00\x00\x00\x10"])
def test_other_sizes_are_refused(change: bytes) -> None:
    assert parse_raw_aes_provider_info(b"acme-main" + change + IV, "acme-main") is None


def test_bytes_missing_or_left_over_are_refused() -> None:
    info = raw_aes_provider_info("acme-main", IV)
    for wrong in (info[:-1], info + b"\x00", b"", info[1:]):
        assert parse_raw_aes_provider_info(wrong, "acme-main") is None


@pytest.mark.parametrize("length", [0, 11, 13, 16])
def test_an_iv_has_12_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        raw_aes_provider_info("acme-main", bytes(length))
