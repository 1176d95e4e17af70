"""Whether bytes look random. Only gross faults show: a generator that stands still, counts, or prefers ones.

The frequency and runs tests of NIST SP 800-22 rev. 1a (2.1 and 2.3), and a look for blocks that come again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BLOCK = 8
# A good generator is called bad once in some millions of checks.
LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True, slots=True)
class Randomness:
    """What was found.

    Attributes:
        frequency: The probability that a good generator is as uneven as this.
        runs: The probability that a good generator changes as often, or as seldom.
        repeated: How many blocks of 8 bytes were there before.
        size: How many bytes were looked at.
    """

    frequency: float
    runs: float
    repeated: int
    size: int

    @property
    def is_sane(self) -> bool:
        """Whether nothing gross is wrong. In 16 KiB a good generator repeats a block once in 2^43 times."""
        return min(self.frequency, self.runs) >= LEAST_PROBABILITY and not self.repeated


def judge(sample: bytes) -> Randomness:
    """Look at a sample of some kilobytes."""
    bits = len(sample) * 8
    ones = sum(byte.bit_count() for byte in sample)
    share = ones / bits
    frequency = math.erfc(abs(2 * ones - bits) / math.sqrt(bits) / math.sqrt(2))
    number = int.from_bytes(sample, "big")
    changes = ((number ^ (number >> 1)) & ((1 << (bits - 1)) - 1)).bit_count()
    if share in (0.0, 1.0):
        runs = 0.0
    else:
        expected = 2 * bits * share * (1 - share)
        runs = math.erfc(abs(changes + 1 - expected) / (2 * math.sqrt(2 * bits) * share * (1 - share)))
    blocks = [sample[at : at + BLOCK] for at in range(0, len(sample) - BLOCK + 1, BLOCK)]
    return Randomness(frequency, runs, len(blocks) - len(set(blocks)), len(sample))
