"""A PostgreSQL server for tests: a cluster of its own on a free port, which tests may stop, kill and start again."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

MISSING = "PostgreSQL is not installed: sudo apt-get install postgresql"
_USER = "ownkey"
_SECONDS = 60


def find_programs() -> Path | None:
    """The folder of the newest server programs of this machine."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if folders:
        return max(folders, key=lambda folder: int(folder.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def require_postgres() -> Path:
    """The folder of the server programs; skips without, and fails in CI."""
    programs = find_programs()
    if programs is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return programs


class PostgresServer:
    """A cluster of its own, durable as in production, with nothing but databases for tests in it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._log = folder / "log"
        # The server refuses to run as root: then it runs as its own user, who must be able to reach the folder.
        self._prefix: tuple[str, ...] = ()
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._prefix = ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups")
        self._folder = folder
        self._numbers = itertools.count(1)
        self._run("initdb", "-D", str(self._data), "-U", _USER, "--auth=trust", "--encoding=UTF8", "--no-locale")
        self.port = _free_port()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=on"
        self._run("pg_ctl", "-w", "-D", str(self._data), "-l", str(self._log), "-o", options, "start")

    def stop(self) -> None:
        """Stop it in good order: connections are ended, and transactions under way undone."""
        self._run("pg_ctl", "-w", "-D", str(self._data), "-m", "fast", "stop")

    def kill(self) -> None:
        """Stop it as a crash does: nothing is put in order, and the next start recovers."""
        self._run("pg_ctl", "-w", "-D", str(self._data), "-m", "immediate", "stop")

    def restart(self) -> None:
        """Stop it in good order, and start it again."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether it runs."""
        command = (*self._prefix, str(self._programs / "pg_ctl"), "-D", str(self._data), "status")
        return subprocess.run(command, check=False, capture_output=True, cwd="/", timeout=_SECONDS).returncode == 0

    def new_database(self) -> str:
        """Make an empty database; gives its URL."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        command = (*self._prefix, str(self._programs / program), *arguments)
        # To a file and not to a pipe: the server inherits it, and a pipe would stay open as long as it runs.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command, check=False, stdout=output, stderr=subprocess.STDOUT, cwd="/", timeout=_SECONDS
            )
            output.seek(0)
            assert done.returncode == 0, f"{command} failed:\n{output.read().decode(errors='replace')}"


@contextlib.contextmanager
def server() -> Iterator[PostgresServer]:
    """A running server, gone with all its data when the block ends."""
    programs = require_postgres()
    # Not among pytest's folders: those are open to their owner alone, and the server has another.
    with tempfile.TemporaryDirectory(prefix="ownkey-postgres-") as folder:
        running = PostgresServer(programs, Path(folder))
        running.start()
        try:
            yield running
        finally:
            if running.running:
                running.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
