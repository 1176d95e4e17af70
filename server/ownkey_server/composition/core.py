"""What every use case stands on: the database, the key stores, the audit trail, and what is known of tenants."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from ownkey_server.composition.shared_states import open_canaries, open_shared_states
from ownkey_server.domain.approvals import Danger
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.revocations import Revocation
from ownkey_server.keystores import catalog
from ownkey_server.keystores.base import KeyStore
from ownkey_server.keystores.first_uses import FirstUses
from ownkey_server.rpc.identity import DEVELOPMENT
from ownkey_server.service.administration.configuration import Configuration
from ownkey_server.service.administration.desk import Desk, SecondPerson
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.administration.keys import Keys
from ownkey_server.service.administration.retention import AuditRetention
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.audit_setup import configured_retention
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.branch_loans import BranchKeyOptions
from ownkey_server.service.branch_source import BranchSource
from ownkey_server.service.directory import Directory
from ownkey_server.service.first_uses import FirstUsesKept
from ownkey_server.service.key_budgets import KeyBudgets
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.open_streams import OpenStreams
from ownkey_server.service.revocation_effects import KnownRevision, RevocationEffects
from ownkey_server.service.roster import Roster
from ownkey_server.service.shared_states import SharedStates
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.service.stream_checks import StreamCheckOptions, StreamChecks
from ownkey_server.settings import Settings, key_store_options
from ownkey_server.settings.aws import AwsKmsSettings
from ownkey_server.storage import first_uses, key_usage, revocations, upgrade
from ownkey_server.storage.audit.signing import Signer, load_or_make_signer, load_verifier
from ownkey_server.storage.audit.writer import AuditWriter, require_known_signer
from ownkey_server.storage.database import Database
from ownkey_server.storage.views import PrincipalViews, TenantViews

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Core:
    """What every use case stands on."""

    settings: Settings
    clock: Clock
    database: Database
    executor: ThreadPoolExecutor
    signer: Signer
    stores: Mapping[str, KeyStore]
    board: StatusBoard
    ring: KeyRing
    source: BranchSource
    branches: BranchKeys
    directory: Directory
    roster: Roster
    audit: AuditLog
    desk: Desk
    uses_writer: AuditWriter
    open_streams: OpenStreams
    stream_checks: StreamChecks
    revocation_effects: RevocationEffects
    shared_states: SharedStates

    @property
    def kinds(self) -> Mapping[str, str]:
        """The kind of each key store."""
        return {name: section.kind for name, section in self.settings.key_stores.items()}

    @property
    def canaries(self) -> Mapping[str, tuple[str, ...]]:
        """The provider's own keys by which key stores prove our identity, by the store's name."""
        sections = self.settings.key_stores.items()
        return {name: one.options().all_canary_keys for name, one in sections if isinstance(one, AwsKmsSettings)}

    def retention(self) -> AuditRetention:
        """How long audit records are kept."""
        guarded = Danger.RETENTION in self.settings.authorization.second_person
        return AuditRetention(self.desk, configured_retention(self.settings.audit), guarded=guarded)

    def configuration(self) -> Configuration:
        """Applies and exports documents."""
        enrolment = Enrolment(self.ring)
        return Configuration(self.desk, Keys(self.desk, enrolment, self.kinds, self.canaries), enrolment, self.kinds)


def open_key_stores(settings: Settings, uses: FirstUses | None = None) -> Mapping[str, KeyStore]:
    """The key stores of the settings, by name.

    Args:
        settings: Everything that can be set.
        uses: Which keys have ever worked; None where there is no database to know it.
    """
    modules = catalog.Modules(lock_memory=settings.server.lock_memory)
    return {
        name: catalog.open_key_store(name, key_store_options(section), modules, uses)
        for name, section in settings.key_stores.items()
    }


def open_database(settings: Settings) -> Database:
    """The database of the settings, with the schema that this version needs.

    A new SQLite file gets it at once; anything else is brought up to date by ``ownkey db upgrade`` alone.

    Raises:
        SchemaMismatch: It has another schema.
        DatabaseUnavailable: It does not answer.
    """
    database = Database(
        settings.storage.url, password=settings.storage.password, connections=settings.storage.connections
    )
    try:
        if database.is_sqlite and upgrade.present(database) is None:
            upgrade.upgrade(database)
            _log.info("made %s", database.place)
        upgrade.require_newest(database)
    except BaseException:
        database.close()
        raise
    return database


@contextlib.asynccontextmanager
async def open_core(settings: Settings, clock: Clock) -> AsyncIterator[Core]:
    """The parts, until the block ends; errors as of :func:`~ownkey_server.main.running_server`."""
    async with contextlib.AsyncExitStack() as stack:
        database = open_database(settings)
        stack.callback(database.close)
        signer, made = load_or_make_signer(settings.audit.signing_key_file, settings.audit.signing_key_passphrase)
        if made:
            _log.info("made the audit's signing key %s", settings.audit.signing_key_file)
        known = signer.verifier.fingerprints | load_verifier(settings.audit.public_key_files).fingerprints
        require_known_signer(database, known)
        executor = ThreadPoolExecutor(settings.storage.connections, "storage")
        stack.callback(executor.shutdown, wait=False)
        notes = ThreadPoolExecutor(1, "first-uses")
        stack.callback(notes.shutdown, wait=False, cancel_futures=True)
        remember, recall = partial(first_uses.remember, database, clock), partial(first_uses.has_worked, database)
        stores = open_key_stores(settings, FirstUsesKept(remember, recall, notes, executor))
        for store in stores.values():
            stack.push_async_callback(store.close)
        # A connection of its own: no record waits for a reader to give one back.
        trail = Database(settings.storage.url, password=settings.storage.password, connections=2, checked=False)
        stack.callback(trail.close)
        # Before there is a chain: what is in force by now is so before its first use of a key.
        revision = KnownRevision(TenantViews(database).revision())
        uses = AuditWriter(trail, signer, clock, "uses", revision)
        audit = AuditLog(uses, AuditWriter(trail, signer, clock, "changes"), clock)
        await audit.start()
        stack.push_async_callback(audit.close)
        board = StatusBoard(
            timedelta(seconds=settings.keys.evidence_max_age_seconds),
            timedelta(seconds=settings.keys.recovery_seconds),
        )
        directory = Directory(
            TenantViews(database),
            executor,
            capacity=settings.storage.cached_tenants,
            max_age=settings.storage.view_max_age_seconds,
        )
        budgets = KeyBudgets(partial(key_usage.reserve, database), executor)
        timeout = timedelta(seconds=settings.keys.timeout_seconds)
        opened = open_canaries(database, executor, clock)
        ring = KeyRing(
            stores,
            board,
            clock,
            timeout,
            budgets,
            hedge=settings.keys.hedge,
            spread=settings.keys.spread,
            canaries=opened,
        )
        stack.push_async_callback(ring.close)
        source = BranchSource(ring, database, executor, audit, clock)
        branches = BranchKeys(source, board, clock, _branch_key_options(settings))
        stack.push_async_callback(branches.close)
        # Threads and connections of its own: what administrators read keeps no tenant from being loaded.
        offices = ThreadPoolExecutor(2, "administration")
        stack.callback(offices.shutdown, wait=False)
        registry = Database(settings.storage.url, password=settings.storage.password, connections=2)
        stack.callback(registry.close)
        access = settings.authorization
        roster = Roster(
            PrincipalViews(database),
            executor,
            operators=access.operators,
            development=DEVELOPMENT if settings.server.development else None,
            max_age=settings.storage.view_max_age_seconds,
        )
        open_streams = OpenStreams(directory, clock)

        def new_since(revision: int) -> list[Revocation]:
            with database.reading() as connection:
                return revocations.new_since(connection, revision)

        effects = RevocationEffects(directory, open_streams, branches, audit, clock, new_since, executor, revision)
        board.on_revocation(effects.key_taken)
        keys = settings.keys
        checks = StreamChecks(
            open_streams,
            directory,
            board,
            ring.probe,
            clock,
            StreamCheckOptions(keys.stream_check_seconds, keys.stream_check_mib, keys.lease_seconds),
        )
        second_person = SecondPerson(frozenset(access.second_person), timedelta(hours=access.approval_hours))
        desk = Desk(registry, audit, directory, clock, offices, second_person, roster)
        shared = open_shared_states(settings, board, directory, clock, database, notes)
        yield Core(
            settings,
            clock,
            database,
            executor,
            signer,
            stores,
            board,
            ring,
            source,
            branches,
            directory,
            roster,
            audit,
            desk,
            uses,
            open_streams,
            checks,
            effects,
            shared,
        )


def _branch_key_options(settings: Settings) -> BranchKeyOptions:
    keys = settings.keys
    return BranchKeyOptions(
        lease=timedelta(seconds=keys.branch_lease_seconds),
        capacity=settings.storage.cached_tenants * keys.branch_keys_per_tenant,
        max_age=timedelta(days=keys.branch_max_age_days),
    )
