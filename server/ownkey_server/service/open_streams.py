"""Streams that are under way, so that a revocation ends those that it is about, whether or not anything flows."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass

from ownkey_server.domain.assets import Asset
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import KeyRevoked, OwnkeyError, UseRevoked
from ownkey_server.domain.revocations import Ending
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.access import revocation_of
from ownkey_server.service.directory import Directory


@dataclass(frozen=True, slots=True, eq=False)
class OpenStream:
    """An object that is being encrypted or decrypted.

    Attributes:
        key: By which its data key was wrapped.
        context: To which that is bound.
        writes: Whether it is being encrypted.
        end: Ends it with an error.
    """

    asset: Asset
    key: CustomerKey
    context: Mapping[str, str]
    writes: bool
    end: Callable[[OwnkeyError], None]


class OpenStreams:
    """The streams of one process. Belongs to one event loop."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._of: dict[str, set[OpenStream]] = {}
        self._ended: Counter[str] = Counter()

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
                    self._ended[error.revocation] += 1
                    stream.end(error)

    def ended_by(self, revocation: str) -> int:
        """How many streams a revocation has ended; asked once."""
        return self._ended.pop(revocation, 0)

    def key_taken(self, key_name: str, replica: str, cause: str) -> None:
        """End the streams under a key that its holder has taken away."""
        for streams in list(self._of.values()):
            for stream in [one for one in streams if one.key.name == key_name]:
                stream.end(KeyRevoked(replica, stream.key.primary.reference, cause))

    def _against(self, tenant: Tenant, stream: OpenStream) -> UseRevoked | None:
        """Why a stream may not go on; None when it may."""
        found = revocation_of(tenant, stream.asset, stream.key, self._clock(), stream.context)
        if found is None or (found.ending is Ending.DRAIN and stream.writes):
            return None
        return UseRevoked(tenant.id, found.id, found.reason)
