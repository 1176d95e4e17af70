"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from ownkey_server.storage import upgrade
from ownkey_server.storage.database import Database
from support import postgres as postgres_server
from support import server
from support.nss import Nss, require_nss
from support.postgres import PostgresServer
from support.server import ServerProcess
from support.softhsm import SoftHsm, require_softhsm

ROOT = Path(__file__).resolve().parent.parent
# None of pytest's own: whoever runs failures once more (tools/run_tests.sh) must not get rid of a skipped test by that.
SKIPPED_IN_CI = 8


# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("ownkey", deadline=None)
hypothesis.settings.load_profile("ownkey")


def pytest_configure() -> None:
    """Take signals as a program does that is started by hand.

    What a shell runs in the background ignores SIGINT and SIGQUIT, and under nohup SIGHUP, and so would everything that
    the tests start.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def vectors_dir() -> Path:
    """The folder of test vectors; its README says where each suite comes from."""
    return ROOT / "tests" / "vectors"


@pytest.fixture(scope="session")
def ownkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A running server with embedded keys and the example tenants, as a process of its own."""
    with server.process(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    """SoftHSM with no token yet: each test makes its own, under a label of its own."""
    require_softhsm()
    return SoftHsm(tmp_path_factory.mktemp("softhsm"))


@pytest.fixture(scope="session")
def nss(tmp_path_factory: pytest.TempPathFactory) -> Nss:
    """NSS with no token yet: each test makes its own."""
    require_nss()
    return Nss(tmp_path_factory.mktemp("nss"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server with no database yet: each test makes its own."""
    with postgres_server.server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ownkey.db"
    url: str = request.getfixturevalue("postgres").new_database()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with today's schema, of each kind in turn."""
    opened = Database(database_url)
    upgrade.upgrade(opened)
    yield opened
    opened.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failure, unless a device is missing: there, nothing that can be installed may be."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:
        return
    reasons = [str(report.longrepr) for report in reporter.stats.get("skipped", [])]
    unexcused = [reason for reason in reasons if "device" not in reason]
    if unexcused:
        reporter.write_line("skipped in CI, which is a failure:\n" + "\n".join(unexcused), red=True)
        session.exitstatus = SKIPPED_IN_CI
