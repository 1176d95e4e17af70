"""How a client proves who it is: a certificate, a bearer token, or both.

Example::

    credentials = tls(ca_file="ca.pem", certificate_file="recorder.pem", private_key_file="recorder.key")
    with Client("keys.example:7400", credentials=credentials) as client:
        ...
"""

from __future__ import annotations

from pathlib import Path

import grpc

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
        InvalidRequest: A file cannot be used, or one of certificate and key is missing.
    """
    if (certificate_file is None) != (private_key_file is None):
        raise InvalidRequest("a client certificate needs its private key, and the key its certificate: give both")
    channel = grpc.ssl_channel_credentials(
        _pem(ca_file, "CERTIFICATE"), _pem(private_key_file, "PRIVATE KEY"), _pem(certificate_file, "CERTIFICATE")
    )
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
