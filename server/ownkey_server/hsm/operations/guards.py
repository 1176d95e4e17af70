"""A guard on the wrapping key of an import: whoever has the PIN, too, unwraps by it only what cannot leave the token.

CKA_UNWRAP_TEMPLATE (PKCS#11 2.40, section 4.8) says what every key must be that is unwrapped by a key. It is of use
only where that key cannot be changed, or copied, into one that decrypts.

It holds for one step. What is unwrapped by an envelope that was unwrapped first (``rsa-aes``) is the envelope's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11

from ownkey_server.hsm.attribute_lists import AttributeList
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.templates import KEY_BITS, RIGHTS, envelope_key, passing_key, unwrapping

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench

# A key that derives others could give itself away piece by piece.
_REQUIRED: Mapping[Attribute, bool] = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.DERIVE: False,
}
# Such a key leaves again, under keys alone that the security officer trusts.
_REQUIRED_EXPORTABLE: Mapping[Attribute, bool] = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: True,
    Attribute.WRAP_WITH_TRUSTED: True,
    Attribute.DERIVE: False,
}
# What a key has at least that HMAC takes, of the lengths that a key of AES can have; and what it has if none does.
_SCALES = ((Mechanism.SHA256_HMAC, 32), (Mechanism.SHA_1_HMAC, 24))
_SHORTEST = 16


def required(*, exportable: bool) -> Mapping[Attribute, bool]:
    """What every key must be that a guarded one unwraps."""
    return _REQUIRED_EXPORTABLE if exportable else _REQUIRED


def guard(*, exportable: bool) -> dict[Attribute, Any]:
    """What makes a private key a guarded one."""
    return {
        Attribute.UNWRAP_TEMPLATE: AttributeList(required(exportable=exportable)),
        Attribute.MODIFIABLE: False,
        Attribute.COPYABLE: False,
    }


def holds(bench: Bench, public: Any, private: Any, parameters: Any, *, exportable: bool) -> bool:
    """Whether a guard does what it is for, by trying to get round it: tokens may take a template and not keep to it."""
    wanted = required(exportable=exportable)
    probe = bench.session.generate_key(KeyType.AES, KEY_BITS, store=False, template=passing_key())
    try:
        wrapped = public.wrap_key(probe, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameters)
    finally:
        probe.destroy()
    # Each is a template by which the pair has just unwrapped a key, but for the one attribute.
    kinds = [{**envelope_key(Attribute.UNWRAP), **wanted, name: not value} for name, value in wanted.items()]
    return (
        not any(_unwraps(bench, private, wrapped, parameters, kind) for kind in kinds)
        and not _is_changed(private)
        and not _is_copied(private)
    )


def _unwraps(bench: Bench, private: Any, wrapped: bytes, parameters: Any, kind: Mapping[Attribute, Any]) -> bool:
    try:
        _unwrap(bench, private, wrapped, parameters, KeyType.AES, kind).destroy()
    except p11.PKCS11Error:
        return False
    return True


def _is_changed(private: Any) -> bool:
    try:
        private[Attribute.DECRYPT] = True
    except p11.PKCS11Error:
        return False
    private[Attribute.DECRYPT] = False
    return True


def _is_copied(private: Any) -> bool:
    try:
        private.copy({Attribute.DECRYPT: True, Attribute.TOKEN: False}).destroy()
    except p11.PKCS11Error:
        return False
    return True


def measured(bench: Bench, private: Any, wrapped: bytes, parameters: Any, *, exportable: bool) -> int:
    """How many bytes a wrapped key has, which cannot be made to leave the token; 0 where nothing tells.

    SoftHSM says 0 of every key that was unwrapped (its issue 628). But by HMAC it uses no key that is shorter than the
    hash: shown by a key of its own that is too short, for a token that takes any proves nothing.
    """
    wanted = required(exportable=exportable)
    template = {**envelope_key(Attribute.DECRYPT), **wanted}
    key = _unwrap(bench, private, wrapped, parameters, KeyType.AES, template)
    try:
        length = int(key[Attribute.VALUE_LEN] or 0)
    except p11.PKCS11Error:
        length = 0
    finally:
        key.destroy()
    if length or not _is_scale(bench):
        return length
    template = {**dict.fromkeys(RIGHTS, False), Attribute.SIGN: True, **wanted}
    key = _unwrap(bench, private, wrapped, parameters, KeyType.GENERIC_SECRET, template)
    try:
        return next((length for mechanism, length in _SCALES if _signs(key, mechanism)), _SHORTEST)
    finally:
        key.destroy()


def require_length(length: int) -> None:
    """Refuse a key of another length than customer keys have.

    Raises:
        HsmError: It has another. Where its length is not known, 0, it is not refused.
    """
    if length and length * 8 != KEY_BITS:
        raise HsmError(f"it is a key of {length * 8} bits, and not of {KEY_BITS}", Trouble.UNFIT)


def require_length_of(bench: Bench, key: Any) -> None:
    """Refuse a key of another length, and destroy it here in any case: it belongs to the session, and is a copy.

    Tokens need not tell the length of what they unwrapped, and SoftHSM says 0; so it is wrapped once more, in the
    token, under a key that nobody keeps: 8 bytes more than it has.
    """
    try:
        length = key[Attribute.VALUE_LEN]
        if not length and Mechanism.AES_KEY_WRAP in bench.offered:
            scale = bench.session.generate_key(
                KeyType.AES, KEY_BITS, store=False, template={**dict.fromkeys(RIGHTS, False), Attribute.WRAP: True}
            )
            try:
                length = len(scale.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)) - 8
            finally:
                scale.destroy()
    finally:
        key.destroy()
    require_length(length)


def _is_scale(bench: Bench) -> bool:
    """Whether the token refuses, by each mechanism, keys that are a little shorter, and takes those that are not."""
    if not {mechanism for mechanism, _ in _SCALES} <= {*bench.offered}:
        return False
    for mechanism, length in _SCALES:
        for bytes_, fits in ((length, True), (length - 8, False)):
            try:
                key = bench.session.generate_key(
                    KeyType.GENERIC_SECRET,
                    bytes_ * 8,
                    store=False,
                    mechanism=Mechanism.GENERIC_SECRET_KEY_GEN,
                    template={**dict.fromkeys(RIGHTS, False), Attribute.SIGN: True},
                )
            except p11.PKCS11Error:
                return False
            try:
                if _signs(key, mechanism) is not fits:
                    return False
            finally:
                key.destroy()
    return True


def _signs(key: Any, mechanism: Mechanism) -> bool:
    try:
        key.sign(b"", mechanism=mechanism)
    except p11.PKCS11Error:
        return False
    return True


def _unwrap(
    bench: Bench, private: Any, wrapped: bytes, parameters: Any, kind: KeyType, template: Mapping[Attribute, Any]
) -> Any:
    return private.unwrap_key(
        ObjectClass.SECRET_KEY,
        kind,
        wrapped,
        store=False,
        mechanism=Mechanism.RSA_PKCS_OAEP,
        mechanism_param=parameters,
        template=unwrapping(template, bench.profile),
    )
