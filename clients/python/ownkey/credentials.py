"""How a client proves who it is: a certificate, a bearer token, or both.

Example::

    credentials = tls(ca_file="ca.pem", certificate_file="recorder.pem", private_key_file="recorder.key")
    with Client("keys.example:7400", credentials=credentials) as client:
        ...
"""

from __future__ import annotations

from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ownkey.errors import InvalidRequest

MAX_TOKEN = 8 * 1024


def tls(
    *,
    ca_file: str | Path | None = None,
    certificate_file: str | Path | None = None,
    private_key_file: str | Path | None = None,
    token_file: str | Path | None = None,
) -> grpc.ChannelCredentials:
    """Credentials for a service with TLS.

    Args:
        ca_file: Certificates of the authorities whose server is trusted, in PEM; None means the system's.
        certificate_file: The client's own certificate, and those between it and the authority, in PEM.
        private_key_file: Its key, in PEM.
        token_file: A bearer token, read again for each call, so that a renewed one counts at once.

    Raises:
        InvalidRequest: A file cannot be used, or one of certificate and key is missing, or the key is
            another's. Whether the certificate has ended is not looked at: that is for the service to say, and calls
            for help must not depend on it.
    """
    if (certificate_file is None) != (private_key_file is None):
        raise InvalidRequest("a client certificate needs its private key, and the key its certificate: give both")
    authorities, certificate = _pem(ca_file, "CERTIFICATE"), _pem(certificate_file, "CERTIFICATE")
    private_key = _pem(private_key_file, "PRIVATE KEY")
    if certificate and private_key:
        _require_pair(certificate, private_key, f"{certificate_file}", f"{private_key_file}")
    channel = grpc.ssl_channel_credentials(authorities, private_key, certificate)
    if token_file is None:
        return channel
    _token(Path(token_file))
    return grpc.composite_channel_credentials(channel, grpc.metadata_call_credentials(_TokenFile(Path(token_file))))


class _TokenFile(grpc.AuthMetadataPlugin):
    """Puts the file's token into each call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:  # noqa: ARG002
        try:
            callback((("authorization", f"Bearer {_token(self._path)}"),), None)
        except InvalidRequest as error:
            callback((), error)


def _token(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            token = file.read(MAX_TOKEN + 1).strip()
    except OSError as error:
        raise InvalidRequest(f"the token file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or len(token) > MAX_TOKEN or not token.isprintable() or " " in token:
        raise InvalidRequest(f"the token file {path} holds no bearer token")
    return token


def _require_pair(certificate: bytes, private_key: bytes, certificate_file: str, private_key_file: str) -> None:
    """Make sure that the key is the certificate's. gRPC itself would only say that no connection can be made."""
    try:
        own = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise InvalidRequest(f"{certificate_file} holds no certificate in PEM") from None
    try:
        key = serialization.load_pem_private_key(private_key, password=None)
    except TypeError:
        raise InvalidRequest(f"{private_key_file} is encrypted: give a file with the key in clear") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest(f"{private_key_file} holds no private key in PEM") from None
    if _public(own.public_key()) != _public(key.public_key()):
        raise InvalidRequest(f"{private_key_file} is not the key of {certificate_file}")


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem(path: str | Path | None, kind: str) -> bytes | None:
    """The file, if one is named. gRPC itself would only say that no connection can be made."""
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in content or f"{kind}-----".encode() not in content:
        raise InvalidRequest(f"{path} holds no {kind.lower()} in PEM")
    return content
