"""A server with two tenants that gate their calls in different ways, and Kamailio in front of a callee."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ownkey import Client
from support import kamailio, server
from support.kamailio import Kamailio
from support.server import ServerProcess, wait_until
from support.tcp_gate import TcpGate

QUIET = """
[[tenants]]
id = "quiet"
enrolled_at = 2026-01-01T00:00:00Z
[[tenants.keys]]
id = "main"
key_store = "embedded"
reference = "quiet-main"
[tenants.call_gate]
mode = "allow_no_recording"
countries = ["DE"]
[tenants.policy]
default = "key:main"
"""


@pytest.fixture(scope="module")
def ownkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server: `acme` refuses calls without a key, `quiet` does not record them."""
    tenants = (server.TEMPLATES / "tenants.toml").read_text(encoding="utf-8") + QUIET
    with server.process(tmp_path_factory.mktemp("server"), tenants=tenants) as running:
        for tenant in ("acme", "quiet"):
            until(running, tenant, "allow")
        yield running


@pytest.fixture(scope="module")
def door(ownkey: ServerProcess) -> Iterator[TcpGate]:
    """What stands between Kamailio and the server, to be shut."""
    gate = TcpGate(int(ownkey.address.rpartition(":")[2])).start()
    yield gate
    gate.stop()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, ownkey: ServerProcess) -> Iterator[Kamailio]:
    """Kamailio that asks the server."""
    with kamailio.process(tmp_path_factory.mktemp("kamailio") / "ownkey", ownkey.address) as running:
        yield running


def until(running: ServerProcess, tenant: str, decision: str) -> None:
    """Wait until the server says so of the tenant's calls."""
    with Client(running.address) as client:
        wait_until(
            lambda: (
                client.authorize_call(tenant, "poll", "sip:+15551230000@x", stores=("phone_recording",)).decision
                == decision
            ),
            f"calls of {tenant} got {decision}",
        )
