"""A connection to SQLite or PostgreSQL: how it is opened, what a transaction is, and how its failures are told."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Dialect, Engine, make_url

from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.secret_sources import SecretReference, SecretUnusable

# How long a statement may wait for the database before it counts as away, in seconds.
PATIENCE = 5
_POSTGRESQL_OPTIONS = {
    "connect_timeout": "3",
    "tcp_user_timeout": str(PATIENCE * 1000),
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "application_name": "ownkey",
}


class DatabaseUrlError(ValueError):
    """The URL names no database that can be used. The message says what to write instead."""


class Database:
    """A database, and a few connections to it.

    Thread-safe. Every method raises :class:`DatabaseUnavailable` when the database does not answer.

    Args:
        url: ``sqlite:///path/to/file`` or ``postgresql://user@host/name``.
        password: Where the role's password is, read for each new connection; None where it needs none.
        connections: How many at once; a thread that needs one more waits.
        checked: Whether a connection is tried before it is used again, so that one which died while nobody looked fails
            nobody.
    """

    def __init__(
        self, url: str, *, password: SecretReference | None = None, connections: int = 4, checked: bool = True
    ) -> None:
        self.url = parse_url(url)
        self._engine = _sqlite(self.url) if self.is_sqlite else _postgresql(self.url, connections, checked)
        if password is not None:
            _give_password(self._engine, password)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of this machine."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> Engine:
        """For Alembic, and for what needs a connection of its own."""
        return self._engine

    @property
    def place(self) -> str:
        """Where it is, for people: without options, which may hold anything."""
        return self.url.set(drivername=self.url.get_backend_name(), query={}).render_as_string(hide_password=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database from beginning to end."""
        with _told(), self._engine.connect() as connection:
            if self.is_sqlite:
                with connection.begin():
                    yield connection
            else:
                with connection.execution_options(isolation_level="REPEATABLE READ").begin():
                    yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is durable when the block has ended, or has changed nothing."""
        # Taken at once in SQLite: a reader that turns writer half way could not wait for another writer.
        with _told(), self._engine.connect().execution_options(ownkey_write=True) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection without a transaction: each statement stands for itself. PostgreSQL only."""
        with _told(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()


def parse_url(text: str) -> URL:
    """The URL, with the driver that we use.

    Raises:
        DatabaseUrlError: It names no database that can be used, or holds a password.
    """
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):  # whose message may have a part of it
        raise DatabaseUrlError("must be sqlite:///PATH or postgresql://USER@HOST/NAME") from None
    if url.password is not None or {"password", "sslpassword"} & set(url.query):
        # Settings are read, printed and committed; a file of its own can be guarded.
        raise DatabaseUrlError(
            'must not hold a password: set password = "file:PATH" beside it, or add ?passfile=PATH to the URL'
        )
    match url.get_backend_name():
        case "sqlite" if url.database and url.database != ":memory:":
            return url.set(drivername="sqlite+pysqlite")
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+psycopg")
    raise DatabaseUrlError("must be sqlite:///PATH or postgresql://USER@HOST/NAME")


def relative_to(url: URL, folder: Path) -> str:
    """The URL, with the path of an SQLite file made absolute."""
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(folder / str(url.database)))
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=False)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell what the driver says in our words. What is left is a defect of ours, and stays as it is."""
    try:
        yield
    except SecretUnusable as error:
        raise DatabaseUnavailable(f"the password in {error}") from None
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        raise DatabaseUnavailable(_cause(error)) from error
    except exc.DBAPIError as error:
        if error.connection_invalidated or _is_outage(error.orig):
            raise DatabaseUnavailable(_cause(error)) from error
        raise


def _is_outage(error: BaseException | None) -> bool:
    """Whether the database as a whole is at fault: read-only after a failover, rights taken away, a damaged file."""
    return getattr(error, "sqlstate", None) in ("25006", "42501") or type(error) is sqlite3.DatabaseError


def _cause(error: exc.SQLAlchemyError) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _sqlite(url: URL) -> Engine:
    # Made here, if it is not there: who used which key when is not for everybody on the machine. One that is there is
    # never opened: closing it again would end every lock that SQLite holds on it in this process (POSIX, fcntl), and
    # the next process that leaves the database would delete the log that this one writes to.
    with contextlib.suppress(OSError):
        os.close(os.open(str(url.database), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    engine = sa.create_engine(url, connect_args={"timeout": PATIENCE, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver must not begin transactions on its own: SQLAlchemy's documentation of SQLite has the recipe.
        connection.isolation_level = None
        cursor = connection.cursor()
        _keep_a_write_ahead_log(cursor)
        cursor.execute("PRAGMA synchronous=FULL")  # in WAL, only FULL makes each commit durable
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("ownkey_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _keep_a_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Have a write-ahead log, which stays once it is set.

    Two that set it at once in a new database lock each other out, and for this SQLite waits for nobody.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _give_password(engine: Engine, source: SecretReference) -> None:
    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Dialect, _record: Any, arguments: Any, parameters: dict[str, Any]) -> Any:
        # Given to the driver alone: in the URL it would be wherever that is printed.
        password = source.read()
        try:
            return dialect.connect(*arguments, **{**parameters, "password": password.reveal().decode()})
        finally:
            password.wipe()


def _postgresql(url: URL, connections: int, checked: bool) -> Engine:
    options = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in url.query}
    limits = {"statement_timeout": f"{PATIENCE}s", "lock_timeout": f"{PATIENCE}s", "synchronous_commit": "on"}
    # An instance that froze in a transaction must not hold up the others for long.
    limits["idle_in_transaction_session_timeout"] = f"{2 * PATIENCE}s"
    return sa.create_engine(
        url,
        connect_args=options | {"options": " ".join(f"-c {name}={value}" for name, value in limits.items())},
        pool_size=connections,
        max_overflow=0,
        pool_timeout=PATIENCE,
        pool_pre_ping=checked,
        pool_use_lifo=True,
    )
