"""A PKCS#11 token as its module's thread sees it: session, login, keys and their ways to wrap.

Everything here runs on the module's one thread and raises the binding's exceptions; ``answers`` tells what they mean.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pkcs11 import Attribute, KeyType, ObjectClass, TokenFlag
from pkcs11.exceptions import (
    AttributeTypeInvalid,
    MultipleTokensReturned,
    NoSuchToken,
    PKCS11Error,
    UserAlreadyLoggedIn,
)

from ownkey.container import EncryptedDataKey, serialize_context
from ownkey_server.domain.errors import ANOTHER_KEY_REMEDY
from ownkey_server.keystores.base import DATA_KEY_LENGTH
from ownkey_server.keystores.pkcs11 import profiles
from ownkey_server.keystores.pkcs11.messages import Login, LoginOutcome
from ownkey_server.keystores.pkcs11.module import LoadedModule
from ownkey_server.keystores.pkcs11.profiles import Identity, Profile, RandomFrom
from ownkey_server.keystores.pkcs11.ways import WAY_OF, Way
from ownkey_server.keystores.pkcs11.wrapping import Wrapping, rights

_log = logging.getLogger(__name__)

KEY_BITS = 256
# Throw-away bytes: what they are wrapped as shows later which key did it.
PROBE_DATA_KEY = bytes(DATA_KEY_LENGTH)
PROBE_AAD = serialize_context({"ownkey:probe": "sound"})
_RIGHTS = (Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.WRAP, Attribute.UNWRAP)


class KeyUnfit(Exception):
    """The key in the token is not one that may protect data keys. The message says why."""


class LabelTaken(KeyUnfit):
    """A key is to be made, and there is one of that label."""


class RightsMissing(Exception):
    """The key may not be used both ways. The message says which right it lacks."""


class WrapsNothing(RightsMissing):
    """The key opens what it has wrapped, and its holder has taken the right to wrap more."""


class MechanismUnusable(Exception):
    """Token and key do not both allow the way that a blob was wrapped in, though they allow another."""


class NoKey(Exception):
    """The token has no key of that label."""


class LoginNeeded(BaseException):
    """The token wants a PIN, and none was given. No failure of the token's: it passes by whatever looks into those."""


class LoginSpent(Exception):
    """The PIN that was given is not tried, or not again. The message says why."""


@dataclass(frozen=True, slots=True)
class _Kek:
    """A key's handle in the present session.

    Attributes:
        usable: In which ways token and key both let it open.
        way: How it wraps; None when it may only open.
    """

    handle: Any
    usable: frozenset[Way]
    way: Way | None


