"""The composition root: settings -> parts -> a running server, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from ownkey_server.domain.approvals import Danger
from ownkey_server.domain.audit import SERVER
from ownkey_server.domain.clock import Clock, system_clock
from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.keystores import catalog
from ownkey_server.keystores.base import KeyStore
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.keystores.first_uses import FirstUses
from ownkey_server.rpc.admin_service import AdminServices
from ownkey_server.rpc.dispatch import Gates
from ownkey_server.rpc.identity import DEVELOPMENT, Authenticator
from ownkey_server.rpc.key_service import Services
from ownkey_server.rpc.server import Server, ServerOptions
from ownkey_server.rpc.stream_guard import Streams, stream_limits
from ownkey_server.rpc.transport import transport_limits
from ownkey_server.service.administration.approvals import Approvals
from ownkey_server.service.administration.audit_trail import AuditTrail
from ownkey_server.service.administration.branch_keys import BranchKeyOffice
from ownkey_server.service.administration.configuration import Configuration
from ownkey_server.service.administration.desk import Act, Desk, SecondPerson
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.administration.groups import Groups
from ownkey_server.service.administration.keys import Keys
from ownkey_server.service.administration.policies import Policies
from ownkey_server.service.administration.principals import Principals
from ownkey_server.service.administration.retention import AuditRetention
from ownkey_server.service.administration.simulation import Simulation
from ownkey_server.service.administration.tenants import Tenants
from ownkey_server.service.admission import Admission, AdmissionLimits, Priority
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.audit_setup import configured_retention, open_keeper
from ownkey_server.service.authorization import Authorizer
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.branch_loans import BranchKeyOptions
from ownkey_server.service.branch_source import BranchSource
from ownkey_server.service.call_gate import CallGateKeeper
from ownkey_server.service.data_keys import DataKeys
from ownkey_server.service.directory import Directory
from ownkey_server.service.first_uses import FirstUsesKept
from ownkey_server.service.key_budgets import KeyBudgets
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.key_status import KeyStatus
from ownkey_server.service.media import Media
from ownkey_server.service.policy_checks import PolicyChecks
from ownkey_server.service.probes import Probes
from ownkey_server.service.rates import Rate, RateLimits, Rates
from ownkey_server.service.refusals import Refusals
from ownkey_server.service.rewrapping import Rewraps
from ownkey_server.service.roster import Roster
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.service.store_checks import warn_of_unusable
from ownkey_server.service.strangers import Budget, Strangers
from ownkey_server.settings import Settings, key_store_options, require_known_callers
from ownkey_server.settings.aws import AwsKmsSettings
from ownkey_server.settings.limits import LimitSettings
from ownkey_server.storage import first_uses, key_usage, tenants_file, upgrade
from ownkey_server.storage.audit.keeper import AuditKeeper
from ownkey_server.storage.audit.signing import Signer, load_or_make_signer, load_verifier
from ownkey_server.storage.audit.sink import SinkError
from ownkey_server.storage.audit.writer import AuditWriter, require_known_signer
from ownkey_server.storage.change_feed import ChangeFeed
from ownkey_server.storage.database import Database
from ownkey_server.storage.documents import TenantsDocument
from ownkey_server.storage.views import Changes, PrincipalViews, TenantViews

_log = logging.getLogger(__name__)

FIRST_ACT = Act(SERVER, reason="the first start")
START = Act(SERVER, reason="as the settings say")
FEED_SECONDS = 5.0


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

    @property
    def kinds(self) -> Mapping[str, str]:
        """The kind of each key store."""
        return {name: section.kind for name, section in self.settings.key_stores.items()}

    @property
    def canaries(self) -> Mapping[str, str]:
        """The provider's own keys by which key stores prove our identity, by the store's name."""
        sections = self.settings.key_stores.items()
        return {name: one.canary_key for name, one in sections if isinstance(one, AwsKmsSettings) and one.canary_key}

    def retention(self) -> AuditRetention:
        """How long audit records are kept."""
        guarded = Danger.RETENTION in self.settings.authorization.second_person
        return AuditRetention(self.desk, configured_retention(self.settings.audit), guarded=guarded)

    def configuration(self) -> Configuration:
        """Applies and exports documents."""
        enrolment = Enrolment(self.ring)
        return Configuration(self.desk, Keys(self.desk, enrolment, self.kinds, self.canaries), enrolment, self.kinds)


@contextlib.asynccontextmanager
async def running_server(
    settings: Settings, clock: Clock = system_clock, *, share_port: bool = False
) -> AsyncIterator[Server]:
    """A server that serves until the block ends, and is then drained.

    Args:
        settings: Everything that can be set.
        clock: Tells the time.
        share_port: Others serve on the same port, beside this one.

    Raises:
        SchemaMismatch: The database is of another version.
        DatabaseUnavailable: It does not answer.
        TenantsFileError: The tenants file cannot be used.
        OwnkeyError: The tenants file asks for what cannot be done, such as a key that does not work.
        OSError: The address cannot be bound.
        SettingsError: Nothing says who calls.
        UnusableFile: A certificate, its key or a list cannot be used.
    """
    require_known_callers(settings)
    async with contextlib.AsyncExitStack() as stack:
        core = await stack.enter_async_context(_core(settings, clock))
        views = TenantViews(core.database)
        revision = await _first_view(core, views)
        await core.retention().settle(START)
        await stack.enter_async_context(_fed(core, revision))
        probes = Probes(
            core.directory, core.ring, core.board, clock, timedelta(seconds=settings.keys.probe_interval_seconds)
        )
        stack.push_async_callback(probes.close)
        await stack.enter_async_context(_looked_after(core))
        authorizer = Authorizer(core.roster)
        refusals = Refusals(core.audit, clock)
        refusals.start()
        stack.push_async_callback(refusals.close)
        server = await Server.start(
            _options(settings, share_port),
            _gates(core, authorizer, refusals),
            _services(core, probes),
            _admin_services(core, authorizer),
        )
        stack.push_async_callback(server.stop, settings.server.drain_seconds)
        looking = asyncio.create_task(warn_of_unusable(core.stores), name="key-stores")
        stack.push_async_callback(_cancel, looking)
        probing = asyncio.create_task(probes.run(), name="probes")
        stack.push_async_callback(_cancel, probing)
        leases = asyncio.create_task(core.branches.run(), name="branch-keys")
        stack.push_async_callback(_cancel, leases)
        # " on " is for the process that speaks for the port: tools find the address by it.
        where = "sharing" if share_port else "on"
        if server.token_address:
            _log.info("serving with tokens alone at %s", server.token_address)
        _log.info("serving from %s %s %s", core.database.place, where, server.address)
        yield server
        _log.info("draining for at most %g s", settings.server.drain_seconds)


async def prepare(settings: Settings) -> None:
    """What must happen once, before several servers start with these settings: the first schema, keys and tenants.

    Raises:
        As :func:`running_server`.
    """
    require_known_callers(settings)
    async with _core(settings, system_clock) as core:
        await _first_view(core, TenantViews(core.database))


async def serve(settings: Settings, *, share_port: bool = False, on_serving: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_server(settings, share_port=share_port):
        # What was made until here stays for good. Looking through it for garbage stopped all calls for 0.1 s each time.
        gc.collect()
        gc.freeze()
        on_serving()
        await stop.wait()


def open_key_stores(settings: Settings, uses: FirstUses | None = None) -> Mapping[str, KeyStore]:
    """The key stores of the settings, by name.

    Args:
        settings: Everything that can be set.
        uses: Which keys have ever worked; None where there is no database to know it.
    """
    modules = catalog.Modules()
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
async def _core(settings: Settings, clock: Clock) -> AsyncIterator[Core]:
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
        audit = AuditLog(AuditWriter(trail, signer, clock, "uses"), AuditWriter(trail, signer, clock, "changes"), clock)
        await audit.start()
        stack.push_async_callback(audit.close)
        board = StatusBoard(timedelta(seconds=settings.keys.evidence_max_age_seconds))
        directory = Directory(
            TenantViews(database),
            executor,
            capacity=settings.storage.cached_tenants,
            max_age=settings.storage.view_max_age_seconds,
        )
        budgets = KeyBudgets(partial(key_usage.reserve, database), executor)
        timeout = timedelta(seconds=settings.keys.timeout_seconds)
        ring = KeyRing(stores, board, clock, timeout, budgets, hedge=settings.keys.hedge)
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
        second_person = SecondPerson(frozenset(access.second_person), timedelta(hours=access.approval_hours))
        desk = Desk(registry, audit, directory, clock, offices, second_person, roster)
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
        )


async def _first_view(core: Core, views: TenantViews) -> int:
    """Learn what there is to serve, taken over from the tenants file when there is nothing yet; gives its revision.

    Raises:
        As :func:`running_server`.
    """
    revision = await core.desk.on_thread(views.revision)
    try:
        await core.directory.start()
    except LookupError:
        await _take_over_tenants(core)
        await core.directory.start()
    core.roster.start()
    return revision


async def _take_over_tenants(core: Core) -> None:
    path = core.settings.storage.tenants_file
    text = tenants_file.read(path)
    document = tenants_file.parse(text, str(path), core.kinds)
    places = [document.provider_key]
    places += [place for tenant in document.tenants for key in tenant.keys for place in (key, *key.replicas)]
    with contextlib.ExitStack() as firsts:
        embedded = {name: store for name, store in core.stores.items() if isinstance(store, EmbeddedKeyStore)}
        # In a store that has, or had, keys, a missing one is not made anew: its content would be lost without a word.
        new = {name for name, store in embedded.items() if firsts.enter_context(store.first_start())}
        for place in places:
            if place.key_store in new and not embedded[place.key_store].has(place.reference):
                await embedded[place.key_store].create(place.reference)
                _log.info("made key %r in key store %r", place.reference, place.key_store)
        await _apply_first(core, text, path, document)


async def _apply_first(core: Core, text: str, path: Path, document: TenantsDocument) -> None:
    plan = await core.configuration().apply(FIRST_ACT, text, dry_run=False, most=None)
    if plan.applied:
        _log.info(
            "took over %s, with the tenants: %s", path, ", ".join(one.id for one in document.tenants[:10]) or "none"
        )


@contextlib.asynccontextmanager
async def _fed(core: Core, revision: int) -> AsyncIterator[None]:
    """While the block runs, the directory hears of every change."""
    loop = asyncio.get_running_loop()

    async def hear(began: float, changes: Changes) -> None:
        core.roster.changed(began, changes)
        await core.directory.changed(began, changes)

    def tell(began: float, changes: Changes) -> None:
        told = asyncio.run_coroutine_threadsafe(hear(began, changes), loop)
        try:
            told.result(FEED_SECONDS)
        except TimeoutError:
            told.cancel()
            raise DatabaseUnavailable("the event loop is too busy to hear of changes") from None

    feed = ChangeFeed(core.database, tell)
    feed.start(revision)
    try:
        yield
    finally:
        await asyncio.to_thread(feed.stop)


@contextlib.asynccontextmanager
async def _looked_after(core: Core) -> AsyncIterator[None]:
    """While the block runs, the audit trail is sealed, signed, copied and pruned as it becomes due."""
    database = Database(core.settings.storage.url, password=core.settings.storage.password, connections=2)
    thread = ThreadPoolExecutor(1, "audit-keeper")
    loop = asyncio.get_running_loop()
    keepers: list[AuditKeeper] = []

    def one_round() -> None:
        # Opened here and not at the start: a sink that hangs must hold up nobody, and one that is away nothing else.
        if not keepers:
            settings = core.settings
            guarded = Danger.RETENTION in settings.authorization.second_person
            keepers.append(open_keeper(database, core.signer, core.clock, settings.audit, guarded=guarded))
        keepers[0].keep()

    async def keep() -> None:
        while True:
            await asyncio.sleep(core.settings.audit.checkpoint_seconds)
            try:
                await loop.run_in_executor(thread, one_round)
            except SinkError as error:
                _log.error("the audit trail is not looked after, for its sink cannot be used: %s", error)
            except DatabaseUnavailable as error:
                _log.warning("the audit trail was not looked after: %s", error.cause)
            except Exception:  # noqa: BLE001 - logged whole
                _log.exception("the audit trail was not looked after")

    task = asyncio.create_task(keep(), name="audit-keeper")
    try:
        yield
    finally:
        await _cancel(task)
        # What it is at can be done again; it holds up no drain.
        thread.shutdown(wait=False)
        database.close()


def _options(settings: Settings, share_port: bool) -> ServerOptions:
    return ServerOptions(
        listen=settings.server.listen,
        token_listen=settings.server.token_listen or "",
        health_listen=settings.server.health_listen or "",
        tls=settings.server.tls,
        reflection=settings.server.reflection,
        transport=transport_limits(
            settings.limits, settings.server.max_message_bytes, settings.server.max_concurrent_streams
        ),
        share_port=share_port,
    )


def _services(core: Core, probes: Probes) -> Services:
    directory, board, clock, settings = core.directory, core.board, core.clock, core.settings
    lease = timedelta(seconds=settings.keys.lease_seconds)
    data_keys = DataKeys(directory, core.ring, core.branches, core.audit, clock, lease)
    answer_valid = timedelta(seconds=settings.call_gate.answer_valid_seconds)
    return Services(
        data_keys=data_keys,
        rewraps=Rewraps(directory, core.ring, core.branches, core.audit, clock),
        media=Media(data_keys, clock),
        policy_checks=PolicyChecks(directory, board, clock),
        key_status=KeyStatus(directory, board, probes, clock),
        call_gate=CallGateKeeper(directory, board, probes, core.audit, clock, answer_valid),
    )


def _branch_key_options(settings: Settings) -> BranchKeyOptions:
    keys = settings.keys
    return BranchKeyOptions(
        lease=timedelta(seconds=keys.branch_lease_seconds),
        capacity=settings.storage.cached_tenants * keys.branch_keys_per_tenant,
        max_age=timedelta(days=keys.branch_max_age_days),
    )


def _gates(core: Core, authorizer: Authorizer, refusals: Refusals) -> Gates:
    settings, clock = core.settings, core.clock
    server = settings.server
    return Gates(
        authenticator=Authenticator(settings.identity, server.tls, development=server.development, clock=clock),
        authorizer=authorizer,
        rates=Rates(_rate_limits(settings.limits), time.monotonic),
        admission=Admission(_admission_limits(settings.limits), time.monotonic),
        refusals=refusals,
        streams=Streams(stream_limits(settings.limits)),
        strangers=Strangers(Budget(), time.monotonic),
        turned_away=Strangers(Budget(), time.monotonic),
    )


def _rate_limits(limits: LimitSettings) -> RateLimits:
    def rate(per_second: float | None) -> Rate | None:
        return None if per_second is None else Rate(per_second, max(1.0, per_second * limits.burst_seconds))

    return RateLimits(rate(limits.principal_calls_per_second), rate(limits.tenant_calls_per_second))


def _admission_limits(limits: LimitSettings) -> AdmissionLimits:
    # The less urgent leave room for what is more so; limits.streams counts them once more, by caller.
    shares = {Priority.LIVE: 1.0, Priority.PLAYBACK: 0.75, Priority.BACKGROUND: 0.5}
    return AdmissionLimits(streams={one: max(1, int(limits.streams * share)) for one, share in shares.items()})


def _admin_services(core: Core, authorizer: Authorizer) -> AdminServices:
    desk, enrolment = core.desk, Enrolment(core.ring)
    trail = AuditTrail(desk, core.database)
    return AdminServices(
        tenants=Tenants(desk),
        keys=Keys(desk, enrolment, core.kinds, core.canaries),
        branch_keys=BranchKeyOffice(desk, core.ring, core.source, core.branches),
        groups=Groups(desk),
        policies=Policies(desk),
        principals=Principals(desk),
        configuration=core.configuration(),
        simulation=Simulation(desk, trail),
        audit_trail=trail,
        approvals=Approvals(desk, authorizer),
        retention=core.retention(),
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
