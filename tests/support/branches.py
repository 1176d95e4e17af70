"""Data keys over real key stores and a database, with a clock that a test sets, and every call of a store counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.assets import Asset, AssetClass
from ownkey_server.domain.audit import AuditRecord, Caller
from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.policy import Effect, Outcome, Policy
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, Replica, Tenant
from ownkey_server.keystores.base import (
    GeneratedDataKey,
    KeyDescription,
    KeyMaker,
    KeyStore,
    UnwrappedDataKey,
    WrappedDataKey,
)
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.keystores.probe import PROBE_CONTEXT
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.branch_loans import BranchKeyOptions
from ownkey_server.service.branch_source import BranchSource
from ownkey_server.service.data_keys import DataKeys, IssuedDataKey, OpenedDataKey
from ownkey_server.service.directory import Directory
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.storage.database import Database
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.registry import Change
from support.services import KnownTenants, ListWriter, directory_of

START = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
KEY = "tenants/acme/keys/main"
LEASE = 60.0
PROVIDER = CustomerKey("provider/keys/main", (Replica("keys", "provider"),))


class Clock:
    """Both clocks, moved by the test alone."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class CountedStore:
    """A real key store of which every call is counted, and may be made to fail or to wait.

    Attributes:
        calls: Those for data keys and branch keys.
        probes: Those that only look whether a key works.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self.name = store.name
        self.counts_wraps = store.counts_wraps
        self.calls: list[str] = []
        self.probes: list[str] = []
        self.failure: Callable[[str, str, str], KeyStoreError] | None = None
        self.gate: asyncio.Event | None = None

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        await self._called("generate_data_key", reference, context)
        return await self._store.generate_data_key(reference, context, timeout)

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> WrappedDataKey:
        await self._called("wrap", reference, context)
        return await self._store.wrap(reference, data_key, context, timeout)

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        await self._called("unwrap", reference, context)
        return await self._store.unwrap(reference, wrapped, context, timeout)

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        return self._store.recognizes(reference, wrapped)

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        if self.failure:
            return KeyDescription(KeyState.UNKNOWN)
        return await self._store.describe(reference, timeout)

    async def close(self) -> None:
        await self._store.close()

    async def _called(self, what: str, reference: str, context: Mapping[str, str]) -> None:
        (self.probes if PROBE_CONTEXT.keys() & context.keys() else self.calls).append(what)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure:
            raise self.failure(self.name, reference, "as the test says")


class ScopedStore(CountedStore):
    """The same as a store that serves each tenant in its name, and is told what nobody waits for."""

    def __init__(self, store: KeyStore) -> None:
        super().__init__(store)
        self.behind: list[bool] = []

    def for_tenant(self, tenant: str, *, background: bool = False) -> KeyStore:
        self.behind.append(background)
        return self


class DatabaseWriter(ListWriter):
    """An audit chain in a list, whose changes are made in the real database."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self.before_commit: Callable[[], None] = lambda: None

    def write_with(self, work: Any) -> Any:
        with self._database.writing() as connection:
            records, result = work(connection)
            self.write(records)
            self.before_commit()
        return result


@dataclass
class Instance:
    """One server's parts, as far as data keys need them."""

    clock: Clock
    database: Database
    store: CountedStore
    folder: Path
    known: KnownTenants
    directory: Directory
    board: StatusBoard
    ring: KeyRing
    source: BranchSource
    branches: BranchKeys
    data_keys: DataKeys
    uses: ListWriter
    changes: DatabaseWriter
    tenants: dict[str, Tenant] = field(default_factory=dict)

    @property
    def records(self) -> Sequence[AuditRecord]:
        """What the trail has of uses."""
        return self.uses.records

    async def generate(self, asset: Asset | None = None, remaining: float | None = None) -> IssuedDataKey:
        return await self.data_keys.generate(asset or chat(), {}, remaining, Caller("test"))

    async def unwrap(self, issued: IssuedDataKey, asset: Asset | None = None, **changes: Any) -> OpenedDataKey:
        fields: dict[str, Any] = {"entries": [issued.wrapped], "context": issued.context} | changes
        return await self.data_keys.unwrap(
            asset or chat(),
            fields["entries"],
            fields["context"],
            changes.get("remaining"),
            Caller("test"),
            named_key=changes.get("named_key", issued.key.name),
        )

    def disable(self, reference: str = "acme-main") -> None:
        """A deliberate act of the key's holder."""
        (self.folder / f"{reference}.disabled").touch()

    def enable(self, reference: str = "acme-main") -> None:
        """Undo it."""
        (self.folder / f"{reference}.disabled").unlink()

    def put(self, tenant: Tenant) -> None:
        """Change a tenant, as an administrator would."""
        before = self.known.tenants[tenant.id]
        self.known.tenants[tenant.id] = replace(tenant, revision=before.revision + 1)
        self.directory.forget(tenant.id)

    async def settle(self) -> None:
        """Let what goes on in the background come to its end."""
        self.branches.look_after()
        await self.branches._flights.settle()


