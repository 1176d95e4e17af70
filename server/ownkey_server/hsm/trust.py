"""Whether a token keeps to CKA_WRAP_WITH_TRUSTED: a key that has it leaves only under one that is CKA_TRUSTED.

Tried with keys of the session alone. The same wrapping key must wrap an ordinary key and refuse the other: that it
wraps nothing at all would show nothing. Nor may a part of the key come out as another key: PKCS#11 has mechanisms that
derive one so, says nothing of CKA_WRAP_WITH_TRUSTED there, and lets whoever has the PIN give a key the right. They are
tried whether the token lists them or not: NSS lists none of them and does them all.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11 import exceptions as p11

from ownkey_server.hsm.templates import KEY_BITS, RIGHTS, passing_key

_TRIED = (Mechanism.AES_KEY_WRAP, Mechanism.AES_KEY_WRAP_PAD)
_PART_BITS = 128
_KNOWN = bytes(16)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    Attributes:
        refused: The token keeps to the attribute.
        tried: It could be seen at all.
        seen: What the token did.
    """

    refused: bool
    tried: bool
    seen: str


def try_untrusted(session: Any, offered: Collection[int], label: str = "") -> Trial:
    """Try to get a key out, under one that nobody trusts, that only a trusted one may wrap.

    Args:
        session: One that is logged in.
        offered: The mechanisms that the token lists.
        label: Of the keys, by which they are found where a token keeps what it was not to keep.
    """
    made: list[Any] = []
    try:
        wrapper = _made(made, session, label, {**dict.fromkeys(RIGHTS, False), Attribute.WRAP: True})
        ordinary = _made(made, session, label, passing_key())
        guarded = _made(made, session, label, {**passing_key(), Attribute.WRAP_WITH_TRUSTED: True})
        if not guarded[Attribute.WRAP_WITH_TRUSTED]:
            return Trial(refused=False, tried=True, seen="it makes such a key without CKA_WRAP_WITH_TRUSTED")
        numbers = {int(one) for one in offered}
        trial = _wrapped(wrapper, ordinary, guarded, numbers)
        by = derived_out(wrapper, guarded, numbers) if trial.refused else ""
        return Trial(refused=False, tried=True, seen=f"{by} derives another key from it, which leaves") if by else trial
    except p11.PKCS11Error as error:
        return Trial(refused=False, tried=False, seen=f"it makes no such key of a session ({type(error).__name__})")
    finally:
        for key in made:
            key.destroy()


def _wrapped(wrapper: Any, ordinary: Any, guarded: Any, offered: Collection[int]) -> Trial:
    refused = []
    for mechanism in _TRIED:
        if int(mechanism) not in offered:
            continue
        try:
            wrapper.wrap_key(ordinary, mechanism=mechanism)
        except p11.PKCS11Error:
            continue
        try:
            wrapper.wrap_key(guarded, mechanism=mechanism)
        except p11.PKCS11Error as error:
            refused.append(f"CKM_{mechanism.name}: {type(error).__name__}")
        else:
            seen = f"CKM_{mechanism.name} wraps it under a key that nobody trusts"
            return Trial(refused=False, tried=True, seen=seen)
    if not refused:
        return Trial(refused=False, tried=False, seen="it wraps nothing by AES key wrap, so that it cannot be seen")
    return Trial(refused=True, tried=True, seen="; ".join(refused))


def derived_out(wrapper: Any, guarded: Any, offered: Collection[int]) -> str:
    """By which mechanism a part of a key comes out as another, under a key that nobody trusts; empty for by none.

    Args:
        wrapper: That key, which wraps.
        guarded: The key. It is given the right to derive, as whoever has the PIN would.
        offered: The mechanisms that the token lists, to wrap by.
    """
    try:
        able = guarded.copy({Attribute.TOKEN: False, Attribute.DERIVE: True})
    except p11.PKCS11Error:
        return ""
    try:
        for mechanism, parameter in _deriving(wrapper):
            if _comes_out(wrapper, able, mechanism, parameter, offered):
                return f"CKM_{mechanism.name}"
        return ""
    finally:
        able.destroy()


def _deriving(other: Any) -> Iterator[tuple[Mechanism, bytes]]:
    """Mechanisms whose result is the key, or a part of it, beside something known."""
    known = ctypes.create_string_buffer(_KNOWN, len(_KNOWN))
    beside = struct.pack("@PL", ctypes.addressof(known), len(_KNOWN))  # CK_KEY_DERIVATION_STRING_DATA
    yield Mechanism.EXTRACT_KEY_FROM_KEY, struct.pack("@L", 0)  # from this bit on
    yield Mechanism.XOR_BASE_AND_DATA, beside
    yield Mechanism.CONCATENATE_BASE_AND_DATA, beside
    yield Mechanism.CONCATENATE_DATA_AND_BASE, beside
    yield Mechanism.CONCATENATE_BASE_AND_KEY, struct.pack("@L", other.handle)
    del known  # it had to stay until here


def _comes_out(wrapper: Any, able: Any, mechanism: Mechanism, parameter: bytes, offered: Collection[int]) -> bool:
    template = {Attribute.EXTRACTABLE: True, Attribute.WRAP_WITH_TRUSTED: False, Attribute.TOKEN: False}
    try:
        part = able.derive_key(
            KeyType.GENERIC_SECRET, _PART_BITS, mechanism=mechanism, mechanism_param=parameter, template=template
        )
    except p11.PKCS11Error:
        return False
    try:
        for wrapping in _TRIED:
            if int(wrapping) in offered:
                wrapper.wrap_key(part, mechanism=wrapping)
                return True
    except p11.PKCS11Error:
        return False
    finally:
        part.destroy()
    return False


def _made(made: list[Any], session: Any, label: str, template: dict[Attribute, Any]) -> Any:
    made.append(session.generate_key(KeyType.AES, KEY_BITS, label=label or None, store=False, template=template))
    return made[-1]
