"""Proof that a key works, and that keys in several tokens are the same: each opens what the others wrapped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.mechanisms import GCMParams

from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.templates import OPENING, WRAPPING

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench

IV_LENGTH, TAG_BITS = 12, 128
_AAD = b"ownkey: proof of a key"


@dataclass(frozen=True, slots=True)
class Wrapped:
    """Throw-away bytes wrapped under a key."""

    mechanism: str
    iv: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class WrapProbe:
    """Wrap throw-away bytes under a key, by the label that it has now."""

    label: str
    probe: bytes = field(repr=False)

    def run(self, bench: Bench) -> Wrapped:
        """Wrap them."""
        key = bench.key(self.label)
        mechanism = next((one for one, right in WRAPPING.items() if key[right] and one in bench.offered), None)
        if mechanism is None:
            raise HsmError("the key may not wrap", Trouble.UNFIT)
        if mechanism is Mechanism.AES_GCM:
            iv = bench.random(IV_LENGTH)
            parameters = GCMParams(iv, _AAD, TAG_BITS)
            return Wrapped(mechanism.name, iv, key.encrypt(self.probe, mechanism=mechanism, mechanism_param=parameters))
        passenger = bench.session.create_object({**_PASSENGER, Attribute.VALUE: self.probe})
        try:
            return Wrapped(mechanism.name, b"", bytes(key.wrap_key(passenger, mechanism=mechanism)))
        finally:
            passenger.destroy()


@dataclass(frozen=True, slots=True)
class OpenProbe:
    """Open what a key with this label wrapped, here or in another token."""

    label: str
    wrapped: Wrapped

    def run(self, bench: Bench) -> bytes:
        """Open it."""
        key: Any = bench.key(self.label)
        mechanism = Mechanism[self.wrapped.mechanism]
        if not key[OPENING[mechanism]]:
            raise HsmError("the key may not open", Trouble.UNFIT)
        if mechanism is Mechanism.AES_GCM:
            parameters = GCMParams(self.wrapped.iv, _AAD, TAG_BITS)
            return bytes(key.decrypt(self.wrapped.ciphertext, mechanism=mechanism, mechanism_param=parameters))
        template = {Attribute.TOKEN: False, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
        passenger = key.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.GENERIC_SECRET,
            self.wrapped.ciphertext,
            mechanism=mechanism,
            template=template,
        )
        try:
            return bytes(passenger[Attribute.VALUE])
        finally:
            passenger.destroy()


_PASSENGER = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
    Attribute.TOKEN: False,
    Attribute.SENSITIVE: False,
    Attribute.EXTRACTABLE: True,
}
