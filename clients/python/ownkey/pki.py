"""A certificate authority for labs: it makes the certificates with which mutual TLS can be tried. Not for production.

Everything is in one folder, and the authority's key lies there unencrypted::

    ca.pem, ca.key          the authority
    crl.pem                 the certificates that it has revoked
    NAME.pem, NAME.key      a certificate, without its authority's, and its key
    issued/SERIAL.pem       every certificate ever issued: the index

Example::

    create(Path("lab"), trust_domain="example.org")
    issue(Path("lab"), "server", dns=["localhost"])
    issue(Path("lab"), "recorder")                       # spiffe://example.org/recorder
    revoke(Path("lab"), "recorder")

Two processes may do so at once; none undoes what the other does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ownkey import _authority, _certificates
from ownkey._authority import Authority, AuthorityInvalid, RevocationList, read_crl
from ownkey.errors import AlreadyExists, InvalidRequest, NotFound
from ownkey.files import require_free, write_file

__all__ = [
    "AUTHORITY_DAYS",
    "AUTHORITY_NAME",
    "CERTIFICATE_DAYS",
    "CRL_DAYS",
    "TRUST_DOMAIN",
    "Authority",
    "AuthorityExists",
    "AuthorityInvalid",
    "Issued",
    "NotIssued",
    "Pair",
    "Revocation",
    "RevocationList",
    "create",
    "issue",
    "issued",
    "read_crl",
    "renew_crl",
    "revoke",
]

AUTHORITY_NAME = "ownkey lab CA"
TRUST_DOMAIN = "example.org"
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 90
CRL_DAYS = 7

_RESERVED = frozenset({"ca", "crl"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_MAX_DAYS = 36_500


class AuthorityExists(AlreadyExists):
    """The folder is taken. Nothing in it was touched."""

    hint = "take a folder that is new or empty"


class NotIssued(NotFound):
    """The authority has no such certificate."""

    hint = "`ownkey pki list` shows what was issued"


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
        current: Whether it is the one in NAME.pem; false when another took its place, or the file is gone.
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
    revoked: datetime | None
    current: bool


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
        fresh: Whether this call has revoked it; false when it was revoked before, and nothing was done.
        crl_number: The number of the list that names it.
    """

    issued: Issued
    fresh: bool
    crl_number: int


