"""Custodians: people who confirm ceremonies, each by an Ed25519 key of their own under a passphrase of their own.

The private key is a file in PEM (PKCS#8, encrypted), which its custodian keeps on a medium of their own; the public key
stands in the ceremony log. `openssl pkey` reads both.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ownkey_server.domain.ceremonies import CeremonyInvalid, Confirmation, Record, require_name
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.hsm.errors import HsmError, Trouble

SHORTEST_PASSPHRASE = 12
_RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


class Confirming(Protocol):
    """A custodian who is to confirm a ceremony, here or elsewhere."""

    @property
    def name(self) -> str:
        """Who."""
        ...

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        ...

    def asked(
        self, record: Record, previous: bytes, number: int
    ) -> contextlib.AbstractContextManager[Callable[[], Confirmation]]:
        """Ask for their signature of a record, until the block ends; what is given waits for it.

        Args:
            record: What is to be signed, without confirmations.
            previous: Hash of the record before.
            number: The record's number in the log.

        Raises:
            HsmError: They do not confirm.
        """
        ...


@dataclass(frozen=True, slots=True)
class Custodian:
    """A custodian who is here and has opened their key."""

    name: str
    _key: Ed25519PrivateKey = field(repr=False)

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self._key.public_key().public_bytes(*_RAW)

    def confirm(self, record: Record, previous: bytes) -> Confirmation:
        """Sign a record in its place."""
        return Confirmation(self.name, self._key.sign(record.statement(previous)))

    @contextlib.contextmanager
    def asked(self, record: Record, previous: bytes, number: int) -> Iterator[Callable[[], Confirmation]]:  # noqa: ARG002
        """As :meth:`Confirming.asked`: they have been shown what, and have opened their key for it."""
        yield lambda: self.confirm(record, previous)


def make(name: str, path: Path, passphrase: SecretBytes) -> Custodian:
    """Make a key for a custodian, in a file that is not there yet.

    Raises:
        HsmError: The name or the passphrase will not do, or the file cannot be made.
    """
    try:
        require_name(name)
    except CeremonyInvalid as error:
        raise HsmError(str(error)) from None
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise HsmError(f"a custodian's passphrase must have at least {SHORTEST_PASSPHRASE} bytes")
    key = Ed25519PrivateKey.generate()
    encryption = serialization.BestAvailableEncryption(bytes(passphrase.reveal()))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise HsmError(f"{path} is there already: no custodian's key is ever overwritten", Trouble.TAKEN) from None
    except OSError as error:
        raise HsmError(f"{path}: the key cannot be written: {error.strerror}") from None
    return Custodian(name, key)


def load(name: str, path: Path, passphrase: SecretBytes) -> Custodian:
    """A custodian's key, opened.

    Raises:
        HsmError: It cannot be.
    """
    try:
        mode, pem = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise HsmError(f"{path}: the key of {name} cannot be read: {error.strerror}", Trouble.NOT_FOUND) from None
    if mode & 0o077:
        raise HsmError(f"{path}: others may read the key of {name}", hint=f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(pem, password=bytes(passphrase.reveal()))
    except TypeError:
        raise HsmError(f"{path}: the key of {name} is not encrypted: anybody could confirm with it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise HsmError(
            f"{path}: is no private key in PEM, or the passphrase of {name} is wrong", Trouble.REFUSED
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise HsmError(f"{path}: is no Ed25519 key")
    return Custodian(name, key)


def good(public_key: bytes, signature: bytes, statement: bytes) -> bool:
    """Whether a key made a signature of a statement."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True
