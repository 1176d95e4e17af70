"""Wrapping and unwrapping as the key store does it: with the right context, the wrong one, and against the standard."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_unwrap_with_padding
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11 import exceptions as p11

from ownkey.container import EncryptedDataKey
from ownkey.container.raw_aes import IV_LENGTH
from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import CONTEXT, OTHER_CONTEXT, WAY_NAMES, Bench
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.keystores.pkcs11.ways import WAY_OF, Way

_DATA_KEY = 32
_REPORT = "report it to the vendor, and do not use the token"
_SEE = "see the lines on mechanisms and rights above"


def prefix_of(way: Way) -> str:
    """How the names of findings about a way begin."""
    return way.value.removeprefix("aes-").replace("-", "_")


def subjects(bench: Bench, way: Way) -> Iterator[str]:
    """Labels of the keys to try a way with: those that were named and have the rights, else one of the session.

    Raises:
        PKCS11Error: The token makes none.
    """
    for label in bench.plan.keys:
        found = bench.keys_of(label)
        if len(found) == 1 and all(_has(found[0], right) for right in bench.rights_of(way)):
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
    def __init__(self, bench: Bench, notes: Notes, way: Way, label: str) -> None:
        self._bench = bench
        self._notes = notes
        self._way = way
        self._label = label
        self._key = label if label in bench.plan.keys else ""

    def look(self) -> None:
        """Try it."""
        name = WAY_NAMES[self._way]
        prefix = prefix_of(self._way)
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
        if self._way is Way.GCM:
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
            by_whom = answer_of(error) if self._way is Way.GCM else "the hash of the context differs"
            self._notes.passed(f"{prefix}.wrong_context", title, by_whom, key=self._key)
        else:
            why = "a wrapped key of one asset or tenant would open as another's"
            self._notes.failed(f"{prefix}.wrong_context", title, "it was opened", why, _REPORT, key=self._key)


def _look_at_standard(bench: Bench, notes: Notes, way: Way) -> None:
    """Whether the token's AES is everybody's: another implementation opens what it made under a key that is known."""
    prefix = prefix_of(way)
    name, title = f"{prefix}.standard", f"{WAY_NAMES[way]}: another implementation opens what it wrapped"
    value, secret = secrets.token_bytes(32), secrets.token_bytes(_DATA_KEY)
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.VALUE: value,
        Attribute.TOKEN: False,
        Attribute.LABEL: bench.new_label(),
        **dict.fromkeys(bench.rights_of(way), True),
    }
    try:
        known = bench.session.create_object(template)
    except p11.PKCS11Error as error:
        seen = f"not looked at: the token takes no key in clear ({answer_of(error)}), as it should in FIPS mode"
        notes.noted(name, title, seen)
        return
    try:
        opened = _opened(value, bench.wrapping(way).wrap(known, "key", secret, CONTEXT))
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


def _opened(value: bytes, wrapped: EncryptedDataKey) -> bytes:
    """The data key, by another implementation and as docs/key-stores.md has it.

    Raises:
        InvalidTag: It does not open.
        InvalidUnwrap: It does not open.
    """
    way = WAY_OF[wrapped.provider_id]
    if way is Way.GCM:
        return AESGCM(value).decrypt(wrapped.provider_info[-IV_LENGTH:], wrapped.ciphertext, CONTEXT)
    open_ = aes_key_unwrap if way is Way.KEY_WRAP else aes_key_unwrap_with_padding
    return open_(value, wrapped.ciphertext).removesuffix(hashlib.sha256(CONTEXT).digest())
