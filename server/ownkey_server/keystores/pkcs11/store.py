"""Customer keys in a PKCS#11 token: any module, by token label.

A key is a 256-bit AES secret key object that is sensitive and not extractable; its label is the reference. Where the
settings say so, it may be extractable under such a key alone as the token's security officer trusts. It wraps by
AES-GCM with the context as additional data where token and key allow it, else by AES key wrap (RFC 3394) with a hash of
the context wrapped along with the data key. What was wrapped either way is opened either way.

The token itself is worked on where its module is (``operations``), in a process of its own or on a thread of this one.
Here is what must outlive that: the PIN that the token has refused, and where each key has worked. In which token, and
by which way, outlives the server as well: a key that was destroyed while none ran was taken away, and did work once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from ownkey.container import EncryptedDataKey, parse_raw_aes_provider_info, serialize_context
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
)
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores.base import (
    DATA_KEY_LENGTH,
    GeneratedDataKey,
    KeyDescription,
    UnwrappedDataKey,
    WrappedDataKey,
)
from ownkey_server.keystores.first_uses import FirstUses, FirstUsesHere
from ownkey_server.keystores.pkcs11.host import ModuleBusy, ModuleHost, ModuleStuck, take_note
from ownkey_server.keystores.pkcs11.messages import Answer, Login, LoginOutcome, Operation, Request, Worked, wipe
from ownkey_server.keystores.pkcs11.pin import Pin, PinUnusable
from ownkey_server.keystores.pkcs11.ways import GCM_PROVIDER_ID, LENGTH_OF, WAY_OF
from ownkey_server.keystores.probe import require_data_key, use_both_ways

# A login is not given up because a caller is in a hurry: what the token says to the PIN must be known.
LOGIN_SECONDS = 15.0
# Timers may be this early.
_A_MOMENT = 0.01
# Of a key that is not known to have worked, the database is not asked at each of its failures.
SECONDS_BETWEEN_RECALLS = 10.0
RECALL_SECONDS = 2.0


class Pkcs11KeyStore:
    """A key store in one token.

    Args:
        name: The store's name in the settings.
        host: Where the token's module is.
        token_label: Which token.
        pin: Its user PIN.
        mechanism: ``auto``, ``aes-gcm``, ``aes-key-wrap`` or ``aes-key-wrap-pad``.
        profile: What is peculiar to the token: ``auto``, a built-in profile's name, or a file's path.
        uses: Where it is kept which keys have ever worked; None for what this process sees alone.
        exportable_keys: Use keys, too, that leave the token under a key alone that its security officer trusts.
    """

    def __init__(
        self,
        name: str,
        host: ModuleHost,
        *,
        token_label: str,
        pin: Pin,
        mechanism: str = "auto",
        profile: str = "auto",
        uses: FirstUses | None = None,
        exportable_keys: bool = False,
    ) -> None:
        self._name = name
        self._uses = uses or FirstUsesHere()
        self._host = host
        self._token_label = token_label
        self._pin = pin
        self._mechanism = mechanism
        self._profile = profile
        self._exportable_keys = exportable_keys
        self._worked: dict[str, Worked] = {}
        self._histories: dict[str, int] = {}
        self._recalling = asyncio.Lock()
        self._recalled_at: dict[str, tuple[bytes, float]] = {}
        self._recalls: dict[tuple[str, bytes], asyncio.Task[Worked | None]] = {}
        self._logging_in = asyncio.Lock()
        self._login_count = 0
        self._logins: set[asyncio.Task[Answer]] = set()
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
        answer = await self._do(Operation.GENERATE, reference, timeout, aad=serialize_context(context))
        return GeneratedDataKey(self._data_key(reference, answer), self._wrapped(reference, answer))

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> WrappedDataKey:
        """Wrap a data key.

        Raises:
            ValueError: It has not 32 bytes.
        """
        require_data_key(data_key)
        aad = serialize_context(context)
        answer = await self._do(Operation.WRAP, reference, timeout, aad=aad, data_key=data_key.reveal())
        return WrappedDataKey(self._wrapped(reference, answer))

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        """The data key again."""
        whole = len(wrapped.ciphertext) == LENGTH_OF.get(wrapped.provider_id)
        if not (whole and self.recognizes(reference, wrapped)):
            raise CiphertextInvalid(self._name, reference, "the wrapped key was not made by this key")
        aad = serialize_context(context)
        answer = await self._do(Operation.UNWRAP, reference, timeout, aad=aad, wrapped=wrapped)
        return UnwrappedDataKey(self._data_key(reference, answer))

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        """Whether the entry names exactly this key."""
        if wrapped.provider_id == GCM_PROVIDER_ID:
            return parse_raw_aes_provider_info(wrapped.provider_info, reference) is not None
        return wrapped.provider_id in LENGTH_OF and wrapped.provider_info == reference.encode()

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        """Use the key both ways on throw-away bytes."""
        return await use_both_ways(self, reference, timeout)

    async def create(self, reference: str, timeout: float = 30.0) -> None:
        """Make a key in the token, not to be exported by anybody."""
        await self._do(Operation.CREATE, reference, timeout)

    def forget(self, reference: str) -> None:
        """From now on the key of this label may be another: nothing that is known of it counts any more."""
        self._worked.pop(reference, None)
        self._recalled_at.pop(reference, None)  # what is kept of it outlives that: taken away is taken away
        self._histories[reference] = self._histories.get(reference, 0) + 1

    async def check(self, timeout: float) -> None:
        """Open the token, with its PIN, unless it is open."""
        await self._do(Operation.LOOK, "", timeout)

    async def close(self) -> None:
        """Close the session."""
        if self._closed:
            return
        self._closed = True
        await self._host.leave(self._request(Operation.FORGET))

    def _request(
        self,
        operation: Operation,
        reference: str = "",
        *,
        aad: bytes = b"",
        data_key: bytes | bytearray = b"",
        wrapped: EncryptedDataKey | None = None,
    ) -> Request:
        return Request(
            operation=operation,
            store=self._name,
            token=self._token_label,
            mechanism=self._mechanism,
            profile=self._profile,
            reference=reference,
            aad=aad,
            data_key=data_key,
            wrapped=wrapped,
            worked=self._worked.get(reference),
            history=self._histories.get(reference, 0),
            exportable_keys=self._exportable_keys,
        )

    async def _do(
        self,
        operation: Operation,
        reference: str,
        timeout: float,
        *,
        aad: bytes = b"",
        data_key: bytes | bytearray = b"",
        wrapped: EncryptedDataKey | None = None,
    ) -> Answer:
        """Have it done within the time, with a login if the token wants one."""
        if self._closed:
            raise KeyUnreachable(self._name, reference, "the key store is closed")
        request = self._request(operation, reference, aad=aad, data_key=data_key, wrapped=wrapped)
        deadline = time.monotonic() + timeout
        answer = await self._served(request, timeout)
        if answer.unknown_in:
            worked = await self._recalled(reference, answer.unknown_in, deadline - time.monotonic())
            if worked is not None:
                request = replace(request, worked=worked)
                answer = await self._served(request, deadline - time.monotonic())
        wait = answer.unsettled / 1000
        if answer.error is not None and wait and time.monotonic() + wait + _A_MOMENT < deadline:
            # The key is missing: until it can be told what that means, a revocation would pass for an outage. Here, and
            # not where the module is, which others need.
            await asyncio.sleep(wait + _A_MOMENT)
            answer = await self._served(request, deadline - time.monotonic())
        if answer.error is not None:
            raise self._error(reference, answer)
        if answer.worked is not None and request.history == self._histories.get(reference, 0):
            self._note(reference, answer.worked)
        return answer

    def _note(self, reference: str, worked: Worked) -> None:
        known = self._worked.get(reference)
        self._worked[reference] = worked
        if known is None or (known.serial, known.ways) != (worked.serial, worked.ways):
            for way in worked.ways & WAY_OF.keys():  # a module's process may say anything
                self._uses.note("", self._name, reference, _identity(worked.serial, way))

    async def _recalled(self, reference: str, serial: bytes, timeout: float) -> Worked | None:
        """Where the key worked before this server was started, if it was in the token of this serial number.

        Raises:
            KeyStoreThrottled: That was not found out in time: nobody is told then that it never worked.
        """
        known, (asked_in, asked_at) = self._worked.get(reference), self._recalled_at.get(reference, (b"", 0.0))
        if known is not None or (asked_in == serial and time.monotonic() - asked_at < SECONDS_BETWEEN_RECALLS):
            return known
        task = self._recalls.get((reference, serial))
        if task is None:
            # For all that ask at once, with time of its own: whoever is in a hurry makes nobody else believe anything.
            task = asyncio.ensure_future(self._recall(reference, serial))
            self._recalls[reference, serial] = task
            task.add_done_callback(lambda _: self._recalls.pop((reference, serial), None))
            task.add_done_callback(take_note)
        try:
            async with asyncio.timeout(max(0.0, timeout)):
                return await asyncio.shield(task)
        except TimeoutError:
            cause = "it was not found out in time whether it has worked before"
            raise KeyStoreThrottled(self._name, reference, cause, ours=True) from None

    async def _recall(self, reference: str, serial: bytes) -> Worked | None:
        def ways() -> frozenset[str]:
            until = time.monotonic() + RECALL_SECONDS

            def has_worked(way: str) -> bool:
                left = max(0.0, until - time.monotonic())
                return self._uses.has_worked("", self._name, reference, _identity(serial, way), left)

            return frozenset(filter(has_worked, WAY_OF))

        history = self._histories.get(reference, 0)
        async with self._recalling:  # one after the other: those who wait for a database take no other's thread
            found = await asyncio.to_thread(ways)
        if history == self._histories.get(reference, 0):
            self._recalled_at[reference] = serial, time.monotonic()
        return self._worked.setdefault(reference, Worked(serial, found)) if found else None

    async def _served(self, request: Request, timeout: float) -> Answer:
        reference, deadline = request.reference, time.monotonic() + timeout
        try:
            answer = await self._host.run(request, timeout)
            if answer.login_needed:
                # The task goes on when this caller's time is up: it is for all callers.
                login = asyncio.ensure_future(self._logged_in(request))
                self._logins.add(login)
                login.add_done_callback(self._logins.discard)
                login.add_done_callback(take_note)
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    answer = await asyncio.shield(login)
        except TimeoutError:
            cause = f"the {timeout:g} s that there were have run out"
            raise KeyStoreThrottled(self._name, reference, cause, ours=True) from None
        except ModuleBusy as error:
            raise KeyStoreThrottled(self._name, reference, str(error), ours=True) from error
        except ModuleStuck as error:
            raise KeyUnreachable(self._name, reference, str(error)) from error
        except PinUnusable as error:
            raise KeyMisconfigured(self._name, reference, str(error)) from error
        return answer

    async def _logged_in(self, request: Request) -> Answer:
        """Do it with the PIN. One after the other: a wrong PIN is then tried once, however many callers wait."""
        logins = self._login_count
        async with self._logging_in:
            if self._login_count > logins:  # another has logged in meanwhile
                answer = await self._host.run(request, LOGIN_SECONDS)
                if not answer.login_needed:
                    return answer
            pin = self._pin.read()
            login = Login(pin.encode(), self._pin.refused_before, self._pin.unanswered)
            try:
                answer = await self._host.run(replace(request, login=login), LOGIN_SECONDS)
            except (ModuleStuck, ModuleBusy):  # it may have been under way when the time ran out
                self._pin.was_lost()
                raise
            if answer.login is LoginOutcome.REFUSED:
                self._pin.was_refused()
            elif answer.login is LoginOutcome.UNKNOWN:
                self._pin.was_lost()
            elif answer.login is LoginOutcome.ACCEPTED:
                self._pin.was_accepted()
                self._login_count += 1
            return answer

    def _error(self, reference: str, answer: Answer) -> KeyStoreError:
        kind, cause = answer.error or (KeyUnreachable, "")
        if answer.login is LoginOutcome.REFUSED:
            try:
                self._pin.read()
            except PinUnusable as error:
                cause = str(error)  # which PIN, and what to do
        if kind is KeyStoreThrottled:
            return KeyStoreThrottled(self._name, reference, cause, ours=True)
        return kind(self._name, reference, cause)

    def _data_key(self, reference: str, answer: Answer) -> SecretBytes:
        data_key = SecretBytes(answer.data_key)
        wipe(answer.data_key)
        if len(data_key) != DATA_KEY_LENGTH:
            raise KeyUnreachable(self._name, reference, "the token gave no data key of 32 bytes")
        return data_key

    def _wrapped(self, reference: str, answer: Answer) -> EncryptedDataKey:
        entry = answer.wrapped
        if entry is None or len(entry.ciphertext) != LENGTH_OF.get(entry.provider_id):
            raise KeyUnreachable(self._name, reference, "the token gave no wrapped key of the right length")
        return entry


def _identity(serial: bytes, way: str) -> str:
    """Names a token, and what was done in it: what worked in one was not taken away in another."""
    return f"{serial.hex()} {way}"
