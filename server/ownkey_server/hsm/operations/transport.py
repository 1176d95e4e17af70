"""Keys on their way into a token: wrapped under an RSA key whose private half never leaves that token.

The wrapped key is RSA-OAEP of the 32 bytes (``rsa-oaep``), or RSA-AES key wrap (``rsa-aes``, CKM_RSA_AES_KEY_WRAP of
PKCS#11 3.0, section 2.1.21): RSA-OAEP of an AES key, and then AES key wrap with padding (RFC 5649) under that one. The
token takes it apart itself, in two steps where it does not know the second as one mechanism.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11

from ownkey_server.domain.key_labels import pending
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts
from ownkey_server.hsm.operations.guards import guard, holds, measured, require_length, require_length_of, required
from ownkey_server.hsm.operations.keys import proper, require_keeps_to_trust
from ownkey_server.hsm.templates import (
    KEY_BITS,
    choose,
    envelope_key,
    kek_template,
    passing_key,
    recipient_key,
    unwrapping,
)
from ownkey_server.keystores.pkcs11.ways import Way

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench

OAEP: Mapping[str, tuple[Mechanism, MGF, None]] = {
    "sha256": (Mechanism.SHA256, MGF.SHA256, None),
    "sha1": (Mechanism.SHA_1, MGF.SHA1, None),
}
SCHEMES = ("rsa-oaep", "rsa-aes")
SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of a wrapping key pair.

    Attributes:
        modulus: Big-endian.
        exponent: Big-endian.
        hashes: By which of these hashes for OAEP its token unwraps, the best first.
        schemes: In which ways it unwraps an AES key.
        guarded: The token makes of what is unwrapped by it nothing that can leave, whoever asks.
    """

    modulus: bytes
    exponent: bytes
    hashes: tuple[str, ...]
    schemes: tuple[str, ...]
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class MakeWrappingPair:
    """Make a pair that keys come into the token by, and try what it can do.

    Attributes:
        label: What its two objects are called if it is to outlive the session; else how operations name it.
        bits: Of the modulus.
        keep: It outlives the session.
        decrypts: It may also decrypt, which brings what it decrypts into this process in clear.
        exportable: What it unwraps may leave the token again, under keys alone that its security officer trusts.
    """

    label: str
    bits: int
    keep: bool
    decrypts: bool = False
    exportable: bool = False

    def run(self, bench: Bench) -> PublicKey:
        """Make it."""
        if self.keep and _pair_objects(bench, self.label):
            raise HsmError(
                f"an import of {self.label!r} has begun already",
                Trouble.TAKEN,
                "end it with --finish, or give it up with --abandon",
            )
        if self.exportable:
            require_keeps_to_trust(bench)
        # One of this session alone is out of others' reach, and one that decrypts has nothing to guard.
        if self.keep and not self.decrypts:
            with contextlib.suppress(p11.PKCS11Error):
                made = self._make(bench, guard(exportable=self.exportable))
                if made.hashes:
                    return made
                EndPair(self.label).run(bench)
        return self._make(bench, {})

    def _make(self, bench: Bench, guarding: Mapping[Attribute, Any]) -> PublicKey:
        public, private = bench.session.generate_keypair(
            KeyType.RSA,
            self.bits,
            store=self.keep,
            label=self.label,
            public_template=_public_rights(),
            private_template={**_private_rights(decrypts=self.decrypts), **guarding},
        )
        try:
            made = PublicKey(
                bytes(public[Attribute.MODULUS]),
                bytes(public[Attribute.PUBLIC_EXPONENT]),
                hashes := self._hashes(bench, public, private),
                _schemes(bench, hashes),
                bool(guarding and hashes)
                and holds(bench, public, private, OAEP[hashes[0]], exportable=self.exportable),
            )
        except BaseException:
            public.destroy()
            private.destroy()
            raise
        if not self.keep:
            bench.pairs[self.label] = private
        return made

    def _hashes(self, bench: Bench, public: Any, private: Any) -> tuple[str, ...]:
        """By which hashes the token opens what it wrapped itself: what it claims to offer does not say."""
        found = []
        unwrapped = {**envelope_key(Attribute.UNWRAP), **required(exportable=self.exportable)}
        for name, parameters in OAEP.items():
            probe = bench.session.generate_key(KeyType.AES, KEY_BITS, store=False, template=passing_key())
            try:
                wrapped = public.wrap_key(probe, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameters)
                if self.decrypts:
                    private.decrypt(wrapped, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameters)
                else:
                    _unwrap(bench, private, wrapped, parameters, unwrapped).destroy()
            except p11.PKCS11Error:
                continue
            finally:
                probe.destroy()
            found.append(name)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Unwrap:
    """Take a wrapped key into the token, pending.

    Attributes:
        label: What it will be called.
        mechanism: How it wraps: ``auto``, or a way's word.
        pair: The wrapping pair's label.
        wrapped: The key.
        scheme: One of ``SCHEMES``.
        hash: One of ``OAEP``.
        guarded: The pair unwraps nothing that could leave the token, or nothing that leaves without trust.
        exportable: It may leave this token too, under keys alone that its security officer trusts.
    """

    label: str
    mechanism: str
    pair: str
    wrapped: bytes
    scheme: str
    hash: str
    guarded: bool = False
    exportable: bool = False

    def run(self, bench: Bench) -> KeyFacts:
        """Take it in."""
        way = choose(bench.ways, bench.profile, self.mechanism)
        bench.require_free(self.label, pending(self.label))
        if self.exportable:
            require_keeps_to_trust(bench)
        template = kek_template(way, bench.profile, exportable=self.exportable)
        private = private_half(bench, self.pair)
        modulus = len(bytes(private[Attribute.MODULUS]))
        inner = self.wrapped[modulus:]
        if len(self.wrapped) < modulus or bool(inner) != (self.scheme == "rsa-aes"):
            wanted = f"{modulus} bytes" if self.scheme == "rsa-oaep" else f"more than {modulus} bytes"
            raise HsmError(f"a key wrapped by {self.scheme} has {wanted} here, not {len(self.wrapped)}", Trouble.WRONG)
        try:
            if self.guarded and not inner:
                parameters = OAEP[self.hash]
                require_length(measured(bench, private, self.wrapped, parameters, exportable=self.exportable))
            else:
                require_length_of(bench, self._unwrapped(bench, private, modulus, passing_key()))
            key = self._unwrapped(bench, private, modulus, template, pending(self.label))
        except p11.PKCS11Error as error:
            raise HsmError(
                f"the token cannot unwrap it ({type(error).__name__})",
                Trouble.FORGED,
                "it must be wrapped under the public key of this import, exactly as the instructions say",
            ) from None
        return proper(bench, key, self.label, exportable=self.exportable)

    def _unwrapped(
        self, bench: Bench, private: Any, modulus: int, template: Mapping[Attribute, Any], label: str = ""
    ) -> Any:
        """The key; with a label it stays in the token."""
        outer, inner = self.wrapped[:modulus], self.wrapped[modulus:]
        if not inner:
            return _unwrap(bench, private, outer, OAEP[self.hash], template, label)
        padded = padded_key_wrap(bench)
        if padded is None:
            raise HsmError("the token does not unwrap by AES key wrap with padding (RFC 5649)", Trouble.UNSUPPORTED)
        # As the pair's guard wants it, of whatever it unwraps.
        kind = {**envelope_key(Attribute.UNWRAP), **required(exportable=self.exportable)}
        envelope = _unwrap(bench, private, outer, OAEP[self.hash], kind)
        try:
            return envelope.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                inner,
                label=label or None,
                store=bool(label),
                mechanism=padded,
                template=unwrapping(template, bench.profile),
            )
        finally:
            envelope.destroy()


