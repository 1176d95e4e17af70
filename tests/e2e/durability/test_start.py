"""Starting: never over a database of another schema, and never twice what must be done once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from e2e.durability import trail
from e2e.durability.changes import rule_at
from e2e.durability.instances import Fleet, fleet
from e2e.durability.load import data_key, require_all_open
from ownkey_server.storage import upgrade
from ownkey_server.storage.database import Database
from support.postgres import PostgresServer
from support.rpc import connected
from support.server import OWNKEY

AT_ONCE = 4


@pytest.fixture
def empty(postgres: PostgresServer, tmp_path: Path) -> Fleet:
    """Settings over an empty PostgreSQL database."""
    return Fleet(tmp_path / "servers", postgres.new_database())


async def refusal(servers: Fleet) -> str:
    """What `ownkey serve` says when it does not start."""
    instance = servers.add()
    instance.start()
    try:
        await instance.ended()
    finally:
        instance.kill()
    assert instance.exit_code == 1, instance.log
    [said] = [line for line in instance.log.splitlines() if line.startswith("ownkey: error: ")]
    return said.removeprefix("ownkey: error: ")


def upgraded(servers: Fleet) -> tuple[str | None, str]:
    """The schema before and after `ownkey db upgrade`."""
    command = [OWNKEY, "db", "upgrade", "--json", "--config", str(servers.config)]
    done = subprocess.run(command, env=servers.environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return said["before"], said["after"]


async def test_an_empty_postgresql_is_refused_until_it_has_its_tables(empty: Fleet) -> None:
    said = await refusal(empty)
    assert said == f"{empty.url} is empty; make its tables with: ownkey db upgrade"
    assert not empty.public_key.exists(), "it must be refused before anything is made"
    assert upgraded(empty) == (None, upgrade.newest())
    assert upgraded(empty) == (upgrade.newest(), upgrade.newest())
    instance = empty.add()
    instance.start()
    try:
        assert await instance.serving()
    finally:
        instance.kill()


async def test_a_schema_of_a_newer_version_is_refused(empty: Fleet) -> None:
    upgraded(empty)
    database = Database(empty.url)
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    wanted = (
        f"{empty.url} has schema 9999, which a newer version of ownkey made; this version knows it not, and would do"
        f" harm: install the newer version"
    )
    assert await refusal(empty) == wanted


def test_a_schema_of_an_older_version_is_refused(empty: Fleet) -> None:
    upgraded(empty)
    newer_program = (
        "from ownkey_server.storage import upgrade; upgrade.newest = lambda: '9999';"
        "from ownkey.cli.main import main; main()"
    )
    command = [sys.executable, "-c", newer_program, "serve", "--config", str(empty.config)]
    done = subprocess.run(command, env=empty.environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    wanted = (
        f"ownkey: error: {empty.url} has schema {upgrade.newest()}, and this version needs 9999; after a backup, bring"
        f" it up to date with: ownkey db upgrade\n"
    )
    assert wanted in done.stderr


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_servers_that_start_first_at_the_same_moment_all_serve_and_do_once_what_must_be_done_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/ownkey.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    async with fleet(tmp_path / "servers", url, 0) as servers:
        if kind == "postgresql":
            said = await asyncio.gather(*(asyncio.to_thread(upgraded, servers) for _ in range(AT_ONCE)))
            assert sorted(before or "" for before, _ in said) == ["", *[upgrade.newest()] * (AT_ONCE - 1)]
        for _ in range(AT_ONCE):
            servers.add().start()
        addresses = await asyncio.gather(*(instance.serving() for instance in servers.instances))
        received = []
        for address in addresses:
            async with connected(address) as rpc:
                assert await rule_at(rpc, "acme", "frida@acme.example") == "finance"
                received.append(await data_key(rpc))
        for address in addresses:
            await require_all_open(address, received)
        logs = "".join(instance.log for instance in servers.instances)
        for key in ("provider", "acme-main", "acme-finance"):
            assert logs.count(f"made key '{key}'") == 1
        assert logs.count("made the audit's signing key") == 1
    database = Database(url)
    taken_over = list(trail.of_action(trail.records(database), "admin.apply_tenants"))
    assert sorted(record["tenant"] for record in taken_over if "tenant" in record) == ["acme"]
    trail.require_whole(database, servers.public_key)
    database.close()
