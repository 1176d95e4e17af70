"""The folder of a lab's authority: what is in it, who may change it now, and how a file of it is replaced.

A file is replaced by a rename, so whoever reads one reads all of it. Who changes the folder holds a lock on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ownkey import _certificates
from ownkey.errors import OwnkeyError
from ownkey.files import write_file

AUTHORITY = "ca.pem"
AUTHORITY_KEY = "ca.key"
CRL = "crl.pem"
ISSUED = "issued"
_NEW = ".new"


class AuthorityInvalid(OwnkeyError):
    """The folder holds no authority, or a file of it is damaged, foreign or missing."""

    hint = "restore the file from a copy, or make a new authority in another folder: ownkey pki init"


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority, with its key.

    Attributes:
        directory: Its folder.
        certificate: Its own, self-signed certificate.
        trust_domain: The SPIFFE trust domain that it stands for.
        key: Its private key.
    """

    directory: Path
    certificate: x509.Certificate
    trust_domain: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def ca_file(self) -> Path:
        """Its certificate, in PEM: whom both sides trust."""
        return self.directory / AUTHORITY

    @property
    def crl_file(self) -> Path:
        """Its revocation list, in PEM."""
        return self.directory / CRL

    @property
    def not_after(self) -> datetime:
        """The last moment at which it counts."""
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What the authority's revocation list says.

    Attributes:
        number: Grows with each list (RFC 5280 section 5.2.3).
        next_update: When it stops to count: whoever asks for a list then takes no certificate at all.
        revoked: When each serial number was revoked.
        lifetime: For how long it was signed.
    """

    number: int
    next_update: datetime
    revoked: Mapping[int, datetime]
    lifetime: timedelta


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Have the folder for oneself: other threads and processes wait.

    Raises:
        AuthorityInvalid: There is no such folder, or it cannot be opened.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        failure = AuthorityInvalid(f"{directory} cannot be opened as a folder: {error.strerror}")
        if isinstance(error, FileNotFoundError):
            failure.hint = f"make an authority there: ownkey pki init {directory}"
        raise failure from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Authority]:
    """Have an authority for oneself, to change its folder.

    Raises:
        AuthorityInvalid: The folder holds none, or a damaged one.
    """
    with locked(directory):
        authority = load(directory)
        _settle(directory)
        yield authority


def load(directory: Path) -> Authority:
    """Read an authority.

    Raises:
        AuthorityInvalid: The folder holds none, or a damaged one.
    """
    ca_file, key_file = directory / AUTHORITY, directory / AUTHORITY_KEY
    if not ca_file.exists() and not key_file.exists():
        raise AuthorityInvalid(f"{directory} holds no authority: there is no {AUTHORITY} in it")
    certificate = _read_certificate(ca_file)
    try:
        key = serialization.load_pem_private_key(_read(key_file), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise AuthorityInvalid(f"{key_file} holds no unencrypted private key in PEM") from None
    trust_domain = _certificates.trust_domain(certificate)
    if not trust_domain:
        raise AuthorityInvalid(f"{ca_file} is no authority of `ownkey pki init`: it names no SPIFFE trust domain")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AuthorityInvalid(f"{key_file} is not the key of {ca_file}")
    return Authority(directory, certificate, trust_domain, key)


def read_issued(authority: Authority, path: Path) -> x509.Certificate:
    """Read a certificate that the authority has issued: it has a common name, names and extended usages.

    Raises:
        AuthorityInvalid: The file is damaged, or holds another certificate.
    """
    certificate = _read_certificate(path)
    try:
        certificate.verify_directly_issued_by(authority.certificate)
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        named = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        named = []
    if not named:
        raise AuthorityInvalid(f"{path} was not issued by {authority.ca_file}")
    return certificate


def read_crl(authority: Authority) -> RevocationList:
    """Read the authority's revocation list.

    Raises:
        AuthorityInvalid: It is missing or damaged, or another authority's. No empty one takes its place: what was
            revoked would count again.
    """
    path = authority.crl_file
    try:
        crl = x509.load_pem_x509_crl(_read(path))
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        genuine = crl.is_signature_valid(authority.key.public_key())
    except (ValueError, TypeError, x509.ExtensionNotFound, UnsupportedAlgorithm):
        raise AuthorityInvalid(f"{path} holds no numbered certificate revocation list in PEM") from None
    next_update = crl.next_update_utc
    if not genuine or next_update is None:
        raise AuthorityInvalid(f"{path} was not signed by {authority.ca_file}")
    revoked = {one.serial_number: one.revocation_date_utc for one in crl}
    return RevocationList(number, next_update, revoked, next_update - crl.last_update_utc - _certificates.SKEW)


def write_crl(
    authority: Authority, number: int, revoked: Mapping[int, datetime], now: datetime, lifetime: timedelta
) -> RevocationList:
    """Sign a list that counts for so long, and put it in the place of the present one."""
    next_update = now + lifetime
    crl = _certificates.revocation_list(authority.certificate, authority.key, number, revoked, now, next_update)
    write_file([_certificates.pem(crl)], authority.crl_file, overwrite=True)
    return RevocationList(number, next_update, revoked, lifetime)


def write_pair(certificate_file: Path, key_file: Path, certificate: bytes, key: bytes) -> None:
    """Put a certificate and its key in place of those that are there, when both are on disk."""
    try:
        # In this order, by which _settle tells how far it came.
        write_file([key], _new(key_file), overwrite=True, private=True)
        write_file([certificate], _new(certificate_file), overwrite=True)
        _new(key_file).replace(key_file)
        _new(certificate_file).replace(certificate_file)
    finally:
        _settle(certificate_file.parent)


def _settle(directory: Path) -> None:
    """Complete or undo a replacement whose process died: there is the old pair or the new one, and no mixture."""
    for key in directory.glob(f".*.key{_NEW}"):  # not in place yet: the old pair stays
        key.with_name(key.name.removesuffix(f".key{_NEW}") + f".pem{_NEW}").unlink(missing_ok=True)
        key.unlink()
    for certificate in directory.glob(f".*.pem{_NEW}"):  # its key is in place
        certificate.replace(directory / certificate.name.removeprefix(".").removesuffix(_NEW))


def _new(path: Path) -> Path:
    return path.with_name(f".{path.name}{_NEW}")


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise AuthorityInvalid(f"{path} holds no certificate in PEM") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AuthorityInvalid(f"{path} cannot be read: {error.strerror}") from None
