"""Raw gRPC calls to the control plane for tests: no SDK between the test and the server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from ownkey.v1 import admin_service_pb2_grpc
from support.requests import request_class
from support.rpc import OPTIONS, Failure


class Admin:
    """The stub, by the names of its methods, with the failures of its calls as values."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = admin_service_pb2_grpc.AdminServiceStub(channel)

    async def __call__(self, method: str, **fields: Any) -> Any:
        request = request_class(method)(**fields)
        return await getattr(self._stub, method)(request, timeout=60)

    async def fail(self, method: str, **fields: Any) -> Failure:
        """The failure of a call that must fail."""
        try:
            answer = await self(method, **fields)
        except grpc.aio.AioRpcError as error:
            return Failure.of(error)
        raise AssertionError(f"{method} did not fail: {answer}")


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Admin]:
    """A connection to a server's control plane."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        yield Admin(channel)
