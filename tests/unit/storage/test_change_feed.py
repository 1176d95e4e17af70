"""The feed of changes: what this process has changed it hears of at once, and not when it is time to ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey_server.storage import upgrade
from ownkey_server.storage.change_feed import ChangeFeed
from ownkey_server.storage.database import Database

# Nobody waits for it in a test.
NEVER = 3600.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'ownkey.db'}")
    upgrade.upgrade(opened)
    yield opened
    opened.close()


def test_it_asks_at_once_when_it_is_told_that_something_was_changed_and_rests_else(database: Database) -> None:
    asked = threading.Semaphore(0)
    feed = ChangeFeed(database, lambda _began, _changes: None, lambda _: asked.release() and None, poll=NEVER)
    feed.start(0)
    try:
        assert asked.acquire(timeout=20)
        for _ in range(3):
            feed.ask_now()
            assert asked.acquire(timeout=20)
        assert not asked.acquire(blocking=False)
    finally:
        feed.stop()


def test_what_changes_while_it_asks_is_asked_for_again(database: Database) -> None:
    asked, answered = threading.Semaphore(0), threading.Semaphore(0)

    def ask(_: Database) -> None:
        asked.release()
        answered.acquire(timeout=20)

    feed = ChangeFeed(database, lambda _began, _changes: None, ask, poll=NEVER)
    feed.start(0)
    try:
        assert asked.acquire(timeout=20)
        feed.ask_now()
        answered.release()
        assert asked.acquire(timeout=20)
        answered.release()
    finally:
        feed.stop()
