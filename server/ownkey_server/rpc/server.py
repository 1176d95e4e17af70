"""The gRPC server: its methods, its limits, health and reflection."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ownkey.v1 import admin_service_pb2
from ownkey_server.rpc import errors
from ownkey_server.rpc.admin_service import AdminServicer, AdminServices
from ownkey_server.rpc.contract import ADMIN_LIMITS, ADMIN_SERVICE_NAME, SERVICE_NAME, RequestParser, load_contract
from ownkey_server.rpc.key_service import Context, KeyServicer, Services
from ownkey_server.rpc.media_streams import MediaServicer

_log = logging.getLogger(__name__)

MIB = 1024 * 1024
SERVICE_NAMES = (SERVICE_NAME, ADMIN_SERVICE_NAME)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What can be set about the listener.

    Attributes:
        listen: ``HOST:PORT`` or ``unix:PATH``; port 0 takes a free one.
        max_message_bytes: A larger message is refused by the transport, before anybody reads it.
        max_concurrent_streams: Calls at once on one connection.
        share_port: Other processes of this user may listen on the same port, and each gets some of the connections.
    """

    listen: str
    reflection: bool
    max_message_bytes: int
    max_concurrent_streams: int
    share_port: bool = False


class Server:
    """A listening server.

    Attributes:
        address: Where it listens, with the port that it got.
    """

    def __init__(self, server: grpc.aio.Server, health: health_aio.HealthServicer, address: str) -> None:
        self._server = server
        self._health = health
        self.address = address

    @classmethod
    async def start(cls, options: ServerOptions, services: Services, admin: AdminServices) -> Server:
        """Bind and serve.

        Raises:
            OSError: The address cannot be bound.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(options.share_port)),
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", options.max_message_bytes),
                ("grpc.max_concurrent_streams", options.max_concurrent_streams),
                # A fixed window: with the bandwidth probe, slow readers make the transport hold gigabytes.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", MIB),
            ]
        )
        contract = load_contract()
        server.add_generic_rpc_handlers(
            (
                _handlers(services, RequestParser(contract)),
                _admin_handlers(AdminServicer(admin, RequestParser(contract, ADMIN_LIMITS))),
            )
        )
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        if options.reflection:
            names = (
                *SERVICE_NAMES,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            )
            for standard in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
                contract.AddSerializedFile(standard.serialized_pb)
            reflection.enable_server_reflection(names, server, pool=_Symbols(contract))
        with _private_sockets():
            try:
                port = server.add_insecure_port(options.listen)
            except RuntimeError as error:
                raise OSError(f"cannot listen on {options.listen}: is the port taken?") from error
            await server.start()
        for name in ("", *SERVICE_NAMES):
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        host, _, _ = options.listen.rpartition(":")
        address = options.listen if options.listen.startswith("unix:") else f"{host}:{port}"
        return cls(server, health, address)

    async def stop(self, drain_seconds: float) -> None:
        """Say NOT_SERVING, take no new calls, and give those under way ``drain_seconds`` to end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(drain_seconds)


class _Symbols:
    """Descriptors for reflection, found by the name of a method too, as the protocol has it and ghz asks."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """The file that declares the message, enum, service or method.

        Raises:
            KeyError: None does.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            owner, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(owner).FindMethodByName(method).containing_service.file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


@contextlib.contextmanager
def _private_sockets() -> Iterator[None]:
    """A socket in the file system is its owner's alone: whoever can connect can ask for keys."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _handlers(services: Services, parser: RequestParser) -> grpc.GenericRpcHandler:
    keys = KeyServicer(services, parser)
    media = MediaServicer(services.media, parser)
    # No (de)serializers: requests are parsed where a mistake in them can still be answered with its details.
    unary = (keys.GenerateDataKey, keys.Unwrap, keys.KeyStatus, keys.CheckPolicy, keys.AuthorizeCall)
    streams = (media.EncryptMedia, media.DecryptMedia)
    return grpc.method_handlers_generic_handler(
        SERVICE_NAME,
        {method.__name__: grpc.unary_unary_rpc_method_handler(_unary(method)) for method in unary}
        | {method.__name__: grpc.stream_stream_rpc_method_handler(_stream(method)) for method in streams},
    )


def _admin_handlers(admin: AdminServicer) -> grpc.GenericRpcHandler:
    service = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]
    return grpc.method_handlers_generic_handler(
        ADMIN_SERVICE_NAME,
        {
            method.name: grpc.unary_unary_rpc_method_handler(_unary(_serialized(getattr(admin, method.name))))
            for method in service.methods
        },
    )


def _serialized(
    method: Callable[[bytes, Context], Awaitable[Message]],
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def answer(raw: bytes, context: Context) -> bytes:
        return (await method(raw, context)).SerializeToString()

    return answer


def _unary(method: Callable[[bytes, Context], Awaitable[bytes]]) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def handle(raw: bytes, context: Context) -> bytes:
        try:
            return await method(raw, context)
        except Exception as error:  # noqa: BLE001 - every error becomes a status, unknown ones INTERNAL
            await errors.abort(context, error)

    return handle


def _stream(method: Callable[[Context], Awaitable[None]]) -> Callable[[object, Context], Awaitable[None]]:
    async def handle(_requests: object, context: Context) -> None:
        try:
            await method(context)
        except Exception as error:  # noqa: BLE001 - every error becomes a status, unknown ones INTERNAL
            if context.done():
                return  # the client has left, and writing to it failed: that is its right, and no defect
            await errors.abort(context, error)

    return handle
