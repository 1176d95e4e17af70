from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from ownkey_server.storage import upgrade
from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import METADATA
from ownkey_server.storage.upgrade import SchemaMismatch


def test_migrations_make_exactly_the_schema_that_the_code_uses(database: Database) -> None:
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_a_second_upgrade_does_nothing(database: Database) -> None:
    assert upgrade.upgrade(database) == (upgrade.newest(), upgrade.newest())


def test_an_empty_database_is_told_how_to_get_its_tables(tmp_path: Path) -> None:
    empty = Database(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(SchemaMismatch, match="is empty; make its tables with: ownkey db upgrade"):
        upgrade.require_newest(empty)


def test_a_newer_schema_is_refused_by_server_and_upgrade_alike(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for act in (upgrade.require_newest, upgrade.upgrade):
        with pytest.raises(SchemaMismatch, match="9999, which a newer version of ownkey made"):
            act(database)


def test_an_older_schema_is_refused_until_it_is_upgraded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "newest", lambda: "9999")
    with pytest.raises(SchemaMismatch, match=r"has schema 00[0-9]{2}, and this version needs 9999; after a backup"):
        upgrade.require_newest(database)


def test_a_failed_migration_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path}/half.db")

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("alembic.op.bulk_insert", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        upgrade.upgrade(database)
    with database.reading() as connection:
        assert sa.inspect(connection).get_table_names() == []
