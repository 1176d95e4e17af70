"""A key leaves its token by a ceremony: wrapped by the token for one recipient, and never alone by one person."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from ownkey_server.domain.ceremonies import Action
from ownkey_server.hsm.ceremony_check import Head
from ownkey_server.hsm.ceremony_log import CeremonyLog, Intent
from ownkey_server.hsm.custodians import Confirming
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts
from ownkey_server.hsm.making import outcome
from ownkey_server.hsm.new_files import NewFiles, reserved
from ownkey_server.hsm.operations.exporting import Export, Recipient, TryExport
from ownkey_server.hsm.operations.transport import SECONDS
from ownkey_server.hsm.work import TokenAtWork, text_of
from ownkey_server.secret_sources import SecretReference

LEAST_BITS = 2048
LARGEST = 64 << 10


@dataclass(frozen=True, slots=True)
class PublicKeyFile:
    """A recipient's public key.

    Attributes:
        modulus: Big-endian.
        exponent: Big-endian.
        bits: Of the modulus.
        fingerprint: SHA-256 of its DER form, in hex, as `ownkey hsm import --begin` prints it.
    """

    modulus: bytes
    exponent: bytes
    bits: int
    fingerprint: str

    def recipient(self, scheme: str, name: str) -> Recipient:
        """Wrapped for in this way, by this hash for OAEP."""
        return Recipient(self.modulus, self.exponent, scheme, name)


def read_public_key(file: Path) -> PublicKeyFile:
    """An RSA public key, in PEM.

    Raises:
        HsmError: The file has none that would do.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise HsmError(f"{file}: cannot be read: {error.strerror}", Trouble.NOT_FOUND) from None
    hint = "--to takes the .public.pem that `ownkey hsm import NAME --begin` wrote, or another vendor's of this kind"
    try:
        key = serialization.load_pem_public_key(content) if len(content) <= LARGEST else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise HsmError(f"{file} has no RSA public key in PEM", Trouble.WRONG, hint)
    if key.key_size < LEAST_BITS:
        raise HsmError(f"{file}: RSA of {key.key_size} bits is too short; {LEAST_BITS} at least", Trouble.UNFIT, hint)
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    numbers = key.public_numbers()
    return PublicKeyFile(_bytes(numbers.n), _bytes(numbers.e), key.key_size, hashlib.sha256(der).hexdigest())


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


@dataclass(frozen=True, slots=True)
class Exported:
    """A key that was exported.

    Attributes:
        key: Its facts.
        wrapped_sha256: Of the file, in hex: the log of the import has it too.
        ceremony: The ceremony's number.
        head: The log's head afterwards.
    """

    key: KeyFacts
    wrapped_sha256: str
    ceremony: int
    head: Head


def look(token: TokenAtWork, label: str, recipient: Recipient) -> KeyFacts:
    """A key that is to be exported, once it is sure that it may be and that the token wraps for the recipient.

    Raises:
        HsmError: It may not be, or the token does not.
    """
    return token.ask(TryExport(label, recipient))


def export(
    log: CeremonyLog,
    custodians: Sequence[Confirming],
    token: TokenAtWork,
    key: KeyFacts,
    public: PublicKeyFile,
    recipient: Recipient,
    so_pin: SecretReference,
    out: Path,
) -> Exported:
    """Have the token wrap a key for a recipient, and write it into a file of its own.

    The record that it was done is on disk before the file has its name: nothing leaves without one.

    Args:
        log: The ceremony log.
        custodians: Who confirm: two at least.
        token: Where the key is.
        key: As it was looked at.
        public: The recipient's public key.
        recipient: The same, and how to wrap.
        so_pin: Where the security officer's PIN is.
        out: The file. There must be none yet.

    Raises:
        HsmError: Nothing was exported.
    """
    detail = {**_said_of(public, recipient), **outcome([token], [key])}
    intent = Intent(Action.EXPORT, (token.facts.identity,), key.label, detail)
    with reserved(out, mode=0o600) as files:
        operation = Export(key, recipient, text_of(so_pin, "SO PIN"), text_of(token.place.pin, "PIN"))
        ceremony = log.begin(intent, custodians)
        try:
            wrapped = token.ask(operation, SECONDS)
            digest = _digest(wrapped)
            record = ceremony.agreed({**detail, "wrapped_sha256": digest})
        except BaseException as error:
            ceremony.failed(str(error) if isinstance(error, HsmError) else type(error).__name__)
            raise
        head = record()
        _written(files, out, wrapped)
    return Exported(key, digest, ceremony.number, head)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _said_of(public: PublicKeyFile, recipient: Recipient) -> Mapping[str, Any]:
    return {
        "bits": public.bits,
        "hash": recipient.hash,
        "recipient": public.fingerprint,
        "scheme": recipient.scheme,
    }


def _written(files: NewFiles, out: Path, wrapped: bytes) -> None:
    try:
        files.write({out: wrapped})
    except HsmError as error:
        hint = "the log says that the key was exported, and its file is not there: run the command again"
        raise HsmError(str(error), error.trouble, hint) from None
