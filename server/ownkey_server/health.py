"""Ask a server on this machine whether it serves: ``python -m ownkey_server.health [ADDRESS]``. For container engines.

Exit code 0 when it does, 1 when it does not or cannot be reached.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ownkey_server.rpc.contract import SERVICE_NAME
from ownkey_server.settings import ServerSettings

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


def main() -> int:
    """The command."""
    default = os.environ.get("OWNKEY_SERVER__LISTEN", ServerSettings().listen)
    return 0 if serving(sys.argv[1] if len(sys.argv) > 1 else default) else 1


if __name__ == "__main__":
    sys.exit(main())
