"""The list of all key stores: from a section of the settings to a store."""

from __future__ import annotations

import importlib.util
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
    from ownkey_server.keystores.pkcs11.host import ModuleHost
    from ownkey_server.keystores.pkcs11.thread import ModuleThread


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
        mechanism: ``auto``, ``aes-gcm``, ``aes-key-wrap`` or ``aes-key-wrap-pad``.
        isolation: ``process`` when the module has processes of its own, ``thread`` when it is in this one.
        sessions: How many processes, each with a session of its own.
        hang_seconds: After which a call has hung.
        profile: What is peculiar to the token: ``auto``, the name of a built-in profile, or the path of a file.
        module_arguments: What the module is initialized with; None for nothing.
        exportable_keys: Use keys, too, that leave the token under a key alone that its security officer trusts.
    """

    module: Path
    token_label: str
    pin: SecretReference
    mechanism: str = "auto"
    isolation: str = "process"
    sessions: int = 1
    hang_seconds: float = 2.0
    profile: str = "auto"
    module_arguments: str | None = None
    exportable_keys: bool = False


KeyStoreOptions: TypeAlias = EmbeddedOptions | Pkcs11Options | AwsKmsOptions


class Modules:
    """The PKCS#11 modules in this process, one owner for each, and those in processes of their own.

    Args:
        pause: Seconds from one reinitialization of a module until the next may be.
        lock_memory: Whether the processes keep their memory out of swap, as this one does.
    """

    def __init__(self, pause: float = 1.0, *, lock_memory: bool = False) -> None:
        self._pause = pause
        self._lock_memory = lock_memory
        self._threads: dict[Path, ModuleThread] = {}

    def host(self, name: str, options: Pkcs11Options) -> ModuleHost:
        """Where the module is for one key store: processes of its own, or the thread that all stores share."""
        from ownkey_server.keystores.pkcs11.process import ModuleProcesses  # noqa: PLC0415

        if options.isolation == "thread":
            return self.thread(options.module, options.hang_seconds, options.module_arguments)
        return ModuleProcesses(
            options.module.resolve(),
            options.module_arguments,
            store=name,
            count=options.sessions,
            patience=options.hang_seconds,
            pause=self._pause,
            lock_memory=self._lock_memory,
        )

    def thread(self, path: Path, hang_seconds: float = 2.0, arguments: str | None = None) -> ModuleThread:
        """The thread of the module at ``path``: a module must not be loaded by two in one process."""
        from ownkey_server.keystores.pkcs11.thread import ModuleThread  # noqa: PLC0415

        path = path.resolve()
        if path not in self._threads:
            self._threads[path] = ModuleThread(path, arguments, patience=hang_seconds, pause=self._pause)
        return self._threads[path]


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
            if importlib.util.find_spec("pkcs11") is None:  # not everybody has an HSM
                raise KeyMisconfigured(
                    name, "", "the package python-pkcs11 is not installed; run: pip install 'ownkey[server]'"
                )
            from ownkey_server.keystores.pkcs11.store import Pkcs11KeyStore  # noqa: PLC0415

            return Pkcs11KeyStore(
                name,
                modules.host(name, options),
                token_label=options.token_label,
                pin=Pin(options.pin),
                mechanism=options.mechanism,
                profile=options.profile,
                uses=uses,
                exportable_keys=options.exportable_keys,
            )
        case AwsKmsOptions():
            from ownkey_server.keystores.aws.store import AwsKmsKeyStore  # noqa: PLC0415 - boto3 takes a while to load

            return AwsKmsKeyStore(name, options, uses)
