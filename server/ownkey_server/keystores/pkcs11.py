"""Customer keys in a PKCS#11 token: any module, by token label.

A key is a 256-bit AES secret key object that is sensitive and not extractable; its label is the reference. It wraps by
AES-GCM with the context as additional data where token and key allow it, else by AES key wrap (RFC 3394) with a hash of
the context wrapped along with the data key. What was wrapped either way is opened either way.

What a token's answers mean is told here, with one rule above all: a ciphertext that does not open must never look like
a token that is gone, nor the reverse. Tokens answer both with the same codes, so a doubtful answer is followed by a
round trip on throw-away bytes under the same key: if that works, it was the ciphertext.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from pkcs11 import Mechanism
from pkcs11 import exceptions as p11

from ownkey.container import EncryptedDataKey, parse_raw_aes_provider_info
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
)
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores.base import DATA_KEY_LENGTH, GeneratedDataKey, KeyDescription
from ownkey_server.keystores.pin import PinFile, PinUnusable
from ownkey_server.keystores.pkcs11_module import ModuleBusy, ModuleStuck, Pkcs11Module
from ownkey_server.keystores.pkcs11_token import (
    GCM_PROVIDER_ID,
    KEY_WRAP_PROVIDER_ID,
    KeyUnfit,
    NoKey,
    Pkcs11Token,
    RightsMissing,
)
from ownkey_server.keystores.probe import PROBE_CONTEXT, use_both_ways

T = TypeVar("T")

MECHANISMS: Mapping[str, Mechanism | None] = {
    "auto": None,
    "aes-gcm": Mechanism.AES_GCM,
    "aes-key-wrap": Mechanism.AES_KEY_WRAP,
}
SECONDS_BETWEEN_LOOKS = 1.0
# The token itself says that it is not there.
_ABSENT = (p11.NoSuchToken, p11.TokenNotPresent, p11.TokenNotRecognised, p11.DeviceRemoved, p11.SlotIDInvalid)
_PIN = (
    p11.PinIncorrect,
    p11.PinLocked,
    p11.PinExpired,
    p11.PinInvalid,
    p11.PinLenRange,
    p11.UserPinNotInitialized,
    PinUnusable,
)
_UNSUPPORTED = (p11.MechanismInvalid, p11.MechanismParamInvalid, p11.FunctionNotSupported)


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
        pin: PinFile,
        mechanism: str = "auto",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._module = module
        self._token_label = token_label
        self._token = Pkcs11Token(module, token_label, pin, MECHANISMS[mechanism])
        # The serial number of the token in which each key has worked.
        self._worked: dict[str, bytes] = {}
        # What the last full look at a key found, or at the whole token (under no reference), and when.
        self._verdicts: dict[str, tuple[float, KeyStoreError]] = {}
        self._monotonic = monotonic
        self._closed = False

    @property
    def name(self) -> str:
        """The store's name in the settings."""
        return self._name

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        """Make 32 random bytes in the token, where it has a generator, and wrap them."""

        def work() -> GeneratedDataKey:
            data_key = bytearray(self._token.random(DATA_KEY_LENGTH))
            return GeneratedDataKey(SecretBytes(data_key), self._token.wrap(reference, data_key, context))

        return await self._call(reference, timeout, lambda: self._use(reference, work))

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> EncryptedDataKey:
        """Wrap a data key."""
        return await self._call(
            reference,
            timeout,
            lambda: self._use(reference, lambda: self._token.wrap(reference, data_key.reveal(), context)),
        )

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> SecretBytes:
        """The data key again."""
        if not self.recognizes(reference, wrapped):
            raise CiphertextInvalid(self._name, reference, "the wrapped key was not made by this key")

        def work() -> SecretBytes:
            return SecretBytes(self._token.unwrap(reference, wrapped, context))

        return await self._call(reference, timeout, lambda: self._use(reference, work, doubtful=True))

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

    async def close(self) -> None:
        """Close the session; the module stays with its owner."""
        if self._closed:
            return
        self._closed = True
        # A token that does not answer has nothing left to close.
        with contextlib.suppress(ModuleBusy, ModuleStuck, p11.PKCS11Error):
            await self._module.call(self._token.forget, timeout=1.0)

    async def _call(self, reference: str, timeout: float, work: Callable[[], T]) -> T:
        """Run on the module's thread, within the time."""
        if self._closed:
            raise KeyUnreachable(self._name, reference, "the key store is closed")
        try:
            return await self._module.call(work, timeout)
        except ModuleBusy as error:
            raise KeyStoreThrottled(self._name, reference, str(error)) from error
        except ModuleStuck as error:
            raise KeyUnreachable(self._name, reference, str(error)) from error

    # What follows runs on the module's thread.

    def _use(self, reference: str, work: Callable[[], T], *, doubtful: bool = False) -> T:
        """Use the key; after a failure recover as far as can be, and try again.

        ``doubtful`` says that the bytes handed in may be what is wrong.
        """
        self._raise_fresh_verdict(reference)
        try:
            result = work()
        except _UNSUPPORTED as error:
            raise OperationUnsupported(self._name, reference, "the token cannot do this") from error
        except Exception as error:  # noqa: BLE001 - looked into
            self._require_sound_ciphertext(reference, error, doubtful)
            result = self._recovered(reference, work, doubtful)
        self._worked[reference] = self._token.serial
        return result

    def _recovered(self, reference: str, work: Callable[[], T], doubtful: bool) -> T:
        """Look again with nothing remembered: a session may have ended, or the token have come back as another.

        Only a look at a module just reinitialized tells a key that is gone from a token that is: before that, a module
        may show what was there when it started.
        """
        for start_anew in (self._forget, self._module.reinitialize):
            try:
                start_anew()
                return work()
            except Exception as error:  # noqa: BLE001 - looked into
                self._require_sound_ciphertext(reference, error, doubtful)
                last = error
        verdict = self._meaning(reference, last)
        whole_token = isinstance(last, (*_ABSENT, *_PIN))
        self._verdicts["" if whole_token else reference] = (self._monotonic(), verdict)
        raise verdict from last

    def _raise_fresh_verdict(self, reference: str) -> None:
        """Under load a dead token is looked at in full once a second, and not for every call."""
        for scope in ("", reference):
            found = self._verdicts.get(scope)
            if found is None:
                continue
            at, verdict = found
            if self._monotonic() - at < SECONDS_BETWEEN_LOOKS:
                raise type(verdict)(self._name, reference, verdict.cause)
            del self._verdicts[scope]

    def _require_sound_ciphertext(self, reference: str, error: Exception, doubtful: bool) -> None:
        """Raise what a failure means when the key works on other bytes: these are not its."""
        if doubtful and isinstance(error, p11.PKCS11Error) and self._round_trip_works(reference):
            cause = "wrong key, wrong encryption context, or changed bytes"
            raise CiphertextInvalid(self._name, reference, cause) from error

    def _make(self, reference: str) -> None:
        try:
            self._token.create(reference)
        except Exception as error:
            raise self._meaning(reference, error) from error

    def _forget(self) -> None:
        with contextlib.suppress(p11.PKCS11Error):  # the session may be gone already
            self._token.forget()

    def _round_trip_works(self, reference: str) -> bool:
        probe = bytes(DATA_KEY_LENGTH)
        try:
            wrapped = self._token.wrap(reference, probe, PROBE_CONTEXT)
            return self._token.unwrap(reference, wrapped, PROBE_CONTEXT) == probe
        except Exception:  # noqa: BLE001
            return False

    def _meaning(self, reference: str, error: Exception) -> KeyStoreError:
        """What a failure says that remained after a new session on a reinitialized module."""
        worked_in = self._worked.get(reference)
        # Only the token that had the key can show that it was taken away: another one by the same label never had it.
        taken_away = KeyRevoked if worked_in == self._token.serial else KeyMisconfigured
        kind: type[KeyStoreError]
        match error:
            case NoKey() if worked_in not in (None, self._token.serial):
                kind, cause = KeyMisconfigured, "the token was initialized anew, and has no key of this label"
            case NoKey():
                kind, cause = taken_away, "the token has no key of this label"
            case RightsMissing():
                kind, cause = taken_away, str(error)
            case KeyUnfit() | PinUnusable():
                kind, cause = KeyMisconfigured, str(error)
            case p11.MultipleTokensReturned():
                kind, cause = KeyMisconfigured, f"several tokens have the label {self._token_label!r}"
            case _ if isinstance(error, _ABSENT):
                kind, cause = KeyUnreachable, f"there is no token {self._token_label!r}"
            case _ if isinstance(error, _PIN):
                kind, cause = KeyMisconfigured, f"the token refuses the PIN ({type(error).__name__})"
            case _ if isinstance(error, _UNSUPPORTED):
                kind, cause = OperationUnsupported, "the token cannot do this"
            case _:
                kind, cause = KeyUnreachable, f"the token answered {type(error).__name__}"
        return kind(self._name, reference, cause)
