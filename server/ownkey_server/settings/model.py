"""The server's settings: one TOML file, and environment variables over it (docs/settings.md).

``OWNKEY_SERVER__LISTEN=127.0.0.1:7401`` overrides ``listen`` in ``[server]``. An unknown name, in the file or in the
environment, is an error: a misspelt limit must not silently be no limit.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from ownkey_server.keystores.pkcs11.profile_reader import names_a_file
from ownkey_server.mistakes import FromEnvironment, wrong_kinds
from ownkey_server.secret_sources import SecretReference
from ownkey_server.settings.access import AuthorizationSettings, IdentitySettings, TlsSettings
from ownkey_server.settings.aws import AwsKmsSettings
from ownkey_server.settings.fields import EndpointUrl, FilePath, Section, message, place
from ownkey_server.settings.key_stores import EmbeddedSettings, KeyStoreSettings, Pkcs11Settings, wrong_profiles
from ownkey_server.settings.limits import LimitSettings
from ownkey_server.settings.notifications import NotificationSettings
from ownkey_server.settings.secrets import SecretSetting
from ownkey_server.storage.database import parse_url, relative_to

ENVIRONMENT_PREFIX = "OWNKEY_"
SECTIONS = ("server", "storage", "audit", "keys", "call_gate", "authorization", "limits", "notifications")
_HOST_AND_PORT = re.compile(r"(?:(?P<name>[^\[\]:@/\s]+)|\[(?P<v6>[0-9a-fA-F:.]+)\]):(?P<port>[0-9]{1,5})")


class SettingsError(Exception):
    """The settings cannot be used. The message lists every mistake with its place, a line each."""


def _require_address(listen: str) -> str:
    if listen.startswith("unix:"):
        return listen
    parts = _HOST_AND_PORT.fullmatch(listen)
    if parts is None or int(parts["port"]) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:7400 or [::1]:7400, or unix:PATH")
    return listen


def is_local(listen: str) -> bool:
    """Whether nobody but this machine can reach a listener: it is a loopback address or a socket."""
    parts = _HOST_AND_PORT.fullmatch(listen)
    if parts is None:
        return listen.startswith("unix:")
    host = parts["name"] or parts["v6"]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Section(Section, BaseModel):
    """BaseModel too, by which linters know that defaults are copied."""


class ServerSettings(_Section):
    """The listener and its limits."""

    listen: Annotated[str, AfterValidator(_require_address)] = "127.0.0.1:7400"
    token_listen: Annotated[str, AfterValidator(_require_address)] | None = None
    health_listen: Annotated[str, AfterValidator(_require_address)] | None = None
    development: bool = False
    tls: TlsSettings | None = None
    reflection: bool = True
    max_message_bytes: int = Field(default=12 * 1024 * 1024, ge=5 * 1024 * 1024, le=64 * 1024 * 1024)
    max_concurrent_streams: int = Field(default=64, ge=1)
    drain_seconds: float = Field(default=10.0, ge=0)
    lock_memory: bool = False

    @model_validator(mode="after")
    def _let_in_nobody_unknown(self) -> Self:
        if self.development and (self.tls or not is_local(self.listen)):
            raise ValueError(
                "development lets in whoever can connect: it is for a listener on this machine without TLS, and this"
                f" one {'has TLS' if self.tls else 'is not on this machine'}"
            )
        if self.tls is None and not is_local(self.listen):
            raise ValueError("listen is not on this machine alone: it needs [server.tls]; ownkey pki helps")
        if self.token_listen and self.tls is None:
            raise ValueError("token_listen needs [server.tls]: a token is not sent in clear")
        if self.health_listen and not is_local(self.health_listen):
            raise ValueError("health_listen: is not on this machine alone, and has no TLS")
        return self


def _require_database(url: str) -> str:
    parse_url(url)
    return url


class StorageSettings(_Section):
    """Where tenants, keys, policies and the audit trail are, and how old what is known of them may be."""

    url: Annotated[str, AfterValidator(_require_database)] = "sqlite:///ownkey.db"
    password: SecretSetting | None = None
    tenants_file: FilePath = Path("tenants.toml")
    connections: int = Field(default=4, ge=2, le=64)
    cached_tenants: int = Field(default=1500, ge=1, le=1_000_000)
    view_max_age_seconds: float = Field(default=60.0, ge=1, le=3600)

    @model_validator(mode="after")
    def _require_a_server_for_the_password(self) -> Self:
        if self.password and self.url.startswith("sqlite"):
            raise ValueError("password: SQLite has none; it is the one of a role of PostgreSQL")
        return self


class DirectorySinkSettings(_Section):
    """Sealed audit segments, copied into a directory."""

    kind: Literal["directory"]
    directory: FilePath


class S3SinkSettings(_Section):
    """Sealed audit segments, copied into a bucket with object lock."""

    kind: Literal["s3"]
    bucket: str = Field(min_length=3, max_length=63)
    prefix: str = ""
    region: str | None = None
    endpoint_url: EndpointUrl | None = None
    retain_days: int = Field(ge=1, le=36_500)
    mode: Literal["COMPLIANCE", "GOVERNANCE"] = "COMPLIANCE"


SinkSettings = Annotated[DirectorySinkSettings | S3SinkSettings, Field(discriminator="kind")]


class AuditSettings(_Section):
    """How the audit trail is signed, sealed, copied and kept."""

    signing_key_file: FilePath = Path("audit-signing.pem")
    signing_key_passphrase: SecretSetting | None = None
    public_key_files: list[FilePath] = []
    checkpoint_seconds: float = Field(default=60.0, gt=0, le=86_400)
    segment_records: int = Field(default=10_000, ge=1, le=100_000)
    segment_seconds: float = Field(default=86_400.0, gt=0)
    retention_days: float | None = Field(default=None, gt=0)
    sink: SinkSettings | None = None


class KeySettings(_Section):
    """How keys are used and watched."""

    lease_seconds: float = Field(default=60.0, gt=0, le=900)
    branch_lease_seconds: float = Field(default=60.0, ge=1, le=900)
    branch_max_age_days: float = Field(default=30.0, gt=0, le=3650)
    branch_keys_per_tenant: int = Field(default=8, ge=1, le=1000)
    stream_check_seconds: float = Field(default=10.0, gt=0, le=300)
    stream_check_mib: int = Field(default=256, ge=1, le=1_048_576)
    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    probe_interval_seconds: float = Field(default=10.0, gt=0)
    evidence_max_age_seconds: float = Field(default=60.0, gt=0)
    recovery_seconds: float = Field(default=3.0, ge=0, le=300)
    probes_per_second: float = Field(default=20.0, gt=0, le=10_000)
    watch_heartbeat_seconds: float = Field(default=10.0, ge=0.1, le=300)
    history_days: float = Field(default=400.0, gt=0, le=36_500)
    hedge: bool = False
    spread: bool = False


class CallGateSettings(_Section):
    """How long an answer about a call may be used, and when to ask again after an outage."""

    answer_valid_seconds: float = Field(default=5.0, gt=0, le=60)
    retry_after_seconds: float = Field(default=30.0, ge=1, le=3600)
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=60)


class Settings(_Section):
    """Everything that can be set."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    audit: AuditSettings = AuditSettings()
    keys: KeySettings = KeySettings()
    call_gate: CallGateSettings = CallGateSettings()
    identity: IdentitySettings = IdentitySettings()
    authorization: AuthorizationSettings = AuthorizationSettings()
    limits: LimitSettings = LimitSettings()
    notifications: NotificationSettings = NotificationSettings()
    key_stores: dict[str, KeyStoreSettings] = Field(min_length=1)

    @model_validator(mode="after")
    def _hold_every_key_once(self) -> Self:
        places: dict[tuple[str, ...], str] = {}
        for name, store in self.key_stores.items():
            if isinstance(store, EmbeddedSettings):
                place: tuple[str, ...] = (str(store.directory.resolve()),)
            elif isinstance(store, AwsKmsSettings):
                continue  # several ways to one key: the registry takes an ARN once
            else:
                place = (str(store.module.resolve()), store.module_arguments or "", store.token_label)
            other = places.setdefault(place, name)
            if other != name:
                raise ValueError(f"key stores {other!r} and {name!r} are one and the same: give each key one place")
        return self

    @model_validator(mode="after")
    def _initialize_every_module_once(self) -> Self:
        arguments: dict[Path, tuple[str, str | None]] = {}
        for name, store in self.key_stores.items():
            if isinstance(store, Pkcs11Settings) and store.isolation == "thread":
                other, given = arguments.setdefault(store.module.resolve(), (name, store.module_arguments))
                if given != store.module_arguments:
                    raise ValueError(
                        f"key stores {other!r} and {name!r} have one module on a thread, and different"
                        ' module_arguments: set isolation = "process"'
                    )
        return self


