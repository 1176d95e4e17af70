"""A PKCS#11 token as its module's thread sees it: session, login, keys and their two ways to wrap.

Everything here runs on the module's one thread and raises the binding's exceptions; ``answers`` tells what they mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11.exceptions import (
    EncryptedDataInvalid,
    MultipleTokensReturned,
    NoSuchToken,
    PinExpired,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    UserAlreadyLoggedIn,
)
from pkcs11.mechanisms import GCMParams

from ownkey.container import EncryptedDataKey, raw_aes_provider_info, serialize_context
from ownkey.container.raw_aes import IV_LENGTH, TAG_LENGTH
from ownkey_server.keystores.base import DATA_KEY_LENGTH
from ownkey_server.keystores.pkcs11.messages import Login, LoginOutcome
from ownkey_server.keystores.pkcs11.module import LoadedModule
from ownkey_server.keystores.pkcs11.ways import GCM_PROVIDER_ID, KEY_WRAP_PROVIDER_ID

KEY_BITS = 256
# Throw-away bytes: what they are wrapped as shows later which key did it.
PROBE_DATA_KEY = bytes(DATA_KEY_LENGTH)
PROBE_AAD = serialize_context({"ownkey:probe": "sound"})
MECHANISM_OF: Mapping[str, Mechanism] = {
    GCM_PROVIDER_ID: Mechanism.AES_GCM,
    KEY_WRAP_PROVIDER_ID: Mechanism.AES_KEY_WRAP,
}


# Each failed login also costs a session that the binding forgets, until the module is reinitialized.
_PIN_REFUSED = (PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked)


class KeyUnfit(Exception):
    """The key in the token is not one that may protect data keys. The message says why."""


class LabelTaken(KeyUnfit):
    """A key is to be made, and there is one of that label."""


class RightsMissing(Exception):
    """The key may not be used both ways. The message says which right it lacks."""


class MechanismUnusable(Exception):
    """Token and key do not both allow the mechanism that a blob was wrapped with, though they allow another."""


class NoKey(Exception):
    """The token has no key of that label."""


class LoginNeeded(BaseException):
    """The token wants a PIN, and none was given. No failure of the token's: it passes by whatever looks into those."""


class LoginSpent(Exception):
    """The PIN that was given is not tried, or not again. The message says why."""


@dataclass(frozen=True, slots=True)
class _Kek:
    """A key's handle in the present session, what token and key both allow, and what it wraps with."""

    handle: Any
    usable: frozenset[Mechanism]
    mechanism: Mechanism


