"""Which principal a client's certificate names, and whether it still counts: looked at on every call.

gRPC verifies the chain at the handshake. A connection lives on when its certificate expires or is revoked, and gRPC for
Python knows no revocation lists: so both are looked at here, on every call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from ownkey_server.access_settings import CertificateRules, TlsSettings
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.rpc.principals import dns_principal, spiffe_principal
from ownkey_server.rpc.reloading import Reloaded, UnusableFile, read
from ownkey_server.rpc.tls import certificates

_KEPT = 4096
_CRL_BEGIN = b"-----BEGIN X509 CRL-----"
_CRL_END = b"-----END X509 CRL-----"


@dataclass(frozen=True, slots=True)
class _Known:
    """What a certificate says."""

    principal: str
    not_before: datetime
    not_after: datetime
    issuer: bytes
    serial: int


class RevocationLists:
    """The lists of a file, each signed by an authority of the bundle."""

    def __init__(self, lists: Mapping[bytes, x509.CertificateRevocationList]) -> None:
        self._lists = lists

    @classmethod
    def load(cls, path: Path, bundle: Path) -> RevocationLists:
        """Read them.

        Raises:
            UnusableFile: One is no list, or is not signed by an authority of the bundle.
        """
        authorities = certificates(bundle, read(bundle))
        lists: dict[bytes, x509.CertificateRevocationList] = {}
        for pem in _crl_blocks(read(path)):
            try:
                found = x509.load_pem_x509_crl(pem)
            except ValueError:
                raise UnusableFile(f"{path} holds what is no certificate revocation list") from None
            if not any(_signed(found, one) for one in authorities):
                raise UnusableFile(f"{path} holds a list that no authority of {bundle} has signed")
            issuer = found.issuer.public_bytes()
            before = lists.get(issuer)
            if before is None or before.last_update <= found.last_update:
                lists[issuer] = found
        if not lists:
            raise UnusableFile(f"{path} holds no certificate revocation list in PEM")
        return cls(lists)

    def require_current(self, known: _Known, now: datetime) -> None:
        """Make sure that a certificate was not revoked.

        Raises:
            Unauthenticated: It was, or it cannot be told.
        """
        found = self._lists.get(known.issuer)
        if found is None:
            raise Unauthenticated("there is no revocation list of the certificate's issuer, so it is not taken")
        if found.next_update_utc is not None and found.next_update_utc < now:
            raise Unauthenticated("the revocation list of the certificate's issuer is out of date: renew crl_file")
        if found.get_revoked_certificate_by_serial_number(known.serial) is not None:
            raise Unauthenticated("the certificate was revoked")


class Certificates:
    """Tells the principal of a client's certificate.

    Args:
        rules: Which names count.
        tls: Where the revocation list is, if there is one.
        clock: Tells the time.

    Raises:
        UnusableFile: The list cannot be used.
    """

    def __init__(self, rules: CertificateRules, tls: TlsSettings, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        crl, bundle = tls.crl_file, tls.client_ca_file
        self._lists = Reloaded([crl, bundle], lambda: RevocationLists.load(crl, bundle)) if crl and bundle else None

    def principal(self, auth: Mapping[str, Iterable[bytes]]) -> str:
        """Who the caller is.

        Args:
            auth: The call's authentication context, with the certificate that the handshake has verified.

        Raises:
            Unauthenticated: The certificate names nobody, or does not count any more.
        """
        pem = next(iter(auth["x509_pem_cert"]))
        known = self._known.get(pem)
        if known is None:
            known = self._known[pem] = self._read(pem)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        now = self._clock()
        if not known.not_before <= now <= known.not_after:
            raise Unauthenticated(f"the certificate is valid from {known.not_before} to {known.not_after} only")
        if self._lists is not None:
            self._lists.get().require_current(known, now)
        return known.principal

    def _read(self, pem: bytes) -> _Known:
        try:
            found = x509.load_pem_x509_certificate(pem)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except ValueError:
            raise Unauthenticated("the certificate cannot be read") from None
        except x509.ExtensionNotFound:
            raise Unauthenticated("the certificate has no subject alternative name that names a principal") from None
        uris, hosts = names.get_values_for_type(x509.UniformResourceIdentifier), names.get_values_for_type(x509.DNSName)
        principal = spiffe_principal(uris, self._rules) or dns_principal(hosts, self._rules)
        return _Known(
            principal,
            found.not_valid_before_utc,
            found.not_valid_after_utc,
            found.issuer.public_bytes(),
            found.serial_number,
        )


def _crl_blocks(pem: bytes) -> list[bytes]:
    blocks = pem.split(_CRL_BEGIN)[1:]
    return [_CRL_BEGIN + block.partition(_CRL_END)[0] + _CRL_END + b"\n" for block in blocks]


def _signed(found: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if found.issuer != authority.subject:
        return False
    try:
        return found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, TypeError, UnsupportedAlgorithm):
        return False
