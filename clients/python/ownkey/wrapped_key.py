"""The wrapped key: what GenerateDataKey returns and Unwrap takes, to be stored beside the content.

::

    0x01 | lp16(key name) | u16 count | count x (lp16(provider id) | lp16(provider info) | lp16(ciphertext))

``lp16(x)`` is the length of x in 16 bits, big-endian, and x. The entries are those of an object's header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ownkey.container import ContainerError, EncryptedDataKey, Header, HeaderInvalid, LimitExceeded

VERSION = 1
MAX_ENTRIES = 16
MAX_LENGTH = 16_384

_U16 = struct.Struct(">H")


class WrappedKeyInvalid(ContainerError):
    """The bytes are no wrapped key."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key wrapped under one or more keys.

    Attributes:
        key: Name of the customer key, such as ``tenants/acme/keys/main``; empty when taken from an object's header.
        encrypted_data_keys: The same data key, wrapped under each.
    """

    key: str
    encrypted_data_keys: tuple[EncryptedDataKey, ...]

    @classmethod
    def from_header(cls, header: Header) -> WrappedKey:
        """The wrapped key of an object."""
        return cls("", header.encrypted_data_keys)

    def to_bytes(self) -> bytes:
        """Its bytes.

        Raises:
            WrappedKeyInvalid: It has no entry, more than 16, more than 16 KiB, or a name without UTF-8 form.
        """
        if not 1 <= len(self.encrypted_data_keys) <= MAX_ENTRIES:
            count = len(self.encrypted_data_keys)
            raise WrappedKeyInvalid(f"a wrapped key has 1 to {MAX_ENTRIES} entries, not {count}")
        try:
            name = self.key.encode()
            parts = [bytes([VERSION]), _U16.pack(len(name)), name, _U16.pack(len(self.encrypted_data_keys))]
            raw = b"".join((*parts, *(entry.to_bytes() for entry in self.encrypted_data_keys)))
        except (UnicodeEncodeError, HeaderInvalid):
            raise WrappedKeyInvalid("a name in the wrapped key has no UTF-8 form") from None
        except (struct.error, LimitExceeded):
            raise WrappedKeyInvalid(f"a wrapped key has at most {MAX_LENGTH} bytes") from None
        if len(raw) > MAX_LENGTH:
            raise WrappedKeyInvalid(f"a wrapped key has at most {MAX_LENGTH} bytes, not {len(raw)}")
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes) -> WrappedKey:
        """The wrapped key that these are the bytes of.

        Raises:
            WrappedKeyInvalid: They are of none.
        """
        if len(raw) > MAX_LENGTH:
            raise WrappedKeyInvalid(f"a wrapped key has at most {MAX_LENGTH} bytes, not {len(raw)}")
        if raw[:1] != bytes([VERSION]):
            raise WrappedKeyInvalid("this is no wrapped key, or one of another version than 1")
        try:
            name, position = _read(raw, 1)
            (count,) = _U16.unpack_from(raw, position)
            if not 1 <= count <= MAX_ENTRIES:
                raise WrappedKeyInvalid(f"a wrapped key has 1 to {MAX_ENTRIES} entries, not {count}")
            position += 2
            entries = []
            for _ in range(count):
                provider_id, position = _read(raw, position)
                provider_info, position = _read(raw, position)
                ciphertext, position = _read(raw, position)
                entries.append(EncryptedDataKey(provider_id.decode(), provider_info, ciphertext))
            key = name.decode()
        except (struct.error, UnicodeDecodeError):
            raise WrappedKeyInvalid("the wrapped key is not well formed") from None
        if position != len(raw):
            raise WrappedKeyInvalid("bytes follow the wrapped key: it must end there")
        return cls(key, tuple(entries))


def _read(raw: bytes, position: int) -> tuple[bytes, int]:
    (length,) = _U16.unpack_from(raw, position)
    end = position + 2 + length
    if end > len(raw):
        raise WrappedKeyInvalid("the wrapped key ends too early")
    return raw[position + 2 : end], end