@dataclass(frozen=True, slots=True)
class Decrypt:
    """The key in clear, in this process: for tokens that do not unwrap, where that was asked for by name."""

    pair: str
    wrapped: bytes
    hash: str

    def run(self, bench: Bench) -> bytes:
        """Decrypt it."""
        private = private_half(bench, self.pair)
        parameters = OAEP[self.hash]
        try:
            return bytes(private.decrypt(self.wrapped, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameters))
        except p11.PKCS11Error as error:
            raise HsmError(f"the token cannot decrypt it ({type(error).__name__})", Trouble.FORGED) from None


@dataclass(frozen=True, slots=True)
class Create:
    """Make a key of bytes in clear, pending: where the token unwraps nothing."""

    label: str
    mechanism: str
    value: bytes = field(repr=False)
    exportable: bool = False

    def run(self, bench: Bench) -> KeyFacts:
        """Make it."""
        way = choose(bench.ways, bench.profile, self.mechanism)
        bench.require_free(self.label, pending(self.label))
        if self.exportable:
            require_keeps_to_trust(bench)
        key = bench.session.create_object(
            {
                **kek_template(way, bench.profile, exportable=self.exportable),
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES,
                Attribute.VALUE: self.value,
                Attribute.TOKEN: True,
                Attribute.LABEL: pending(self.label),
            }
        )
        return proper(bench, key, self.label, exportable=self.exportable)


