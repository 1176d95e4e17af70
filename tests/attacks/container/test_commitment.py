"""A commitment counts in all of its bytes, and before the header's tag is looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.container.objects import CONTENT, expect_nothing_wrong, small
from ownkey.container import CommitmentMismatch, Decryptor, HeaderReader, RangeDecryptor
from vectors.container.independent import commitment


@pytest.mark.parametrize("at", range(32))
def test_an_authentic_header_whose_commitment_is_right_but_for_one_byte_is_refused(at: int) -> None:
    """Its writer has the data key, so that the tag is right: only the comparison of commitments can refuse it.

    One that looked at a part of them would let two keys be found that agree in that part.
    """
    by = small()
    expect_nothing_wrong(by.message(CONTENT), by.data_key, CONTENT)
    wrong = bytearray(commitment(by.data_key, by.message_id))
    wrong[at] ^= 1
    message = replace(by, commitment=bytes(wrong)).message(CONTENT)
    header = HeaderReader().feed(message)
    assert header is not None
    assert header.commitment == wrong
    with pytest.raises(CommitmentMismatch):
        Decryptor(header, by.data_key)
    with pytest.raises(CommitmentMismatch):
        RangeDecryptor(header, by.data_key, object_size=len(message))
