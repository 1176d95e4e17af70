"""Certificates and revocation lists of a lab's authority, as values: no files here.

ECDSA over P-256 with SHA-256, by the profile of RFC 5280; each certificate is an X509-SVID: its one URI is a SPIFFE id.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ownkey.errors import InvalidRequest

# So that a peer whose clock is a little late takes what was signed just now.
SKEW = timedelta(minutes=1)
# Of a common name, in characters: RFC 5280, appendix A.1.
MAX_COMMON_NAME = 64
# SPIFFE-ID section 2.1, without punctuation at the ends: the server's settings take no other.
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_MAX_TRUST_DOMAIN, _MAX_SPIFFE_ID, _MAX_HOST = 255, 2048, 253
_SCHEME = "spiffe://"


def authority_certificate(
    key: ec.EllipticCurvePrivateKey, name: str, trust_domain: str, now: datetime, end: datetime
) -> x509.Certificate:
    """A self-signed certificate of an authority for a trust domain (X509-SVID section 4, signing certificates)."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            # Two authorities must not have one name, and labs are made again and again: RFC 5280 section 4.1.2.6.
            x509.NameAttribute(NameOID.DN_QUALIFIER, secrets.token_hex(8)),
        ]
    )
    identity = x509.UniformResourceIdentifier(f"{_SCHEME}{trust_domain}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([identity]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def leaf(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    name: str,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    validity: tuple[datetime, datetime],
) -> x509.Certificate:
    """A certificate that signs no other (X509-SVID section 4, leaf certificates).

    Args:
        authority: The issuer's certificate.
        authority_key: Its key.
        key: Whose certificate it is.
        name: The common name.
        names: The subject's alternative names, the SPIFFE id among them.
        usages: The extended key usages.
        validity: The first and the last moment.
    """
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issuer_key(authority), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def revocation_list(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    number: int,
    revoked: Mapping[int, datetime],
    now: datetime,
    next_update: datetime,
) -> x509.CertificateRevocationList:
    """A list of revoked serial numbers, each with its time (RFC 5280 section 5)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - SKEW)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_issuer_key(authority), critical=False)
    )
    for serial, time in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(time).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority_key, hashes.SHA256())


def identity(certificate: x509.Certificate) -> str:
    """The first URI among a certificate's names; empty when it has none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")


def trust_domain(authority: x509.Certificate) -> str:
    """The trust domain that an authority of ours stands for; empty when it names none."""
    found = identity(authority)
    domain = found.removeprefix(_SCHEME)
    return domain if found.startswith(_SCHEME) and _TRUST_DOMAIN.fullmatch(domain) else ""


def require_trust_domain(name: str) -> str:
    """The name of a trust domain.

    Raises:
        InvalidRequest: It is none.
    """
    if len(name) > _MAX_TRUST_DOMAIN or not _TRUST_DOMAIN.fullmatch(name):
        raise InvalidRequest(f"{name!r} must be a trust domain in lower case, such as example.org, without {_SCHEME}")
    return name


def spiffe_id(given: str, domain: str) -> str:
    """The whole SPIFFE id of a workload (SPIFFE-ID section 2).

    Args:
        given: The id, or its path in the trust domain.
        domain: The trust domain.

    Raises:
        InvalidRequest: It is none.
    """
    if not given.startswith((_SCHEME, "/")):
        raise InvalidRequest(f"{given!r} must be a path such as /recorder, or an id such as {_SCHEME}{domain}/recorder")
    whole = given if given.startswith(_SCHEME) else f"{_SCHEME}{domain}{given}"
    named, *segments = whole.removeprefix(_SCHEME).split("/")
    require_trust_domain(named)
    if not segments:
        raise InvalidRequest(f"{given!r} is a trust domain's: that of a workload has a path, such as {given}/recorder")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or segment in {".", ".."}:
            raise InvalidRequest(
                f"{segment!r} in {given!r} can be no part of a path: letters, digits, dots, underscores and hyphens can"
            )
    if len(whole) > _MAX_SPIFFE_ID:
        raise InvalidRequest(f"a SPIFFE id has at most {_MAX_SPIFFE_ID} characters, not {len(whole)}")
    return whole


def host(name: str) -> str:
    """A DNS name in lower case; its first label may be an asterisk.

    Raises:
        InvalidRequest: It is none.
    """
    if len(name) > _MAX_HOST or not _HOST.fullmatch(name.lower()):
        raise InvalidRequest(f"{name!r} is no host name such as keys.example.org or *.example.org")
    return name.lower()


def address(text: str) -> IPv4Address | IPv6Address:
    """An IP address without a zone.

    Raises:
        InvalidRequest: It is none.
    """
    try:
        found = ip_address(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no IP address") from None
    if isinstance(found, IPv6Address) and found.scope_id is not None:
        raise InvalidRequest(f"{text!r} names a zone, which a certificate cannot")
    return found


def pem(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """A certificate or list in PEM."""
    return signed.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key in PEM, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _issuer_key(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
