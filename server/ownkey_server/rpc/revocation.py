"""Revocation lists: which are about a certificate, and whether one of them names it (RFC 5280, sections 5 and 6.3).

A list is of an authority's name **and key**: after a change of key there are two of one name, and neither speaks for
the other. All lists about a certificate are looked at. One that speaks for a part of its authority's certificates, in a
way that is not understood here, is refused: to pass over it, or to take it for a whole list, would let in whoever was
revoked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.paths import shown
from ownkey_server.rpc.reloading import UnusableFile, read
from ownkey_server.rpc.tls import certificates

KEPT = 4096
_BEGIN = b"-----BEGIN X509 CRL-----"
_END = b"-----END X509 CRL-----"
# What an extension that cannot be read raises.
_UNREADABLE = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_Authority = tuple[bytes, bytes]  # name and key


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One list, without what is not looked at on calls.

    Attributes:
        serials: The numbers of those that were revoked.
        ends_at: From when on it lets nobody in any more.
        places: Where it is published, if it is about the certificates alone that name one of these places.
        users_only: Whether it is about no authority's certificate.
    """

    serials: frozenset[int]
    ends_at: datetime
    places: frozenset[x509.GeneralName]
    users_only: bool

    def is_about(self, certificate: x509.Certificate) -> bool:
        """Whether it would name that certificate of its authority's, had it been revoked (RFC 5280, 6.3.3 b)."""
        if self.users_only and _is_authority(certificate):
            return False
        return not self.places or not self.places.isdisjoint(_places(certificate))


class RevocationLists:
    """The lists of a file, each signed by an authority of the bundle."""

    def __init__(
        self, authorities: Sequence[x509.Certificate], lists: Mapping[_Authority, Sequence[RevocationList]]
    ) -> None:
        self._authorities = authorities
        self._lists = lists
        # Whose a certificate is takes a signature to tell: once for a certificate, not on every call.
        self._about: OrderedDict[x509.Certificate, Sequence[RevocationList]] = OrderedDict()

    @classmethod
    def load(cls, path: Path, bundle: Path) -> RevocationLists:
        """Read them.

        Raises:
            UnusableFile: One is no list, is not signed by an authority of the bundle, or is not understood.
        """
        authorities = certificates(bundle, read(bundle))
        lists: dict[_Authority, list[RevocationList]] = {}
        for pem in _blocks(read(path)):
            try:
                found = x509.load_pem_x509_crl(pem)
            except ValueError:
                raise UnusableFile(f"{shown(path)} holds what is no certificate revocation list") from None
            signer = next((one for one in authorities if _has_signed(one, found)), None)
            if signer is None:
                raise UnusableFile(f"{shown(path)} holds a list that no authority of {shown(bundle)} has signed")
            try:
                lists.setdefault(_name_and_key(signer), []).append(_understood(found))
            except UnusableFile as error:
                raise UnusableFile(f"{shown(path)}: the list of {found.issuer.rfc4514_string()!r} {error}") from None
        if not lists:
            raise UnusableFile(f"{shown(path)} holds no certificate revocation list in PEM")
        return cls(authorities, lists)

    def require_good(self, certificate: x509.Certificate, now: datetime) -> None:
        """Make sure that a certificate was not revoked.

        Raises:
            Unauthenticated: It was, or it cannot be told.
        """
        about = self._about.get(certificate)
        if about is None:
            about = self._about[certificate] = self._find(certificate)
            if len(self._about) > KEPT:
                self._about.popitem(last=False)
        if not about:
            raise Unauthenticated(
                "there is no revocation list of the certificate's issuer that is about it, so it is not taken"
            )
        if any(certificate.serial_number in one.serials for one in about):
            raise Unauthenticated("the certificate was revoked")
        if all(one.ends_at < now for one in about):
            raise Unauthenticated("the revocation list of the certificate's issuer is out of date: renew crl_file")

    def _find(self, certificate: x509.Certificate) -> Sequence[RevocationList]:
        issuers = {_name_and_key(one) for one in self._authorities if _has_issued(one, certificate)}
        found = [one for issuer in issuers for one in self._lists.get(issuer, ())]
        try:
            return tuple(one for one in found if one.is_about(certificate))
        except _UNREADABLE:
            raise Unauthenticated("the certificate cannot be read") from None


def _understood(found: x509.CertificateRevocationList) -> RevocationList:
    """What a list says.

    Raises:
        UnusableFile: It says what is not understood here. The message goes on after the list's name.
    """
    if found.next_update_utc is None:
        raise UnusableFile("does not say until when it counts (nextUpdate)")
    places: frozenset[x509.GeneralName] = frozenset()
    users_only = False
    try:
        for extension in found.extensions:
            match extension.value:
                case x509.DeltaCRLIndicator():
                    raise UnusableFile("is a delta list, of changes alone: give the whole list in its place")
                case x509.IssuingDistributionPoint() as part:
                    _require_whole(part)
                    places, users_only = frozenset(part.full_name or ()), part.only_contains_user_certs
                case _ if extension.critical:
                    raise UnusableFile(f"has the critical extension {_label(extension)}, which is not understood here")
        serials = frozenset(_serial(one) for one in found)
    except _UNREADABLE:
        raise UnusableFile("cannot be read") from None
    return RevocationList(serials, found.next_update_utc, places, users_only)


def _require_whole(part: x509.IssuingDistributionPoint) -> None:
    for said, label in (
        (part.only_contains_ca_certs, "onlyContainsCACerts"),
        (part.only_contains_attribute_certs, "onlyContainsAttributeCerts"),
        (part.only_some_reasons, "onlySomeReasons"),
        (part.indirect_crl, "indirectCRL"),
        (part.relative_name, "nameRelativeToCRLIssuer"),
    ):
        if said:
            raise UnusableFile(f"is not about all callers (issuingDistributionPoint, {label}): give the whole list")


def _serial(entry: x509.RevokedCertificate) -> int:
    for extension in entry.extensions:
        if extension.critical:
            raise UnusableFile(
                f"has an entry with the critical extension {_label(extension)}, which is not understood here"
            )
    return entry.serial_number


def _label(extension: x509.Extension[x509.ExtensionType]) -> str:
    name = getattr(extension.oid, "_name", "")
    return extension.oid.dotted_string if name in ("", "Unknown OID") else f"{name} ({extension.oid.dotted_string})"


def _places(certificate: x509.Certificate) -> frozenset[x509.GeneralName]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return frozenset()
    # Where another than its issuer keeps the list, ours is not the one that is meant.
    return frozenset(name for one in found if not one.crl_issuer for name in one.full_name or ())


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _blocks(pem: bytes) -> list[bytes]:
    return [_BEGIN + block.partition(_END)[0] + _END + b"\n" for block in pem.split(_BEGIN)[1:]]


def _name_and_key(authority: x509.Certificate) -> _Authority:
    key = authority.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return authority.subject.public_bytes(), key


def _has_signed(authority: x509.Certificate, found: x509.CertificateRevocationList) -> bool:
    if found.issuer != authority.subject:
        return False
    try:
        return found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _has_issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError, UnsupportedAlgorithm):
        return False
    return True
