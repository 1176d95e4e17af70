"""One server for all attacks on the transport: what one leaves behind, the next would meet."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from support import server
from support.attacks import Process
from support.server import ServerProcess

# Short, so that a test sees them reached.
LIMITS = """
[limits]
handshake_seconds = 4
connection_idle_seconds = 4
ping_timeout_seconds = 3
keepalive_seconds = 5
stream_idle_seconds = 4
request_seconds = 4
stream_write_seconds = 1.5
stream_seconds = 6
stream_bytes = 8_388_608
stream_progress_seconds = 2
"""


@pytest.fixture(scope="package")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server as its users run it, with short limits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with server.process(tmp_path_factory.mktemp("victim"), extra=LIMITS) as running:
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def process(victim: ServerProcess) -> Process:
    """What the server uses."""
    return Process(victim.pid)
