"""The layout of a data key wrapped by AES-GCM, as raw AES keyrings write and read it.

::

    provider info: key name | u32 tag bits = 128 | u32 IV length = 12 | IV 12
    ciphertext:    encrypted data key 32 | tag 16; additional data: the serialized encryption context

AWS Encryption SDK specification, "Raw AES keyring".
"""

from __future__ import annotations

import struct

IV_LENGTH = 12
TAG_LENGTH = 16
_SIZES = struct.pack(">II", TAG_LENGTH * 8, IV_LENGTH)


def raw_aes_provider_info(key_name: str, iv: bytes) -> bytes:
    """The provider info of a data key wrapped under that key with that IV (12 bytes)."""
    if len(iv) != IV_LENGTH:
        raise ValueError(f"an IV has {IV_LENGTH} bytes, not {len(iv)}")
    return key_name.encode() + _SIZES + iv


def parse_raw_aes_provider_info(info: bytes, key_name: str) -> bytes | None:
    """The IV, if the provider info is exactly that of a data key wrapped under ``key_name``; else None."""
    start = key_name.encode() + _SIZES
    if len(info) != len(start) + IV_LENGTH or not info.startswith(start):
        return None
    return info[len(start) :]
