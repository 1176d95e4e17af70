"""How commands of the server end: what went wrong, as the command line tells it, with its exit code (docs/cli.md)."""

from __future__ import annotations

from pathlib import Path

import click

from ownkey.cli.output import CONFLICT, NOT_FOUND, OTHER_ERROR, UNAVAILABLE, USAGE, Failure, exit_code_of
from ownkey.errors import KIND_OF_REASON
from ownkey.errors import OwnkeyError as ClientError
from ownkey_server import settings as settings_module
from ownkey_server.domain.errors import DatabaseUnavailable, KeyAbsent, KeyExists, OwnkeyError
from ownkey_server.rpc.reloading import UnusableFile
from ownkey_server.settings import Settings, SettingsError
from ownkey_server.storage.tenants_file import TenantsFileError

config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("ownkey.toml"),
    envvar="OWNKEY_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The settings file.",
)


def load(config: Path) -> Settings:
    """The settings in a file.

    Raises:
        Failure: They cannot be used.
    """
    try:
        return settings_module.load(config)
    except SettingsError as error:
        raise failure_of(error) from error


def failure_of(error: Exception, hint: str = "") -> Failure:
    """What ends a command that such an error ends."""
    message = f"{error}: {error.cause}" if isinstance(error, DatabaseUnavailable) else str(error)
    return Failure(message, exit_code(error), hint=hint)


def exit_code(error: Exception) -> int:
    """The exit code; that of the same error where a service has told it."""
    match error:
        case SettingsError() | TenantsFileError() | UnusableFile():
            return USAGE
        case KeyExists():
            return CONFLICT
        case KeyAbsent():
            return NOT_FOUND
        case DatabaseUnavailable():
            return UNAVAILABLE
        case OwnkeyError():
            return exit_code_of(KIND_OF_REASON.get(error.reason, ClientError))
    return OTHER_ERROR
