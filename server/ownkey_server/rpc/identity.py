"""Who calls: by the client's certificate, by the word of a trusted proxy, or by a bearer token.

A token, where one is given, names the caller; what carries it must hold as well. What is given and does not hold is an
error, never passed over for something else.
"""

from __future__ import annotations

import grpc

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.rpc import forwarded
from ownkey_server.rpc.certificates import Certificates
from ownkey_server.rpc.tokens import Tokens
from ownkey_server.settings.access import IdentitySettings, TlsSettings

DEVELOPMENT = "development"
"""The principal of whoever calls a server in development."""
_BEARER = "bearer "

Context = grpc.aio.ServicerContext[bytes, bytes]


class Authenticator:
    """Tells the principal of a call.

    Args:
        settings: How callers are known.
        tls: How the listener speaks TLS; None for one that does not.
        development: Whether whoever can reach the listener is let in.
        clock: Tells the time.

    Raises:
        UnusableFile: A revocation list or a file of keys cannot be used.
    """

    def __init__(self, settings: IdentitySettings, tls: TlsSettings | None, *, development: bool, clock: Clock) -> None:
        self._settings = settings
        self._development = development
        self._least = tls.minimum_version if tls else ""
        self._enough = {b"TLSv1.3"} if self._least == "1.3" else {b"TLSv1.2", b"TLSv1.3"}
        self._certificates = Certificates(settings.certificates, tls, clock) if tls else None
        self._tokens = Tokens(settings.issuers, clock)
        # In development nobody need be told apart, unless the settings say how.
        self._everybody = development and tls is None and settings.sidecar is None and not self._tokens.taken

    async def principal(self, context: Context) -> str:
        """Who calls.

        Raises:
            Unauthenticated: It cannot be told.
            ServiceImpaired: It cannot be told at the moment.
        """
        if self._everybody:
            return DEVELOPMENT
        auth = context.auth_context()
        if self._least and not self._enough.issuperset(auth.get("ssl_tls_version", (b"",))):
            raise Unauthenticated(f"the connection is not of TLS {self._least}")
        carrier = self._certificates.principal(auth) if self._certificates and "x509_pem_cert" in auth else None
        if not self._tokens.taken and self._settings.sidecar is None:
            return carrier or self._nobody()
        bearer, proxied = _said(context)
        if proxied is not None and self._settings.sidecar is not None:
            carrier = self._forwarded(proxied, carrier, context)
        if bearer is not None:
            return await self._tokens.principal(bearer)
        return carrier or self._nobody()

    def _forwarded(self, value: str, carrier: str | None, context: Context) -> str:
        sidecar = self._settings.sidecar
        assert sidecar is not None  # noqa: S101 - the caller looked
        by_socket = sidecar.unix_socket and context.peer().startswith("unix:")
        if carrier not in sidecar.trusted and not by_socket:
            raise Unauthenticated(f"{forwarded.HEADER} is taken from a trusted sidecar alone")
        return forwarded.principal(value, self._settings.certificates)

    def _nobody(self) -> str:
        if self._development:
            return DEVELOPMENT
        ways = ["a client certificate"] if self._certificates else []
        ways += ["a bearer token"] if self._tokens.taken else []
        raise Unauthenticated(f"the call says nothing of who makes it: show {' or '.join(ways) or 'who you are'}")


def _said(context: Context) -> tuple[str | None, str | None]:
    """The bearer token and the proxy's header, as far as there are any.

    Raises:
        Unauthenticated: One of them stands twice, or the authorization is of another kind.
    """
    bearer = proxied = None
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            text = str(value)
            if bearer is not None or not text.lower().startswith(_BEARER):
                raise Unauthenticated("authorization must be one bearer token")
            bearer = text[len(_BEARER) :].strip()
        elif key == forwarded.HEADER:
            if proxied is not None:
                raise Unauthenticated(f"{forwarded.HEADER} stands twice")
            proxied = str(value)
    return bearer, proxied
