"""A key in components, of which no holder has anything of the key: all of them (XOR), or any m of n (SLIP-39).

``xor``
    Each component is 32 bytes, typed as 64 hexadecimal digits; the key is all of them XORed. All but one say nothing of
    it. A component may be made by its holder alone, and a wrong digit shows in its check value.
``slip39``
    Shamir's secret sharing as SLIP-0039 has it, by Trezor's shamir-mnemonic: 33 words, with a checksum in each and one
    over the whole. Shares are made from the key by whoever deals them, who has it whole for a moment.

Python and the library make copies of what they work with, which nobody can erase; the process that has the key whole is
short, forbids core dumps and lets nobody read its memory. Whoever wants less brings the key in wrapped instead.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.hsm.check_value_methods import ECB, KEY_WRAP, LENGTH, ZEROS
from ownkey_server.hsm.errors import HsmError, Trouble

KEY_LENGTH = 32
MOST = 16
_SPACES = re.compile(r"[\s:-]+")
_ITERATIONS = 1


def check_values_of(key: bytes | bytearray) -> dict[str, str]:
    """Check values of a key or component in clear, by method, in hex."""
    encryptor = Cipher(algorithms.AES(bytes(key)), modes.ECB()).encryptor()  # noqa: S305 - what the value is defined by
    by_ecb = encryptor.update(ZEROS) + encryptor.finalize()
    return {ECB: by_ecb[:LENGTH].hex(), KEY_WRAP: aes_key_wrap(bytes(key), ZEROS)[:LENGTH].hex()}


def new_key() -> SecretBytes:
    """A key of 32 random bytes."""
    return SecretBytes(secrets.token_bytes(KEY_LENGTH))


def parse_xor(text: str) -> SecretBytes:
    """A component, as its holder types it.

    Raises:
        HsmError: It is none. The message does not repeat it.
    """
    digits = _SPACES.sub("", text)
    if not re.fullmatch(r"[0-9a-fA-F]*", digits) or len(digits) != 2 * KEY_LENGTH:
        raise HsmError(f"a component is {2 * KEY_LENGTH} hexadecimal digits, and this has {len(digits)} characters")
    return SecretBytes(bytes.fromhex(digits))


def split_xor(key: SecretBytes, count: int) -> list[str]:
    """Components of a key, as they are typed: all are needed.

    Raises:
        HsmError: There are too few or too many.
    """
    _require_count(count, count)
    last = bytearray(key.reveal())
    parts = []
    for _ in range(count - 1):
        part = secrets.token_bytes(KEY_LENGTH)
        _xor_into(last, part)
        parts.append(_grouped(part))
    parts.append(_grouped(last))
    last[:] = bytes(KEY_LENGTH)
    return parts


def join_xor(components: Sequence[SecretBytes]) -> SecretBytes:
    """The key.

    Raises:
        HsmError: There is but one component, or the same twice.
    """
    if len(components) < 2:
        raise HsmError("a key in components has two of them at least")
    if len({bytes(each.reveal()) for each in components}) != len(components):
        raise HsmError("the same component was given twice: they would cancel each other out", Trouble.REFUSED)
    key = bytearray(KEY_LENGTH)
    for each in components:
        _xor_into(key, each.reveal())
    joined = SecretBytes(key)
    key[:] = bytes(KEY_LENGTH)
    return joined


def split_slip39(key: SecretBytes, needed: int, count: int) -> list[str]:
    """Shares of a key, as they are typed: any ``needed`` of the ``count`` give it back.

    Raises:
        HsmError: The numbers will not do.
    """
    _require_count(needed, count)
    shares: list[list[str]] = _library().generate_mnemonics(
        group_threshold=1, groups=[(needed, count)], master_secret=bytes(key.reveal()), iteration_exponent=_ITERATIONS
    )
    return shares[0]


def join_slip39(shares: Sequence[str]) -> SecretBytes:
    """The key.

    Raises:
        HsmError: The shares do not fit together. The message repeats none of their words.
    """
    library = _library()
    try:
        key = library.combine_mnemonics([" ".join(share.split()) for share in shares])
    except Exception:  # noqa: BLE001 - its messages hold words of shares
        key = None
    if key is None:
        raise HsmError(
            "these shares give no key: a word is wrong, too few were given, or they are not of one key", Trouble.REFUSED
        )
    if len(key) != KEY_LENGTH:
        raise HsmError(f"they give a key of {len(key) * 8} bits, and not of {KEY_LENGTH * 8}", Trouble.UNFIT)
    return SecretBytes(key)


def slip39_facts(share: str) -> tuple[str, int, int]:
    """What a share tells of itself: its set, its number in it, and how many are needed.

    Raises:
        HsmError: It is no share, or a word is wrong. The message repeats none of its words.
    """
    library = _library()
    try:
        found = library.Share.from_mnemonic(" ".join(share.split()))
    except Exception:  # noqa: BLE001 - its messages hold words of the share
        found = None
    if found is None:
        raise HsmError("this is no share: a word is missing, misspelt or out of its place", Trouble.REFUSED)
    if found.group_threshold != 1:
        raise HsmError("this share belongs to groups of shares, which ownkey does not make or join")
    return f"{found.identifier:05x}", found.index + 1, found.member_threshold


def _library() -> Any:
    try:
        import shamir_mnemonic  # noqa: PLC0415
    except ImportError:
        raise HsmError("SLIP-39 needs the package shamir-mnemonic", hint="pip install 'ownkey[server]'") from None
    return shamir_mnemonic


def _require_count(needed: int, count: int) -> None:
    if not 2 <= needed <= count <= MOST:
        raise HsmError(f"2 to {MOST} components, and at least 2 of them needed; one alone would be the key itself")


def _xor_into(target: bytearray, other: bytes | bytearray) -> None:
    for index, value in enumerate(other):
        target[index] ^= value


def _grouped(part: bytes | bytearray) -> str:
    digits = part.hex().upper()
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))
