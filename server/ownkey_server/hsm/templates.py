"""What keys that ownkey makes in a token are like: the strictest that the key store needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pkcs11 import Attribute, KeyType, ObjectClass

from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.keystores.pkcs11.profiles import Profile
from ownkey_server.keystores.pkcs11.ways import Way
from ownkey_server.keystores.pkcs11.wrapping import rights

KEY_BITS = 256
RIGHTS = (
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.WRAP,
    Attribute.UNWRAP,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.DERIVE,
)


def choose(possible: Collection[Way], profile: Profile, wanted: str) -> Way:
    """How a key is to wrap.

    Args:
        possible: The ways that the token has.
        profile: Its family, which says what is best.
        wanted: ``auto``, or the way's word.

    Raises:
        HsmError: The token does not have it.
    """
    for way in profile.order if wanted == "auto" else (Way(wanted),):
        if way in possible:
            return way
    what = "neither AES-GCM nor AES key wrap" if wanted == "auto" else f"not {wanted}"
    raise HsmError(f"the token offers {what}", Trouble.UNSUPPORTED, "`ownkey hsm check` tells all that it offers")


def kek_template(way: Way, profile: Profile, *, exportable: bool = False) -> dict[Attribute, Any]:
    """Sensitive, not extractable, and with the rights for one way to wrap alone.

    One that is to be exported leaves the token under keys alone that the security officer trusts.
    """
    granted = rights(way, profile)
    return {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: exportable,
        **({Attribute.WRAP_WITH_TRUSTED: True} if exportable else {}),
        Attribute.PRIVATE: True,
        **{right: right in granted for right in RIGHTS},
    }


def unwrapping(template: Mapping[Attribute, Any], profile: Profile) -> dict[Attribute, Any]:
    """A template for a key that is unwrapped: some tokens want its length, which the standard forbids."""
    return {**template, **({Attribute.VALUE_LEN: KEY_BITS // 8} if profile.unwrap_wants_length else {})}


def passing_key() -> dict[Attribute, Any]:
    """A key in a session alone, made to be wrapped for other tokens and then gone with the session."""
    return {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: True,
        Attribute.PRIVATE: True,
        **dict.fromkeys(RIGHTS, False),
    }


def recipient_key(modulus: bytes, exponent: bytes, *, trusted: bool) -> dict[Attribute, Any]:
    """Another's RSA public key, in a session alone, to wrap keys under it and for nothing else."""
    return {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: KeyType.RSA,
        Attribute.TOKEN: False,
        Attribute.PRIVATE: False,
        Attribute.MODULUS: modulus,
        Attribute.PUBLIC_EXPONENT: exponent,
        Attribute.ENCRYPT: False,
        Attribute.VERIFY: False,
        Attribute.VERIFY_RECOVER: False,
        Attribute.WRAP: True,
        **({Attribute.TRUSTED: True} if trusted else {}),
    }


def trusted_envelope() -> dict[Attribute, Any]:
    """The inner key of RSA-AES key wrap for a key that is exported: as trusted as the recipient's, and as hard to get.

    A public object, since the security officer makes it and the user wraps by it: its value stays in the token.
    """
    return {
        Attribute.PRIVATE: False,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: True,
        Attribute.WRAP_WITH_TRUSTED: True,
        Attribute.TRUSTED: True,
        **{right: right is Attribute.WRAP for right in RIGHTS},
    }


def envelope_key(mechanism_right: Attribute) -> dict[Attribute, Any]:
    """A key in a session alone that opens what a customer wrapped under it: the inner one of RSA-AES key wrap."""
    return {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.TOKEN: False,
        **{right: right is mechanism_right for right in RIGHTS},
    }
