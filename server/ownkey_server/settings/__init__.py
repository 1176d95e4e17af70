"""The server's settings: the file's shape, its checks, and what it asks of the environment (docs/settings.md)."""

from ownkey_server.settings.model import (
    AuditSettings,
    DirectorySinkSettings,
    EmbeddedSettings,
    KeySettings,
    KeyStoreSettings,
    S3SinkSettings,
    ServerSettings,
    Settings,
    SettingsError,
    key_store_options,
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
    "S3SinkSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "key_store_options",
    "load",
    "require_known_callers",
    "secret_references",
]
