"""Learns of changes that any instance made: at once where PostgreSQL tells, and by asking again everywhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.storage.database import Database
from ownkey_server.storage.registry import CHANNEL
from ownkey_server.storage.views import Changes, TenantViews

_log = logging.getLogger(__name__)

# Short enough for a change to be in force everywhere within a second, even where nothing tells of it.
POLL_SECONDS = 0.25
# A database that hangs must not keep a server from ending.
STOP_SECONDS = 5.0


class ChangeFeed:
    """A thread that asks for changes, and hands them on.

    Args:
        database: Where it asks, by connections of its own.
        tell: Called on the thread with the monotonic time at which the question began, and the changes. It is called
            after every question, for no news is news too; when it raises :class:`DatabaseUnavailable`, the same changes
            come again.
        also: Called on the thread after that, with the database, for whoever hears of more than of tenants; what it
            raises counts as this feed's own failure.
        poll: Seconds between two questions where nothing tells of changes.
    """

    def __init__(
        self,
        database: Database,
        tell: Callable[[float, Changes], None],
        also: Callable[[Database], None] = lambda _: None,
        poll: float = POLL_SECONDS,
    ) -> None:
        # Connections of its own, one to listen and one to ask: whoever loads tenants must not keep it waiting.
        self._database = Database(database.url.render_as_string(hide_password=False), connections=2)
        self._views = TenantViews(self._database)
        self._tell = tell
        self._also = also
        self._poll = poll
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="change-feed", daemon=True)
        self._listening: Connection | None = None
        self._revision: int | None = 0
        self._away = False

    def start(self, revision: int) -> None:
        """Tell of every change after ``revision``."""
        self._revision = revision
        self._thread.start()

    def stop(self) -> None:
        """End, within the time of one question; one that hangs is left to itself, and tells nobody any more."""
        self._stopping = True
        self._wake.set()
        self._thread.join(STOP_SECONDS)

    def ask_now(self) -> None:
        """This process has changed something: do not wait until it is time to ask. From any thread."""
        if self._database.is_sqlite:  # PostgreSQL tells
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            try:
                began = time.monotonic()
                changes = self._views.changes_since(self._revision)
                self._tell(began, changes)
                self._revision = changes.revision
                self._also(self._database)
                if self._away:
                    _log.warning("the database answers again")
                    self._away = False
                self._wait()
            except DatabaseUnavailable as error:
                if not self._away:
                    _log.error("the database does not answer: %s", error.cause)
                    self._away = True
                # What answers next may be an older copy, whose numbers have caught up: everything counts as changed.
                self._revision = None
                self._hang_up()
                self._rest(self._poll)
            except Exception:  # noqa: BLE001 - logged whole
                # Without word from here the views grow old, and nothing is decided by them any more.
                _log.exception("the feed of changes failed")
                self._revision = None
                self._hang_up()
                self._rest(1.0)
        self._hang_up()
        self._database.close()

    def _rest(self, seconds: float) -> None:
        # What is changed from here on wakes it again: the question that follows began after this.
        if self._wake.wait(seconds) and not self._stopping:
            self._wake.clear()

    def _wait(self) -> None:
        """Until something may have changed."""
        if self._database.is_sqlite:
            self._rest(self._poll)
            return
        try:
            if self._listening is None:
                # Listening begins between two questions, and the next question follows at once: nothing falls between.
                connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(sa.text(f"LISTEN {CHANNEL}"))
                self._listening = connection
                return
            driver = cast("psycopg.Connection[Any]", self._listening.connection.driver_connection)
            for _ in driver.notifies(timeout=self._poll, stop_after=1):
                pass
        except (exc.DBAPIError, psycopg.Error) as error:
            raise DatabaseUnavailable(str(error).strip()) from error

    def _hang_up(self) -> None:
        if self._listening is not None:
            connection, self._listening = self._listening, None
            connection.invalidate()
            connection.close()
