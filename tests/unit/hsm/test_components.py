"""Components of a key: together they are it, and each of them alone is nothing of it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.hsm.check_value_methods import told_in
from ownkey_server.hsm.components import (
    check_values_of,
    join_slip39,
    join_xor,
    parse_xor,
    slip39_facts,
    split_slip39,
    split_xor,
)
from ownkey_server.hsm.errors import HsmError

KEY = bytes(range(32))


@given(st.binary(min_size=32, max_size=32).filter(any), st.integers(2, 5))
def test_all_components_give_the_key_back_and_fewer_another(key: bytes, count: int) -> None:
    parts = split_xor(SecretBytes(key), count)
    assert bytes(join_xor([parse_xor(part) for part in parts]).reveal()) == key
    if count > 2:
        assert bytes(join_xor([parse_xor(part) for part in parts[1:]]).reveal()) != key
    assert len({*parts}) == count


def test_any_of_the_shares_that_are_needed_give_the_key_back() -> None:
    shares = split_slip39(SecretBytes(KEY), 3, 5)
    for chosen in itertools.combinations(shares, 3):
        assert bytes(join_slip39(chosen).reveal()) == KEY
    for few in itertools.combinations(shares, 2):
        with pytest.raises(HsmError, match="too few"):
            join_slip39(few)
    sets = {slip39_facts(share)[0] for share in shares}
    assert [slip39_facts(share)[1:] for share in shares] == [(number, 3) for number in range(1, 6)]
    assert len(sets) == 1


def test_shares_of_two_keys_give_none() -> None:
    one, other = split_slip39(SecretBytes(KEY), 2, 2), split_slip39(SecretBytes(KEY), 2, 2)
    with pytest.raises(HsmError, match="not of one key"):
        join_slip39([one[0], other[1]])


@pytest.mark.parametrize(("needed", "count"), [(1, 2), (1, 1), (3, 2), (2, 17)])
def test_numbers_that_share_nothing_are_refused(needed: int, count: int) -> None:
    with pytest.raises(HsmError):
        split_slip39(SecretBytes(KEY), needed, count)


def test_check_values_are_those_of_the_standards() -> None:
    # AES-256 of a block of zeros under a key of zeros: SP 800-38A's ECB, and FIPS 197.
    assert check_values_of(bytes(32))["aes-ecb"] == "dc95c0"
    values = {"aes-ecb": "dc95c0", "rfc3394": "010203"}
    assert told_in("DC95C0", values)
    assert told_in("rfc3394:010203", values)
    assert not told_in("010203", values)
    assert not told_in("cmac:dc95c0", values)
    assert not told_in("", values)
