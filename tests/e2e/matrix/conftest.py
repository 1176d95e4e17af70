"""The walks through the matrix: all at once, and once for all tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import pytest

from e2e.matrix.cells import CELLS
from e2e.matrix.house import House
from e2e.matrix.walk import Walk
from support.softhsm import SoftHsm


@pytest.fixture(scope="package")
def walks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, softhsm: SoftHsm
) -> Mapping[str, Walk]:
    """What was told in each cell that is to be tested, by its id."""
    wanted = {
        item.callspec.id
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    cells = [cell for cell in CELLS if cell.id in wanted]
    with contextlib.ExitStack() as stack:
        house = House(cells, tmp_path_factory.mktemp("matrix"), softhsm, stack)
        return asyncio.run(house.walks())
