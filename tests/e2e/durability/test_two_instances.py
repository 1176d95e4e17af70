"""Two server processes over one database: what is changed anywhere is in force at both within a second."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from e2e.durability.changes import add_tenant, change, require_in_force, rule_at, seen, set_policy
from e2e.durability.instances import fleet
from e2e.durability.load import data_key
from ownkey_server.domain.tenants import KeyLifecycle
from ownkey_server.storage import registry
from ownkey_server.storage.database import Database
from ownkey_server.storage.registry import Change, required
from support.rpc import Failure, Rpc, asset, connected, pb

# Bounds that are promised in seconds say nothing on a machine that is busy with other tests.
pytestmark = pytest.mark.alone

TENANTS = 10
CHANGES_EACH = 20


@pytest.fixture
async def both(database: Database, database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Rpc, Rpc]]:
    """Connections to two instances."""
    async with fleet(tmp_path / "servers", database_url, 2) as servers, contextlib.AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(connected(one.address)) for one in servers.instances]
        yield first, second


async def delays_of_policies(database: Database, rpcs: tuple[Rpc, ...], tenants: int, each: int) -> list[float]:
    """Change policies of several tenants side by side; gives how long each change took to each instance."""
    moments = random.Random(1)

    async def change_one(tenant: str) -> list[float]:
        await change(database, add_tenant(tenant))
        for rpc in rpcs:
            await seen(rpc, tenant, "first", 0)
        delays = []
        for number in range(each):
            await asyncio.sleep(moments.uniform(0, 0.3))  # so that changes come at any moment between two questions
            since = await change(database, set_policy(tenant, f"change-{number}"))
            delays += await asyncio.gather(*(seen(rpc, tenant, f"change-{number}", since) for rpc in rpcs))
        return delays

    every = await asyncio.gather(*(change_one(f"tenant-{number}") for number in range(tenants)))
    return list(itertools.chain(*every))


async def test_two_hundred_changes_of_policy_are_in_force_within_a_second_each(
    database: Database, both: tuple[Rpc, Rpc]
) -> None:
    delays = await delays_of_policies(database, both, TENANTS, CHANGES_EACH)
    require_in_force(delays, database.url.get_backend_name())


async def test_changes_are_in_force_within_a_second_when_the_database_does_not_tell_of_them(
    database: Database, both: tuple[Rpc, Rpc], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "CHANNEL", "nobody_listens_here")
    delays = await delays_of_policies(database, both, TENANTS, 5)
    require_in_force(delays, f"{database.url.get_backend_name()}, not told")


async def test_changes_are_in_force_within_a_second_while_unknown_tenants_are_looked_up_without_end(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    answers: set[str] = set()

    async def look_up_without_end(rpc: Rpc) -> None:
        while True:
            answers.add(await rule_at(rpc, f"nobody-{uuid.uuid4().hex}"))

    # As few connections as can be set: whoever looks up tenants must not keep the feed of changes waiting.
    few = {"OWNKEY_STORAGE__CONNECTIONS": "2"}
    async with fleet(tmp_path / "servers", database_url, 1, **few) as servers:
        address = servers.instances[0].address
        async with connected(address) as rpc, connected(address) as other:
            lookers = [asyncio.create_task(look_up_without_end(other)) for _ in range(32)]
            delays = await delays_of_policies(database, (rpc,), 1, 20)
            for looker in lookers:
                looker.cancel()
            ends = await asyncio.gather(*lookers, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}
    assert answers == {"TENANT_NOT_FOUND"}
    require_in_force(delays, f"{database.url.get_backend_name()}, while unknown tenants are looked up")


async def test_a_tenant_that_was_looked_up_in_vain_is_known_once_it_is_added_and_unknown_once_it_is_removed(
    database: Database, both: tuple[Rpc, Rpc]
) -> None:
    delays = []
    for rpc in both:
        assert await rule_at(rpc, "newcomer") == "TENANT_NOT_FOUND"
    since = await change(database, add_tenant("newcomer"))
    delays += [await seen(rpc, "newcomer", "first", since) for rpc in both]
    since = await change(database, lambda made: made.delete_tenant(required(made.tenant("newcomer"), ""), "*"))
    delays += [await seen(rpc, "newcomer", "TENANT_NOT_FOUND", since) for rpc in both]
    require_in_force(delays, "added and removed")


async def test_who_is_in_a_group_is_known_everywhere_at_once(database: Database, both: tuple[Rpc, Rpc]) -> None:
    def set_users(*users: str) -> Callable[[Change], None]:
        return lambda made: made.update_group(required(made.group("acme", "finance"), ""), "*", users)

    delays = []
    for rpc in both:
        assert await rule_at(rpc, "acme", "frida@acme.example") == "finance"
    since = await change(database, set_users("felix@acme.example"))
    delays += [await seen(rpc, "acme", "default", since, "frida@acme.example") for rpc in both]
    since = await change(database, set_users("frida@acme.example"))
    delays += [await seen(rpc, "acme", "finance", since, "frida@acme.example") for rpc in both]
    require_in_force(delays, "groups")


async def test_a_retired_key_protects_nothing_anywhere_and_a_removed_one_opens_nothing(
    database: Database, both: tuple[Rpc, Rpc]
) -> None:
    def set_lifecycle(lifecycle: KeyLifecycle) -> Callable[[Change], None]:
        def work(made: Change) -> None:
            key = required(made.key("tenants/acme/keys/main"), "")
            places = [] if lifecycle is KeyLifecycle.REMOVED else key.replicas
            made.update_key(key, "*", lifecycle, places)

        return work

    async def generates(rpc: Rpc) -> str:
        return await reason(data_key(rpc))

    async def opens(rpc: Rpc) -> str:
        request = pb.UnwrapRequest(
            asset=asset(asset_id=kept.asset_id), wrapped_key=kept.wrapped, encryption_context=kept.context
        )
        return await reason(rpc.stub.Unwrap(request, timeout=10))

    kept = await data_key(both[0])
    for rpc in both:
        assert (await generates(rpc), await opens(rpc)) == ("", "")
    since = await change(database, set_lifecycle(KeyLifecycle.RETIRED))
    delays = [await becomes(generates, rpc, "KEY_MISCONFIGURED", since) for rpc in both]
    assert [await opens(rpc) for rpc in both] == ["", ""]
    since = await change(database, set_lifecycle(KeyLifecycle.REMOVED))
    delays += [await becomes(opens, rpc, "KEY_NOT_FOUND", since) for rpc in both]
    require_in_force(delays, "keys")


async def reason(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Failure.of(error).reason
    return ""


async def becomes(ask: Callable[[Rpc], Awaitable[str]], rpc: Rpc, wanted: str, since: float) -> float:
    for _ in range(2000):
        if await ask(rpc) == wanted:
            return time.monotonic() - since
        await asyncio.sleep(0.005)
    pytest.fail(f"{wanted} does not come")
