"""A server that tells its callers apart: by certificates on one port, by tokens on another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.access import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server, its authority and its issuer of tokens; shared by the tests of a file."""
    with Lab(Path(tmp_path_factory.mktemp("lab"))).running() as running:
        yield running
