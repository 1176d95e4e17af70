"""Key check values (KCV): three bytes by which people see that two keys are the same, without seeing the keys.

``aes-ecb``
    The first three bytes of a block of zeros encrypted by AES-ECB: CKA_CHECK_VALUE of PKCS#11 3.0, section 4.10.2, and
    what most HSM tools show. Computed where the key may encrypt; else as the token tells it, if it does.
``rfc3394``
    The first three bytes of 16 zero bytes wrapped by AES key wrap (RFC 3394), for keys that may wrap and not encrypt.

They guard against mistakes and not against people: one key in 16 million has the same. Nor are they quite nothing of
the key: ``aes-ecb`` is 24 bits of the subkey that AES-GCM authenticates with, out of 128.
"""

from __future__ import annotations

from collections.abc import Mapping

LENGTH = 3
ECB, KEY_WRAP = "aes-ecb", "rfc3394"
ZEROS = bytes(16)


def told_in(told: str, values: Mapping[str, str]) -> bool:
    """Whether a check value that somebody tells, as ``05f0fc`` or ``rfc3394:05f0fc``, is among these by method."""
    method, _, value = told.lower().rpartition(":")
    return values.get(method or ECB) == value
