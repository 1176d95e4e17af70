"""The gRPC server: its methods, its limits, health and reflection."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ownkey_server.rpc.admin.servicer import AdminServicer
from ownkey_server.rpc.admin.services import AdminServices
from ownkey_server.rpc.call_watches import CallWatchServicer
from ownkey_server.rpc.contract import ADMIN_SERVICE_NAME, SERVICE_NAME, load_contract
from ownkey_server.rpc.dispatch import Dispatcher, Gates
from ownkey_server.rpc.key_service import KeyServicer, Services
from ownkey_server.rpc.key_watch import WatchServicer
from ownkey_server.rpc.media_streams import MediaServicer
from ownkey_server.rpc.methods import all_methods
from ownkey_server.rpc.tls import server_credentials
from ownkey_server.rpc.transport import TransportLimits, channel_options, open_file_limit
from ownkey_server.settings.access import TlsSettings

_log = logging.getLogger(__name__)

SERVICE_NAMES = (SERVICE_NAME, ADMIN_SERVICE_NAME)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What can be set about the listener.

    Attributes:
        listen: ``HOST:PORT`` or ``unix:PATH``; port 0 takes a free one.
        token_listen: The same for callers without certificates; empty for nowhere.
        health_listen: Where the machine itself asks whether this serves, in clear; empty for nowhere.
        tls: How both speak TLS; None for not at all.
        transport: What the transport lets one peer take.
        share_port: Other processes of this user may listen on the same port, and each gets some of the connections.
    """

    listen: str
    token_listen: str
    health_listen: str
    tls: TlsSettings | None
    reflection: bool
    transport: TransportLimits
    share_port: bool = False


class Server:
    """A listening server.

    Attributes:
        address: Where it listens, with the port that it got.
        token_address: Where it listens for callers without certificates; empty for nowhere.
    """

    def __init__(
        self, server: grpc.aio.Server, health: health_aio.HealthServicer, address: str, token_address: str
    ) -> None:
        self._server = server
        self._health = health
        self.address = address
        self.token_address = token_address

    @classmethod
    async def start(cls, options: ServerOptions, gates: Gates, services: Services, admin: AdminServices) -> Server:
        """Bind and serve.

        Raises:
            OSError: The address cannot be bound.
            UnusableFile: A certificate or its key cannot be used.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(options.share_port)),
                *channel_options(options.transport.fitting(open_file_limit())),
            ]
        )
        handlers = _handlers(Dispatcher(gates), services, admin)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, methods) for name, methods in handlers.items()]
        )
        # Registered, a method is accepted in a line of its own. All others stand in one, of which the event loop takes
        # one call in every few rounds: under overload the gate would wait behind whatever came before it, and what
        # callers wait for behind what administrators ask.
        gate = {"AuthorizeCall": handlers[SERVICE_NAME]["AuthorizeCall"]}
        server.add_registered_method_handlers(SERVICE_NAME, gate)
        server.add_registered_method_handlers(ADMIN_SERVICE_NAME, handlers[ADMIN_SERVICE_NAME])
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        if options.reflection:
            names = (
                *SERVICE_NAMES,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            )
            contract = load_contract()
            for standard in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
                contract.AddSerializedFile(standard.serialized_pb)
            reflection.enable_server_reflection(names, server, pool=_Symbols(contract))
        with _private_sockets():
            address = _listen(server, options.listen, options.tls, client_certificates=True)
            token_address = ""
            if options.token_listen:
                token_address = _listen(server, options.token_listen, options.tls, client_certificates=False)
            if options.health_listen:
                # Whoever comes this way is nobody: with TLS set, a call without it is not let in (identity.py).
                _listen(server, options.health_listen, None, client_certificates=False)
            await server.start()
        for name in ("", *SERVICE_NAMES):
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return cls(server, health, address, token_address)

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


def _listen(server: grpc.aio.Server, listen: str, tls: TlsSettings | None, *, client_certificates: bool) -> str:
    """Bind; gives the address with the port that it got.

    Raises:
        OSError: It cannot be bound.
        UnusableFile: A certificate or its key cannot be used.
    """
    try:
        if tls is None:
            port = server.add_insecure_port(listen)
        else:
            asked = client_certificates and tls.client_ca_file is not None
            port = server.add_secure_port(listen, server_credentials(tls, client_certificates=asked))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {listen}: is the port taken?") from error
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


@contextlib.contextmanager
def _private_sockets() -> Iterator[None]:
    """A socket in the file system is its owner's alone: whoever can connect can ask for keys."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _handlers(
    dispatcher: Dispatcher, services: Services, admin: AdminServices
) -> dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
    keys, watches, call_watches, media, administration = (
        KeyServicer(services),
        WatchServicer(services.key_watches, services.watch_heartbeat),
        CallWatchServicer(
            services.gate_views, services.watched_calls, services.gate_heartbeat, services.call_gate.retry_after
        ),
        MediaServicer(services.media, services.open_streams),
        AdminServicer(admin),
    )
    by_service: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {name: {} for name in SERVICE_NAMES}
    # No (de)serializers: requests are parsed where a mistake in them can still be answered with its details.
    for name, method in all_methods().items():
        if method.watches:
            servicer = call_watches if hasattr(call_watches, name) else watches
            handler = dispatcher.watch(method, getattr(servicer, name))
        elif method.streams:
            handler = dispatcher.stream(method, getattr(media, name))
        elif method.service == ADMIN_SERVICE_NAME:
            handler = dispatcher.unary(method, getattr(administration, name))
        else:
            first = keys.emergency if name == "AuthorizeCall" else None
            handler = dispatcher.unary(method, getattr(keys, name), first)
        by_service[method.service][name] = handler
    return by_service
