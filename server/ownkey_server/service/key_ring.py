"""The one way to use a key: find its stores, have them asked (``replica_walk.py``), and learn what state it is in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from ownkey.container import EncryptedDataKey, parse_raw_aes_provider_info
from ownkey_server.domain.canaries import Canary
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import KeyMisconfigured, KeyNotFound, KeyStoreError, StoreMisconfigured
from ownkey_server.domain.key_history import EvidenceKind
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, Replica, Tenant, tenant_of
from ownkey_server.keystores.aws.arn import ArnInvalid, KeyArn
from ownkey_server.keystores.base import (
    GeneratedDataKey,
    KeyDescription,
    KeyStore,
    Naming,
    Remembering,
    ReWrapper,
    TenantProving,
    TenantScoped,
    UnwrappedDataKey,
    WrappedDataKey,
)
from ownkey_server.service.canaries import Canaries, made
from ownkey_server.service.inquiries import Inquiries
from ownkey_server.service.key_budgets import KeyBudgets
from ownkey_server.service.key_store_calls import Begin, KeyStoreCalls, noted, unrecorded
from ownkey_server.service.replica_walk import HANGS_FROM, Hedges, ReplicaWalk, Use
from ownkey_server.service.status_board import StatusBoard

# Between the two looks that a probe takes before it tells of an outage.
CONFIRM_SECONDS = 0.5
# What a key's holder does: of a key that is retired here, they may have taken the right to wrap alone.
_TAKEN = (KeyState.REVOKED, KeyState.MISCONFIGURED)
NO_STORE = "this server's settings have no such key store"


class KeyRing:
    """The key stores of this server, and what is known of the keys in them.

    Args:
        stores: By name.
        board: Where every use leaves its evidence.
        timeout: How long a key store may take for one call.
        budgets: How often each key may wrap; None counts nothing.
        hedge: Whether a key with several places is opened in the next one early, when the first is late.
        spread: Whether uses of a key with several places begin at them by turns.
        pause: Waits for so many seconds, between the two looks of a probe.
        canaries: Tells keys that were exchanged; None looks for none.
    """

    def __init__(
        self,
        stores: Mapping[str, KeyStore],
        board: StatusBoard,
        clock: Clock,
        timeout: timedelta,
        budgets: KeyBudgets | None = None,
        *,
        hedge: bool = False,
        spread: bool = False,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        canaries: Canaries | None = None,
    ) -> None:
        self._canaries = canaries
        self._pause = pause
        self._budgets = budgets
        self._stores = stores
        self._scoped = {name: store for name, store in stores.items() if isinstance(store, TenantScoped)}
        self._naming = {name: store for name, store in stores.items() if isinstance(store, Naming)}
        self._remembering = {name: store for name, store in stores.items() if isinstance(store, Remembering)}
        self._proving = {name: store for name, store in stores.items() if isinstance(store, TenantProving)}
        self._board = board
        self._clock = clock
        self._timeout = timeout.total_seconds()
        self._hanging: set[tuple[str, str]] = set()
        self._inquiries = Inquiries(self._probe_at)
        # Apart: whoever is denied the key waits for what is found out about that, and not for an outage's sake.
        self._looks = Inquiries(self._probe_at)
        self._walk = ReplicaWalk(
            board,
            clock,
            self._inquiries,
            self._timeout,
            self._is_watched,
            self._is_doubtful,
            looks=self._looks,
            hedge=hedge,
            spread=spread,
        )

    @property
    def hedges(self) -> Hedges:
        """How often a second place was asked early."""
        return self._walk.hedges

    @property
    def store_names(self) -> frozenset[str]:
        """The names of the key stores that there are."""
        return frozenset(self._stores)

    def complaint(self, place: Replica) -> str:
        """Why there can be no key of that name in its store; empty when there can, or when only trying it tells."""
        store = self._naming.get(place.store)
        return "" if store is None else store.complaint(place.reference)

    def forget(self, place: Replica) -> None:
        """Let the key at a place be another from now on; if it is anybody's, its canary must show that it is it."""
        if self._canaries is not None:
            self._canaries.begin_anew(place)
        store = self._remembering.get(place.store)
        if store is not None:
            store.forget(place.reference)

    def wants_proof_of_tenant(self, place: Replica) -> bool:
        """Whether a key there must show whose it is before it is enrolled, by refusing the contexts of others."""
        store = self._proving.get(place.store)
        return store is not None and store.wants_proof_of_tenant

    def is_refusal_of_key(self, place: Replica, error: KeyStoreError) -> bool:
        """Whether an error there is the key's own refusal, and neither an outage nor a fault of ours."""
        store = self._proving.get(place.store)
        return store is not None and store.is_refusal_of_key(error)

    async def generate(
        self,
        key: CustomerKey,
        context: Mapping[str, str],
        remaining: float | None,
        *,
        background: bool = False,
        calls: KeyStoreCalls | None = None,
    ) -> Use[GeneratedDataKey]:
        """A fresh data key, wrapped under ``key`` and no other.

        Args:
            key: The key that policy named.
            context: The encryption context to bind.
            remaining: Seconds that the caller is still waiting, if it said so.
            background: Whether nobody waits for it, so that it comes after all that somebody waits for.
            calls: Takes note of every place that is asked.

        Raises:
            KeyStoreError: The key cannot be used in any of its replicas; no other key is tried.
            DatabaseUnavailable: It is not known whether the key may wrap once more.
        """
        await self._require_wraps(key)

        async def ask(place: Replica, limit: float) -> GeneratedDataKey:
            store, left = await self._same_key(key, place, limit, background=background)
            return await store.generate_data_key(place.reference, context, left)

        begin = _begin(calls, "generate_data_key")
        return await self._walk.first_that_serves(key, ask, remaining, begin=begin)

    async def unwrap(
        self,
        key: CustomerKey,
        wrapped: EncryptedDataKey,
        context: Mapping[str, str],
        remaining: float | None,
        *,
        background: bool = False,
        calls: KeyStoreCalls | None = None,
    ) -> Use[UnwrappedDataKey]:
        """The data key that was wrapped under ``key``; arguments and errors as for :meth:`generate`."""

        async def ask(place: Replica, limit: float) -> UnwrappedDataKey:
            store, left = await self._same_key(key, place, limit, background=background, wraps=False)
            return await store.unwrap(place.reference, wrapped, context, left)

        return await self._walk.first_that_serves(key, ask, remaining, _wipe, _begin(calls, "unwrap"))

    async def wrap(
        self,
        key: CustomerKey,
        data_key: SecretBytes,
        context: Mapping[str, str],
        remaining: float | None,
        *,
        background: bool = False,
        calls: KeyStoreCalls | None = None,
    ) -> Use[WrappedDataKey]:
        """A key that there is already, wrapped under ``key`` too; arguments and errors as for :meth:`generate`."""
        await self._require_wraps(key)

        async def ask(place: Replica, limit: float) -> WrappedDataKey:
            store, left = await self._same_key(key, place, limit, background=background)
            return await store.wrap(place.reference, data_key, context, left)

        return await self._walk.first_that_serves(key, ask, remaining, begin=_begin(calls, "wrap"))

    async def rewrap(
        self,
        source: CustomerKey,
        wrapped: EncryptedDataKey,
        target: CustomerKey,
        context: Mapping[str, str],
        remaining: float | None,
        calls: KeyStoreCalls | None = None,
    ) -> Use[WrappedDataKey] | None:
        """A data key moved from one key to another by a key store alone, in the background.

        Only between the first places of both, so that it goes around nobody's revocation. None where that cannot be, or
        did not succeed: then :meth:`unwrap` and :meth:`wrap` do it, and tell what is wrong. An error here leaves no
        evidence, for it may be about either key.
        """
        place, origin = target.primary, source.primary
        if not target.lifecycle.wraps or place.store != origin.store or source.tenant != target.tenant:
            return None
        store = self._store(target.tenant, place, background=True)
        if not isinstance(store, ReWrapper):
            return None
        limit = self._timeout if remaining is None else min(self._timeout, remaining)
        try:
            asked = store.rewrap(origin.reference, wrapped, context, place.reference, context, limit)
            moved = await noted(_begin(calls, "rewrap")(place.name), asked)
        except KeyStoreError:
            return None
        return Use(moved, place.name)

    async def probe(self, key: CustomerKey) -> None:
        """Use the key both ways on throw-away bytes in each of its replicas, to learn its state, as background work."""
        await asyncio.gather(*(self._probe_at(key, place, background=True) for place in key.replicas))

    def hangs(self, key: str, place: str) -> bool:
        """Whether the last probe of a key at a place had no answer in its time, and may be waiting for one still."""
        return (key, place) in self._hanging

    async def close(self) -> None:
        """End what goes on although nobody waits for it."""
        await self._walk.close()
        await self._inquiries.close()
        await self._looks.close()

    async def describe(self, tenant: str, place: Replica, *, background: bool = False) -> KeyDescription:
        """What a key store says of a key that need not be anybody's yet, asked in a tenant's name."""
        return await self._store(tenant, place, background=background).describe(place.reference, self._timeout)

    async def require_same(self, key: str, place: Replica) -> None:
        """Make sure that the key at a place is the one that it was, unless nothing shows that.

        Raises:
            KeyStoreError: It is another, or cannot be used.
            DatabaseUnavailable: It is not known.
        """
        named = CustomerKey(key, (place,))
        await self._same_key(named, place, self._timeout, background=False, wraps=False)

    async def canary(self, key: str, place: Replica) -> Canary:
        """What shows later that the key at a place is still the one that it is now.

        Raises:
            KeyStoreError: It does not wrap now.
        """
        return await made(key, place, self._store(tenant_of(key), place), self._timeout)

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

    def lost(
        self, tenant: Tenant, provider_key: CustomerKey, entries: Sequence[EncryptedDataKey]
    ) -> tuple[CustomerKey, StoreMisconfigured] | None:
        """A key that may have made one of the entries, and whose key store this server's settings no longer have.

        Asked when no key is known to have made any: what kind of store it was is not known any more, so that an
        entry's name of its key is all there is to judge by.
        """
        for entry in entries:
            for key in (*tenant.keys.values(), provider_key):
                for place in key.replicas if key.lifecycle.unwraps else ():
                    if place.store not in self._stores and _may_name(entry, place.reference):
                        return key, StoreMisconfigured(place.name, place.reference, NO_STORE)
        return None

    async def _same_key(
        self, key: CustomerKey, place: Replica, limit: float, *, background: bool, wraps: bool = True
    ) -> tuple[KeyStore, float]:
        """The store of a place, whose key is the one that it was, and what is left of the seconds."""
        store = self._store(key.tenant, place, background=background)
        # A name in AWS is never another key's. The name of a file or of an object in a token may become so.
        if self._canaries is None or place.store in self._scoped:
            return store, limit
        until = time.monotonic() + limit
        await self._canaries.require_same(key, place, store, limit, wraps=wraps)
        return store, max(0.0, until - time.monotonic())

    async def _require_wraps(self, key: CustomerKey) -> None:
        """Make sure that the key may wrap once more."""
        if not key.lifecycle.wraps:
            raise KeyMisconfigured(key.primary.name, key.primary.reference, f"it is {key.lifecycle}, and wraps nothing")
        if self._budgets is not None and self._is_counted(key.replicas) and not self._budgets.take(key.name):
            await self._budgets.renew(key)

    async def _probe_at(self, key: CustomerKey, place: Replica, *, background: bool = False) -> None:
        counted = self._budgets is not None and self._is_counted((place,))
        if counted and self._budgets is not None and not await self._budgets.take_probe(key):
            return
        began, of = time.monotonic(), (key.name, place.name)
        await self._look(key, place, background=background)
        self._hanging.discard(of)
        if time.monotonic() - began >= HANGS_FROM * self._timeout:
            # The thread that waits for it hangs as long as the key store likes. Another look beside it would take the
            # place of the first that can succeed again; so the next probe, in its own time, is the second look.
            self._hanging.add(of)
        elif self._board.doubts(key.name, place.name):
            # One failure is no outage. The second look is apart in time, so that both have not met the same moment.
            await self._pause(CONFIRM_SECONDS)
            await self._look(key, place, background=background, again=True)

    async def _look(self, key: CustomerKey, place: Replica, *, background: bool, again: bool = False) -> None:
        moment = self._board.moment
        try:
            description = await self.describe(key.tenant, place, background=background)
        except KeyMisconfigured as error:
            self._board.saw_error(key.name, error, self._clock(), EvidenceKind.PROBE)
            return
        if not key.lifecycle.wraps and description.state in _TAKEN and self._canaries is not None:
            store = self._store(key.tenant, place, background=background)
            opens = await self._canaries.still_opens(key, place, store, self._timeout)
            if opens is None:
                description = replace(description, state=KeyState.UNKNOWN)
            elif opens:
                description = replace(description, state=KeyState.AVAILABLE, cause="")
        if description.state is KeyState.MISCONFIGURED and self._canaries is not None:
            await self._canaries.look_again(key, place, self._store(key.tenant, place, background=background))
        if description.state is KeyState.AVAILABLE and self._canaries is not None:
            store = self._store(key.tenant, place, background=background)
            complaint = await self._canaries.complaint(key, place, store, self._timeout)
            self._board.exchanged(key.name, place.name, found=bool(complaint))
            if complaint:
                description = KeyDescription(KeyState.MISCONFIGURED, complaint, description.note)
        self._walk.noted(key, place, description.state)
        if description.state is not KeyState.UNKNOWN:
            self._board.saw(
                key.name,
                place.name,
                description.state,
                description.cause,
                self._clock(),
                began=moment,
                ours=description.ours,
                kind=EvidenceKind.PROBE,
                confirmed=again,
            )
            self._board.saw_note(key.name, place.name, description.note)

    def _store(self, tenant: str, place: Replica, *, background: bool = False) -> KeyStore:
        scoped = self._scoped.get(place.store)
        if scoped is not None:
            return scoped.for_tenant(tenant, background=background)
        store = self._stores.get(place.store)
        if store is None:
            raise StoreMisconfigured(place.name, place.reference, NO_STORE)
        return store

    def _recognizes(self, place: Replica, entry: EncryptedDataKey) -> bool:
        store = self._stores.get(place.store)
        return store is not None and store.recognizes(place.reference, entry)

    def _is_counted(self, places: Sequence[Replica]) -> bool:
        """Whether wraps in one of these places count against what is safe for a key."""
        stores = (self._stores.get(place.store) for place in places)
        return any(store is not None and store.counts_wraps for store in stores)

    def _is_watched(self, key: CustomerKey, place: Replica) -> bool:
        # A key that is in one place of this machine alone is not passed over: nothing would be gained, and files and
        # tokens know by themselves what they need not be asked again.
        return len(key.replicas) > 1 or place.store in self._scoped

    def _is_doubtful(self, place: Replica) -> bool:
        # What is somebody else's may deny us a key for its holder's reasons or for ours; a file or a token is here.
        return place.store in self._scoped


def _may_name(entry: EncryptedDataKey, reference: str) -> bool:
    """Whether an entry names a key of that reference, in the way of any kind of key store."""
    info = entry.provider_info
    if info == reference.encode() or parse_raw_aes_provider_info(info, reference) is not None:
        return True
    try:
        return KeyArn.parse(info.decode()).is_same_key(KeyArn.parse(reference))
    except (ArnInvalid, UnicodeDecodeError):
        return False


def _wipe(opened: UnwrappedDataKey) -> None:
    opened.plaintext.wipe()


def _begin(calls: KeyStoreCalls | None, operation: str) -> Begin:
    return unrecorded if calls is None else calls.of(operation)
