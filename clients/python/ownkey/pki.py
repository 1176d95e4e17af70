"""A certificate authority for labs: it makes the certificates with which mutual TLS can be tried. Not for production.

Everything is in one folder, and its key lies there unencrypted::

    ca.pem, ca.key          the authority
    crl.pem                 the certificates that it has revoked
    NAME.pem, NAME.key      a certificate without its authority's, and its key
    issued/SERIAL.pem       every certificate ever issued: the index

Certificates are ECDSA over P-256, as RFC 5280 profiles them, and each is an X509-SVID: its one URI is a SPIFFE id.
A file is replaced by a rename, so whoever reads one reads all of it. What changes the folder holds a lock on it.

Example::

    create(Path("lab"), trust_domain="example.org")
    pair = issue(Path("lab"), "recorder")                # spiffe://example.org/recorder
    revoke(Path("lab"), "recorder")
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ownkey.errors import AlreadyExists, InvalidRequest, NotFound, OwnkeyError
from ownkey.files import require_free, write_file

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 90
CRL_DAYS = 7

_AUTHORITY, _AUTHORITY_KEY, _CRL, _ISSUED = "ca.pem", "ca.key", "crl.pem", "issued"
_RESERVED = frozenset({"ca", "crl"})
_NEW = ".new"
# So that a peer whose clock is a little late takes what was signed just now.
_SKEW = timedelta(minutes=1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A trust domain that the server's settings take: SPIFFE-ID section 2.1, and no punctuation at the ends.
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_MAX_TRUST_DOMAIN, _MAX_HOST, _MAX_SPIFFE_ID = 255, 253, 2048
_MAX_COMMON_NAME = 64
"""Characters: RFC 5280, appendix A.1."""


class AuthorityExists(AlreadyExists):
    """The folder is taken. Nothing in it was touched."""

    hint = "take a folder that is new or empty"


class AuthorityInvalid(OwnkeyError):
    """The folder holds no authority, or a file of it is damaged, foreign or missing."""

    hint = "restore the file from a copy, or make a new authority in another folder: ownkey pki init"


class NotIssued(NotFound):
    """The authority has no such certificate."""

    hint = "`ownkey pki list` shows what was issued"


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
        return self.directory / _AUTHORITY

    @property
    def crl_file(self) -> Path:
        """Its revocation list, in PEM."""
        return self.directory / _CRL

    @property
    def not_after(self) -> datetime:
        """The last moment at which it counts."""
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that the authority has issued.

    Attributes:
        name: The name under which it was issued.
        identity: Its SPIFFE id.
        serial: Its serial number, 40 hexadecimal digits.
        not_before: The first moment at which it counts.
        not_after: The last one.
        dns: Host names that it is good for.
        ips: Addresses that it is good for.
        server: Whether a TLS server may show it.
        client: Whether a TLS client may show it.
        revoked: When it was revoked; None when it was not.
        current: Whether it is the one in NAME.pem, and no later one has taken its place.
    """

    name: str
    identity: str
    serial: str
    not_before: datetime
    not_after: datetime
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    server: bool
    client: bool
    revoked: datetime | None = None
    current: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as files in PEM."""

    certificate_file: Path
    private_key_file: Path
    issued: Issued


@dataclass(frozen=True, slots=True)
class Revocation:
    """What a revocation did.

    Attributes:
        issued: The certificate.
        fresh: Whether it was revoked by this call; false when it had been before, and nothing was done.
        crl_number: The number of the list that says so.
    """

    issued: Issued
    fresh: bool
    crl_number: int


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What the authority's revocation list says.

    Attributes:
        number: Grows with each list (RFC 5280 section 5.2.3).
        next_update: When it no longer counts: a server that asks for a list then takes no certificate at all.
        revoked: When each serial number was revoked.
    """

    number: int
    next_update: datetime
    revoked: Mapping[int, datetime]
    lifetime: timedelta


