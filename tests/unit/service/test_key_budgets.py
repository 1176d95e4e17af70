"""No key ever wraps more often than it may: counted in the database, by all instances, through kills and outages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import DatabaseUnavailable, KeyExhausted
from ownkey_server.domain.tenants import CustomerKey, KeyLifecycle, Replica
from ownkey_server.service.key_budgets import BLOCK, INVOCATIONS, PROBES, KeyBudgets
from ownkey_server.storage import key_usage, upgrade
from ownkey_server.storage.database import Database
from ownkey_server.storage.records import ReplicaRecord
from ownkey_server.storage.registry import PROVIDER, Change

KEY = CustomerKey("tenants/acme/keys/main", (Replica("hsm", "acme-main"), Replica("other", "acme-main")))


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


async def wrap(budgets: KeyBudgets) -> None:
    """Count a wrap, as the key ring does."""
    if not budgets.take(KEY.name):
        await budgets.renew(KEY)


async def wraps(budgets: KeyBudgets, most: int) -> int:
    """How many wraps are allowed."""
    for number in range(most):
        try:
            await wrap(budgets)
        except KeyExhausted:
            return number
    return most


def test_the_limit_is_that_of_sp_800_38d() -> None:
    assert INVOCATIONS == 2**32
    assert (INVOCATIONS - PROBES) % BLOCK == 0


async def test_a_key_wraps_as_often_as_it_may_and_no_more(database: Database, executor: ThreadPoolExecutor) -> None:
    budgets = KeyBudgets(partial(key_usage.reserve, database), executor, limit=1000, block=100)
    assert await wraps(budgets, 2000) == 1000
    with pytest.raises(KeyExhausted, match="enrol another key"):
        await wrap(budgets)
    assert await budgets.take_probe(KEY), "its state is still known"


async def test_several_instances_and_restarts_share_one_limit(database: Database, executor: ThreadPoolExecutor) -> None:
    reserve = partial(key_usage.reserve, database)
    done = 0
    for _ in range(5):  # each begins anew: what was left of its block is lost
        instances = [KeyBudgets(reserve, executor, limit=5000, block=100) for _ in range(3)]
        done += sum(await asyncio.gather(*(wraps(one, 333) for one in instances)))
    assert 0 < done <= 5000
    last = KeyBudgets(reserve, executor, limit=5000, block=100)
    assert done + await wraps(last, 10_000) <= 5000


async def test_many_calls_at_once_take_no_more_than_there_is(database: Database, executor: ThreadPoolExecutor) -> None:
    budgets = KeyBudgets(partial(key_usage.reserve, database), executor, limit=300, block=50)
    results = await asyncio.gather(*(wrap(budgets) for _ in range(1000)), return_exceptions=True)
    assert sum(result is None for result in results) == 300
    assert all(isinstance(result, KeyExhausted) for result in results if result is not None)


WRITER = """
import sys
from ownkey_server.storage import key_usage
from ownkey_server.storage.database import Database
database = Database(sys.argv[1])
while key_usage.reserve(database, "k", 7, 7000):
    print("block", flush=True)
