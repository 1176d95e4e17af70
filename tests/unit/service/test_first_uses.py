"""Whether a key has ever worked is known over restarts and to all instances, and nobody who uses a key waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import pytest
import sqlalchemy as sa
from alembic import command

from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import DatabaseUnavailable, KeyMisconfigured, KeyRevoked
from ownkey_server.domain.tenants import KeyLifecycle, Replica
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.store import AwsKmsKeyStore
from ownkey_server.service.first_uses import RETRY_SECONDS, FirstUsesKept, Use
from ownkey_server.storage import first_uses, upgrade
from ownkey_server.storage.database import Database
from support.aws_subjects import dummy_credentials
from support.fake_kms import PROVIDER, FakeKms
from support.key_stores import CONTEXT, TIMEOUT, until

USE = ("acme", "aws", "arn:aws:kms:eu-west-1:111122223333:key/1", "role ownkey")
Open = Callable[[Database], FirstUsesKept]


@pytest.fixture
def kept() -> Iterator[Open]:
    """Another instance, or this one started anew."""
    with ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as reading:

        def started(database: Database) -> FirstUsesKept:
            remember = partial(first_uses.remember, database, system_clock)
            return FirstUsesKept(remember, partial(first_uses.has_worked, database), writing, reading)

        yield started


def known(uses: FirstUsesKept, use: tuple[str, str, str, str] = USE) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return await asyncio.to_thread(uses.has_worked, *use, TIMEOUT)

    return ask


async def test_a_first_use_is_known_to_who_starts_later(database: Database, kept: Open) -> None:
    before = kept(database)
    assert not before.has_worked(*USE, TIMEOUT)
    for _ in range(3):
        before.note(*USE)
    assert before.has_worked(*USE, TIMEOUT)
    await until(known(kept(database)))
    for number in range(len(USE)):
        other = cast("Use", (*USE[:number], "another", *USE[number + 1 :]))
        assert not kept(database).has_worked(*other, TIMEOUT)


async def test_it_is_written_once_and_again_only_after_a_write_that_failed() -> None:
    now, away, asked = [0.0], [True], []

    def remember(*use: str) -> None:
        asked.append(use)
        if away[0]:
            raise DatabaseUnavailable("gone")

    with ThreadPoolExecutor(1) as threads:
        uses = FirstUsesKept(remember, lambda *_: False, threads, threads, lambda: now[0])

        def settled() -> list[tuple[str, ...]]:
            threads.submit(lambda: None).result(TIMEOUT)  # the one thread has done what it was given before
            return asked

        for _ in range(3):
            uses.note(*USE)
            assert settled() == [USE]
        now[0] += RETRY_SECONDS
        away[0] = False
        for _ in range(3):
            uses.note(*USE)
            assert settled() == [USE, USE]
        now[0] += RETRY_SECONDS
        uses.note(*USE)
        assert settled() == [USE, USE]


def assert_that(what: bool) -> None:
    assert what


def test_nobody_waits_for_the_database_when_it_hangs() -> None:
    ends = threading.Event()
    with ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as reading:
        hang = partial(ends.wait, TIMEOUT)
        uses = FirstUsesKept(lambda *_: assert_that(hang()), lambda *_: hang(), writing, reading)
        uses.note(*USE)
        assert uses.has_worked(*USE, 0.01)
        assert not uses.has_worked("umbrella", *USE[1:], 0.01)
        ends.set()


async def test_a_denial_after_a_restart_is_a_revocation_of_what_worked_before_it(
    database: Database, kept: Open
) -> None:
    with dummy_credentials(), FakeKms() as kms:
        key, never, canary = kms.create_key(), kms.create_key(), kms.create_key()

        options = AwsKmsOptions(endpoint_url=kms.url, sts_endpoint_url=kms.url, canary_key=canary)

        def start() -> AwsKmsKeyStore:
            return AwsKmsKeyStore("aws", options, kept(database))

        first = start()
        made = await first.for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)
        await first.for_tenant("acme").unwrap(key, made.wrapped, CONTEXT, TIMEOUT)
        await until(known(kept(database), ("acme", "aws", key, PROVIDER)))
        await first.close()
        for one in (key, never):
            kms.set_policy(one, {"Statement": []})
        second = start()
        with pytest.raises(KeyRevoked):
            await second.for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)
        for tenant, one in (("umbrella", key), ("acme", never)):
            with pytest.raises(KeyMisconfigured, match="has not worked here yet"):
                await second.for_tenant(tenant).generate_data_key(one, CONTEXT, TIMEOUT)
        await second.close()


def test_keys_that_were_tried_before_the_upgrade_count_for_none_of_us_until_they_work_again(database_url: str) -> None:
    database = Database(database_url)
    with database.writing() as connection:
        command.upgrade(upgrade._config(connection), "0005")
    rows = [
        ("tenants/acme/keys/main", "acme", Replica("aws", "arn:1"), 1_700_000_000_000_000),
        ("tenants/acme/keys/untried", "acme", Replica("aws", "arn:2"), None),
        ("keys/provider", None, Replica("files", "provider"), 1_700_000_000_000_000),
    ]
    with database.writing() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO tenants (id, display_name, enrolled_at, call_gate, policy_version, etag, create_time,"
                " update_time) VALUES ('acme', '', 0, '{}', 1, 1, 0, 0)"
            )
        )
        for name, tenant, place, verified in rows:
            values = {"name": name, "tenant": tenant, "lifecycle": KeyLifecycle.ACTIVE.value}
            values |= {"store": place.store, "reference": place.reference, "verified": verified}
            connection.execute(
                sa.text("INSERT INTO customer_keys VALUES (:name, :tenant, :lifecycle, 1, 0, 0)"), values
            )
            connection.execute(sa.text("INSERT INTO replicas VALUES (:name, 0, :store, :reference, :verified)"), values)
    upgrade.upgrade(database)
    for _, tenant, place, _ in rows:
        use = tenant or "", place.store, place.reference, PROVIDER
        assert not first_uses.has_worked(database, *use)
        first_uses.remember(database, system_clock, *use)
        assert first_uses.has_worked(database, *use)
        assert not first_uses.has_worked(database, *use[:3], "")
    database.close()
