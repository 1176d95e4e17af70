"""The sanity test of random bytes: gross faults are seen, and a good generator is believed."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from ownkey_server.hsm.check.statistics import judge

SIZE = 16 * 1024
# As good as random, and the same at every run.
GOOD = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(SIZE // 32))


def test_a_good_generator_is_believed() -> None:
    found = judge(GOOD)
    assert found.is_sane
    assert (found.repeated, found.size) == (0, SIZE)
    assert 0.001 < found.frequency <= 1
    assert 0.001 < found.runs <= 1


def test_the_example_of_the_standard() -> None:
    # NIST SP 800-22 rev. 1a, 2.1.8 and 2.3.8: the first 100 binary digits of pi. Ours takes whole bytes: 96 of them.
    digits = "11001001000011111101101010100010001000010110100011000010001101001100010011000110011000101000101110000"
    bits = digits[:96]
    found = judge(int(bits, 2).to_bytes(12, "big"))
    ones = bits.count("1")
    changes = sum(a != b for a, b in itertools.pairwise(bits))
    assert ones == 41
    assert changes + 1 == 51
    assert found.frequency == pytest.approx(0.1530, abs=0.0001)
    assert found.runs == pytest.approx(0.4017, abs=0.0001)


@pytest.mark.parametrize(
    "bad",
    [
        bytes(SIZE),
        b"\xff" * SIZE,
        b"\x5a" * SIZE,
        bytes(range(256)) * (SIZE // 256),
        b"".join(number.to_bytes(8, "big") for number in range(SIZE // 8)),
        GOOD[: SIZE // 2] * 2,
        bytes(one & 0x7F for one in GOOD),
        bytes(one | (one >> 4) for one in GOOD),
    ],
    ids=[
        "zeros",
        "ones",
        "one byte",
        "bytes in turn",
        "a counter",
        "twice the same",
        "a bit stuck",
        "bits that follow",
    ],
)
def test_gross_faults_are_seen(bad: bytes) -> None:
    assert not judge(bad).is_sane
