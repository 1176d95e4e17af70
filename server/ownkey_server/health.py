"""Ask a server on this machine whether it serves: ``python -m ownkey_server.health [ADDRESS]``. For container engines.

It asks in clear, at ``server.health_listen`` of the settings, or at ``server.listen`` where that has no TLS. Exit code
0 when it serves, 1 when it does not or cannot be reached.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ownkey_server.rpc.contract import SERVICE_NAME
from ownkey_server.settings import ServerSettings, SettingsError, load

TIMEOUT_SECONDS = 2.0


def serving(address: str) -> bool:
    """Whether the server at ``address`` says that it serves."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def address() -> str:
    """Where to ask: by the settings, as ``ownkey serve`` finds them."""
    try:
        server = load(Path(os.environ.get("OWNKEY_CONFIG", "ownkey.toml"))).server
    except SettingsError:
        server = ServerSettings()
        return os.environ.get("OWNKEY_SERVER__LISTEN", server.listen)
    if server.tls and not server.health_listen:
        print("server.health_listen is not set, and server.listen speaks TLS: nobody can ask", file=sys.stderr)
    return server.health_listen or server.listen


def main() -> int:
    """The command."""
    return 0 if serving(sys.argv[1] if len(sys.argv) > 1 else address()) else 1


if __name__ == "__main__":
    sys.exit(main())
