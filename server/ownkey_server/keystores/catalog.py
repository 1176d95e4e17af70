"""The list of all key stores: from a section of the settings to a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ownkey_server.domain.errors import KeyMisconfigured
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.base import KeyStore
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.keystores.first_uses import FirstUses
from ownkey_server.keystores.pkcs11.pin import Pin
from ownkey_server.secret_sources import SecretReference

if TYPE_CHECKING:
    from ownkey_server.keystores.pkcs11.module import Pkcs11Module


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """Keys in the files of a directory.

    Attributes:
        directory: Where they are.
        passphrase: Where the passphrase is that they are sealed under; None when they are in clear.
    """

    directory: Path
    passphrase: SecretReference | None = None


@dataclass(frozen=True, slots=True)
class Pkcs11Options:
    """Keys in a PKCS#11 token.

    Attributes:
        module: The vendor's library.
        token_label: Which of its tokens.
        pin: Where its user PIN is.
        mechanism: ``auto``, ``aes-gcm`` or ``aes-key-wrap``.
    """

    module: Path
    token_label: str
    pin: SecretReference
    mechanism: str = "auto"


KeyStoreOptions: TypeAlias = EmbeddedOptions | Pkcs11Options | AwsKmsOptions


class Modules:
    """The PKCS#11 modules of this process, one owner for each: a module must not be loaded by two.

    Args:
        pause: Seconds from one reinitialization of a module until the next may be.
    """

    def __init__(self, pause: float = 1.0) -> None:
        self._pause = pause
        self._modules: dict[Path, Pkcs11Module] = {}

    def get(self, path: Path) -> Pkcs11Module:
        """The owner of the module at ``path``."""
        from ownkey_server.keystores.pkcs11.module import Pkcs11Module  # noqa: PLC0415

        path = path.resolve()
        if path not in self._modules:
            self._modules[path] = Pkcs11Module(path, pause=self._pause)
        return self._modules[path]


def open_key_store(name: str, options: KeyStoreOptions, modules: Modules, uses: FirstUses | None = None) -> KeyStore:
    """The key store that the options describe. Nothing is asked of it yet.

    Args:
        name: Its name in the settings.
        options: What it is, and how it is reached.
        modules: The PKCS#11 modules of this process.
        uses: Which keys have ever worked; None for what this process sees alone.

    Raises:
        KeyMisconfigured: A package that this kind needs is not installed.
    """
    match options:
        case EmbeddedOptions():
            return EmbeddedKeyStore(name, options.directory, options.passphrase)
        case Pkcs11Options():
            try:
                from ownkey_server.keystores.pkcs11.store import Pkcs11KeyStore  # noqa: PLC0415 - not everybody has an HSM
            except ModuleNotFoundError as error:
                cause = "the package python-pkcs11 is not installed; run: pip install 'ownkey[server]'"
                raise KeyMisconfigured(name, "", cause) from error
            return Pkcs11KeyStore(
                name,
                modules.get(options.module),
                token_label=options.token_label,
                pin=Pin(options.pin),
                mechanism=options.mechanism,
            )
        case AwsKmsOptions():
            from ownkey_server.keystores.aws.store import AwsKmsKeyStore  # noqa: PLC0415 - boto3 takes a while to load

            return AwsKmsKeyStore(name, options, uses)
