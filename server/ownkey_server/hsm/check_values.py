"""Key check values of keys in a token; what they are, `check_value_methods` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11

from ownkey_server.hsm.check_value_methods import ECB, KEY_WRAP, LENGTH, ZEROS

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench


def check_values(bench: Bench, key: Any) -> dict[str, str]:
    """Those that can be had, by method, in hex."""
    found = {ECB: _by_ecb(key) or _told(key), KEY_WRAP: _by_key_wrap(bench, key)}
    return {method: value.hex() for method, value in found.items() if value}


def _by_ecb(key: Any) -> bytes:
    try:
        if not key[Attribute.ENCRYPT]:
            return b""
        return bytes(key.encrypt(ZEROS, mechanism=Mechanism.AES_ECB))[:LENGTH]
    except p11.PKCS11Error:
        return b""


def _told(key: Any) -> bytes:
    try:
        return bytes(key[Attribute.CHECK_VALUE])[:LENGTH]
    except (p11.PKCS11Error, IndexError):
        return b""


def _by_key_wrap(bench: Bench, key: Any) -> bytes:
    try:
        if not key[Attribute.WRAP]:
            return b""
        passenger = bench.session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                Attribute.VALUE: ZEROS,
                Attribute.TOKEN: False,
                Attribute.SENSITIVE: False,
                Attribute.EXTRACTABLE: True,
            }
        )
    except p11.PKCS11Error:
        return b""
    try:
        return bytes(key.wrap_key(passenger, mechanism=Mechanism.AES_KEY_WRAP))[:LENGTH]
    except p11.PKCS11Error:
        return b""
    finally:
        passenger.destroy()
