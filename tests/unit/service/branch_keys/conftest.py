from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ownkey_server.storage.database import Database
from support.branches import Instance, instance, tenant_of


@pytest.fixture
def keys_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
async def one(database: Database, keys_folder: Path) -> AsyncIterator[Instance]:
    async with instance(database, keys_folder) as made:
        yield made


@pytest.fixture
async def graced(database: Database, keys_folder: Path) -> AsyncIterator[Instance]:
    async with instance(database, keys_folder, tenants=[tenant_of(grace=120.0)]) as made:
        yield made
