"""The server's settings: the file's shape, its checks, and what it asks of the environment (docs/settings.md)."""

from ownkey_server.settings.key_stores import EmbeddedSettings, KeyStoreSettings, Pkcs11Settings, key_store_options
from ownkey_server.settings.model import (
    AuditSettings,
    DirectorySinkSettings,
    KeySettings,
    S3SinkSettings,
    ServerSettings,
    Settings,
    SettingsError,
    load,
    require_known_callers,
    secret_references,
)

__all__ = [
    "AuditSettings",
    "DirectorySinkSettings",
    "EmbeddedSettings",
    "KeySettings",
    "KeyStoreSettings",
    "Pkcs11Settings",
    "S3SinkSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "key_store_options",
    "load",
    "require_known_callers",
    "secret_references",
]
