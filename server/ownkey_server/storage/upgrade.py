"""Which schema a database has, and how it gets the one that this version needs."""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from ownkey_server.storage.database import Database

# Any number, the same for all: one instance migrates, the others wait for it.
_UPGRADE_LOCK = 0x6F776E6B6579
_MIGRATION_SECONDS = 600

# It tells of every look at the schema, as if something were migrated.
logging.getLogger("alembic").setLevel(logging.WARNING)


class SchemaMismatch(Exception):
    """The database has another schema than this version needs. The message says what to do."""


def present(database: Database) -> str | None:
    """The database's schema; None when it is empty."""
    with database.reading() as connection:
        return _revision(connection)


def newest() -> str:
    """The schema that this version needs."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def upgrade(database: Database) -> tuple[str | None, str]:
    """Give the database the schema that this version needs; gives the schema before and after.

    Raises:
        SchemaMismatch: It was made by a newer version.
        DatabaseUnavailable: It does not answer.
    """
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(sa.text(f"SET LOCAL statement_timeout = '{_MIGRATION_SECONDS}s'"))
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_MIGRATION_SECONDS}s'"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
        before = _revision(connection)
        _require_known(database, before)
        if before != newest():
            command.upgrade(_config(connection), "head")
    return before, newest()


def require_newest(database: Database) -> None:
    """Make sure that the database has the schema that this version needs.

    Raises:
        SchemaMismatch: It has not. The message says what to do.
    """
    before = present(database)
    _require_known(database, before)
    if before is None:
        raise SchemaMismatch(f"{database.place} is empty; make its tables with: ownkey db upgrade")
    if before != newest():
        raise SchemaMismatch(
            f"{database.place} has schema {before}, and this version needs {newest()}; after a backup,"
            f" bring it up to date with: ownkey db upgrade"
        )


def _require_known(database: Database, revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaMismatch(
            f"{database.place} has schema {revision}, which a newer version of ownkey made; this version knows it not,"
            f" and would do harm: install the newer version"
        )


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
