"""A role of PostgreSQL that must give a password, in a cluster whose other roles need none."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import psycopg
from psycopg import sql

from support.postgres import PostgresServer

_serial = itertools.count()


@dataclass(frozen=True)
class GuardedRole:
    """The role, and a database that it owns.

    Attributes:
        url: The database, as the role.
        superuser_url: The database, as one who needs no password.
    """

    url: str
    superuser_url: str

    @classmethod
    def make(cls, postgres: PostgresServer, password: str) -> GuardedRole:
        """Make the role and the database."""
        url = postgres.new_database()
        name = f"guarded_{next(_serial)}"
        role = sql.Identifier(name)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
            database = sql.Identifier(connection.info.dbname)
            connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, role))
            _add_rule(connection, f"host all {name} 127.0.0.1/32 scram-sha-256")
        return cls(url.replace("//ownkey@", f"//{name}@"), url)


def _add_rule(connection: psycopg.Connection[tuple[str]], rule: str) -> None:
    (path,) = connection.execute("SHOW hba_file").fetchone() or ("",)
    (rules,) = connection.execute("SELECT pg_read_file(%s)", (path,)).fetchone() or ("",)
    # Through the server, which owns the file.
    lines = sql.SQL("SELECT unnest(string_to_array({}, E'\\n'))").format(f"{rule}\n{rules}")
    connection.execute(sql.SQL("COPY ({}) TO {}").format(lines, path))
    connection.execute("SELECT pg_reload_conf()")
