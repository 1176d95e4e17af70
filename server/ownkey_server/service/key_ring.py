"""The one way to use a key: find its stores, ask them in order within the deadline, and remember what that showed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyNotFound,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica, Tenant
from ownkey_server.keystores.base import GeneratedDataKey, KeyDescription, KeyStore, TenantScoped, UnwrappedDataKey
from ownkey_server.service.key_budgets import KeyBudgets
from ownkey_server.service.status_board import StatusBoard

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Use(Generic[T]):
    """What a use of a key gave, and the replica that served."""

    value: T
    replica: str


class KeyRing:
    """The key stores of this server, and what is known of the keys in them.

    Args:
        stores: By name.
        board: Where every use leaves its evidence.
        timeout: How long a key store may take for one call.
        budgets: How often each key may wrap; None counts nothing.
    """

    def __init__(
        self,
        stores: Mapping[str, KeyStore],
        board: StatusBoard,
        clock: Clock,
        timeout: timedelta,
        budgets: KeyBudgets | None = None,
    ) -> None:
        self._budgets = budgets
        self._stores = stores
        self._scoped = {name: store for name, store in stores.items() if isinstance(store, TenantScoped)}
        self._board = board
        self._clock = clock
        self._timeout = timeout.total_seconds()

    @property
    def store_names(self) -> frozenset[str]:
        """The names of the key stores that there are."""
        return frozenset(self._stores)

    async def generate(
        self, key: CustomerKey, context: Mapping[str, str], remaining: float | None
    ) -> Use[GeneratedDataKey]:
        """A fresh data key, wrapped under ``key`` and no other.

        Args:
            key: The key that policy named.
            context: The encryption context to bind.
            remaining: Seconds that the caller is still waiting, if it said so.

        Raises:
            KeyStoreError: The key cannot be used in any of its replicas; no other key is tried.
            DatabaseUnavailable: It is not known whether the key may wrap once more.
        """
        if not key.lifecycle.wraps:
            raise KeyMisconfigured(key.primary.name, key.primary.reference, f"it is {key.lifecycle}, and wraps nothing")

        if self._budgets is not None and not self._budgets.take(key.name):
            await self._budgets.renew(key)

        async def ask(place: Replica, limit: float) -> GeneratedDataKey:
            try:
                return await self._store(key.tenant, place).generate_data_key(place.reference, context, limit)
            except KeyStoreError as error:
                self._board.saw_error(key.name, error, self._clock())
                raise

        return await self._first_that_serves(key, ask, remaining)

    async def unwrap(
        self, key: CustomerKey, wrapped: EncryptedDataKey, context: Mapping[str, str], remaining: float | None
    ) -> Use[UnwrappedDataKey]:
        """The data key that was wrapped under ``key``; arguments and errors as for :meth:`generate`."""

        async def ask(place: Replica, limit: float) -> UnwrappedDataKey:
            try:
                return await self._store(key.tenant, place).unwrap(place.reference, wrapped, context, limit)
            except KeyUnreachable as error:
                self._board.saw_error(key.name, error, self._clock())
                raise
            except (CiphertextInvalid, KeyStoreThrottled):
                raise
            except KeyStoreError:
                # The store answers, and says that this may not be opened. That may be the ciphertext's doing, which
                # anybody can send: what the key's state is, only what it does with bytes of our own tells.
                await self._probe_at(key, place)
                raise

        return await self._first_that_serves(key, ask, remaining)

    async def probe(self, key: CustomerKey) -> None:
        """Use the key both ways on throw-away bytes in each of its replicas, to learn its state."""
        for place in key.replicas:
            await self._probe_at(key, place)

    async def describe(self, tenant: str, place: Replica) -> KeyDescription:
        """What a key store says of a key that need not be anybody's yet, asked in a tenant's name."""
        return await self._store(tenant, place).describe(place.reference, self._timeout)

    async def wrap_at(self, tenant: str, place: Replica, context: Mapping[str, str]) -> GeneratedDataKey:
        """A fresh data key, wrapped at one place, in a tenant's name."""
        return await self._store(tenant, place).generate_data_key(place.reference, context, self._timeout)

    async def unwrap_at(
        self, tenant: str, place: Replica, wrapped: EncryptedDataKey, context: Mapping[str, str]
    ) -> UnwrappedDataKey:
        """A data key, opened at one place, in a tenant's name."""
        return await self._store(tenant, place).unwrap(place.reference, wrapped, context, self._timeout)

    def find(
        self, tenant: Tenant, provider_key: CustomerKey, entries: Sequence[EncryptedDataKey]
    ) -> tuple[CustomerKey, EncryptedDataKey]:
        """The key that made one of the entries: one of the tenant's own or the provider's, by the entry's exact name.

        Entries of any other key are passed over, and none is ever tried to see whether it fits.

        Raises:
            KeyNotFound: None of these keys made any of the entries.
        """
        for entry in entries:
            for key in (*tenant.keys.values(), provider_key):
                if key.lifecycle.unwraps and any(self._recognizes(place, entry) for place in key.replicas):
                    return key, entry
        raise KeyNotFound(tenant.id, "none of its keys made this ciphertext")

    async def _first_that_serves(
        self, key: CustomerKey, ask: Callable[[Replica, float], Awaitable[T]], remaining: float | None
    ) -> Use[T]:
        """Ask each replica in order until one serves. An outage leads to the next, a revocation to nowhere."""
        first: KeyStoreError | None = None
        deadline = None if remaining is None else time.monotonic() + remaining
        left = remaining
        for place in key.replicas:
            if first is not None and deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
            try:
                value = await ask(place, self._limit(left))
            except KeyRevoked:
                raise
            except (KeyUnreachable, KeyStoreThrottled, KeyMisconfigured) as error:
                first = first or error
                continue
            self._board.saw(key.name, place.name, KeyState.AVAILABLE, "", self._clock())
            return Use(value, place.name)
        raise first or KeyMisconfigured("", key.name, "it has no replica")

    async def _probe_at(self, key: CustomerKey, place: Replica) -> None:
        if self._budgets is not None and not await self._budgets.take_probe(key):
            return
        try:
            description = await self.describe(key.tenant, place)
        except KeyMisconfigured as error:
            self._board.saw_error(key.name, error, self._clock())
            return
        if description.state is not KeyState.UNKNOWN:
            self._board.saw(key.name, place.name, description.state, description.cause, self._clock())

    def _store(self, tenant: str, place: Replica) -> KeyStore:
        scoped = self._scoped.get(place.store)
        if scoped is not None:
            return scoped.for_tenant(tenant)
        store = self._stores.get(place.store)
        if store is None:
            raise KeyMisconfigured(place.name, place.reference, "this server's settings have no such key store")
        return store

    def _recognizes(self, place: Replica, entry: EncryptedDataKey) -> bool:
        store = self._stores.get(place.store)
        return store is not None and store.recognizes(place.reference, entry)

    def _limit(self, remaining: float | None) -> float:
        return self._timeout if remaining is None else max(0.0, min(self._timeout, remaining))
