"""Attributes of PKCS#11 that are lists of attributes, which the binding does not know: laid out as C has them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from pkcs11 import Attribute
from pkcs11.attributes import AttributeMapper


class _Attribute(ctypes.Structure):
    """CK_ATTRIBUTE, as it is laid out everywhere but on Windows."""

    _fields_ = (("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong))


class AttributeList:
    """A list of flags, in memory that lives as long as this object: keep it until the call that takes it is over."""

    def __init__(self, flags: Mapping[Attribute, bool]) -> None:
        self._values = [ctypes.create_string_buffer(bytes([flag]), 1) for flag in flags.values()]
        self._array = (_Attribute * len(flags))(
            *(
                _Attribute(int(name), ctypes.addressof(value), 1)
                for name, value in zip(flags, self._values, strict=True)
            )
        )

    def __bytes__(self) -> bytes:
        return bytes(self._array)


def mapper() -> AttributeMapper:
    """How the binding is to write attributes: all that it knows, and the template of what a key unwraps."""
    made = AttributeMapper()
    made.register_handler(Attribute.UNWRAP_TEMPLATE, bytes, bytes)
    return made
