"""The composition root: settings -> parts -> a running server, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

from ownkey_server.keystores import catalog
from ownkey_server.keystores.base import KeyMaker, KeyStore
from ownkey_server.keystores.embedded import EmbeddedKeyStore
from ownkey_server.rpc.key_service import Services
from ownkey_server.rpc.server import Server, ServerOptions
from ownkey_server.service.call_gate import CallGateKeeper
from ownkey_server.service.clock import Clock, system_clock
from ownkey_server.service.data_keys import DataKeys
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.key_status import KeyStatus, Prober
from ownkey_server.service.media import Media
from ownkey_server.service.policy_checks import PolicyChecks
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.settings import Settings, key_store_options
from ownkey_server.storage import tenants_file
from ownkey_server.storage.directory import Directory

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def running_server(settings: Settings, clock: Clock = system_clock) -> AsyncIterator[Server]:
    """A server that serves until the block ends, and is then drained.

    Raises:
        TenantsFileError: The tenants file cannot be used.
        OSError: The address cannot be bound.
    """
    kinds = {name: section.kind for name, section in settings.key_stores.items()}
    directory = tenants_file.load(settings.server.tenants_file, kinds)
    async with contextlib.AsyncExitStack() as stack:
        stores = open_key_stores(settings)
        for store in stores.values():
            stack.push_async_callback(store.close)
        await _make_first_keys(stores, directory)
        board = StatusBoard(timedelta(seconds=settings.keys.evidence_max_age_seconds))
        ring = KeyRing(stores, board, clock, timedelta(seconds=settings.keys.timeout_seconds))
        prober = Prober(
            directory.all_keys(), ring, board, clock, timedelta(seconds=settings.keys.probe_interval_seconds)
        )
        server = await Server.start(_options(settings), _services(settings, directory, ring, board, clock))
        stack.push_async_callback(server.stop, settings.server.drain_seconds)
        probing = asyncio.create_task(prober.run(), name="prober")
        stack.push_async_callback(_cancel, probing)
        _log.info("serving %d tenants on %s", len(directory.tenants), server.address)
        yield server
        _log.info("draining for at most %g s", settings.server.drain_seconds)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_server(settings):
        await stop.wait()


def open_key_stores(settings: Settings) -> Mapping[str, KeyMaker]:
    """The key stores of the settings, by name."""
    modules = catalog.Modules()
    return {
        name: catalog.open_key_store(name, key_store_options(section), modules)
        for name, section in settings.key_stores.items()
    }


async def _make_first_keys(stores: Mapping[str, KeyStore], directory: Directory) -> None:
    """Make every key that the tenants file names in an embedded store that never had one.

    In a store that has, or had, keys, a missing one is not made anew: its content would be lost without a word, and new
    content be under another key.
    """
    new = {name: store for name, store in stores.items() if isinstance(store, EmbeddedKeyStore) and store.is_new}
    for key in directory.all_keys():
        if key.store in new:
            await new[key.store].create(key.reference)
            _log.info("made key %r in key store %r", key.reference, key.store)


def _options(settings: Settings) -> ServerOptions:
    return ServerOptions(
        listen=settings.server.listen,
        reflection=settings.server.reflection,
        max_message_bytes=settings.server.max_message_bytes,
        max_concurrent_streams=settings.server.max_concurrent_streams,
    )


def _services(settings: Settings, directory: Directory, ring: KeyRing, board: StatusBoard, clock: Clock) -> Services:
    data_keys = DataKeys(directory, ring, clock, timedelta(seconds=settings.keys.lease_seconds))
    return Services(
        data_keys=data_keys,
        media=Media(data_keys, clock),
        policy_checks=PolicyChecks(directory, board, clock),
        key_status=KeyStatus(directory, board, clock),
        call_gate=CallGateKeeper(directory, board, clock, timedelta(seconds=settings.call_gate.answer_valid_seconds)),
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