def chat(tenant: str = "acme", asset_id: str = "chat-1") -> Asset:
    """A message of the kind that is wrapped by branch keys."""
    return Asset(tenant, AssetClass.TEAM_CHAT, asset_id)


def recording(tenant: str = "acme") -> Asset:
    """A recording, which is wrapped directly."""
    return Asset(tenant, AssetClass.PHONE_RECORDING, "call-1")


def tenant_of(name: str = "acme", grace: float = 0.0, **changes: Any) -> Tenant:
    """A tenant with one key, which protects everything."""
    key = CustomerKey(f"tenants/{name}/keys/main", (Replica("keys", f"{name}-main"),))
    fields: dict[str, Any] = {
        "id": name,
        "enrolled_at": START,
        "keys": {"main": key},
        "policy": Policy((), Outcome(Effect.ALLOW, "main"), outage_grace=grace),
    }
    return Tenant(**(fields | changes))


@contextlib.asynccontextmanager
async def instance(
    database: Database,
    folder: Path,
    clock: Clock | None = None,
    tenants: Sequence[Tenant] = (),
    *,
    capacity: int = 100,
    max_age: timedelta = timedelta(days=30),
    data_key_lease: float = 30.0,
    holder: KeyMaker | None = None,
    scoped: bool = False,
) -> AsyncIterator[Instance]:
    """An instance on a database and a folder of keys, which others may share; or on the keys of another key store."""
    clock = clock or Clock()
    store = holder or EmbeddedKeyStore("keys", folder)
    known = {one.id: one for one in (tenants or [tenant_of()])}
    references = {place.reference for one in known.values() for key in one.keys.values() for place in key.replicas}
    for reference in sorted({"provider", *references}):
        if holder or not (folder / f"{reference}.key").exists():
            await store.create(reference)
    with database.writing() as connection:
        change = Change(connection, clock())
        for one in known:
            if change.tenant(one) is None:
                change.insert_tenant(one, "", START, CallGateTable())
    counted = ScopedStore(store) if scoped else CountedStore(store)
    board = StatusBoard(timedelta(seconds=60))
    ring = KeyRing({"keys": counted}, board, clock, timedelta(seconds=5))
    uses, changes = ListWriter(), DatabaseWriter(database)
    audit = AuditLog(uses, changes, clock, linger=0)
    await audit.start()
    executor = ThreadPoolExecutor(2)
    tenants_known = KnownTenants(known, PROVIDER)
    directory = await directory_of(tenants_known, executor, max_age=1e12)
    source = BranchSource(ring, database, executor, audit, clock)
    options = BranchKeyOptions(timedelta(seconds=LEASE), capacity, max_age)
    branches = BranchKeys(source, board, clock, options, monotonic=clock.monotonic)
    data_keys = DataKeys(directory, ring, branches, audit, clock, timedelta(seconds=data_key_lease))
    try:
        yield Instance(
            clock,
            database,
            counted,
            folder,
            tenants_known,
            directory,
            board,
            ring,
            source,
            branches,
            data_keys,
            uses,
            changes,
            dict(known),
        )
    finally:
        await branches.close()
        await audit.close()
        executor.shutdown()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, and fail when it does not come about."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)
