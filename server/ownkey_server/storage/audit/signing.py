"""The Ed25519 key that signs the audit trail, and the public key that anybody verifies it by (RFC 8032)."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ownkey_server.secret_sources import SecretReference, SecretUnusable

PUBLIC_SUFFIX = ".pub"


class SigningKeyError(Exception):
    """The key cannot be used. The message says what is wrong with which file."""


class Signer:
    """Signs statements of the audit trail."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.verifier = Verifier([private_key.public_key()])

    def sign(self, statement: bytes) -> bytes:
        """64 bytes."""
        return self._private_key.sign(statement)

    @property
    def public_pem(self) -> bytes:
        """The public half, in PEM."""
        public = self._private_key.public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def fingerprint(self) -> str:
        """Which key it is: SHA-256 of the public key, in hex."""
        return fingerprint(self._private_key.public_key())


class Verifier:
    """Checks signatures by the public keys that are trusted."""

    def __init__(self, public_keys: list[Ed25519PublicKey]) -> None:
        self._public_keys = public_keys

    @property
    def fingerprints(self) -> frozenset[str]:
        """Which keys these are."""
        return frozenset(fingerprint(key) for key in self._public_keys)

    def good(self, signature: bytes, statement: bytes) -> bool:
        """Whether one of the keys made it."""
        for key in self._public_keys:
            try:
                key.verify(signature, statement)
            except InvalidSignature:
                continue
            return True
        return False


def fingerprint(public_key: Ed25519PublicKey) -> str:
    """SHA-256 of the key's 32 bytes, in hex."""
    raw = public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def public_path(path: Path) -> Path:
    """Where the public key of the private key at ``path`` lies."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def load_signer(path: Path, passphrase: SecretReference | None = None) -> Signer:
    """The key in a PEM file that nobody but its owner may read.

    Args:
        path: The file.
        passphrase: Where its passphrase is; None for a key in clear.

    Raises:
        SigningKeyError: It cannot be used.
    """
    try:
        mode = path.stat().st_mode
        pem = path.read_bytes()
    except OSError as error:
        raise SigningKeyError(f"{path}: the audit's signing key cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise SigningKeyError(f"{path}: others may read the audit's signing key; run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(pem, password=_passphrase(path, passphrase))
    except TypeError:  # the one has a passphrase, and the other has not
        what = "is not encrypted: remove signing_key_passphrase, or give it a passphrase with openssl pkey -aes256"
        raise SigningKeyError(
            f"{path}: {what}" if passphrase else f"{path}: is encrypted: set signing_key_passphrase in [audit]"
        ) from None
    except ValueError:
        what = f", or the passphrase in {passphrase} is wrong" if passphrase else ""
        raise SigningKeyError(f"{path}: is no private key in PEM{what}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{path}: is no Ed25519 key")
    return Signer(key)


def load_or_make_signer(path: Path, passphrase: SecretReference | None = None) -> tuple[Signer, bool]:
    """The key in the file, made first if there is no file; gives whether it was made.

    Args:
        path: The file.
        passphrase: Where the passphrase is that it is, or will be, encrypted under; None for a key in clear.

    Raises:
        SigningKeyError: It cannot be used, or not be made.
    """
    if path.exists():
        signer = load_signer(path, passphrase)
        _write_public(path, signer)
        return signer, False
    key = Ed25519PrivateKey.generate()
    secret = _passphrase(path, passphrase)
    encryption = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    # Written aside and linked into place: of two processes one wins, and nobody reads half a key.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(private)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return load_signer(path, passphrase), False
        finally:
            aside.unlink()
    except OSError as error:
        raise SigningKeyError(f"{path}: the audit's signing key cannot be made: {error.strerror}") from error
    signer = load_signer(path, passphrase)
    _write_public(path, signer)
    return signer, True


def _passphrase(path: Path, source: SecretReference | None) -> bytes | None:
    try:
        return bytes(source.read().reveal()) if source else None
    except SecretUnusable as error:
        raise SigningKeyError(f"{path}: the passphrase of the audit's signing key in {error}") from None


def _write_public(path: Path, signer: Signer) -> None:
    """Put the public half beside the key, if it is not there: whoever made the key may have died before that."""
    public = public_path(path)
    if public.exists():
        return
    aside = public.with_name(f".{public.name}.{secrets.token_hex(4)}")
    try:
        aside.write_bytes(signer.public_pem)
        aside.replace(public)
    except OSError as error:
        raise SigningKeyError(f"{public}: the public key cannot be written: {error.strerror}") from error


def load_verifier(paths: list[Path]) -> Verifier:
    """The public keys in PEM files.

    Raises:
        SigningKeyError: One cannot be used.
    """
    keys = []
    for path in paths:
        try:
            key = serialization.load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise SigningKeyError(f"{path}: the public key cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise SigningKeyError(f"{path}: is no public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise SigningKeyError(f"{path}: is no Ed25519 key")
        keys.append(key)
    return Verifier(keys)
