"""Whole objects: content encrypted into the container under a data key of its own, and opened again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from ownkey.container import (
    Decryptor,
    Encryptor,
    Header,
    RangeDecryptor,
    ReaderLimits,
)
from ownkey.frame_lengths import frame_length_of
from ownkey_server.domain.assets import Asset
from ownkey_server.domain.audit import Action, Caller
from ownkey_server.domain.clock import Clock, elapsed
from ownkey_server.domain.errors import KeyStoreThrottled, KeyUnreachable
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.data_keys import DataKeys, IssuedDataKey, OpenedDataKey
from ownkey_server.service.stream_checks import StreamChecks

# What a stream may make this server hold and do: a whole frame in memory, and one cipher call for each.
RETRY_SECONDS = 1.0
"""How long after an outage has shown itself the key store is tried again for a stream."""
READER_LIMITS = ReaderLimits(frame_length=1 << 22, minimum_frame_length=1 << 10)


class StreamLease:
    """The permission to go on with an object, asked for again whenever it has run out.

    So a revocation ends a stream that is under way, within the time of a lease. An outage at its end does not end the
    stream before the evidence that its key works is too old.

    Args:
        until: When it runs out.
        ask: Asks for it again.
        clock: Tells the time.
        monotonic: The present time of a clock that is never set.
        goes_on: Asked in an outage: whether the last evidence that the key works is young enough to go on by.
        check: Has the key asked after, when much has passed since it last was.
        check_bytes: How much that is.
    """

    def __init__(
        self,
        until: datetime,
        ask: Callable[[], Awaitable[OpenedDataKey]],
        clock: Clock,
        monotonic: Callable[[], float] = elapsed,
        *,
        goes_on: Callable[[], bool] = lambda: False,
        check: Callable[[], Awaitable[None]] | None = None,
        check_bytes: int = 1,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._monotonic = monotonic
        self._goes_on = goes_on
        self._check = check
        self._check_bytes = check_bytes
        self._passed = 0
        self._retry_at = float("-inf")
        # The stream itself asks, and who looks after all streams: one of them at a time.
        self._asking = asyncio.Lock()
        self._hold(until)

    async def require(self, size: int = 0) -> None:
        """Return while the lease holds or is given anew.

        Args:
            size: Bytes that are about to pass.

        Raises:
            OwnkeyError: It is not given any more: as :meth:`DataKeys.unwrap`.
        """
        self._passed += size
        if self._check is not None and self._passed >= self._check_bytes:
            self._passed = 0
            await self._check()
        if self._is_to_be_asked():
            async with self._asking:
                if self._is_to_be_asked():
                    await self._renew()

    def _is_to_be_asked(self) -> bool:
        return self.is_over and self._monotonic() >= self._retry_at

    @property
    def is_over(self) -> bool:
        """Whether it has run out."""
        # By both clocks: a system's time that is set back must lengthen no lease.
        return self._clock() >= self._until or self._monotonic() >= self._ends

    async def _renew(self) -> None:
        try:
            opened = await self._ask()
        except (KeyUnreachable, KeyStoreThrottled):
            if not self._goes_on():
                raise
            self._retry_at = self._monotonic() + RETRY_SECONDS
            return
        opened.plaintext.wipe()
        self._hold(opened.lease_expires_at)

    def _hold(self, until: datetime) -> None:
        self._until = until
        self._ends = self._monotonic() + (until - self._clock()).total_seconds()


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object that is being encrypted by ``writer``."""

    key: IssuedDataKey
    writer: Encryptor
    lease: StreamLease


@dataclass(frozen=True, slots=True)
class OpenedObject:
    """An object whose header is authentic and whose key is open; ``reader`` turns the rest into content."""

    key: OpenedDataKey
    reader: Decryptor
    lease: StreamLease


@dataclass(frozen=True, slots=True)
class OpenedRange:
    """The same for a byte range of an object."""

    key: OpenedDataKey
    reader: RangeDecryptor
    lease: StreamLease


