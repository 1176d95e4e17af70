"""Raw gRPC calls for tests: no SDK between the test and the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ownkey.v1 import asset_pb2, key_service_pb2, key_service_pb2_grpc

pb = key_service_pb2
LIMIT = 64 * 1024 * 1024
OPTIONS = (("grpc.max_send_message_length", LIMIT), ("grpc.max_receive_message_length", LIMIT))


def asset(**facts: object) -> asset_pb2.Asset:
    """A phone recording of acme's, or whatever the facts say."""
    default = {"tenant": "acme", "asset_class": asset_pb2.ASSET_CLASS_PHONE_RECORDING, "asset_id": "call-1"}
    return asset_pb2.Asset(**(default | facts))  # type: ignore[arg-type]


@dataclass
class Failure:
    """How a call failed."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    retry: bool = False

    @classmethod
    def of(cls, error: grpc.RpcError) -> Failure:
        """Its status and details."""
        failure = cls(error.code(), error.details() or "")
        status = rpc_status.from_call(error)
        for packed in status.details if status else ():
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if packed.Unpack(info):
                assert info.domain == "ownkey"
                failure.reason, failure.metadata = info.reason, dict(info.metadata)
            elif packed.Unpack(bad):
                failure.fields = {v.field: v.description for v in bad.field_violations}
            else:
                failure.retry = packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        return failure


@dataclass
class Stream:
    """What a media stream gave before it ended."""

    started: object = None
    data: bytes = b""
    failure: Failure | None = None


class Rpc:
    """The service's stub, with the failures of its calls as values."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.channel = channel
        self.stub = key_service_pb2_grpc.KeyServiceStub(channel)

    async def fail(self, method: str, request: object) -> Failure:
        """The failure of a unary call that must fail."""
        try:
            answer = await getattr(self.stub, method)(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            return Failure.of(error)
        raise AssertionError(f"{method} did not fail: {answer}")

    async def stream(
        self, method: str, messages: Iterable[object], on_started: Callable[[], None] = lambda: None
    ) -> Stream:
        """Send all messages and take all answers.

        Through the synchronous stub, in a thread: grpcio's asyncio client loses the status of a call that the server
        ends while it is being written to (grpc issue 36066).
        """
        return await asyncio.to_thread(self._stream, method, iter(messages), on_started)

    def _stream(self, method: str, messages: Iterator[object], on_started: Callable[[], None]) -> Stream:
        result = Stream()
        with grpc.insecure_channel(self.address, options=OPTIONS) as channel:
            stub = key_service_pb2_grpc.KeyServiceStub(channel)
            try:
                for answer in getattr(stub, method)(messages, timeout=30):
                    if answer.WhichOneof("payload") == "started":
                        result.started = answer.started
                        on_started()
                    else:
                        result.data += answer.chunk
            except grpc.RpcError as error:
                result.failure = Failure.of(error)
        return result

    async def encrypt(self, content: bytes, chunk: int = 100_000, **facts: object) -> bytes:
        """An object with that content."""
        start = pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset(**facts)))
        chunks = [pb.EncryptMediaRequest(chunk=content[i : i + chunk]) for i in range(0, len(content), chunk)]
        result = await self.stream("EncryptMedia", [start, *chunks])
        assert result.failure is None, result.failure
        return result.data

    async def decrypt(self, sealed: bytes, chunk: int = 100_000, **facts: object) -> Stream:
        """What comes of sending an object."""
        start = pb.DecryptMediaRequest(start=pb.DecryptMediaStart(asset=asset(**facts)))
        chunks = [pb.DecryptMediaRequest(chunk=sealed[i : i + chunk]) for i in range(0, len(sealed), chunk)]
        return await self.stream("DecryptMedia", [start, *chunks])


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Rpc]:
    """A connection to a server."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        yield Rpc(address, channel)
