"""The encryption context as bytes: the canonical form that is stored, authenticated, and bound to wrapped keys."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from ownkey.container.errors import HeaderInvalid, LimitExceeded

MAX_PAIRS = 32
MAX_LENGTH = 8192
# Belongs to the format: signed suites keep their public key there.
RESERVED_PREFIX = "aws-crypto-"

_U16 = struct.Struct(">H")


def serialize_context(context: Mapping[str, str]) -> bytes:
    """A count of pairs (16 bits), then each key and value with its length (16 bits), sorted by the key's bytes.

    An empty context is no bytes at all (AWS Encryption SDK specification, "AAD"). This is what raw AES keyrings
    authenticate with a wrapped key.

    Raises:
        LimitExceeded: More than 32 pairs, or more than 8192 bytes.
        HeaderInvalid: A key is empty or reserved, or a string has no UTF-8 form.
    """
    if not context:
        return b""
    if len(context) > MAX_PAIRS:
        raise LimitExceeded(f"an encryption context has at most {MAX_PAIRS} pairs, not {len(context)}")
    parts = [_U16.pack(len(context))]
    try:
        # By code points, which is the order of the UTF-8 bytes too.
        for key, value in sorted(context.items()):
            if not key or key.startswith(RESERVED_PREFIX):
                raise HeaderInvalid(f"a key of the encryption context is empty or begins with {RESERVED_PREFIX}")
            raw_key, raw_value = key.encode(), value.encode()
            if len(raw_key) + len(raw_value) > MAX_LENGTH:
                raise LimitExceeded(f"an encryption context has at most {MAX_LENGTH} bytes")
            parts += (_U16.pack(len(raw_key)), raw_key, _U16.pack(len(raw_value)), raw_value)
    except UnicodeEncodeError:
        raise HeaderInvalid("a string of the encryption context has no UTF-8 form") from None
    serialized = b"".join(parts)
    if len(serialized) > MAX_LENGTH:
        raise LimitExceeded(f"an encryption context has at most {MAX_LENGTH} bytes, not {len(serialized)}")
    return serialized


def parse_context(raw: bytes) -> dict[str, str]:
    """The pairs in ``raw``, which must be exactly what :func:`serialize_context` makes of them, or no bytes at all.

    Raises:
        HeaderInvalid: It is not: not UTF-8, a key twice or out of order, bytes missing or left over.
    """
    if not raw:
        return {}
    context: dict[str, str] = {}
    previous = b""
    position = 2
    try:
        for _ in range(_U16.unpack_from(raw)[0]):
            key, position = _read(raw, position)
            value, position = _read(raw, position)
            if key <= previous:
                raise HeaderInvalid("the pairs of the encryption context are not sorted, or one stands twice")
            context[key.decode()] = value.decode()
            previous = key
    except (struct.error, UnicodeDecodeError):
        raise HeaderInvalid("the encryption context is not well formed") from None
    if position != len(raw) or not context:
        raise HeaderInvalid("the encryption context is not well formed")
    return context


def _read(raw: bytes, position: int) -> tuple[bytes, int]:
    (length,) = _U16.unpack_from(raw, position)
    end = position + 2 + length
    if end > len(raw):
        raise HeaderInvalid("the encryption context is not well formed")
    return raw[position + 2 : end], end
