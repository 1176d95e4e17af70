"""Settings of the key stores, ``[key_stores.NAME]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ownkey_server.keystores.catalog import EmbeddedOptions, KeyStoreOptions, Pkcs11Options
from ownkey_server.keystores.pkcs11.profile_reader import ProfileInvalid
from ownkey_server.secret_sources import SecretReference
from ownkey_server.settings.aws import AwsKmsSettings
from ownkey_server.settings.fields import FilePath, Section
from ownkey_server.settings.secrets import SecretSetting


class EmbeddedSettings(Section):
    """Keys in a directory. Not for production."""

    kind: Literal["embedded"]
    directory: FilePath
    passphrase: SecretSetting | None = None


class Pkcs11Settings(Section):
    """Keys in a PKCS#11 token."""

    kind: Literal["pkcs11"]
    module: FilePath
    token_label: str = Field(min_length=1, max_length=32)
    pin: SecretSetting | None = None
    pin_file: FilePath | None = None
    mechanism: Literal["auto", "aes-gcm", "aes-key-wrap", "aes-key-wrap-pad"] = "auto"
    profile: str = "auto"
    module_arguments: str | None = Field(default=None, max_length=4096, pattern=r"^[^\x00]+$")
    isolation: Literal["process", "thread"] = "process"
    sessions: int = Field(default=1, ge=1, le=64)
    hang_seconds: float = Field(default=2.0, ge=0.1, le=60.0)
    exportable_keys: bool = False

    @model_validator(mode="after")
    def _require_processes_for_sessions(self) -> Self:
        if self.sessions > 1 and self.isolation == "thread":
            raise ValueError('sessions: a module on a thread has one; set isolation = "process" for more')
        return self

    @model_validator(mode="after")
    def _require_one_pin(self) -> Self:
        if (self.pin is None) is (self.pin_file is None):
            raise ValueError('needs one of pin, such as pin = "credential:hsm-pin", and pin_file')
        return self

    @property
    def pin_source(self) -> SecretReference:
        """Where the PIN is, by whichever of the two names."""
        return self.pin or SecretReference.file(self.pin_file or Path())


KeyStoreSettings = Annotated[EmbeddedSettings | Pkcs11Settings | AwsKmsSettings, Field(discriminator="kind")]


def key_store_options(section: EmbeddedSettings | Pkcs11Settings | AwsKmsSettings) -> KeyStoreOptions:
    """The section as the catalog of key stores wants it."""
    match section:
        case EmbeddedSettings():
            return EmbeddedOptions(section.directory, section.passphrase)
        case Pkcs11Settings():
            return Pkcs11Options(
                section.module,
                section.token_label,
                section.pin_source,
                section.mechanism,
                isolation=section.isolation,
                sessions=section.sessions,
                hang_seconds=section.hang_seconds,
                profile=section.profile,
                module_arguments=section.module_arguments,
                exportable_keys=section.exportable_keys,
            )
        case AwsKmsSettings():
            return section.options()


def wrong_profiles(key_stores: Mapping[str, KeyStoreSettings]) -> Iterator[tuple[str, str]]:
    """Where the profile of a token cannot be used, and why."""
    for name, store in key_stores.items():
        if isinstance(store, Pkcs11Settings):
            try:
                from ownkey_server.keystores.pkcs11.profiles import load as load_profile  # noqa: PLC0415
            except ModuleNotFoundError:
                return  # without the package that they are for, the key store says what to install
            try:
                load_profile(store.profile)
            except ProfileInvalid as error:
                yield f"key_stores.{name}.profile", str(error)
