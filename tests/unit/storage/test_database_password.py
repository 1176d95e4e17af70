"""The password of a role of PostgreSQL: from where the settings say, for each new connection, and in nothing shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.secret_sources import SecretReference
from ownkey_server.storage.database import Database
from support.guarded_role import GuardedRole
from support.postgres import PostgresServer

PASSWORD = 'it\'s \\ a="päss" word%40@:/?'


@pytest.fixture
def role(postgres: PostgresServer) -> str:
    """The URL of a role that must give a password to log in."""
    return GuardedRole.make(postgres, PASSWORD).url


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(PASSWORD, encoding="utf-8")
    return path


def answers(database: Database) -> bool:
    with database.reading() as connection:
        return bool(connection.execute(sa.text("SELECT 1")).scalar_one() == 1)


def test_it_is_read_where_the_settings_say_and_shown_nowhere(role: str, password: Path) -> None:
    database = Database(role, password=SecretReference.file(password))
    try:
        assert answers(database)
        engine = database.engine
        shown = [repr(engine), str(engine.url), repr(engine.url), engine.url.render_as_string(hide_password=False)]
        shown += [database.place, repr(database), repr(vars(database)), repr(vars(engine)), repr(vars(engine.pool))]
        assert not [text for text in shown if "päss" in text]
    finally:
        database.close()


def test_a_password_that_was_changed_needs_no_restart(role: str, password: Path) -> None:
    password.write_text("wr0ng-s3cr3t", encoding="utf-8")
    database = Database(role, password=SecretReference.file(password))
    try:
        with pytest.raises(DatabaseUnavailable) as caught:
            answers(database)
        assert "password authentication failed" in caught.value.cause
        assert "wr0ng" not in f"{caught.value!r} {caught.value.cause} {caught.value.__cause__!r}"
        password.write_text(PASSWORD, encoding="utf-8")
        assert answers(database)
    finally:
        database.close()


def test_a_password_that_cannot_be_had_is_told_by_its_reference(role: str, password: Path) -> None:
    password.chmod(0o644)
    database = Database(role, password=SecretReference.file(password))
    try:
        with pytest.raises(DatabaseUnavailable) as caught:
            answers(database)
        assert caught.value.cause == (f"the password in file:{password}: others may read it; run: chmod 600 {password}")
        password.chmod(0o600)
        assert answers(database)
    finally:
        database.close()