@dataclass(frozen=True, slots=True)
class GenerateFor:
    """Make a key that is in no token for good, and wrap it for each of several tokens; then it is gone here.

    Attributes:
        public_keys: Of their wrapping pairs, each with the hash to use.
    """

    public_keys: tuple[tuple[PublicKey, str], ...]

    def run(self, bench: Bench) -> list[bytes]:
        """Make it."""
        key = bench.session.generate_key(KeyType.AES, KEY_BITS, store=False, template=passing_key())
        try:
            return [_wrapped_for(bench, public, name, key) for public, name in self.public_keys]
        finally:
            key.destroy()


@dataclass(frozen=True, slots=True)
class EndPair:
    """Destroy a wrapping pair, if there is one."""

    label: str

    def run(self, bench: Bench) -> bool:
        """Destroy it."""
        bench.pairs.pop(self.label, None)
        found = _pair_objects(bench, self.label)
        for each in found:
            each.destroy()
        return bool(found)


def private_half(bench: Bench, label: str) -> Any:
    """The private key of a pair.

    Raises:
        HsmError: There is none.
    """
    if label in bench.pairs:
        return bench.pairs[label]
    wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: label}
    found = list(bench.session.get_objects(wanted))
    if len(found) != 1:
        raise HsmError("no such import has begun in this token", Trouble.NOT_FOUND, "begin it with --begin")
    return found[0]


def _pair_objects(bench: Bench, label: str) -> list[Any]:
    return [
        each
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
        for each in list(bench.session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label}))
    ]


def _public_rights() -> dict[Attribute, Any]:
    rights = dict.fromkeys((Attribute.ENCRYPT, Attribute.VERIFY, Attribute.VERIFY_RECOVER), False)
    return {**rights, Attribute.WRAP: True}


def _private_rights(*, decrypts: bool) -> dict[Attribute, Any]:
    return {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.UNWRAP: True,
        Attribute.DECRYPT: decrypts,
        Attribute.SIGN: False,
        Attribute.SIGN_RECOVER: False,
        Attribute.DERIVE: False,
    }


def _schemes(bench: Bench, hashes: tuple[str, ...]) -> tuple[str, ...]:
    if not hashes:
        return ()
    return SCHEMES if padded_key_wrap(bench) is not None else SCHEMES[:1]


def padded_key_wrap(bench: Bench) -> Mechanism | None:
    """The mechanism of the token that is AES key wrap with padding as RFC 5649 has it: what some call so is another."""
    names = {*bench.profile.mechanisms[Way.KEY_WRAP_PAD], Mechanism.AES_KEY_WRAP_PAD}
    offered = {int(one) for one in bench.offered}
    return next((one for one in names if int(one) in offered and _is_rfc5649(bench, one)), None)


def _is_rfc5649(bench: Bench, mechanism: Mechanism) -> bool:
    known, inner = bytes(range(32)), bytes(range(32, 64))
    try:
        envelope = bench.session.create_object({**envelope_key(Attribute.UNWRAP), Attribute.VALUE: known})
    except p11.PKCS11Error:
        return False
    try:
        key = envelope.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.AES,
            aes_key_wrap_with_padding(known, inner),
            mechanism=mechanism,
            template=unwrapping({Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}, bench.profile),
        )
        try:
            return bytes(key[Attribute.VALUE]) == inner
        finally:
            key.destroy()
    except p11.PKCS11Error:
        return False
    finally:
        envelope.destroy()


def _unwrap(
    bench: Bench, private: Any, wrapped: bytes, parameters: Any, template: Mapping[Attribute, Any], label: str = ""
) -> Any:
    return private.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        wrapped,
        label=label or None,
        store=bool(label),
        mechanism=Mechanism.RSA_PKCS_OAEP,
        mechanism_param=parameters,
        template=unwrapping(template, bench.profile),
    )


def _wrapped_for(bench: Bench, public: PublicKey, name: str, key: Any) -> bytes:
    other = bench.session.create_object(recipient_key(public.modulus, public.exponent, trusted=False))
    try:
        return bytes(other.wrap_key(key, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[name]))
    finally:
        other.destroy()
