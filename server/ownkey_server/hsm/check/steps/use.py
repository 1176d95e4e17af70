"""Wrapping and unwrapping as the key store does it: with the right context, the wrong one, and against the standard."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.mechanisms import GCMParams

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import CONTEXT, OTHER_CONTEXT, RIGHTS_OF, WAY_NAMES, Bench
from ownkey_server.hsm.check.notes import Notes

_DATA_KEY = 32
_IV = 12
_TAG_BITS = 128
_REPORT = "report it to the vendor, and do not use the token"
_SEE = "see the lines on mechanisms and rights above"


def subjects(bench: Bench, way: Mechanism) -> Iterator[str]:
    """Labels of the keys to try a way with: those that were named and have the rights, else one of the session.

    Raises:
        PKCS11Error: The token makes none.
    """
    for label in bench.plan.keys:
        found = bench.keys_of(label)
        if len(found) == 1 and all(_has(found[0], right) for right in RIGHTS_OF[way]):
            yield label
    if not bench.plan.keys:
        yield bench.make_kek(way)[0]


def _has(key: object, right: Attribute) -> bool:
    try:
        return bool(key[right])  # type: ignore[index]
    except p11.PKCS11Error:
        return False


def look(bench: Bench, notes: Notes) -> None:
    """Use the keys."""
    tried = 0
    for way in bench.ways():
        try:
            for label in subjects(bench, way):
                tried += 1
                _Use(bench, notes, way, label).look()
        except p11.PKCS11Error as error:
            title = f"{WAY_NAMES[way]}: a key to try it with"
            seen = f"the token answered {answer_of(error)}"
            notes.failed("key", title, seen, "without a key nothing can be tried", "name one with --key")
        _look_at_standard(bench, notes, way)
    if not tried:
        why = "there is no mechanism, or no key with the rights for it"
        notes.failed("key", "Wrap and unwrap", "nothing could be tried", why, _SEE)


class _Use:
    def __init__(self, bench: Bench, notes: Notes, way: Mechanism, label: str) -> None:
        self._bench = bench
        self._notes = notes
        self._way = way
        self._label = label
        self._key = label if label in bench.plan.keys else ""

    def look(self) -> None:
        """Try it."""
        name = WAY_NAMES[self._way]
        prefix = "gcm" if self._way is Mechanism.AES_GCM else "key_wrap"
        title = f"{name}: generate, wrap and unwrap a data key"
        try:
            data_key = bytes(self._bench.store_token.random(_DATA_KEY))
            wrapped = self._bench.wrap(self._label, data_key, CONTEXT, self._way)
            opened = self._bench.unwrap(self._label, wrapped, CONTEXT)
        except Exception as error:  # noqa: BLE001 - whatever it is, it will not serve
            seen = f"the token answered {answer_of(error)}"
            why = "this is all that ownkey asks of a token, and it does not do it"
            self._notes.failed(f"{prefix}.round_trip", title, seen, why, _SEE, key=self._key)
            return
        good = opened == data_key and data_key not in wrapped.ciphertext
        seen = (
            f"{_DATA_KEY} bytes came back"
            if good
            else "other bytes came back, or the data key is in clear in what it wrapped"
        )
        self._notes.decided(
            good, f"{prefix}.round_trip", title, seen, "the token does not do what it is asked", _REPORT, key=self._key
        )
        self._require_refusal(prefix, f"{name}: the wrong context is refused", data_key)
        if self._way is Mechanism.AES_GCM:
            again = self._bench.wrap(self._label, data_key, CONTEXT, self._way)
            is_fresh = again.provider_info != wrapped.provider_info and again.ciphertext != wrapped.ciphertext
            why = "one IV twice under a key lets anybody forge wrapped keys"
            title = f"{name}: a fresh IV each time"
            seen = "two wraps differ" if is_fresh else "two wraps are the same"
            self._notes.decided(is_fresh, f"{prefix}.fresh_iv", title, seen, why, _REPORT, key=self._key)

    def _require_refusal(self, prefix: str, title: str, data_key: bytes) -> None:
        wrapped = self._bench.wrap(self._label, data_key, CONTEXT, self._way)
        try:
            self._bench.unwrap(self._label, wrapped, OTHER_CONTEXT)
        except p11.PKCS11Error as error:
            by_whom = answer_of(error) if self._way is Mechanism.AES_GCM else "the hash of the context differs"
            self._notes.passed(f"{prefix}.wrong_context", title, by_whom, key=self._key)
        else:
            why = "a wrapped key of one asset or tenant would open as another's"
            self._notes.failed(f"{prefix}.wrong_context", title, "it was opened", why, _REPORT, key=self._key)


def _look_at_standard(bench: Bench, notes: Notes, way: Mechanism) -> None:
    """Whether the token's AES is everybody's: another implementation opens what it made under a key that is known."""
    prefix = "gcm" if way is Mechanism.AES_GCM else "key_wrap"
    name, title = f"{prefix}.standard", f"{WAY_NAMES[way]}: another implementation opens what it wrapped"
    value, secret = secrets.token_bytes(32), secrets.token_bytes(_DATA_KEY)
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.VALUE: value,
        Attribute.TOKEN: False,
        Attribute.LABEL: bench.new_label(),
        **dict.fromkeys(RIGHTS_OF[way], True),
    }
    passenger = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
        Attribute.VALUE: secret,
        Attribute.TOKEN: False,
        Attribute.EXTRACTABLE: True,
        Attribute.LABEL: bench.new_label(),
    }
    try:
        known = bench.session.create_object(template)
    except p11.PKCS11Error as error:
        seen = f"not looked at: the token takes no key in clear ({answer_of(error)}), as it should in FIPS mode"
        notes.noted(name, title, seen)
        return
    try:
        if way is Mechanism.AES_GCM:
            iv = os.urandom(_IV)
            made = known.encrypt(secret, mechanism=way, mechanism_param=GCMParams(iv, CONTEXT, _TAG_BITS))
            opened = AESGCM(value).decrypt(iv, bytes(made), CONTEXT)
        else:
            opened = aes_key_unwrap(value, bytes(known.wrap_key(bench.session.create_object(passenger), mechanism=way)))
    except p11.PKCS11Error as error:
        notes.noted(name, title, f"not looked at: the token answered {answer_of(error)}")
        return
    except (InvalidTag, InvalidUnwrap, ValueError):
        opened = b""
    finally:
        known.destroy()
    good = opened == secret
    why = "what is wrapped today could not be opened elsewhere: the customer could not leave, nor change tokens"
    notes.decided(good, name, title, "it does" if good else "it does not", why, _REPORT)
