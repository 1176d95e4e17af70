"""A server in the test's own event loop, and raw calls to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import server
from support.rpc import Rpc, connected


@pytest.fixture
async def rpc(tmp_path: Path) -> AsyncIterator[Rpc]:
    """Calls to a server of this test alone; its keys are in ``tmp_path / "keys"``."""
    async with server.in_process(tmp_path) as address, connected(address) as calls:
        yield calls