"""


def test_processes_that_are_killed_reserve_no_more_than_there_is(database_url: str) -> None:
    empty = Database(database_url)
    upgrade.upgrade(empty)
    empty.close()
    blocks = 0
    for round_number in range(4):
        started = [
            subprocess.Popen([sys.executable, "-c", WRITER, database_url], stdout=subprocess.PIPE) for _ in range(3)
        ]
        for one in started:
            assert one.stdout is not None
            for _ in range(20):
                blocks += one.stdout.readline() == b"block\n"
            if round_number < 3:
                one.kill()
        for one in started:
            blocks += one.communicate()[0].count(b"block\n")
    # Those that were cut off before they could say so are missing; none is counted twice.
    assert 900 < blocks <= 1000


async def test_without_the_database_a_block_serves_on_and_then_nothing_does(executor: ThreadPoolExecutor) -> None:
    answers: list[int] = [100]

    def reserve(*_: object) -> int:
        if not answers:
            raise DatabaseUnavailable("it is away")
        return answers.pop()

    budgets = KeyBudgets(reserve, executor, limit=1000, block=100)
    for _ in range(100):
        await wrap(budgets)
    with pytest.raises(DatabaseUnavailable):
        await wrap(budgets)
    assert not await budgets.take_probe(KEY), "a probe is not made on a guess"
    answers.append(200)
    await wrap(budgets)


async def test_a_block_is_renewed_before_it_is_used_up(executor: ThreadPoolExecutor) -> None:
    asked: list[str] = []

    def reserve(name: str, block: int, limit: int) -> int:
        asked.append(name)
        return len(asked) * block

    budgets = KeyBudgets(reserve, executor, limit=10_000, block=100)
    await wrap(budgets)
    for blocks in range(2, 12):
        for _ in range(100):
            assert budgets.take(KEY.name), "a call had to wait for the database"
            if len(asked) < blocks and not budgets._budgets[KEY.name].renewing:
                continue  # more than half is left
            async with asyncio.timeout(10):
                while len(asked) < blocks or budgets._budgets[KEY.name].renewing:
                    await asyncio.sleep(0.001)


async def test_half_of_the_limit_is_told_once(executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    reserved = iter(range(100, 10_000, 100))
    budgets = KeyBudgets(lambda *_: next(reserved), executor, limit=1000, block=100)
    assert await wraps(budgets, 900) == 900
    assert [record.levelname for record in caplog.records if "think of another key" in record.message] == ["WARNING"]


def test_counting_only_goes_upwards(database: Database) -> None:
    assert [key_usage.reserve(database, "a", 10, 25) for _ in range(4)] == [10, 20, 0, 0]
    assert key_usage.reserve(database, "b", 10, 25) == 10
    assert key_usage.reserve(database, "a", 5, 25) == 25


def enrolled(database: Database, name: str, *places: Replica) -> None:
    """Let a key be at these places, or at none any more."""
    with database.writing() as connection:
        change = Change(connection, system_clock())
        found = change.key(name)
        if found is None:
            change.insert_key(name, PROVIDER, KeyLifecycle.ACTIVE, places, None)
        else:
            change.update_key(found, "*", KeyLifecycle.ACTIVE, [ReplicaRecord(one, None) for one in places])


@pytest.mark.parametrize("prefix", ["", key_usage.PROBES_OF])
def test_a_key_that_is_enrolled_anew_under_another_name_goes_on_from_where_it_was(
    database: Database, prefix: str
) -> None:
    first, second, other = Replica("hsm", "main"), Replica("backup", "main"), Replica("hsm", "other")
    enrolled(database, "a", first, second)
    assert [key_usage.reserve(database, f"{prefix}a", 10, 40) for _ in range(2)] == [10, 20]
    enrolled(database, "a")
    enrolled(database, "b", second)
    assert key_usage.reserve(database, f"{prefix}b", 10, 40) == 30
    enrolled(database, "c", other)
    assert key_usage.reserve(database, f"{prefix}c", 10, 40) == 10
    enrolled(database, "d", first)
    assert key_usage.reserve(database, f"{prefix}d", 10, 40) == 40, "the replica was the same key"
    assert key_usage.reserve(database, f"{prefix}b", 10, 40) == 0


def test_a_key_at_places_of_two_keys_counts_for_both(database: Database) -> None:
    one, two = Replica("hsm", "one"), Replica("hsm", "two")
    enrolled(database, "a", one)
    enrolled(database, "b", two)
    assert [key_usage.reserve(database, name, 10, 40) for name in ("a", "b", "b")] == [10, 10, 20]
    enrolled(database, "a")
    enrolled(database, "b")
    enrolled(database, "c", one, two)
    assert key_usage.reserve(database, "c", 10, 40) == 30
    assert key_usage.reserve(database, "c", 20, 40) == 0