class Pkcs11Token:
    """One token of a module, by label.

    Args:
        module: The owner of the module.
        label: The token's label.
        mechanism: Which mechanism to wrap with; None chooses from what token and key allow.
        proof_of: What a key has wrapped before, of `PROBE_DATA_KEY` under `PROBE_AAD`; None if it has not.
    """

    def __init__(
        self,
        module: LoadedModule,
        label: str,
        mechanism: Mechanism | None,
        proof_of: Callable[[str], EncryptedDataKey | None],
    ) -> None:
        self._module = module
        self._label = label
        self._proof_of = proof_of
        self._login: Login | None = None
        self._login_outcome = LoginOutcome.UNUSED
        self._wanted = mechanism
        self._session: Any = None
        self._has_generator = False
        self._offered: frozenset[Mechanism] = frozenset()
        self._generation = -1
        self._keks: dict[str, _Kek] = {}
        self._serial = b""

    @property
    def serial(self) -> bytes:
        """Serial number of the token that was last opened: initializing a token anew changes it."""
        return self._serial

    def allow_login(self, login: Login | None) -> None:
        """Give the PIN for what is done next, to be tried once at most; None takes it away again."""
        self._login = login
        self._login_outcome = LoginOutcome.UNUSED

    @property
    def login_outcome(self) -> LoginOutcome:
        """What became of the PIN that was given last."""
        return self._login_outcome

    def random(self, length: int) -> bytes:
        """Random bytes from the token's generator, or from the system's when it has none."""
        session = self._open()
        return bytes(session.generate_random(length * 8)) if self._has_generator else os.urandom(length)

    def wrap(
        self, reference: str, data_key: bytes | bytearray, aad: bytes, mechanism: Mechanism | None = None
    ) -> EncryptedDataKey:
        """Wrap a data key (32 bytes), bound to the serialized context, by the key's own mechanism or a given one."""
        return self._wrap(self._kek(reference), reference, data_key, aad, mechanism)

    def unwrap(self, reference: str, wrapped: EncryptedDataKey, aad: bytes) -> bytearray:
        """The data key again, however it was wrapped; provider fields and size are as they should be.

        Raises:
            MechanismUnusable: Not that way, though perhaps another.
            EncryptedDataInvalid: It was opened, and the context is another; tokens raise this and other things for
                anything else that is wrong with the bytes.
        """
        return self._unwrap(self._kek(reference), wrapped, aad)

    def create(self, reference: str) -> None:
        """Make a 256-bit AES key that the token will not give away, with the rights for its mechanism alone.

        Raises:
            LabelTaken: There is a key of that label already.
        """
        self._open()
        if self._find(reference):
            raise LabelTaken("there is a key of this label already")
        mechanism = self._choose(self._offered)
        by_gcm = mechanism is Mechanism.AES_GCM
        template = {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            **dict.fromkeys((Attribute.ENCRYPT, Attribute.DECRYPT), by_gcm),
            **dict.fromkeys((Attribute.WRAP, Attribute.UNWRAP), not by_gcm),
            **dict.fromkeys((Attribute.SIGN, Attribute.VERIFY, Attribute.DERIVE), False),
        }
        with self._token().open(rw=True) as session:
            session.generate_key(KeyType.AES, KEY_BITS, label=reference, store=True, template=template)

    def forget_key(self, reference: str) -> None:
        """Let one key's handle go: the next use looks at the key anew."""
        self._keks.pop(reference, None)

    def forget(self) -> None:
        """Let the session and its handles go: the next use opens a new one."""
        session, self._session = self._session, None
        self._keks.clear()
        if session is not None and self._generation == self._module.generation:
            session.close()

    def open_anew(self) -> None:
        """Open a session on the token as it is now."""
        self.forget()
        self._open()

    def _open(self) -> Any:
        if self._session is not None and self._generation == self._module.generation:
            return self._session
        self.forget()
        token = self._token()
        if self._login is None:
            raise LoginNeeded
        if self._login_outcome is LoginOutcome.REFUSED:
            raise LoginSpent("the token has refused the PIN")
        if self._login.another and self._login_outcome is LoginOutcome.UNUSED:
            # There is one try for each PIN, so it must not be wasted: SoftHSM knows the PIN of when it was initialized.
            if not self._module.reinitialize():
                raise LoginSpent("another PIN is tried in a moment")
            token = self._token()
        self._serial = bytes(token.serial)
        self._has_generator = bool(token.flags & TokenFlag.RNG)
        self._offered = frozenset(token.slot.get_mechanisms())
        self._session = self._log_in(token, self._login.pin.decode())
        self._generation = self._module.generation
        return self._session

    def _token(self) -> Any:
        # Not the binding's get_token: that gives up at the first slot whose token does not answer, whoever's it is.
        found = []
        for slot in self._module.library().get_slots(token_present=True):
            try:
                token = slot.get_token()
            except PKCS11Error:
                continue
            if token.label == self._label:
                found.append(token)
        if len(found) > 1:
            raise MultipleTokensReturned
        if not found:
            raise NoSuchToken
        return found[0]

    def _log_in(self, token: Any, pin: str) -> Any:
        try:
            session = token.open(user_pin=pin)
        except UserAlreadyLoggedIn:
            # A login holds for the whole process: where another session of this token is open, its login is ours.
            return token.open()
        except _PIN_REFUSED:
            self._login_outcome = LoginOutcome.REFUSED
            raise
        self._login_outcome = LoginOutcome.ACCEPTED
        return session

    def _kek(self, reference: str) -> _Kek:
        self._open()
        kek = self._keks.get(reference)
        if kek is None:
            found = self._find(reference)
            if not found:
                raise NoKey
            if len(found) > 1:
                raise KeyUnfit(f"{len(found)} keys of the token have this label; give each its own")
            kek = self._examined(found[0])
            self._require_same(reference, kek)
            self._keks[reference] = kek
        return kek

    def _require_same(self, reference: str, kek: _Kek) -> None:
        """A key found anew may be another of that label: what it wrapped, the other tokens of the key never opened."""
        proof = self._proof_of(reference)
        if proof is None or MECHANISM_OF[proof.provider_id] not in kek.usable:
            return
        with contextlib.suppress(PKCS11Error, MechanismUnusable):
            if self._unwrap(kek, proof, PROBE_AAD) == PROBE_DATA_KEY:
                return
        # Raises what is wrong with the token, if it is the token.
        mechanism = MECHANISM_OF[proof.provider_id]
        again = self._wrap(kek, reference, PROBE_DATA_KEY, PROBE_AAD, mechanism)
        if self._unwrap(kek, again, PROBE_AAD) == PROBE_DATA_KEY:
            raise KeyUnfit("the key of this label is another than the one that has worked until now")

    def _wrap(
        self, kek: _Kek, reference: str, data_key: bytes | bytearray, aad: bytes, mechanism: Mechanism | None
    ) -> EncryptedDataKey:
        if (mechanism or kek.mechanism) is Mechanism.AES_GCM:
            iv = self.random(IV_LENGTH)
            parameters = GCMParams(iv, aad, TAG_LENGTH * 8)
            ciphertext = kek.handle.encrypt(bytes(data_key), mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
            return EncryptedDataKey(GCM_PROVIDER_ID, raw_aes_provider_info(reference, iv), bytes(ciphertext))
        wrapped = self._key_wrap(kek.handle, bytes(data_key) + hashlib.sha256(aad).digest())
        return EncryptedDataKey(KEY_WRAP_PROVIDER_ID, reference.encode(), wrapped)

    def _unwrap(self, kek: _Kek, wrapped: EncryptedDataKey, aad: bytes) -> bytearray:
        mechanism = MECHANISM_OF[wrapped.provider_id]
        if mechanism not in kek.usable:
            raise MechanismUnusable(f"token and key do not both allow {mechanism.name}")
        if mechanism is Mechanism.AES_GCM:
            iv = wrapped.provider_info[-IV_LENGTH:]
            parameters = GCMParams(iv, aad, TAG_LENGTH * 8)
            opened = kek.handle.decrypt(wrapped.ciphertext, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
            return bytearray(opened)
        both = self._key_unwrap(kek.handle, wrapped.ciphertext)
        if not hmac.compare_digest(both[DATA_KEY_LENGTH:], hashlib.sha256(aad).digest()):
            raise EncryptedDataInvalid
        return both[:DATA_KEY_LENGTH]

    def _find(self, reference: str) -> list[Any]:
        # Consumed here and now: a search that is still open when the collector finds it would be closed by any thread.
        wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: reference}
        return list(self._open().get_objects(wanted))

    def _examined(self, key: Any) -> _Kek:
        # Of a key that was unwrapped into it, SoftHSM says 0 (its issue 628): `ownkey hsm import` measures such keys.
        if key[Attribute.KEY_TYPE] != KeyType.AES or key[Attribute.VALUE_LEN] * 8 not in (0, KEY_BITS):
            raise KeyUnfit("it is not an AES key of 256 bits")
        if not key[Attribute.SENSITIVE]:
            raise KeyUnfit("CKA_SENSITIVE is false: the token would show the key")
        if key[Attribute.EXTRACTABLE]:
            raise KeyUnfit("CKA_EXTRACTABLE is true: the token would let the key be exported")
        permitted = {
            mechanism
            for mechanism, rights in (
                (Mechanism.AES_GCM, (Attribute.ENCRYPT, Attribute.DECRYPT)),
                (Mechanism.AES_KEY_WRAP, (Attribute.WRAP, Attribute.UNWRAP)),
            )
            if all(key[right] for right in rights)
        }
        if not permitted:
            raise RightsMissing("it may neither encrypt and decrypt nor wrap and unwrap")
        usable = self._offered & permitted
        return _Kek(key, usable, self._choose(usable))

    def _choose(self, usable: frozenset[Mechanism]) -> Mechanism:
        for mechanism in (Mechanism.AES_GCM, Mechanism.AES_KEY_WRAP) if self._wanted is None else (self._wanted,):
            if mechanism in usable:
                return mechanism
        wanted = "AES-GCM or AES key wrap" if self._wanted is None else self._wanted.name
        raise RightsMissing(f"token and key do not both allow {wanted}")

    def _key_wrap(self, kek: Any, secret: bytes) -> bytes:
        template = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.VALUE: secret,
            Attribute.TOKEN: False,
            Attribute.SENSITIVE: False,
            Attribute.EXTRACTABLE: True,
        }
        passenger = self._open().create_object(template)
        try:
            return bytes(kek.wrap_key(passenger, mechanism=Mechanism.AES_KEY_WRAP))
        finally:
            passenger.destroy()

    def _key_unwrap(self, kek: Any, wrapped: bytes) -> bytearray:
        template = {Attribute.TOKEN: False, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
        passenger = kek.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.GENERIC_SECRET,
            wrapped,
            mechanism=Mechanism.AES_KEY_WRAP,
            template=template,
        )
        try:
            return bytearray(passenger[Attribute.VALUE])
        finally:
            passenger.destroy()
