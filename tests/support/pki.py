"""Certificates and tokens for tests, good ones and such as nobody should take."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    ) -> Issued:
        """A certificate with these subject alternative names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start, end = not_before or now() - timedelta(minutes=1), not_after or now() + DAY
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(ip_address(address)) for address in addresses]
        builder = self._builder(subject, key.public_key(), start, end)
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
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now() - DAY).next_update(next_update or now() + DAY)
        for serial in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now() - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        partial = self.crl.with_suffix(".new")
        partial.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        partial.rename(self.crl)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


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
