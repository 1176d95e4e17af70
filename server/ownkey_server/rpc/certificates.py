"""Which principal a client's certificate names, and whether it still counts: looked at on every call.

gRPC verifies the chain at the handshake. A connection lives on when its certificate expires or is revoked, and gRPC for
Python knows no revocation lists: so both are looked at here, on every call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.rpc.principals import dns_principal, spiffe_principal
from ownkey_server.rpc.reloading import Reloaded
from ownkey_server.rpc.revocation import RevocationLists
from ownkey_server.settings.access import CertificateRules, TlsSettings

_KEPT = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    """What a certificate says."""

    principal: str
    not_before: datetime
    not_after: datetime
    certificate: x509.Certificate


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
        self._lists = None
        if crl and bundle:
            # A list of 50,000 takes a third of a second to read, in which calls go on.
            self._lists = Reloaded([crl, bundle], lambda: RevocationLists.load(crl, bundle), aside=True)

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
            self._lists.get().require_good(known.certificate, now)
        return known.principal

    def _read(self, pem: bytes) -> _Known:
        try:
            found = x509.load_pem_x509_certificate(pem)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise Unauthenticated("the certificate cannot be read") from None
        except x509.ExtensionNotFound:
            raise Unauthenticated("the certificate has no subject alternative name that names a principal") from None
        uris, hosts = names.get_values_for_type(x509.UniformResourceIdentifier), names.get_values_for_type(x509.DNSName)
        principal = spiffe_principal(uris, self._rules) or dns_principal(hosts, self._rules)
        return _Known(
            principal,
            found.not_valid_before_utc,
            found.not_valid_after_utc,
            found,
        )