def load(path: Path) -> Settings:
    """Read the file, put the environment over it, and make its relative paths relative to the file.

    Raises:
        SettingsError: Something is wrong: all mistakes are listed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "; make one with: ownkey init" if isinstance(error, FileNotFoundError) else ""
        raise SettingsError(f"{path}: cannot be read: {error.strerror}{hint}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from error
    _put_environment_over(document)
    # pydantic takes true for 1 and "no" for false, as it must where a variable of the environment says so.
    mistakes = [(place(location), what) for location, what in wrong_kinds(document, Settings)]
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        told_already = {where for where, _ in mistakes}
        mistakes += [one for one in map(_describe, error.errors()) if one[0] not in told_already]
    if mistakes:
        raise SettingsError(
            "\n".join(": ".join(part for part in (str(path), where, what) if part) for where, what in mistakes)
        )
    placed = _with_absolute_paths(settings, path.parent.absolute())
    for where, what in wrong_profiles(placed.key_stores):
        raise SettingsError(f"{path}: {where}: {what}")
    return placed


def require_known_callers(settings: Settings) -> None:
    """Make sure that a server with these settings knows who calls it. Commands that serve nobody need not.

    Raises:
        SettingsError: It would not, or nobody could call it.
    """
    for complaint in _complaints(settings.server, settings.identity, settings.authorization):
        raise SettingsError(complaint)


def _complaints(
    server: ServerSettings, identity: IdentitySettings, authorization: AuthorizationSettings
) -> Iterator[str]:
    if server.development:
        if authorization.second_person:
            yield "authorization.second_person: development cannot tell one person from another"
        return
    if server.tls is None and not (identity.sidecar and identity.sidecar.unix_socket):
        yield (
            "server: nothing says who calls: give [server.tls], or set development = true to try ownkey on this machine"
            " alone, where every caller may do everything"
        )
    if server.tls and not server.tls.client_ca_file and not identity.issuers:
        yield "server.tls: give client_ca_file, or an issuer of tokens: nobody could call"
    rules = identity.certificates
    if server.tls and server.tls.client_ca_file and not (rules.spiffe_trust_domains or rules.dns_suffixes):
        yield "identity.certificates: give spiffe_trust_domains or dns_suffixes, or no certificate names anybody"
    if server.token_listen and not identity.issuers:
        yield "server.token_listen: needs an issuer of tokens, [identity.issuers.NAME]"
    if identity.sidecar and identity.sidecar.unix_socket and not server.listen.startswith("unix:"):
        yield "identity.sidecar.unix_socket: server.listen is no socket, unix:PATH"
    if identity.sidecar and identity.sidecar.unix_socket and (server.health_listen or "").startswith("unix:"):
        yield (
            "server.health_listen: by identity.sidecar.unix_socket whoever opens a socket is believed, there too: make"
            " it a loopback address, such as 127.0.0.1:7401"
        )


def secret_references(part: object) -> Iterator[SecretReference]:
    """Every reference to a secret in the settings, or in a part of them."""
    match part:
        case SecretReference():
            yield part
        case BaseModel():
            for _, value in part:
                yield from secret_references(value)
        case dict() | list():
            for value in part.values() if isinstance(part, dict) else part:
                yield from secret_references(value)


def _put_environment_over(document: dict[str, Any]) -> None:
    for name in sorted(os.environ):
        section, separator, field = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if name.startswith(ENVIRONMENT_PREFIX) and separator:
            if section not in SECTIONS:
                raise SettingsError(f"environment variable {name}: there is no section [{section}] to override")
            table = document.setdefault(section, {})
            if isinstance(table, dict):  # what else it may be, the validation tells
                table[field] = FromEnvironment(os.environ[name])


def _describe(error: Any) -> tuple[str, str]:
    """A mistake's place, and what is wrong there."""
    location = [str(part) for part in error["loc"]]
    if location[:1] == ["key_stores"]:
        del location[2:3]  # pydantic puts the kind of the key store between its name and the field
    if location in ([], ["key_stores"]) and error["type"] in ("missing", "too_short"):
        return "", "the file has no [key_stores.NAME]; ownkey init writes one"
    return place(location) or "the file", message(error, Settings)


def _with_absolute_paths(settings: Settings, folder: Path) -> Settings:
    """Every path in the settings, however deep, counted from the settings' own folder."""

    def absolute(value: Any) -> Any:
        match value:
            case Path():
                return folder / value
            case SecretReference():
                return value.under(folder)
            case BaseModel():
                update = {name: absolute(field) for name, field in value}
                if isinstance(value, Pkcs11Settings) and names_a_file(value.profile):
                    update["profile"] = str(folder / value.profile)
                return value.model_copy(update=update)
            case dict():
                return {name: absolute(item) for name, item in value.items()}
            case list():
                return [absolute(item) for item in value]
        return value

    placed: Settings = absolute(settings)
    url = relative_to(parse_url(placed.storage.url), folder)
    return placed.model_copy(update={"storage": placed.storage.model_copy(update={"url": url})})
