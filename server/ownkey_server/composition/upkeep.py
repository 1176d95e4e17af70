"""What goes on beside the calls: changes are heard of, and the audit trail is looked after."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from ownkey_server.composition.core import Core
from ownkey_server.composition.shared_states import StateFeed
from ownkey_server.domain.approvals import Danger
from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.service.audit_setup import open_keeper
from ownkey_server.service.notifications.courier import Courier
from ownkey_server.storage.audit.keeper import AuditKeeper
from ownkey_server.storage.audit.sink import SinkError
from ownkey_server.storage.change_feed import ChangeFeed
from ownkey_server.storage.database import Database
from ownkey_server.storage.sink_notices import SinkNotices
from ownkey_server.storage.views import Changes

_log = logging.getLogger(__name__)

FEED_SECONDS = 5.0


@contextlib.asynccontextmanager
async def fed(core: Core, revision: int, courier: Courier) -> AsyncIterator[None]:
    """While the block runs, the directory hears of every change, and the courier of every notice."""
    loop = asyncio.get_running_loop()

    async def hear(began: float, changes: Changes) -> None:
        core.roster.changed(began, changes)
        await core.directory.changed(began, changes)
        courier.changed(changes.notices)
        await core.revocation_effects.changed(changes.revision, changes.tenants)

    def tell(began: float, changes: Changes) -> None:
        told = asyncio.run_coroutine_threadsafe(hear(began, changes), loop)
        try:
            told.result(FEED_SECONDS)
        except TimeoutError:
            told.cancel()
            raise DatabaseUnavailable("the event loop is too busy to hear of changes") from None

    states = StateFeed(core.shared_states, loop, core.clock, core.board.max_age)
    feed = ChangeFeed(core.database, tell, states.ask)
    core.desk.on_change(feed.ask_now)
    core.shared_states.on_written(feed.ask_now)
    feed.start(revision)
    try:
        yield
    finally:
        await asyncio.to_thread(feed.stop)


@contextlib.asynccontextmanager
async def looked_after(core: Core) -> AsyncIterator[None]:
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

    sink_notices = SinkNotices(database, core.clock)

    def looked(failure: str) -> None:
        if core.settings.audit.sink is not None:
            _tell_of_sink(sink_notices, failure)

    async def keep() -> None:
        while True:
            await asyncio.sleep(core.settings.audit.checkpoint_seconds)
            try:
                await loop.run_in_executor(thread, one_round)
                await loop.run_in_executor(thread, looked, "")
            except SinkError as error:
                _log.error("the audit trail is not looked after, for its sink cannot be used: %s", error)
                await loop.run_in_executor(thread, looked, str(error))
            except DatabaseUnavailable as error:
                _log.warning("the audit trail was not looked after: %s", error.cause)
            except Exception:  # noqa: BLE001 - logged whole
                _log.exception("the audit trail was not looked after")

    task = asyncio.create_task(keep(), name="audit-keeper")
    try:
        yield
    finally:
        await cancel(task)
        # What it is at can be done again; it holds up no drain.
        thread.shutdown(wait=False)
        database.close()


def _tell_of_sink(notices: SinkNotices, failure: str) -> None:
    try:
        if failure:
            notices.failed(failure)
        else:
            notices.works()
    except DatabaseUnavailable as error:
        _log.warning("the provider was not told of the audit trail's sink: %s", error.cause)


async def cancel(task: asyncio.Task[None]) -> None:
    """End a task, and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
