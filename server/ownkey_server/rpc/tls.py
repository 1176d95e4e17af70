"""The server's side of TLS: its certificate, whose clients it takes, and the exchange of both while it serves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ownkey_server.paths import shown
from ownkey_server.rpc.reloading import Reloaded, UnusableFile, read
from ownkey_server.settings.access import TlsSettings

# gRPC for Python cannot be told a least version. With ciphers alone that need a shared key, which nobody has, it agrees
# with no client on TLS 1.2; those of TLS 1.3 are not set by this.
_NO_CIPHERS_BELOW_1_3 = "ECDHE-PSK-CHACHA20-POLY1305"
_CIPHERS_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_TRACE_VARIABLE = "GRPC_TRACE"
# The tracers that print headers; the last word counts.
_NO_HEADERS = ",-http,-chttp2_hpack_parser"


def settle_environment(settings: TlsSettings | None) -> None:
    """Make sure of what gRPC does by its environment, which it reads when it is imported.

    Where something is missing, this process begins anew with the same arguments. gRPC agrees on nothing less than TLS
    1.3, where the settings say so (on every call the version is looked at once more, ``identity.py``); and its traces,
    if there are any, leave headers out: a bearer token is one.
    """
    wanted = dict(os.environ)
    if settings and settings.minimum_version == "1.3":
        wanted[_CIPHERS_VARIABLE] = _NO_CIPHERS_BELOW_1_3
    traced = wanted.get(_TRACE_VARIABLE, "")
    if traced and not traced.endswith(_NO_HEADERS):
        wanted[_TRACE_VARIABLE] = traced + _NO_HEADERS
    if wanted != os.environ:
        # -P: a file beside the user's settings must not stand in for a module of Python's.
        os.execve(sys.executable, [sys.executable, "-P", "-m", "ownkey.cli", *sys.argv[1:]], wanted)  # noqa: S606


def server_credentials(settings: TlsSettings, *, client_certificates: bool) -> grpc.ServerCredentials:
    """Credentials that follow their files.

    Args:
        settings: Where the files are.
        client_certificates: Whether a client must show a certificate of ``client_ca_file``.

    Raises:
        UnusableFile: They cannot be used.
    """
    roots = settings.client_ca_file if client_certificates else None
    paths = [settings.certificate_file, settings.private_key_file, *([roots] if roots else [])]
    reloaded = Reloaded(paths, lambda: _configuration(settings, roots))
    given = reloaded.version

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        configuration = reloaded.get()
        if reloaded.version == given:
            return None
        given = reloaded.version
        return configuration

    # None means that nothing changed, which the stubs do not know.
    return grpc.dynamic_ssl_server_credentials(reloaded.get(), changed, client_certificates)  # type: ignore[arg-type]


def _configuration(settings: TlsSettings, roots: Path | None) -> grpc.ServerCertificateConfiguration:
    chain, key = read(settings.certificate_file), read(settings.private_key_file)
    _require_pair(settings, chain, key)
    bundle = read(roots) if roots else None
    if roots and bundle is not None:
        certificates(roots, bundle)
    return grpc.ssl_server_certificate_configuration([(key, chain)], bundle)


def _require_pair(settings: TlsSettings, chain: bytes, key: bytes) -> None:
    """Make sure that gRPC, which would only refuse every handshake, is given what belongs together."""
    leaf = certificates(settings.certificate_file, chain)[0]
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise UnusableFile(f"{shown(settings.private_key_file)} holds no unencrypted private key in PEM") from None
    if _bytes(private.public_key()) != _bytes(leaf.public_key()):
        raise UnusableFile(f"{shown(settings.private_key_file)} is not the key of {shown(settings.certificate_file)}")


def certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    """The certificates of a file, at least one.

    Raises:
        UnusableFile: It holds none, or what is none.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise UnusableFile(f"{shown(path)} holds no certificate in PEM") from None


def _bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