class Media:
    """Encrypts and opens objects."""

    def __init__(self, data_keys: DataKeys, checks: StreamChecks, clock: Clock) -> None:
        self._data_keys = data_keys
        self._checks = checks
        self._clock = clock

    async def encrypt(
        self, asset: Asset, extra: Mapping[str, str], frame_length: int, remaining: float | None, caller: Caller
    ) -> NewObject:
        """A data key for the asset and the engine that encrypts with it.

        Args:
            asset: What is encrypted.
            extra: The caller's own pairs for the encryption context.
            frame_length: Plaintext bytes in a frame; 0 chooses by class.
            remaining: Seconds that the caller is still waiting, if it said so.
            caller: Who asks.

        Raises:
            OwnkeyError: As :meth:`DataKeys.generate`.
            LimitExceeded: The encryption context is too large for a header.
        """
        issued = await self._data_keys.generate(asset, extra, remaining, caller, Action.ENCRYPT_MEDIA)
        try:
            encryptor = Encryptor(
                issued.plaintext.reveal(),
                encryption_context=issued.context,
                encrypted_data_keys=[issued.wrapped],
                frame_length=frame_length or frame_length_of(asset.asset_class),
            )
        finally:
            issued.plaintext.wipe()

        def ask() -> Awaitable[OpenedDataKey]:
            return self._data_keys.unwrap(
                asset, [issued.wrapped], issued.context, None, caller, Action.RENEW_LEASE, finishing=True
            )

        return NewObject(issued, encryptor, self._lease(issued.key, issued.lease_expires_at, ask))

    async def open(
        self, header: Header, asset: Asset, expected: Mapping[str, str], remaining: float | None, caller: Caller
    ) -> OpenedObject:
        """Open an object that is the asset's.

        Args:
            header: As it stands in the object; nothing in it is believed before the key and the tag agree.
            asset: What the caller says it is.
            expected: Further pairs that the object's context must hold.
            remaining: Seconds that the caller is still waiting, if it said so.
            caller: Who asks.

        Raises:
            OwnkeyError: As :meth:`DataKeys.unwrap`.
            ContainerError: The header was changed, or the key is not the object's.
        """
        opened, lease = await self._unwrap(header, asset, expected, remaining, caller)
        try:
            return OpenedObject(opened, Decryptor(header, opened.plaintext.reveal(), limits=READER_LIMITS), lease)
        finally:
            opened.plaintext.wipe()

    async def open_range(
        self,
        header: Header,
        asset: Asset,
        expected: Mapping[str, str],
        object_size: int,
        remaining: float | None,
        caller: Caller,
    ) -> OpenedRange:
        """The same for a part of an object of ``object_size`` bytes.

        Raises:
            OwnkeyError: As :meth:`DataKeys.unwrap`.
            ContainerError: As :meth:`open`; also when no object of that header can have that size.
        """
        opened, lease = await self._unwrap(header, asset, expected, remaining, caller)
        try:
            reader = RangeDecryptor(header, opened.plaintext.reveal(), object_size=object_size, limits=READER_LIMITS)
            return OpenedRange(opened, reader, lease)
        finally:
            opened.plaintext.wipe()

    async def _unwrap(
        self, header: Header, asset: Asset, expected: Mapping[str, str], remaining: float | None, caller: Caller
    ) -> tuple[OpenedDataKey, StreamLease]:
        def ask(action: Action, remaining: float | None) -> Awaitable[OpenedDataKey]:
            return self._data_keys.unwrap(
                asset,
                header.encrypted_data_keys,
                header.encryption_context,
                remaining,
                caller,
                action,
                expected=expected,
            )

        opened = await ask(Action.DECRYPT_MEDIA, remaining)
        renew = partial(ask, Action.RENEW_LEASE, None)
        return opened, self._lease(opened.key, opened.lease_expires_at, renew)

    def _lease(self, key: CustomerKey, until: datetime, ask: Callable[[], Awaitable[OpenedDataKey]]) -> StreamLease:
        checks = self._checks
        return StreamLease(
            until,
            ask,
            self._clock,
            goes_on=lambda: checks.goes_on(key),
            check=lambda: checks.check(key),
            check_bytes=checks.check_bytes,
        )
