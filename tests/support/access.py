"""A server with mTLS and tokens, and callers of every kind."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc

from ownkey.v1 import admin_service_pb2_grpc, key_service_pb2_grpc, role_pb2
from support import server
from support.pki import Authority, Issued, TokenIssuer
from support.requests import request_class
from support.rpc import Failure

DOMAIN = "spiffe://example.org"
ADMIN = f"{DOMAIN}/admin"
ACCESS = """
token_listen = "localhost:0"
health_listen = "unix:{health}"
[server.tls]
certificate_file = "{pair}.pem"
private_key_file = "{pair}.key"
client_ca_file = "{ca}"
crl_file = "{crl}"
{least}
[identity.certificates]
spiffe_trust_domains = ["example.org"]
dns_suffixes = ["services.example.org"]
[identity.issuers.corp]
issuer = "{issuer}"
audience = "{audience}"
{jwks}
[authorization]
operators = ["spiffe://example.org/admin", "spiffe://example.org/other-admin"]
second_person = [{second_person}]
"""


# Their answers have no end: the first says what is asked here.
WATCHES = frozenset({"WatchKeyStatus", "WatchCallGate", "WatchCalls"})


class Caller:
    """Calls by one identity, with the failures of calls as values."""

    def __init__(self, channel: grpc.Channel, token: str | None = None) -> None:
        self._stubs = (key_service_pb2_grpc.KeyServiceStub(channel), admin_service_pb2_grpc.AdminServiceStub(channel))
        self._metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()

    def __call__(self, method: str, **fields: Any) -> Any:
        """The answer to a unary call, or its failure."""
        return self.send(method, request_class(method)(**fields))

    def send(self, method: str, request: Any) -> Any:
        """The same for a request as it is, and for a stream that is this one request long."""
        if method in ("EncryptMedia", "DecryptMedia"):
            return self.send_all(method, iter([request]))
        stub = next(stub for stub in self._stubs if hasattr(stub, method))
        try:
            asked = iter([request]) if method == "WatchCalls" else request
            answer = getattr(stub, method)(asked, timeout=20, metadata=self._metadata)
            if method in WATCHES:
                first = next(answer)
                answer.cancel()
                return first
            return answer  # noqa: TRY300 - as short as it can be
        except grpc.RpcError as error:
            return Failure.of(error)

    def send_all(self, method: str, requests: Iterator[Any]) -> Any:
        """Everything that a stream gives, or its failure."""
        stub = next(stub for stub in self._stubs if hasattr(stub, method))
        try:
            return list(getattr(stub, method)(requests, timeout=30, metadata=self._metadata))
        except grpc.RpcError as error:
            return Failure.of(error)


class Lab:
    """A server in a process of its own, an authority, and an issuer of tokens.

    Attributes:
        process: The server, while it runs.
        address: Where certificates are asked for.
        token_address: Where tokens are.
        bundle: The authorities whose clients are taken.
        access: Its settings of who may call.
    """

    process: server.ServerProcess
    address: str
    token_address: str

    def __init__(
        self, folder: Path, *, jwks: str = "", second_person: str = "", extra: str = "", least: str = ""
    ) -> None:
        self.folder = folder
        self.authority = Authority(folder / "pki")
        self.health = folder / "health.sock"
        self.tokens = TokenIssuer(folder)
        self.bundle = folder / "clients.pem"
        self.bundle.write_bytes(self.authority.pem.read_bytes())
        self.admin = self.authority.issue("admin", uris=[ADMIN])
        at = self.authority.issue("server", hosts=["localhost"], addresses=["127.0.0.1"])
        self.access = ACCESS.format(
            pair=at.pem.with_suffix(""),
            ca=self.bundle,
            least=f'minimum_version = "{least}"' if least else "",
            crl=self.authority.crl,
            issuer=self.tokens.issuer,
            audience=self.tokens.audience,
            health=self.health,
            jwks=jwks or f'jwks_file = "{self.tokens.jwks}"',
            second_person=second_person,
        )
        self._extra = extra
        self._channels = contextlib.ExitStack()

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Serve until the block ends."""
        started = server.process(self.folder / "server", access=self.access, extra=self._extra)
        with started as process, self.attached(process):
            yield self

    @contextlib.contextmanager
    def attached(self, process: server.ServerProcess) -> Iterator[Self]:
        """Call a server that was started with these settings, in the lab's folder, until the block ends."""
        with self._channels:
            self.process, self.address = process, process.address
            found = re.search(r"with tokens alone at (\S+)", self.log)
            assert found, self.log
            self.token_address = found[1]
            yield self

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "server" / "server.log").read_text(encoding="utf-8")

    def by_certificate(self, issued: Issued | None, token: str | None = None) -> Caller:
        """A caller with a certificate, or none, where one is asked for."""
        roots = self.authority.pem.read_bytes()
        pair = (issued.key.read_bytes(), issued.pem.read_bytes()) if issued else (None, None)
        return self._caller(self.address, grpc.ssl_channel_credentials(roots, *pair), token)

    def by_token(self, token: str | None) -> Caller:
        """A caller with a token, or none, where certificates are not asked for."""
        return self._caller(self.token_address, grpc.ssl_channel_credentials(self.authority.pem.read_bytes()), token)

    def caller(self, name: str, *grants: role_pb2.RoleGrant) -> Caller:
        """A new service with a certificate, and what it may do."""
        issued = self.authority.issue(name, uris=[f"{DOMAIN}/{name}"])
        self.grant(f"{DOMAIN}/{name}", *grants)
        return self.by_certificate(issued)

    def grant(self, principal: str, *grants: role_pb2.RoleGrant) -> None:
        """Let the administrator say what a new principal may do."""
        made = self.by_certificate(self.admin)("CreateServicePrincipal", id=principal, grants=grants)
        assert not isinstance(made, Failure), made

    def _caller(self, address: str, credentials: grpc.ChannelCredentials, token: str | None) -> Caller:
        # A pool of its own: another caller's connection, and so its certificate, must never serve.
        options = (("grpc.use_local_subchannel_pool", 1),)
        return Caller(self._channels.enter_context(grpc.secure_channel(address, credentials, options)), token)