def create(
    directory: Path,
    *,
    trust_domain: str = TRUST_DOMAIN,
    name: str = AUTHORITY_NAME,
    days: int = AUTHORITY_DAYS,
    now: datetime | None = None,
) -> Authority:
    """Make an authority with an empty revocation list.

    Args:
        directory: Where: a folder that is empty, or not there yet. It becomes its owner's alone (0700).
        trust_domain: The SPIFFE trust domain of its certificates.
        name: What it is called; something random is added, so that no two have one name.
        days: How long it counts.
        now: The present time, if it is not the clock's.

    Raises:
        InvalidRequest: A name is none.
        AuthorityExists: Something is in the folder.
        OSError: The folder cannot be written.
    """
    now = _seconds(now or datetime.now(UTC))
    end = now + _days(days)
    _certificates.require_trust_domain(trust_domain)
    if not (0 < len(name) <= _certificates.MAX_COMMON_NAME and name.isprintable()):
        raise InvalidRequest(f"the authority's name must be 1 to {_certificates.MAX_COMMON_NAME} printable characters")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _authority.locked(directory):
        _require_empty(directory)
        directory.chmod(0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificates.authority_certificate(key, name, trust_domain, now, end)
        authority = Authority(directory, certificate, trust_domain, key)
        write_file([_certificates.private_pem(key)], directory / _authority.AUTHORITY_KEY, private=True)
        write_file([_certificates.pem(certificate)], authority.ca_file)
        (directory / _authority.ISSUED).mkdir(mode=0o700)
        _authority.write_crl(authority, 1, {}, now, _days(CRL_DAYS))
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
        spiffe: The SPIFFE id, or its path in the authority's trust domain; ``/NAME`` if None.
        dns: Host names that it is good for.
        ips: Addresses that it is good for.
        server: Whether a TLS server may show it.
        client: Whether a TLS client may. With neither: a server if there are host names or addresses, else a client.
        not_before: The first moment at which it counts; a minute ago if None.
        not_after: The last one; in 90 days if None, or with the authority if that ends sooner. May have passed.
        overwrite: Whether a pair that is there may be replaced. The new one is whole before it replaces the old.
        now: The present time, if it is not the clock's.

    Raises:
        InvalidRequest: A name, an address or a time is none, or the certificate would outlive its authority.
        OutputExists: The name is taken, and ``overwrite`` is false.
        AuthorityInvalid: The folder holds no authority, or a damaged one.
    """
    now = _seconds(now or datetime.now(UTC))
    _require_name(name)
    hosts = [x509.DNSName(_certificates.host(one)) for one in dict.fromkeys(dns)]
    addresses = [x509.IPAddress(_certificates.address(one)) for one in dict.fromkeys(ips)]
    if not server and not client:
        server, client = bool(hosts or addresses), not (hosts or addresses)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    certificate_file, key_file = directory / f"{name}.pem", directory / f"{name}.key"
    with _authority.opened(directory) as authority:
        validity = _validity(authority, not_before, not_after, now)
        identity = _certificates.spiffe_id(spiffe or f"/{name}", authority.trust_domain)
        for path in (certificate_file, key_file):
            require_free(path, overwrite=overwrite)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificates.leaf(
            authority.certificate,
            authority.key,
            key.public_key(),
            name,
            [x509.UniformResourceIdentifier(identity), *hosts, *addresses],
            usages,
            validity,
        )
        pem = _certificates.pem(certificate)
        # First of all: whatever happens from here on, nothing is in use that cannot be revoked.
        write_file([pem], _index(directory, certificate.serial_number))
        _authority.write_pair(certificate_file, key_file, pem, _certificates.private_pem(key))
        return Pair(certificate_file, key_file, _describe(directory, certificate, None))


def revoke(
    directory: Path, name: str | None = None, *, serial: str | None = None, now: datetime | None = None
) -> Revocation:
    """Revoke a certificate: the one that NAME.pem holds at present, or any by its serial number.

    The new list counts for as long from now as the one before was signed for.

    Args:
        directory: The authority's folder.
        name: The name under which it was issued; None when ``serial`` is given.
        serial: Its serial number in hexadecimal, with or without colons.
        now: The present time, if it is not the clock's.

    Raises:
        InvalidRequest: Not exactly one of name and serial was given, or it is none.
        NotIssued: The authority has no such certificate.
        AuthorityInvalid: The folder holds no authority, or a damaged one.
    """
    now = _seconds(now or datetime.now(UTC))
    if (name is None) == (serial is None):
        raise InvalidRequest("give either a name or a serial number")
    path = _by_serial(directory, serial) if serial is not None else directory / f"{_require_name(name or '')}.pem"
    with _authority.opened(directory) as authority:
        if not path.exists():
            raise NotIssued(f"{path} is not there" if serial is None else f"no certificate {serial} was issued here")
        certificate = _authority.read_issued(authority, path)
        crl = read_crl(authority)
        number = certificate.serial_number
        fresh = number not in crl.revoked
        if fresh:
            revoked = {**crl.revoked, number: now}
            crl = _authority.write_crl(authority, crl.number + 1, revoked, now, crl.lifetime)
        return Revocation(_describe(directory, certificate, crl.revoked[number]), fresh, crl.number)


def renew_crl(directory: Path, *, days: int = CRL_DAYS, now: datetime | None = None) -> RevocationList:
    """Sign the revocation list anew, so that it counts for so many days from now.

    Raises:
        AuthorityInvalid: The folder holds no authority, or a damaged one.
    """
    now = _seconds(now or datetime.now(UTC))
    with _authority.opened(directory) as authority:
        crl = read_crl(authority)
        return _authority.write_crl(authority, crl.number + 1, crl.revoked, now, _days(days))


def issued(directory: Path) -> list[Issued]:
    """Every certificate that was issued: by name, the older ones of a name first.

    Raises:
        AuthorityInvalid: The folder holds no authority, or a damaged one.
    """
    authority = _authority.load(directory)
    revoked = read_crl(authority).revoked
    found = []
    for path in (directory / _authority.ISSUED).glob("*.pem"):
        certificate = _authority.read_issued(authority, path)
        number = certificate.serial_number
        if path != _index(directory, number):
            raise AuthorityInvalid(f"{path} holds the certificate {number:040x}, which is another")
        found.append(_describe(directory, certificate, revoked.get(number)))
    return sorted(found, key=lambda one: (one.name, one.not_before, one.current, one.serial))


def _require_empty(directory: Path) -> None:
    found = sorted(path.name for path in directory.iterdir())
    if _authority.AUTHORITY_KEY in found:
        path = directory / _authority.AUTHORITY_KEY
        raise AuthorityExists(f"{path} is there already: the key of an authority is never overwritten")
    if found:
        raise AuthorityExists(f"{directory} is not empty: {found[0]} is in it")


def _validity(
    authority: Authority, not_before: datetime | None, not_after: datetime | None, now: datetime
) -> tuple[datetime, datetime]:
    if not_after is None and authority.not_after <= now:
        raise AuthorityInvalid(
            f"{authority.ca_file} ended at {_told(authority.not_after)}, and issues nothing any more"
        )
    end = _seconds(not_after or min(now + _days(CERTIFICATE_DAYS), authority.not_after))
    begin = _seconds(not_before or min(now, end) - _certificates.SKEW)
    if begin >= end:
        raise InvalidRequest(f"the certificate would end at {_told(end)}, and begin no sooner than {_told(begin)}")
    if end > authority.not_after:
        raise InvalidRequest(f"the certificate would outlive its authority, which ends at {_told(authority.not_after)}")
    return begin, end


def _describe(directory: Path, certificate: x509.Certificate, revoked: datetime | None) -> Issued:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    current = False
    with contextlib.suppress(OSError):
        current = (directory / f"{name}.pem").read_bytes() == _certificates.pem(certificate)
    return Issued(
        name,
        _certificates.identity(certificate),
        f"{certificate.serial_number:040x}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        tuple(names.get_values_for_type(x509.DNSName)),
        tuple(str(one) for one in names.get_values_for_type(x509.IPAddress)),
        ExtendedKeyUsageOID.SERVER_AUTH in usages,
        ExtendedKeyUsageOID.CLIENT_AUTH in usages,
        revoked,
        current,
    )


def _index(directory: Path, serial: int) -> Path:
    return directory / _authority.ISSUED / f"{serial:040x}.pem"


def _by_serial(directory: Path, serial: str) -> Path:
    digits = serial.replace(":", "").lower()
    if not _SERIAL.fullmatch(digits):
        raise InvalidRequest(f"{serial!r} is no serial number: at most 40 hexadecimal digits")
    return _index(directory, int(digits, 16))


def _require_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} can be no name: a letter or digit, and up to 63 letters, digits, dots, underscores and hyphens"
        )
    if name.lower() in _RESERVED:
        raise InvalidRequest(f"{name!r} is the authority's own file; take another name")
    return name


def _seconds(time: datetime) -> datetime:
    """The time as certificates have it, in whole seconds."""
    if time.tzinfo is None:
        raise InvalidRequest(f"{time} has no time zone")
    return time.replace(microsecond=0)


def _told(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _days(days: int) -> timedelta:
    if not 0 < days <= _MAX_DAYS:
        raise InvalidRequest(f"{days} days: must be 1 to {_MAX_DAYS}")
    return timedelta(days=days)
