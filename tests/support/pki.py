"""Certificates and tokens for tests, good ones and such as nobody should take."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


def now() -> datetime:
    """The present time."""
    return datetime.now(UTC)


@dataclass
class Issued:
    """A certificate and its key, in files."""

    certificate: x509.Certificate
    pem: Path
    key: Path


class Authority:
    """A certificate authority with a revocation list, in a folder."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._revoked: list[int] = []
        builder = self._builder(self._name, self._key.public_key(), now() - DAY, now() + 365 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = builder.sign(self._key, hashes.SHA256())
        self.pem = folder / "ca.pem"
        self.pem.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self.crl = folder / "crl.pem"
        self.write_crl()

    def issue(
        self,
        name: str,
        *,
        uris: Sequence[str] = (),
        hosts: Sequence[str] = (),
        addresses: Sequence[str] = (),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        serial: int | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Issued:
        """A certificate with these subject alternative names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start, end = not_before or now() - timedelta(minutes=1), not_after or now() + DAY
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(ip_address(address)) for address in addresses]
        builder = self._builder(subject, key.public_key(), start, end, serial)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        issued = Issued(made, self.folder / f"{name}.pem", self.folder / f"{name}.key")
        issued.pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return issued

    def revoke(self, issued: Issued) -> None:
        """Put a certificate on the list."""
        self._revoked.append(issued.certificate.serial_number)
        self.write_crl()

    def write_crl(self, next_update: datetime | None = None) -> None:
        """Write the list anew, whole, as whoever runs an authority does."""
        partial = self.crl.with_suffix(".new")
        partial.write_bytes(self.signed_list(next_update=next_update))
        partial.rename(self.crl)

    def signed_list(
        self,
        *,
        revoked: Iterable[int] | None = None,
        last_update: datetime | None = None,
        next_update: datetime | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        entry: tuple[x509.ExtensionType, bool] | None = None,
    ) -> bytes:
        """A list in PEM: of what was revoked, or of these numbers; with extensions that may be critical, or not."""
        return self._list(revoked, last_update, next_update, extensions, entry).public_bytes(serialization.Encoding.PEM)

    def endless_list(self) -> bytes:
        """A list in PEM that does not say when it ends, as RFC 5280 forbids and X.509 allows."""
        der = self._list(None, None, None, (), None).tbs_certlist_bytes
        assert der[0] == 0x30
        assert der[1] < 0x80
        times = der.rindex(b"\x17\x0d")  # the last UTCTime of an empty list
        signed = bytes([0x30, der[1] - 15]) + der[2:times] + der[times + 15 :]
        signature = self._key.sign(signed, ec.ECDSA(hashes.SHA256()))
        algorithm = bytes.fromhex("300a06082a8648ce3d040302")
        assert algorithm in der
        body = signed + algorithm + bytes([0x03, len(signature) + 1, 0]) + signature
        text = base64.encodebytes(bytes([0x30, 0x81, len(body)]) + body)
        return b"-----BEGIN X509 CRL-----\n" + text + b"-----END X509 CRL-----\n"

    def renewed(self) -> Authority:
        """The same authority with the same key, and another certificate."""
        again = copy.copy(self)
        again.pem = self.folder / "renewed.pem"
        builder = self._builder(self._name, self._key.public_key(), now() - DAY, now() + 700 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        again.certificate = builder.sign(self._key, hashes.SHA256())
        again.pem.write_bytes(again.certificate.public_bytes(serialization.Encoding.PEM))
        return again

    def _list(
        self,
        revoked: Iterable[int] | None,
        last_update: datetime | None,
        next_update: datetime | None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        extra: tuple[x509.ExtensionType, bool] | None,
    ) -> x509.CertificateRevocationList:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(last_update or now() - DAY).next_update(next_update or now() + DAY)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        entries = []
        for serial in self._revoked if revoked is None else revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now() - DAY)
            entries.append((entry.add_extension(*extra) if extra else entry).build())
        builder._revoked_certificates = entries  # one by one it copies them all each time
        return builder.sign(self._key, hashes.SHA256())

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        start: datetime,
        end: datetime,
        serial: int | None = None,
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(serial or x509.random_serial_number())
        return builder.not_valid_before(start).not_valid_after(end)


class TokenIssuer:
    """An issuer of tokens, with its keys in a file."""

    issuer = "https://idp.example.org"
    audience = "ownkey"

    def __init__(self, folder: Path) -> None:
        self.keys = {"first": ec.generate_private_key(ec.SECP256R1())}
        self.jwks = folder / "jwks.json"
        self.write()

    def document(self) -> str:
        """The key set."""
        listed = []
        for kid, key in self.keys.items():
            listed.append(
                jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"}
            )
        return json.dumps({"keys": listed})

    def write(self) -> None:
        """Write the key set anew."""
        partial = self.jwks.with_suffix(".new")
        partial.write_text(self.document(), encoding="utf-8")
        partial.rename(self.jwks)

    def token(
        self, subject: str, *, kid: str = "first", key: Any = None, algorithm: str = "ES256", **claims: Any
    ) -> str:
        """A token for a subject; claims replace what a good one has, and None takes one away."""
        at = int(now().timestamp())
        said = {"iss": self.issuer, "aud": self.audience, "sub": subject, "iat": at - 10, "exp": at + 600} | claims
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, self.keys[kid] if key is None else key, algorithm, headers={"kid": kid})
