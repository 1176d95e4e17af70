"""Why a service cannot be reached: gRPC says the same of many reasons, and they are told apart by looking again.

Nothing is asked of the service: a connection is made as the client makes it, and what happens to it is looked at. A
server that does not take a client's certificate closes the connection without a word, after the handshake.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ownkey import errors
from ownkey._exchange import host_and_port
from ownkey.cli.output import moment

PATIENCE_SECONDS = 3.0
# X509_V_ERR_CERT_NOT_YET_VALID, ..._HAS_EXPIRED, ..._HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH of OpenSSL.
_NOT_YET, _ENDED, _ANOTHER_HOST, _ANOTHER_ADDRESS = 9, 10, 62, 64
_OWN_HINT = "give another with --tls-cert and --tls-key"


@dataclass(frozen=True, slots=True)
class Shown:
    """What the user gave to speak TLS with."""

    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    token_file: Path | None = None

    @property
    def tls(self) -> bool:
        """Whether TLS is spoken."""
        return any((self.ca, self.certificate, self.private_key, self.token_file))


def diagnosed(error: errors.ServiceUnavailable, address: str, shown: Shown) -> errors.OwnkeyError:
    """The error that says what is wrong; the same where nothing better is known."""
    place = host_and_port(address)
    if place is None:
        return error
    try:
        found = _with_tls(place, shown) if shown.tls else _without(place, address)
    except (OSError, ValueError):  # nobody listens, or a file has gone: gRPC has said so
        return error
    return found or error


def _with_tls(place: tuple[str, int], shown: Shown) -> errors.OwnkeyError | None:
    context = ssl.create_default_context(cafile=shown.ca)
    context.set_alpn_protocols(["h2"])
    if shown.certificate and shown.private_key:
        context.load_cert_chain(shown.certificate, shown.private_key)
    try:
        with (
            socket.create_connection(place, PATIENCE_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=place[0]) as secure,
        ):
            # A server that speaks HTTP/2 speaks first.
            return None if secure.recv(1) else _not_taken(shown)
    except ssl.SSLCertVerificationError as error:
        return _server_s_certificate(error, place[0], shown)
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            return _told(
                errors.InvalidRequest("the server does not speak TLS"),
                "leave out --tls-ca, --tls-cert, --tls-key and --token-file, and their variables, or set [server.tls]"
                " there",
            )
        return _not_taken(shown) if "ALERT" in (error.reason or "") else None
    except (ConnectionResetError, BrokenPipeError):
        return _not_taken(shown)


def _without(place: tuple[str, int], address: str) -> errors.OwnkeyError | None:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is only asked whether TLS is spoken
    try:
        with (
            socket.create_connection(place, PATIENCE_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=place[0]),
        ):
            pass
    except ssl.SSLError:
        return None
    return _told(
        errors.InvalidRequest(f"the server at {address} speaks TLS"),
        "give --tls-ca FILE, and your own certificate with --tls-cert and --tls-key, or --token-file",
    )


def _server_s_certificate(error: ssl.SSLCertVerificationError, host: str, shown: Shown) -> errors.OwnkeyError:
    if error.verify_code in (_NOT_YET, _ENDED):
        when = "has ended" if error.verify_code == _ENDED else "does not count yet"
        hint = "whoever runs the server must renew it; or is the clock of this machine wrong?"
        return _told(errors.ServiceUnavailable(f"the server's certificate {when}"), hint)
    if error.verify_code in (_ANOTHER_HOST, _ANOTHER_ADDRESS):
        hint = "is --address right? It must be a name or an address that the certificate names"
        return _told(errors.InvalidRequest(f"the server's certificate is not for {host}"), hint)
    where = str(shown.ca) if shown.ca else "those that this machine trusts"
    hint = "give the authority that issued the server's with --tls-ca; if it should be this one, somebody is between"
    return _told(errors.InvalidRequest(f"the server's certificate is not of an authority in {where}"), hint)


def _not_taken(shown: Shown) -> errors.OwnkeyError:
    if shown.certificate is None:
        what = "the server wants a certificate of yours, and none was given"
        if shown.token_file:
            hint = "give it with --tls-cert and --tls-key; for tokens alone a server has another port, token_listen"
        else:
            hint = "give it with --tls-cert and --tls-key"
        return _told(errors.NotAuthenticated(what), hint)
    own = x509.load_pem_x509_certificate(shown.certificate.read_bytes())
    now = datetime.now(UTC)
    if own.not_valid_after_utc < now:
        what = f"your certificate {shown.certificate} ended at {moment(own.not_valid_after_utc)}"
    elif own.not_valid_before_utc > now:
        what = f"your certificate {shown.certificate} counts only from {moment(own.not_valid_before_utc)}"
    elif not _for_clients(own):
        what = f"your certificate {shown.certificate} is not for clients: clientAuth is not among its uses"
    else:
        what = (
            "the server closed the TLS handshake: it may not accept your certificate (its authority, its end, its use)"
        )
    return _told(errors.NotAuthenticated(what), _OWN_HINT)


def _for_clients(certificate: x509.Certificate) -> bool:
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True  # for everything
    return bool({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(uses))


def _told(error: errors.OwnkeyError, hint: str) -> errors.OwnkeyError:
    error.hint = hint
    return error
