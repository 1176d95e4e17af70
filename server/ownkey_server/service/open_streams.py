"""Streams that are under way, so that a revocation ends those that it is about, whether or not anything flows."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from ownkey_server.domain.assets import Asset
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import KeyRevoked, OwnkeyError, UseRevoked
from ownkey_server.domain.revocations import Ending, Revocation
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.access import revocation_of
from ownkey_server.service.directory import Directory


class Lease(Protocol):
    """A stream's permission to go on: :class:`~ownkey_server.service.media.StreamLease`."""

    @property
    def is_over(self) -> bool:
        """Whether it has run out."""

    async def require(self) -> None:
        """Return when it holds, or is given anew."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenStream:
    """An object that is being encrypted or decrypted.

    Attributes:
        key: By which its data key was wrapped.
        context: To which that is bound.
        writes: Whether it is being encrypted.
        end: Ends it with an error.
        lease: Its permission to go on.
    """

    asset: Asset
    key: CustomerKey
    context: Mapping[str, str]
    writes: bool
    end: Callable[[OwnkeyError], None]
    lease: Lease


class OpenStreams:
    """The streams of one process. Belongs to one event loop."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._of: dict[str, set[OpenStream]] = {}
        self._ended: Counter[str] = Counter()
        # Those that were told to end, and are not gone yet.
        self._over: set[OpenStream] = set()
        # Streams that a revocation lets finish, by its id; and who is told when the last of them is.
        self._draining: dict[str, set[OpenStream]] = {}
        self._on_drained: list[Callable[[str, str], None]] = []

    @contextlib.asynccontextmanager
    async def under_way(self, stream: OpenStream) -> AsyncIterator[None]:
        """While the block runs, a revocation ends the stream.

        Raises:
            UseRevoked: One did, between the stream's first use of a key and now.
            OwnkeyError: The tenant is not known for certain any more.
        """
        tenant_id = stream.asset.tenant
        streams = self._of.setdefault(tenant_id, set())
        streams.add(stream)
        try:
            # Whoever was told of a revocation before the stream stood here could not end it.
            error = self._against(await self._directory.tenant(tenant_id), stream)
            if error is not None:
                raise error
            yield
        finally:
            streams.discard(stream)
            self._over.discard(stream)
            self._left(stream)
            if not streams and self._of.get(tenant_id) is streams:
                del self._of[tenant_id]

    async def changed(self, tenants: Collection[str] | None) -> None:
        """End what tenants have taken back.

        Args:
            tenants: Those that have changed; None when it may be any.
        """
        for tenant_id in [one for one in self._of if tenants is None or one in tenants]:
            try:
                tenant = await self._directory.tenant(tenant_id)
            except OwnkeyError:
                continue  # without it their leases are not given anew either
            for stream in list(self._of.get(tenant_id, ())):
                error = self._against(tenant, stream)
                if error is not None:
                    self._end(stream, error)

    def __iter__(self) -> Iterator[OpenStream]:
        return iter([stream for streams in self._of.values() for stream in streams])

    def of_tenant(self, tenant: str) -> list[OpenStream]:
        """A tenant's streams."""
        return list(self._of.get(tenant, ()))

    def take_back(self, revocation: Revocation) -> int:
        """End the streams that a revocation is about; gives how many it has ended, until now and with these."""
        now = self._clock()
        error = UseRevoked(revocation.tenant, revocation.id, revocation.reason)
        for stream in self.of_tenant(revocation.tenant):
            if not _is_let_finish(revocation, stream) and self._is_about(revocation, stream, now):
                self._end(stream, error)
        return self._ended.pop(revocation.id, 0)

    def would_end(self, revocation: Revocation) -> tuple[int, int]:
        """How many streams a revocation would end, and how many it would let finish."""
        now = self._clock()
        about = [one for one in self.of_tenant(revocation.tenant) if self._is_about(revocation, one, now)]
        finishing = sum(_is_let_finish(revocation, one) for one in about)
        return len(about) - finishing, finishing

    def drain(self, revocation: Revocation) -> int:
        """Note which streams a revocation lets finish; gives their number."""
        now = self._clock()
        streams = {
            one
            for one in self.of_tenant(revocation.tenant)
            if one not in self._over and _is_let_finish(revocation, one) and self._is_about(revocation, one, now)
        }
        if streams:
            self._draining[revocation.id] = streams
        return len(streams)

    def on_drained(self, tell: Callable[[str, str], None]) -> None:
        """Have ``tell`` called with tenant and revocation when the last stream is over that it let finish."""
        self._on_drained.append(tell)

    def key_taken(self, key_name: str, replica: str, cause: str) -> int:
        """End the streams under a key that its holder has taken away; gives their number."""
        ended = [one for one in self if one.key.name == key_name]
        for stream in ended:
            stream.end(KeyRevoked(replica, stream.key.primary.reference, cause))
        return len(ended)

    def _end(self, stream: OpenStream, error: UseRevoked) -> None:
        if stream not in self._over:
            self._over.add(stream)
            self._ended[error.revocation] += 1
            stream.end(error)

    def _is_about(self, revocation: Revocation, stream: OpenStream, now: datetime) -> bool:
        tenant = self._directory.last_known(revocation.tenant)
        if tenant is None:
            return True
        alone = replace(tenant, revocations=(revocation,))
        return revocation_of(alone, stream.asset, stream.key, now, stream.context) is not None

    def _left(self, stream: OpenStream) -> None:
        for revocation, streams in list(self._draining.items()):
            if stream in streams:
                streams.discard(stream)
                if not streams:
                    del self._draining[revocation]
                    for tell in self._on_drained:
                        tell(stream.asset.tenant, revocation)

    def _against(self, tenant: Tenant, stream: OpenStream) -> UseRevoked | None:
        """Why a stream may not go on; None when it may."""
        found = revocation_of(tenant, stream.asset, stream.key, self._clock(), stream.context)
        if found is None or _is_let_finish(found, stream):
            return None
        return UseRevoked(tenant.id, found.id, found.reason)


def _is_let_finish(revocation: Revocation, stream: OpenStream) -> bool:
    return revocation.ending is Ending.DRAIN and stream.writes
