"""The one way to use a key: find its store, ask it within the deadline, and remember what that showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyNotFound,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.keystores.base import GeneratedDataKey, KeyStore
from ownkey_server.service.clock import Clock
from ownkey_server.service.status_board import StatusBoard


class KeyRing:
    """The key stores of this server, and what is known of the keys in them.

    Args:
        stores: By name.
        board: Where every use leaves its evidence.
        timeout: How long a key store may take for one call.
    """

    def __init__(self, stores: Mapping[str, KeyStore], board: StatusBoard, clock: Clock, timeout: timedelta) -> None:
        self._stores = stores
        self._board = board
        self._clock = clock
        self._timeout = timeout.total_seconds()

    async def generate(self, key: CustomerKey, context: Mapping[str, str], remaining: float | None) -> GeneratedDataKey:
        """A fresh data key, wrapped under ``key`` and no other.

        Args:
            key: The key that policy named.
            context: The encryption context to bind.
            remaining: Seconds that the caller is still waiting, if it said so.

        Raises:
            KeyStoreError: The key cannot be used; no other is tried.
        """
        store = self._stores[key.store]
        try:
            generated = await store.generate_data_key(key.reference, context, self._limit(remaining))
        except KeyStoreError as error:
            self._board.saw_error(key.name, error, self._clock())
            raise
        self._board.saw(key.name, KeyState.AVAILABLE, "", self._clock())
        return generated

    async def unwrap(
        self, key: CustomerKey, wrapped: EncryptedDataKey, context: Mapping[str, str], remaining: float | None
    ) -> SecretBytes:
        """The data key that was wrapped under ``key``; arguments and errors as for :meth:`generate`."""
        store = self._stores[key.store]
        try:
            data_key = await store.unwrap(key.reference, wrapped, context, self._limit(remaining))
        except KeyUnreachable as error:
            self._board.saw_error(key.name, error, self._clock())
            raise
        except (CiphertextInvalid, KeyStoreThrottled):
            raise
        except KeyStoreError:
            # The store answers, and says that this may not be opened. That may be the ciphertext's doing, which anybody
            # can send: what the key's state is, only what it does with bytes of our own tells.
            await self.probe(key)
            raise
        self._board.saw(key.name, KeyState.AVAILABLE, "", self._clock())
        return data_key

    async def probe(self, key: CustomerKey) -> None:
        """Use the key both ways on throw-away bytes, to learn its state."""
        description = await self._stores[key.store].describe(key.reference, self._timeout)
        if description.state is not KeyState.UNKNOWN:
            self._board.saw(key.name, description.state, description.cause, self._clock())

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
                if self._stores[key.store].recognizes(key.reference, entry):
                    return key, entry
        raise KeyNotFound(tenant.id, "none of its keys made this ciphertext")

    def _limit(self, remaining: float | None) -> float:
        return self._timeout if remaining is None else max(0.0, min(self._timeout, remaining))
