"""A running server, from its settings to its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable

from ownkey_server.composition.core import open_core
from ownkey_server.composition.first_start import first_view
from ownkey_server.composition.notifying import expiry_watch, notifying
from ownkey_server.composition.probing import open_probes
from ownkey_server.composition.upkeep import cancel, fed, looked_after
from ownkey_server.composition.use_cases import admin_services, gates, server_options, services
from ownkey_server.domain.audit import SERVER
from ownkey_server.domain.clock import Clock, system_clock
from ownkey_server.rpc.server import Server
from ownkey_server.service.administration.desk import Act
from ownkey_server.service.authorization import Authorizer
from ownkey_server.service.refusals import Refusals
from ownkey_server.service.store_checks import warn_of_unusable
from ownkey_server.settings import Settings, require_known_callers
from ownkey_server.storage.views import TenantViews

_log = logging.getLogger(__name__)

# A hundred refused calls' garbage is collected at once; what has outlived that is looked at after twenty times as much.
GARBAGE_THRESHOLDS = (5_000, 20, 10)
START = Act(SERVER, reason="as the settings say")


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
        core = await stack.enter_async_context(open_core(settings, clock))
        views = TenantViews(core.database)
        revision = await first_view(core, views)
        await core.retention().settle(START)
        telling = stack.enter_context(notifying(core))
        await stack.enter_async_context(fed(core, revision, telling.courier))
        probes = open_probes(core)
        stack.push_async_callback(probes.close)
        await stack.enter_async_context(looked_after(core))
        authorizer = Authorizer(core.roster)
        refusals = Refusals(core.audit, clock)
        refusals.start()
        stack.push_async_callback(refusals.close)
        plane = services(core, probes)
        stack.callback(plane.call_gate.refusals.flush)
        server = await Server.start(
            server_options(settings, share_port),
            gates(core, authorizer, refusals),
            plane,
            admin_services(core, authorizer, telling.office),
        )
        stack.push_async_callback(server.stop, settings.server.drain_seconds)
        stack.callback(plane.key_watches.close)
        stack.callback(plane.gate_views.close)
        watching = asyncio.create_task(plane.key_watches.run(), name="key-watches")
        stack.push_async_callback(cancel, watching)
        looking = asyncio.create_task(warn_of_unusable(core.stores), name="key-stores")
        stack.push_async_callback(cancel, looking)
        stack.push_async_callback(telling.courier.close)
        delivering = asyncio.create_task(telling.courier.run(), name="notifications")
        stack.push_async_callback(cancel, delivering)
        expiries = expiry_watch(core)
        if expiries is not None:
            looking_ahead = asyncio.create_task(expiries.run(), name="expiries")
            stack.push_async_callback(cancel, looking_ahead)
        sharing = asyncio.create_task(core.shared_states.run(), name="shared-states")
        stack.push_async_callback(cancel, sharing)
        probing = asyncio.create_task(probes.run(), name="probes")
        stack.push_async_callback(cancel, probing)
        leases = asyncio.create_task(core.branches.run(), name="branch-keys")
        stack.push_async_callback(cancel, leases)
        streams = asyncio.create_task(core.stream_checks.run(), name="stream-checks")
        stack.push_async_callback(cancel, streams)
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
    async with open_core(settings, system_clock) as core:
        await first_view(core, TenantViews(core.database))


async def serve(settings: Settings, *, share_port: bool = False, on_serving: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_server(settings, share_port=share_port):
        _seldom_look_for_garbage()
        on_serving()
        await stop.wait()


def _seldom_look_for_garbage() -> None:
    """Have Python's collector stop all calls less often, and for less.

    Hardly anything here is garbage that only the collector finds: some five small objects of grpc.aio for each call,
    and fifty for one that was refused, no message among them. But it looks through all that is there, and with
    thousands of watches these are half a million objects: half a second in which nobody is served, an emergency call
    neither.
    """
    # What was made until here stays for good. Looking through it stopped all calls for 0.1 s each time.
    gc.collect()
    gc.freeze()
    # By Python's own thresholds, 700, 10 and 10, a message to each of 5,000 watchers began a hundred collections.
    gc.set_threshold(*GARBAGE_THRESHOLDS)
