"""Whole objects: content encrypted into the container under a data key of its own, and opened again."""

from __future__ import annotations

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
from ownkey_server.service.data_keys import DataKeys, IssuedDataKey, OpenedDataKey

# What a stream may make this server hold and do: a whole frame in memory, and one cipher call for each.
READER_LIMITS = ReaderLimits(frame_length=1 << 22, minimum_frame_length=1 << 10)


class StreamLease:
    """The permission to go on with an object, asked for again whenever it has run out.

    So a revocation ends a stream that is under way, within the time of a lease.
    """

    def __init__(
        self,
        until: datetime,
        ask: Callable[[], Awaitable[OpenedDataKey]],
        clock: Clock,
        monotonic: Callable[[], float] = elapsed,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._monotonic = monotonic
        self._hold(until)

    async def require(self) -> None:
        """Return while the lease holds or is given anew.

        Raises:
            OwnkeyError: It is not given any more: as :meth:`DataKeys.unwrap`.
        """
        # By both clocks: a system's time that is set back must lengthen no lease.
        if self._clock() >= self._until or self._monotonic() >= self._ends:
            opened = await self._ask()
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

    def __init__(self, data_keys: DataKeys, clock: Clock) -> None:
        self._data_keys = data_keys
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
            return self._data_keys.unwrap(asset, [issued.wrapped], issued.context, None, caller, Action.RENEW_LEASE)

        return NewObject(issued, encryptor, StreamLease(issued.lease_expires_at, ask, self._clock))

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
        return opened, StreamLease(opened.lease_expires_at, renew, self._clock)