def create(
    directory: Path,
    *,
    trust_domain: str = "example.org",
    name: str = "ownkey lab CA",
    days: int = AUTHORITY_DAYS,
    now: datetime | None = None,
) -> Authority:
    """Make an authority with an empty revocation list.

    Args:
        directory: Where: a folder that is empty, or not there yet. It becomes its owner's alone (0700).
        trust_domain: The SPIFFE trust domain of the certificates.
        name: What the authority is called; something random is added, so that no two have one name.
        days: How long it counts.
        now: The present time, if it is not the clock's.

    Raises:
        InvalidRequest: A name is none.
        AuthorityExists: Something is in the folder.
        OSError: The folder cannot be written.
    """
    now = _seconds(now)
    _require_trust_domain(trust_domain)
    if not (0 < len(name) <= _MAX_COMMON_NAME and name.isprintable()):
        raise InvalidRequest(f"the authority's name must be 1 to {_MAX_COMMON_NAME} printable characters")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory):
        found = sorted(path.name for path in directory.iterdir())
        if found:
            raise AuthorityExists(f"{directory / _most_telling(found)} is there already, and is not overwritten")
        directory.chmod(0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _authority_certificate(key, name, trust_domain, now, now + _days(days))
        authority = Authority(directory, certificate, trust_domain, key)
        write_file([_private_pem(key)], directory / _AUTHORITY_KEY, private=True)
        write_file([_pem(certificate)], authority.ca_file)
        (directory / _ISSUED).mkdir(mode=0o700)
        _write_crl(authority, {}, 1, now, _days(CRL_DAYS))
    return authority


def issue(
    directory: Path,
    name: str,
    *,
    spiffe: str | None = None,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    server: bool = False,
    client: bool = False,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    overwrite: bool = False,
    now: datetime | None = None,
) -> Pair:
    """Issue a certificate with a key of its own, as NAME.pem and NAME.key.

    Args:
        directory: The authority's folder.
        name: What the files are called.
        spiffe: The SPIFFE id: whole, or a path in the authority's trust domain; ``/NAME`` if None.
        dns: Host names that it is good for.
        ips: Addresses that it is good for.
        server: Whether a TLS server may show it.
        client: Whether a TLS client may. With neither: a server if there are host names or addresses, else a client.
        not_before: The first moment at which it counts; a minute ago if None.
        not_after: The last one; in 90 days if None, or when the authority ends, whichever comes first.
        overwrite: Whether a pair that is there may be replaced. The new one is whole before it replaces the old.
        now: The present time, if it is not the clock's.

    Raises:
        InvalidRequest: A name, an address or a time is none, or the certificate would outlive the authority.
        OutputExists: The name is taken, and ``overwrite`` is false.
        AuthorityInvalid: The folder holds no authority, or a damaged one.
    """
    now = _seconds(now)
    _require_name(name)
    names = [x509.DNSName(_host(one)) for one in dict.fromkeys(dns)]
    addresses = [x509.IPAddress(_address(one)) for one in dict.fromkeys(ips)]
    if not server and not client:
        server, client = bool(names or addresses), not (names or addresses)
    with _locked(directory):
        authority = load(directory)
        identity = x509.UniformResourceIdentifier(_spiffe_id(spiffe or f"/{name}", authority.trust_domain))
        end = not_after or min(now + _days(CERTIFICATE_DAYS), authority.not_after)
        begin = not_before or min(now, end) - _SKEW
        if end <= begin:
            raise InvalidRequest(f"the certificate would end at {end} and begin at {begin}, which is not before")
        if end > authority.not_after:
            raise InvalidRequest(f"the certificate would outlive its authority, which ends at {authority.not_after}")
        pair = directory / f"{name}.pem", directory / f"{name}.key"
        for path in pair:
            require_free(path, overwrite=overwrite)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _leaf(
            authority,
            key.public_key(),
            name,
            [identity, *names, *addresses],
            [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client,
            (begin, end),
        )
        # First: what is in use is in the index, whatever happens from here on.
        write_file([_pem(certificate)], directory / _ISSUED / f"{_hex(certificate.serial_number)}.pem")
        _replace_pair(*pair, _pem(certificate), _private_pem(key))
    return Pair(*pair, _describe(certificate))


def revoke(
    directory: Path, name: str | None = None, *, serial: str | None = None, now: datetime | None = None
) -> Revocation:
    """Revoke a certificate: the one that NAME.pem holds at present, or any by its serial number.

    The new list counts as long from now as the one before did from its time.

    Args:
        directory: The authority's folder.
        name: The name under which it was issued; None when ``serial`` is given.
        serial: Its serial number in hexadecimal, with or without colons.
        now: The present time, if it is not the clock's.

    Raises:
        InvalidRequest: Not one of name and serial was given, or it is none.
        NotIssued: There is no such certificate of this authority.
        AuthorityInvalid: The folder holds no authority, or a damaged one.
    """
    now = _seconds(now)
    if (name is None) == (serial is None):
        raise InvalidRequest("give either a name or a serial number")
    with _locked(directory):
        authority = load(directory)
        certificate = _named(authority, name) if name is not None else _numbered(authority, serial or "")
        crl = read_crl(authority)
        number = certificate.serial_number
        if number in crl.revoked:
            return Revocation(_describe(certificate, crl.revoked[number], directory), False, crl.number)
        _write_crl(authority, {**crl.revoked, number: now}, crl.number + 1, now, crl.lifetime)
        return Revocation(_describe(certificate, now, directory), True, crl.number + 1)


def renew_crl(directory: Path, *, days: int = CRL_DAYS, now: datetime | None = None) -> RevocationList:
    """Sign the revocation list anew, so that it counts for so many days from now.

    Raises:
        AuthorityInvalid: The folder holds no authority, or a damaged one.
    """
    now = _seconds(now)
    with _locked(directory):
        authority = load(directory)
        crl = read_crl(authority)
        _write_crl(authority, crl.revoked, crl.number + 1, now, _days(days))
        return read_crl(authority)


def issued(directory: Path) -> list[Issued]:
    """Every certificate that was issued, by name, and the older first.

    Raises:
        AuthorityInvalid: The folder holds no authority, or a damaged one.
    """
    authority = load(directory)
    revoked = read_crl(authority).revoked
    found = []
    for path in (directory / _ISSUED).glob("*.pem"):
        certificate = _certificate_of(authority, path)
        if path.stem != _hex(certificate.serial_number):
            raise AuthorityInvalid(f"{path} holds another certificate, {_hex(certificate.serial_number)}")
        found.append(_describe(certificate, revoked.get(certificate.serial_number), directory))
    return sorted(found, key=lambda one: (one.name, one.not_before, one.serial))


def load(directory: Path) -> Authority:
    """Read an authority.

    Raises:
        AuthorityInvalid: The folder holds none, or a damaged one.
    """
    certificate = _read_certificate(directory / _AUTHORITY)
    path = directory / _AUTHORITY_KEY
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise AuthorityInvalid(f"{path} holds no unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AuthorityInvalid(f"{path} is not the key of {directory / _AUTHORITY}")
    prefix, _, trust_domain = (_identity(certificate) or "").partition("//")
    if prefix != "spiffe:" or not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise AuthorityInvalid(f"{directory / _AUTHORITY} is not of `ownkey pki init`: it names no SPIFFE trust domain")
    return Authority(directory, certificate, trust_domain, key)


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
        raise AuthorityInvalid(f"{path} holds no certificate revocation list with a number, in PEM") from None
    next_update = crl.next_update_utc
    if not genuine or next_update is None:
        raise AuthorityInvalid(f"{path} was not signed by {authority.ca_file}")
    revoked = {one.serial_number: one.revocation_date_utc for one in crl}
    return RevocationList(number, next_update, revoked, next_update - crl.last_update_utc - _SKEW)


def _write_crl(
    authority: Authority, revoked: Mapping[int, datetime], number: int, now: datetime, lifetime: timedelta
) -> None:
    """Sign a list and put it in the place of the present one (RFC 5280 section 5)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - _SKEW)
        .next_update(now + lifetime)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_issuer_key(authority), critical=False)
    )
    for serial, since in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        builder = builder.add_revoked_certificate(entry)
    crl = builder.sign(authority.key, hashes.SHA256())
    write_file([crl.public_bytes(serialization.Encoding.PEM)], authority.crl_file, overwrite=True)


def _authority_certificate(
    key: ec.EllipticCurvePrivateKey, name: str, trust_domain: str, begin: datetime, end: datetime
) -> x509.Certificate:
    # The qualifier keeps authorities apart that were made with one name: RFC 5280 section 4.2.1.1 asks for it.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.DN_QUALIFIER, secrets.token_hex(8)),
        ]
    )
    identity = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([identity]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _leaf(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    name: str,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    validity: tuple[datetime, datetime],
) -> x509.Certificate:
    """A certificate as X509-SVID sections 3 to 5 have a leaf."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.certificate.subject)
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
        .sign(authority.key, hashes.SHA256())
    )


def _issuer_key(authority: Authority) -> x509.AuthorityKeyIdentifier:
    own = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
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


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The folder for oneself: other threads and processes wait."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise AuthorityInvalid(f"{directory} cannot be opened as a folder: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _settle(directory)
        yield
    finally:
        os.close(descriptor)


def _replace_pair(certificate: Path, key: Path, certificate_pem: bytes, key_pem: bytes) -> None:
    """Put both in place when both are on disk. ``_settle`` completes or undoes what is interrupted, by this order."""
    try:
        write_file([key_pem], _new(key), overwrite=True, private=True)
        write_file([certificate_pem], _new(certificate), overwrite=True)
        _new(key).replace(key)
        _new(certificate).replace(certificate)
    finally:
        _settle(certificate.parent)


def _settle(directory: Path) -> None:
    """Bring pairs to one state that were being replaced when their process died: the old one, or the new one."""
    for key in directory.glob(f".*.key{_NEW}"):  # not moved yet: the old pair stays
        key.with_name(key.name.removesuffix(f".key{_NEW}") + f".pem{_NEW}").unlink(missing_ok=True)
        key.unlink()
    for certificate in directory.glob(f".*.pem{_NEW}"):  # its key is in place already
        certificate.replace(directory / certificate.name.removeprefix(".").removesuffix(_NEW))


def _new(path: Path) -> Path:
    return path.with_name(f".{path.name}{_NEW}")


def _named(authority: Authority, name: str) -> x509.Certificate:
    path = authority.directory / f"{_require_name(name)}.pem"
    if not path.exists():
        raise NotIssued(f"there is no {path}")
    return _certificate_of(authority, path)


def _numbered(authority: Authority, serial: str) -> x509.Certificate:
    digits = serial.replace(":", "").lower()
    if not _SERIAL.fullmatch(digits):
        raise InvalidRequest(f"{serial!r} is no serial number of at most 40 hexadecimal digits")
    path = authority.directory / _ISSUED / f"{digits:>040}.pem"
    if not path.exists():
        raise NotIssued(f"no certificate with the serial number {digits} was issued here")
    return _certificate_of(authority, path)


def _certificate_of(authority: Authority, path: Path) -> x509.Certificate:
    certificate = _read_certificate(path)
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise AuthorityInvalid(f"{path} was not issued by {authority.ca_file}") from None
    return certificate


def _describe(certificate: x509.Certificate, revoked: datetime | None = None, directory: Path | None = None) -> Issued:
    """What a certificate of ours says. With its folder, whether it is the present one of its name."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    current = directory is None
    if directory is not None:
        with contextlib.suppress(OSError):
            current = (directory / f"{name}.pem").read_bytes() == _pem(certificate)
    return Issued(
        name,
        _identity(certificate) or "",
        _hex(certificate.serial_number),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        tuple(names.get_values_for_type(x509.DNSName)),
        tuple(str(one) for one in names.get_values_for_type(x509.IPAddress)),
        ExtendedKeyUsageOID.SERVER_AUTH in usages,
        ExtendedKeyUsageOID.CLIENT_AUTH in usages,
        revoked,
        current,
    )


def _identity(certificate: x509.Certificate) -> str | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), None)


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


def _require_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} must be a letter or digit, and up to 63 more of letters, digits, dots, underscores and hyphens"
        )
    if name.lower() in _RESERVED:
        raise InvalidRequest(f"{name!r} is the authority's own; take another name")
    return name


def _require_trust_domain(name: str) -> None:
    if len(name) > _MAX_TRUST_DOMAIN or not _TRUST_DOMAIN.fullmatch(name):
        raise InvalidRequest(f"{name!r} must be a trust domain in lower case, such as example.org, without spiffe://")


def _spiffe_id(given: str, trust_domain: str) -> str:
    """The whole id (SPIFFE-ID section 2), of a workload: with a path."""
    whole = given if given.startswith("spiffe://") else f"spiffe://{trust_domain}{given}"
    domain, *segments = whole.removeprefix("spiffe://").split("/")
    if not segments or not given.startswith(("spiffe://", "/")):
        raise InvalidRequest(
            f"{given!r} must be a path such as /recorder, or an id such as spiffe://example.org/recorder"
        )
    _require_trust_domain(domain)
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or segment in {".", ".."}:
            raise InvalidRequest(f"{segment!r} can be no part of a SPIFFE id's path")
    if len(whole) > _MAX_SPIFFE_ID:
        raise InvalidRequest(f"a SPIFFE id has at most {_MAX_SPIFFE_ID} characters")
    return whole


def _host(name: str) -> str:
    if len(name) > _MAX_HOST or not _HOST.fullmatch(name.lower()):
        raise InvalidRequest(f"{name!r} is no host name such as keys.example.org or *.example.org")
    return name.lower()


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no IP address") from None


def _most_telling(found: Sequence[str]) -> str:
    return next((name for name in (_AUTHORITY_KEY, _AUTHORITY) if name in found), found[0])


def _seconds(time: datetime | None) -> datetime:
    """The time, or now, as certificates have it: in whole seconds."""
    return (time or datetime.now(UTC)).replace(microsecond=0)


def _days(days: int) -> timedelta:
    if not 0 < days <= 36_500:
        raise InvalidRequest(f"{days} days: must be 1 to 36500")
    return timedelta(days=days)


def _hex(serial: int) -> str:
    return f"{serial:040x}"


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
