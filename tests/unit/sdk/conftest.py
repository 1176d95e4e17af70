"""A service that fails as a test says, over a real connection."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

from ownkey.v1 import key_service_pb2_grpc


class FailingService(key_service_pb2_grpc.KeyServiceServicer):
    """Answers every KeyStatus with ``status``.

    Attributes:
        status: What to fail with.
        calls: How often it was asked.
        address: Where it listens.
    """

    def __init__(self) -> None:
        self.status = status_pb2.Status()
        self.calls = 0
        self.address = ""

    def fail_with(self, code: grpc.StatusCode, message: str, *details: any_pb2.Any) -> None:
        self.status = status_pb2.Status(code=code.value[0], message=message, details=details)
        self.calls = 0

    def KeyStatus(self, request: object, context: grpc.ServicerContext) -> None:  # type: ignore[override]
        self.calls += 1
        context.abort_with_status(rpc_status.to_status(self.status))


@pytest.fixture
def failing_service() -> Iterator[FailingService]:
    service = FailingService()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    key_service_pb2_grpc.add_KeyServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()
