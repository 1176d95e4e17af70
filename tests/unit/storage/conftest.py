from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import audit_trails
from support.audit_trails import Trail
from support.postgres import PostgresServer


@pytest.fixture(scope="session")
def audit_database(postgres: PostgresServer) -> str:
    """One for all: to make one for each test takes longer than most of them."""
    return postgres.new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def trail(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Trail]:
    """An empty audit trail, in each kind of database."""
    url = request.getfixturevalue("audit_database") if request.param == "postgresql" else ""
    with audit_trails.trail(tmp_path, url) as made:
        yield made
