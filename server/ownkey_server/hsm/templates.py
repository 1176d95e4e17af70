"""What keys that ownkey makes in a token are like: the strictest that the key store needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from ownkey_server.hsm.errors import HsmError, Trouble

KEY_BITS = 256
MECHANISMS: Mapping[str, Mechanism] = {"aes-gcm": Mechanism.AES_GCM, "aes-key-wrap": Mechanism.AES_KEY_WRAP}
WRAPPING = {Mechanism.AES_GCM: Attribute.ENCRYPT, Mechanism.AES_KEY_WRAP: Attribute.WRAP}
OPENING = {Mechanism.AES_GCM: Attribute.DECRYPT, Mechanism.AES_KEY_WRAP: Attribute.UNWRAP}
RIGHTS = (
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.WRAP,
    Attribute.UNWRAP,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.DERIVE,
)


def choose(offered: frozenset[Mechanism], wanted: str) -> Mechanism:
    """What a key is to wrap with.

    Args:
        offered: What the token offers.
        wanted: ``auto``, or a name of ``MECHANISMS``.

    Raises:
        HsmError: The token does not offer it.
    """
    for mechanism in MECHANISMS.values() if wanted == "auto" else (MECHANISMS[wanted],):
        if mechanism in offered:
            return mechanism
    what = "neither AES-GCM nor AES key wrap" if wanted == "auto" else f"not {wanted}"
    raise HsmError(f"the token offers {what}", Trouble.UNSUPPORTED, "`ownkey hsm check` tells all that it offers")


def customer_key(mechanism: Mechanism) -> dict[Attribute, Any]:
    """Sensitive, not extractable, and with the rights for one mechanism alone."""
    granted = (WRAPPING[mechanism], OPENING[mechanism])
    return {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.PRIVATE: True,
        **{right: right in granted for right in RIGHTS},
    }


def passing_key() -> dict[Attribute, Any]:
    """A key in a session alone, made to be wrapped for other tokens and then gone with the session."""
    return {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: True,
        Attribute.PRIVATE: True,
        **dict.fromkeys(RIGHTS, False),
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
