"""Where the SDK is: Kamailio's Python is the system's, and knows no virtual environment by itself."""

from __future__ import annotations

import sys
from pathlib import Path

from ownkey_kamailio.settings import Settings, SettingsError


def use(venv: Path | None) -> None:
    """Make the packages of a virtual environment importable.

    Raises:
        SettingsError: There are none for this Python.
    """
    if venv is None:
        return
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = venv / "lib" / version / "site-packages"
    if not packages.is_dir():
        raise SettingsError(
            f"python.venv: {venv} has no packages for {version}, which Kamailio runs: make it with"
            f" `/usr/bin/python3 -m venv {venv}` and install ownkey there"
        )
    sys.path.insert(0, str(packages))


def require_classes(settings: Settings) -> None:
    """Make sure that what the settings say is stored are asset classes.

    Raises:
        SettingsError: One is none.
    """
    from ownkey.models import ASSET_CLASSES  # noqa: PLC0415 - only now is the SDK importable

    stores = {"calls.stores": settings.calls.stores} | {
        f"calls.tenant_stores.{tenant}": names for tenant, names in settings.calls.tenant_stores.items()
    }
    for where, names in stores.items():
        for name in names:
            if name not in ASSET_CLASSES:
                raise SettingsError(f"{where} has {name!r}, which is none of {', '.join(ASSET_CLASSES)}")
