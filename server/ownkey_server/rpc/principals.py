"""Names of principals out of the names that certificates and proxies give."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.settings.access import PRINCIPAL_PATTERN, CertificateRules

MAX_PRINCIPAL = 512
_PRINCIPAL = re.compile(PRINCIPAL_PATTERN)
_SPIFFE = "spiffe://"
# SPIFFE-ID, section 2: a trust domain, and path segments of these characters, none of them empty or of dots alone.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def spiffe_principal(uris: Sequence[str], rules: CertificateRules) -> str | None:
    """The SPIFFE id among a certificate's URIs; None when there is none, or none is looked for.

    Raises:
        Unauthenticated: There are several URIs, which X509-SVID section 2 forbids, or it is of a foreign trust domain.
    """
    ids = [uri for uri in uris if uri.startswith(_SPIFFE)]
    if not ids or not rules.spiffe_trust_domains:
        return None
    if len(uris) != 1:
        raise Unauthenticated("the certificate has several URIs, where a SPIFFE id must be the only one")
    found = ids[0]
    domain, *segments = found.removeprefix(_SPIFFE).split("/")
    well_formed = all(_SEGMENT.fullmatch(one) and one.strip(".") for one in segments)
    if not (segments and well_formed and _TRUST_DOMAIN.fullmatch(domain)):
        raise Unauthenticated(f"{found[:MAX_PRINCIPAL]!r} is no SPIFFE id of a workload")
    if domain not in rules.spiffe_trust_domains:
        raise Unauthenticated(f"{found[:MAX_PRINCIPAL]!r} is of a trust domain that this server does not take")
    return require_principal(found)


def dns_principal(hosts: Sequence[str], rules: CertificateRules) -> str:
    """The one host name among a certificate's that is under a suffix that counts.

    Raises:
        Unauthenticated: There is none, or several.
    """
    found = {
        host
        for host in hosts
        if _HOST.fullmatch(host) and any(host == one or host.endswith("." + one) for one in rules.dns_suffixes)
    }
    if not found:
        raise Unauthenticated("the certificate has no name that this server takes for a principal")
    if len(found) > 1:
        raise Unauthenticated("the certificate has several names that could be its principal: it must have one")
    return require_principal(found.pop())


def require_principal(name: str) -> str:
    """A name that a principal can have.

    Raises:
        Unauthenticated: It is none.
    """
    if len(name) > MAX_PRINCIPAL or not _PRINCIPAL.fullmatch(name):
        raise Unauthenticated("the caller's name is not one that a principal can have")
    return name
