"""What is done in a token, and how far it is recovered when that fails. It runs on the module's one thread.

One rule above all: a ciphertext that does not open must never look like a token that is gone, nor the reverse. Tokens
answer both with the same codes, so a doubtful answer is followed by a round trip on throw-away bytes under the same
key: if that works, it was the ciphertext.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import TypeVar

from pkcs11 import exceptions as p11

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import CiphertextInvalid, KeyMisconfigured, KeyStoreError, KeyStoreThrottled
from ownkey_server.keystores.base import DATA_KEY_LENGTH
from ownkey_server.keystores.pkcs11.answers import Answers
from ownkey_server.keystores.pkcs11.messages import Answer, Operation, Request
from ownkey_server.keystores.pkcs11.module import LoadedModule
from ownkey_server.keystores.pkcs11.profile_reader import ProfileInvalid
from ownkey_server.keystores.pkcs11.profiles import load
from ownkey_server.keystores.pkcs11.tokens import (
    PROBE_AAD,
    PROBE_DATA_KEY,
    LoginNeeded,
    MechanismUnusable,
    Pkcs11Token,
    WrapsNothing,
)
from ownkey_server.keystores.pkcs11.ways import WAY_OF, Way

T = TypeVar("T")

SECONDS_BETWEEN_LOOKS = 1.0


class Desk:
    """Does what requests say, for every key store that uses the module.

    Args:
        module: The module.
        monotonic: The clock, in seconds.
    """

    def __init__(self, module: LoadedModule, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._module = module
        self._monotonic = monotonic
        self._tokens: dict[tuple[str, str, str, str], TokenOperations] = {}

    def serve(self, request: Request) -> Answer:
        """Do it. Whatever goes wrong in module or token is in the answer."""
        whose = (request.store, request.token, request.mechanism, request.profile)
        if request.operation is Operation.FORGET:
            operations = self._tokens.pop(whose, None)
            if operations is not None:
                operations.forget()
            return Answer()
        if whose not in self._tokens:
            try:
                self._tokens[whose] = TokenOperations(request, self._module, self._monotonic)
            except ProfileInvalid as error:
                return Answer(error=(KeyMisconfigured, str(error)))
        return self._tokens[whose].serve(request)


class TokenOperations:
    """What one key store does in its token.

    Args:
        request: The first that names store, token, mechanism and profile.
        module: The token's module.
        monotonic: The clock, in seconds.

    Raises:
        ProfileInvalid: The profile cannot be used, or not any more.
    """

    def __init__(self, request: Request, module: LoadedModule, monotonic: Callable[[], float]) -> None:
        self._store = request.store
        self._module = module
        way = None if request.mechanism == "auto" else Way(request.mechanism)
        profile = load(request.profile)
        self._token = Pkcs11Token(
            module, request.token, way, self._proofs_of, profile, exportable_keys=request.exportable_keys
        )
        self._answers = Answers(request.store, request.token, self._token, module, monotonic)
        # What the last full look at a key found, or at the whole token (under None), and until when that stands.
        self._verdicts: dict[str | None, tuple[float, KeyStoreError]] = {}
        self._monotonic = monotonic
        # Of keys that may only open: what each has opened last, which shows later that it still does.
        self._opened: dict[str, tuple[EncryptedDataKey, bytes]] = {}
        self._histories: dict[str, int] = {}

    def serve(self, request: Request) -> Answer:
        """Do what the request says."""
        history = self._histories.get(request.reference, 0)
        if request.history < history:
            return Answer(error=(KeyStoreThrottled, "the key was enrolled anew while this waited"))
        if request.history > history:
            self._begin_anew(request.reference)
            self._histories[request.reference] = request.history
        if request.worked is not None and self._answers.learn(request.reference, request.worked):
            self._verdicts.pop(request.reference, None)  # it was found in ignorance
        self._token.allow_login(request.login)
        try:
            return self._served(request)
        except LoginNeeded:
            return Answer(login_needed=True)
        except KeyStoreError as error:
            unsettled = self._answers.unsettled(request.reference) if isinstance(error, KeyStoreThrottled) else 0.0
            return Answer(
                error=(type(error), error.cause),
                login=self._token.login_outcome,
                unsettled=math.ceil(1000 * unsettled),
                unknown_in=self._unknown_in(request.reference, error),
            )
        finally:
            self._token.allow_login(None)

    def forget(self) -> None:
        """Close the session. A token that does not answer has nothing left to close."""
        with contextlib.suppress(p11.PKCS11Error):
            self._token.forget()

    def _begin_anew(self, reference: str) -> None:
        self._answers.forget(reference)
        self._token.forget_key(reference)
        self._opened.pop(reference, None)
        self._verdicts.pop(reference, None)

    def _unknown_in(self, reference: str, error: KeyStoreError) -> bytes:
        unknown = isinstance(error, KeyMisconfigured) and reference and self._answers.worked(reference) is None
        return self._token.serial if unknown else b""

    def _served(self, request: Request) -> Answer:
        reference, data_key, wrapped = request.reference, bytearray(), None
        match request.operation:
            case Operation.GENERATE:
                data_key, wrapped = self._use(reference, lambda: self._generated(reference, request.aad))
            case Operation.WRAP:
                wrapped = self._use(reference, lambda: self._token.wrap(reference, request.data_key, request.aad))
            case Operation.UNWRAP if (entry := request.wrapped) is not None:
                data_key = self._use(
                    reference, lambda: self._token.unwrap(reference, entry, request.aad), entry.provider_id
                )
                self._answers.note_success(reference, entry.provider_id)
                if self._token.wraps(reference):
                    self._keep_proofs(reference)  # whoever only opens for now is to know the key again, too
                else:
                    self._opened[reference] = (entry, request.aad)
            case Operation.CREATE:
                self._make(reference)
            case _:
                self._look()
        if wrapped is not None:
            self._answers.note_success(reference, wrapped.provider_id)
            self._keep_proofs(reference)
        return Answer(
            data_key=data_key,
            wrapped=wrapped,
            worked=self._answers.worked(reference),
            login=self._token.login_outcome,
        )

    def _proofs_of(self, reference: str) -> tuple[EncryptedDataKey, ...]:
        return self._answers.proofs_of(reference)

    def _keep_proofs(self, reference: str) -> None:
        if not self._answers.proofs_of(reference):
            with contextlib.suppress(p11.PKCS11Error):  # the next use makes them
                self._answers.keep_proofs(reference, self._token.proofs(reference))

    def _generated(self, reference: str, aad: bytes) -> tuple[bytearray, EncryptedDataKey]:
        data_key = bytearray(self._token.random(DATA_KEY_LENGTH))
        return data_key, self._token.wrap(reference, data_key, aad)

    def _use(self, reference: str, work: Callable[[], T], doubtful: str = "") -> T:
        """Use the key; after a failure recover as far as can be, and try again.

        ``doubtful`` is the provider id of bytes that were handed in, and may be what is wrong.
        """
        self._raise_fresh_verdict(reference)
        try:
            return work()
        except (MechanismUnusable, WrapsNothing):
            # Its rights may have been given back meanwhile. Nothing more is tried for bytes that anybody can make.
            self._token.forget_key(reference)
            return self._last_try(reference, work, doubtful)
        except Exception as error:  # noqa: BLE001 - looked into
            if self._token.profile.suspects_bytes(error):
                self._require_sound_ciphertext(reference, error, doubtful)
            return self._recovered(reference, work, doubtful)

    def _last_try(self, reference: str, work: Callable[[], T], doubtful: str) -> T:
        try:
            return work()
        except Exception as error:
            self._require_sound_ciphertext(reference, error, doubtful)
            raise self._answers.meaning(reference, error, doubtful) from error

    def _recovered(self, reference: str, work: Callable[[], T], doubtful: str) -> T:
        """Look again with nothing remembered: a session may have ended, or the token have come back as another.

        Only a module just reinitialized shows tokens as they are; before, it may show what was there when it started.
        """
        try:
            self._forget()
            return work()
        except Exception as error:  # noqa: BLE001 - looked into
            self._require_sound_ciphertext(reference, error, doubtful)
            last = error
            self._answers.note_failure(reference, error)
        if not self._answers.is_certain(reference, last):
            try:
                if self._module.reinitialize():
                    return work()
            except Exception as error:  # noqa: BLE001 - looked into
                self._require_sound_ciphertext(reference, error, doubtful)
                last = error
        verdict = self._answers.meaning(reference, last, doubtful)
        if not isinstance(last, (MechanismUnusable, WrapsNothing)):
            stands = SECONDS_BETWEEN_LOOKS
            if isinstance(verdict, KeyStoreThrottled):
                # Not longer than until more can be told: an echo of this would pass for a second sign of an outage.
                stands = min(stands, self._answers.unsettled(reference) or stands)
            whole_token = self._answers.is_of_whole_token(last)
            self._verdicts[None if whole_token else reference] = (self._monotonic() + stands, verdict)
        raise verdict from last

    def _raise_fresh_verdict(self, reference: str) -> None:
        """Under load a dead token is looked at in full once a second, and not for every call."""
        for scope in (None, reference):
            found = self._verdicts.get(scope)
            if found is None:
                continue
            until, verdict = found
            if self._monotonic() < until:
                raise type(verdict)(self._store, reference, verdict.cause)
            del self._verdicts[scope]

    def _require_sound_ciphertext(self, reference: str, error: Exception, doubtful: str) -> None:
        """Raise what a failure means when the key opens other bytes of the same kind: these are not its."""
        if doubtful and isinstance(error, p11.PKCS11Error) and self._round_trip_works(reference, doubtful):
            cause = "wrong key, wrong encryption context, or changed bytes"
            raise CiphertextInvalid(self._store, reference, cause) from error

    def _round_trip_works(self, reference: str, provider_id: str) -> bool:
        try:
            wrapped = self._token.wrap(reference, PROBE_DATA_KEY, PROBE_AAD, WAY_OF[provider_id])
            return self._token.unwrap(reference, wrapped, PROBE_AAD) == PROBE_DATA_KEY
        except WrapsNothing:
            return self._opens_again(reference, provider_id)
        except Exception:  # noqa: BLE001
            return False

    def _opens_again(self, reference: str, provider_id: str) -> bool:
        """Whether a key that may only open does, by what it is known to have wrapped."""
        known = [(proof, PROBE_AAD) for proof in self._answers.proofs_of(reference)]
        if reference in self._opened:
            known.append(self._opened[reference])
        for entry, aad in known:
            if entry.provider_id != provider_id:
                continue
            try:
                self._token.unwrap(reference, entry, aad)
            except Exception:  # noqa: BLE001
                return False
            return True
        return False

    def _look(self) -> None:
        try:
            try:
                self._token.random(1)
            except p11.PKCS11Error as error:
                # Only a module just reinitialized shows tokens as they are.
                if self._answers.is_certain("", error) or not self._module.reinitialize():
                    raise
                self._token.random(1)
        except Exception as error:
            raise self._answers.meaning("", error) from error

    def _make(self, reference: str) -> None:
        try:
            try:
                self._token.open_anew()
            except p11.PKCS11Error:
                self._module.reinitialize()
                self._token.open_anew()
            self._token.create(reference)
        except Exception as error:
            raise self._answers.meaning(reference, error) from error

    def _forget(self) -> None:
        with contextlib.suppress(p11.PKCS11Error):  # the session may be gone already
            self._token.forget()
