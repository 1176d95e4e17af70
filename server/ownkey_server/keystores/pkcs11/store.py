"""Customer keys in a PKCS#11 token: any module, by token label.

A key is a 256-bit AES secret key object that is sensitive and not extractable; its label is the reference. It wraps by
AES-GCM with the context as additional data where token and key allow it, else by AES key wrap (RFC 3394) with a hash of
the context wrapped along with the data key. What was wrapped either way is opened either way.

One rule above all: a ciphertext that does not open must never look like a token that is gone, nor the reverse. Tokens
answer both with the same codes, so a doubtful answer is followed by a round trip on throw-away bytes under the same
key: if that works, it was the ciphertext.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from pkcs11 import Mechanism
from pkcs11 import exceptions as p11

from ownkey.container import EncryptedDataKey, parse_raw_aes_provider_info, serialize_context
from ownkey_server.domain.errors import CiphertextInvalid, KeyStoreError, KeyStoreThrottled, KeyUnreachable
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores.base import (
    DATA_KEY_LENGTH,
    GeneratedDataKey,
    KeyDescription,
    UnwrappedDataKey,
    WrappedDataKey,
)
from ownkey_server.keystores.pkcs11.answers import WHOLE_TOKEN, Answers
from ownkey_server.keystores.pkcs11.module import ModuleBusy, ModuleStuck, Pkcs11Module
from ownkey_server.keystores.pkcs11.pin import Pin
from ownkey_server.keystores.pkcs11.tokens import (
    GCM_PROVIDER_ID,
    KEY_WRAP_PROVIDER_ID,
    LENGTH_OF,
    MECHANISM_OF,
    MechanismUnusable,
    Pkcs11Token,
)
from ownkey_server.keystores.probe import require_data_key, use_both_ways

T = TypeVar("T")

MECHANISMS: Mapping[str, Mechanism | None] = {
    "auto": None,
    "aes-gcm": Mechanism.AES_GCM,
    "aes-key-wrap": Mechanism.AES_KEY_WRAP,
}
SECONDS_BETWEEN_LOOKS = 1.0
# Timers may be this early.
_A_MOMENT = 0.01
_PROBE_DATA_KEY = bytes(DATA_KEY_LENGTH)
_PROBE_AAD = serialize_context({"ownkey:probe": "sound"})


class Pkcs11KeyStore:
    """A key store in one token.

    Args:
        name: The store's name in the settings.
        module: The owner of the token's module, shared by all stores that use it.
        token_label: Which token.
        pin: Its user PIN.
        mechanism: ``auto``, ``aes-gcm`` or ``aes-key-wrap``.
        monotonic: The clock, in seconds.
    """

    def __init__(
        self,
        name: str,
        module: Pkcs11Module,
        *,
        token_label: str,
        pin: Pin,
        mechanism: str = "auto",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._module = module
        self._token_label = token_label
        self._token = Pkcs11Token(module, token_label, pin, MECHANISMS[mechanism])
        self._answers = Answers(name, token_label, self._token, module, monotonic)
        # What the last full look at a key found, or at the whole token (under None), and until when that stands.
        self._verdicts: dict[str | None, tuple[float, KeyStoreError]] = {}
        self._monotonic = monotonic
        self._closed = False

    @property
    def name(self) -> str:
        """The store's name in the settings."""
        return self._name

    @property
    def counts_wraps(self) -> bool:
        """Whether a key may wrap only so often: where the token has it, by AES-GCM with random nonces under the key."""
        return True

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        """Make 32 random bytes in the token, where it has a generator, and wrap them."""
        aad = serialize_context(context)

        def work() -> GeneratedDataKey:
            data_key = bytearray(self._token.random(DATA_KEY_LENGTH))
            wrapped = self._token.wrap(reference, data_key, aad)
            self._answers.note_success(reference, wrapped.provider_id)
            return GeneratedDataKey(SecretBytes(data_key), wrapped)

        return await self._settled(reference, timeout, work)

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> WrappedDataKey:
        """Wrap a data key.

        Raises:
            ValueError: It has not 32 bytes.
        """
        require_data_key(data_key)
        aad = serialize_context(context)

        def work() -> WrappedDataKey:
            wrapped = self._token.wrap(reference, data_key.reveal(), aad)
            self._answers.note_success(reference, wrapped.provider_id)
            return WrappedDataKey(wrapped)

        return await self._settled(reference, timeout, work)

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        """The data key again."""
        whole = len(wrapped.ciphertext) == LENGTH_OF.get(wrapped.provider_id)
        if not (whole and self.recognizes(reference, wrapped)):
            raise CiphertextInvalid(self._name, reference, "the wrapped key was not made by this key")
        aad = serialize_context(context)

        def work() -> UnwrappedDataKey:
            opened = UnwrappedDataKey(SecretBytes(self._token.unwrap(reference, wrapped, aad)))
            self._answers.note_success(reference, wrapped.provider_id)
            return opened

        return await self._settled(reference, timeout, work, wrapped.provider_id)

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        """Whether the entry names exactly this key."""
        if wrapped.provider_id == GCM_PROVIDER_ID:
            return parse_raw_aes_provider_info(wrapped.provider_info, reference) is not None
        return wrapped.provider_id == KEY_WRAP_PROVIDER_ID and wrapped.provider_info == reference.encode()

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        """Use the key both ways on throw-away bytes."""
        return await use_both_ways(self, reference, timeout)

    async def create(self, reference: str, timeout: float = 30.0) -> None:
        """Make a key in the token, not to be exported by anybody."""
        await self._call(reference, timeout, lambda: self._make(reference))

    async def check(self, timeout: float) -> None:
        """Open the token, with its PIN, unless it is open."""
        await self._call("", timeout, self._look)

    async def close(self) -> None:
        """Close the session; the module stays with its owner."""
        if self._closed:
            return
        self._closed = True
        # A token that does not answer has nothing left to close.
        with contextlib.suppress(ModuleBusy, ModuleStuck, p11.PKCS11Error):
            await self._module.call(self._token.forget, timeout=1.0)

    async def _settled(self, reference: str, timeout: float, work: Callable[[], T], doubtful: str = "") -> T:
        """Use the key. Where it is missing, wait until it can be told what that means: a revocation is no outage."""
        end = self._monotonic() + timeout
        try:
            return await self._call(reference, timeout, lambda: self._use(reference, work, doubtful))
        except KeyUnreachable:
            wait = self._answers.unsettled(reference)
            if not wait or self._monotonic() + wait + _A_MOMENT >= end:
                raise
        # Not on the module's thread, which others need.
        await asyncio.sleep(wait + _A_MOMENT)
        left = end - self._monotonic()
        return await self._call(reference, left, lambda: self._use(reference, work, doubtful))

    async def _call(self, reference: str, timeout: float, work: Callable[[], T]) -> T:
        """Run on the module's thread, within the time."""
        if self._closed:
            raise KeyUnreachable(self._name, reference, "the key store is closed")
        try:
            return await self._module.call(work, timeout)
        except ModuleBusy as error:
            raise KeyStoreThrottled(self._name, reference, str(error), ours=True) from error
        except ModuleStuck as error:
            raise KeyUnreachable(self._name, reference, str(error)) from error

    # What follows runs on the module's thread.

    def _use(self, reference: str, work: Callable[[], T], doubtful: str = "") -> T:
        """Use the key; after a failure recover as far as can be, and try again.

        ``doubtful`` is the provider id of bytes that were handed in, and may be what is wrong.
        """
        self._raise_fresh_verdict(reference)
        try:
            return work()
        except MechanismUnusable:
            # Its rights may have been given back meanwhile. Nothing more is tried for bytes that anybody can make.
            self._token.forget_key(reference)
            return self._last_try(reference, work, doubtful)
        except Exception as error:  # noqa: BLE001 - looked into
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
        if not isinstance(last, MechanismUnusable):
            stands = SECONDS_BETWEEN_LOOKS
            if isinstance(verdict, KeyUnreachable):
                # Not longer than until more can be told: an echo of this would pass for a second sign of an outage.
                stands = min(stands, self._answers.unsettled(reference) or stands)
            whole_token = isinstance(last, WHOLE_TOKEN)
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
                raise type(verdict)(self._name, reference, verdict.cause)
            del self._verdicts[scope]

    def _require_sound_ciphertext(self, reference: str, error: Exception, doubtful: str) -> None:
        """Raise what a failure means when the key opens other bytes of the same kind: these are not its."""
        if doubtful and isinstance(error, p11.PKCS11Error) and self._round_trip_works(reference, doubtful):
            cause = "wrong key, wrong encryption context, or changed bytes"
            raise CiphertextInvalid(self._name, reference, cause) from error

    def _round_trip_works(self, reference: str, provider_id: str) -> bool:
        try:
            wrapped = self._token.wrap(reference, _PROBE_DATA_KEY, _PROBE_AAD, MECHANISM_OF[provider_id])
            return self._token.unwrap(reference, wrapped, _PROBE_AAD) == _PROBE_DATA_KEY
        except Exception:  # noqa: BLE001
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