class Pkcs11Token:
    """One token of a module, by label.

    Args:
        module: The owner of the module.
        label: The token's label.
        way: How to wrap; None chooses from what token and key allow.
        proofs_of: What a key has wrapped before, of `PROBE_DATA_KEY` under `PROBE_AAD`, in every way that it allowed.
        profile: What is peculiar to the token; None recognizes it by what module and token say of themselves.
        exportable_keys: Use keys, too, that leave the token under a key alone that its security officer trusts.
    """

    def __init__(
        self,
        module: LoadedModule,
        label: str,
        way: Way | None,
        proofs_of: Callable[[str], tuple[EncryptedDataKey, ...]],
        profile: Profile | None = None,
        *,
        exportable_keys: bool = False,
    ) -> None:
        self._module = module
        self._label = label
        self._proofs_of = proofs_of
        self._login: Login | None = None
        self._login_outcome = LoginOutcome.UNUSED
        self._wanted = way
        self._given_profile = profile
        self._exportable_keys = exportable_keys
        self._profile = profile or profiles.built_in()[profiles.GENERIC]
        self._session: Any = None
        self._has_generator = False
        self._wrappings: Mapping[Way, Wrapping] = {}
        self._warned = False
        self._generation = -1
        self._keks: dict[str, _Kek] = {}
        self._serial = b""

    @property
    def serial(self) -> bytes:
        """Serial number of the token that was last opened: another token has another; an erased one may keep it."""
        return self._serial

    @property
    def profile(self) -> Profile:
        """What is peculiar to the token, as far as is known: it is recognized when it is opened."""
        return self._profile

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
        source = self._profile.random
        by_token = source is RandomFrom.TOKEN or (source is RandomFrom.FLAG and self._has_generator)
        return bytes(session.generate_random(length * 8)) if by_token else os.urandom(length)

    def wrap(self, reference: str, data_key: bytes | bytearray, aad: bytes, way: Way | None = None) -> EncryptedDataKey:
        """Wrap a data key (32 bytes), bound to the serialized context, in the key's own way or a given one."""
        return self._wrap(self._kek(reference), reference, data_key, aad, way)

    def proofs(self, reference: str) -> tuple[EncryptedDataKey, ...]:
        """Throw-away bytes wrapped in each way that the key allows: its rights may be others when they are needed."""
        kek, made = self._kek(reference), []
        for way in sorted(kek.usable, key=lambda one: one is not kek.way):
            with contextlib.suppress(PKCS11Error, WrapsNothing):
                made.append(self._wrap(kek, reference, PROBE_DATA_KEY, PROBE_AAD, way))
        return tuple(made)

    def unwrap(self, reference: str, wrapped: EncryptedDataKey, aad: bytes) -> bytearray:
        """The data key again, however it was wrapped; provider fields and size are as they should be.

        Raises:
            MechanismUnusable: Not that way, though perhaps another.
            EncryptedDataInvalid: It was opened, and the context is another; tokens raise this and other things for
                anything else that is wrong with the bytes.
        """
        return self._unwrap(self._kek(reference), wrapped, aad)

    def wraps(self, reference: str) -> bool:
        """Whether the key may wrap, as it was when it was last looked at."""
        kek = self._keks.get(reference)
        return kek is None or kek.way is not None

    def create(self, reference: str) -> None:
        """Make a 256-bit AES key that the token will not give away, with the rights for its mechanism alone.

        Raises:
            LabelTaken: There is a key of that label already.
        """
        self._open()
        if self._find(reference):
            raise LabelTaken("there is a key of this label already")
        needed = rights(self._choose(frozenset(self._wrappings)), self._profile)
        template = {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            **dict.fromkeys(_RIGHTS, False),
            **dict.fromkeys(needed, True),
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
        self._require_a_try(token, self._login)
        self._serial = bytes(token.serial)
        self._has_generator = bool(token.flags & TokenFlag.RNG)
        self._know_the_profile(token)
        offered = frozenset(int(one) for one in token.slot.get_mechanisms())
        session = self._log_in(token, self._login.pin.decode())
        self._wrappings = {
            way: Wrapping(way, mechanism, self._profile, session, self.random)
            for way in Way
            if (mechanism := self._profile.mechanism(way, offered)) is not None
        }
        self._session = session
        self._generation = self._module.generation
        return self._session

    def _require_a_try(self, token: Any, login: Login) -> None:
        """Spend no try of the PIN that may lock the token: other servers, too, may have had a wrong one."""
        if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise LoginSpent(
                "one more wrong PIN would lock the token, and it was not tried: log in once with the vendor's tool"
            )
        if login.unanswered and token.flags & TokenFlag.USER_PIN_COUNT_LOW:
            raise LoginSpent(
                "the token has counted a wrong PIN, perhaps this one, whose login was not answered: log in once with"
                " the vendor's tool, or write the right PIN where it is read"
            )

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

    def _know_the_profile(self, token: Any) -> None:
        if self._given_profile is None:
            self._profile = profiles.recognize(self._identity(token))
        if self._profile.wraps_unextractable and not self._warned:
            self._warned = True
            _log.warning(
                "token %r: by its profile (%s) it exports keys that are not extractable to whoever has its PIN: not for"
                " production",
                self._label,
                self._profile.name,
            )

    def _identity(self, token: Any) -> Identity:
        library = self._module.library()
        return Identity(library.manufacturer_id, library.library_description, token.manufacturer_id, token.model)

    def _log_in(self, token: Any, pin: str) -> Any:
        writing = self._profile.read_write_sessions
        try:
            session = token.open(rw=writing, user_pin=pin)
        except UserAlreadyLoggedIn:
            # A login holds for the whole process: where another session of this token is open, its login is ours.
            return token.open(rw=writing)
        except PKCS11Error as error:
            # Each failed login also costs a session that the binding forgets, until the module is reinitialized.
            answer, errors = self._profile.answer_of(error), self._profile.errors
            if answer in errors.pin_refused:
                self._login_outcome = LoginOutcome.REFUSED
            elif type(error) is PKCS11Error and answer not in errors.gone and self._login is not None:
                # A code that no standard has: it may say in its vendor's own words that the PIN is wrong.
                self._login_outcome = LoginOutcome.UNKNOWN
                self._login = replace(self._login, unanswered=True)
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
        proofs = self._proofs_of(reference)
        if not proofs:
            return
        usable = [proof for proof in proofs if WAY_OF[proof.provider_id] in kek.usable]
        if not usable:
            # Whoever did that did it on purpose; were it called a fault of ours, another place would be asked.
            raise RightsMissing("the right that it has worked by was taken, and nothing shows that it is the same key")
        for proof in usable:
            try:
                if self._unwrap(kek, proof, PROBE_AAD) == PROBE_DATA_KEY:
                    return
            except (PKCS11Error, MechanismUnusable):
                # One that may not wrap cannot be asked to, to see whether the token works at all.
                if kek.way is None and proof is usable[-1]:
                    raise
        # Raises what is wrong with the token, if it is the token.
        again = self._wrap(kek, reference, PROBE_DATA_KEY, PROBE_AAD, WAY_OF[usable[0].provider_id])
        if self._unwrap(kek, again, PROBE_AAD) == PROBE_DATA_KEY:
            what = "the key of this label is another than the one that has worked until now"
            raise KeyUnfit(f"{what}: {ANOTHER_KEY_REMEDY}")
        raise KeyUnfit("the key of this label opens what it has just wrapped to other bytes")

    def _wrap(
        self, kek: _Kek, reference: str, data_key: bytes | bytearray, aad: bytes, way: Way | None
    ) -> EncryptedDataKey:
        if kek.way is None:
            raise WrapsNothing("it may neither encrypt and decrypt nor wrap and unwrap, and opens what it has wrapped")
        return self._wrappings[way or kek.way].wrap(kek.handle, reference, data_key, aad)

    def _unwrap(self, kek: _Kek, wrapped: EncryptedDataKey, aad: bytes) -> bytearray:
        way = WAY_OF[wrapped.provider_id]
        if way not in kek.usable:
            raise MechanismUnusable(f"token and key do not both allow {way.value}")
        return self._wrappings[way].unwrap(kek.handle, wrapped, aad)

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
            self._require_may_be_exported(key)
        needed = {way: rights(way, self._profile) for way in Way}
        opening = {way for way, (_, opens) in needed.items() if key[opens]}
        if not opening:
            raise RightsMissing("it may neither encrypt and decrypt nor wrap and unwrap")
        both = {way for way in opening if key[needed[way][0]]}
        # One that may do the one half of a way alone, opens by it only when there is no way that it may do both of.
        usable = frozenset((both or opening) & self._wrappings.keys())
        return _Kek(key, usable, self._choose(usable) if both else None)

    def _require_may_be_exported(self, key: Any) -> None:
        """Of a key that can leave the token: where that takes the security officer, and the settings know of it."""
        try:
            is_guarded = bool(key[Attribute.WRAP_WITH_TRUSTED])
        except AttributeTypeInvalid:  # a token that has no such attribute
            is_guarded = False
        if not is_guarded:
            raise KeyUnfit("CKA_EXTRACTABLE is true: the token would let the key be exported")
        if not self._profile.honours_wrap_with_trusted:
            raise KeyUnfit(
                "CKA_EXTRACTABLE is true, and by its profile (honours_wrap_with_trusted) the token is not known to keep"
                " to CKA_WRAP_WITH_TRUSTED: it may let the key be exported by whoever has the PIN"
            )
        if not self._exportable_keys:
            raise KeyUnfit(
                "CKA_EXTRACTABLE is true: the security officer can have the key exported, and the settings of this key"
                " store do not say exportable_keys = true"
            )

    def _choose(self, usable: frozenset[Way]) -> Way:
        for way in self._profile.order if self._wanted is None else (self._wanted,):
            if way in usable:
                return way
        wanted = "AES-GCM or AES key wrap" if self._wanted is None else self._wanted.value
        raise RightsMissing(f"token and key do not both allow {wanted}")
