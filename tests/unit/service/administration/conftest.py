from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, KeyLifecycle, Replica
from ownkey_server.storage.database import Database
from ownkey_server.storage.registry import PROVIDER, Change
from support.office import Office


@pytest.fixture
async def office(database: Database, tmp_path: Path) -> AsyncIterator[Office]:
    with ThreadPoolExecutor(4) as executor:
        made = Office(database, tmp_path / "keys", executor)
        await made.make("provider")
        with database.writing() as connection:
            place = Replica("one", "provider")
            Change(connection, system_clock()).insert_key(
                PROVIDER_KEY_NAME, PROVIDER, KeyLifecycle.ACTIVE, [place], system_clock()
            )
        await made.directory.start()
        await made.audit.start()
        yield made
        await made.audit.close()
        for store in made.stores.values():
            await store.close()
