from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.admission import Desk, opened


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with opened() as desk:
        yield desk
