"""Administrative changes in this process, as every instance makes them, and their arrival at others."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import grpc

from ownkey_server.storage.database import Database
from ownkey_server.storage.documents import PolicyTable, RuleTable
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.registry import Change, required
from support.rpc import Failure, Rpc, asset, pb

ENROLLED = datetime(2026, 1, 1, tzinfo=UTC)
IN_FORCE_SECONDS = 1.0
# How long to look for a change that comes too late, so that the test can tell by how much.
LOOK_SECONDS = 20.0


async def change(database: Database, work: Callable[[Change], object]) -> float:
    """Make a change; gives the monotonic time of its commit, or a moment before."""

    def make() -> float:
        with database.writing() as connection:
            work(Change(connection, datetime.now(UTC)))
            return time.monotonic()

    return await asyncio.to_thread(make)


def add_tenant(tenant: str) -> Callable[[Change], None]:
    """A tenant without keys, whose policy is told by ``first``."""

    def work(made: Change) -> None:
        made.insert_tenant(tenant, "", ENROLLED, CallGateTable())
        set_policy(tenant, "first")(made)

    return work


def set_policy(tenant: str, rule: str) -> Callable[[Change], None]:
    """A policy of one rule, told by that rule's name."""

    def work(made: Change) -> None:
        policy = PolicyTable(default="deny", rules=[RuleTable(name=rule, use="deny")])
        number = made.insert_policy(tenant, policy, "ann", "")
        made.put_policy_in_force(required(made.tenant(tenant), tenant), "*", number)

    return work


async def rule_at(rpc: Rpc, tenant: str, user: str = "") -> str:
    """The rule that decides there; or the reason why none does."""
    request = pb.CheckPolicyRequest(asset=asset(tenant=tenant, asset_id="x", user=user))
    try:
        return (await rpc.stub.CheckPolicy(request, timeout=10)).rule
    except grpc.aio.AioRpcError as error:
        return Failure.of(error).reason


async def seen(rpc: Rpc, tenant: str, rule: str, since: float, user: str = "") -> float:
    """Ask until that is what decides there; gives the seconds since ``since`` at which the answer was there."""
    end = time.monotonic() + LOOK_SECONDS
    while (found := await rule_at(rpc, tenant, user)) != rule:
        assert time.monotonic() < end, f"{tenant} is still decided by {found!r} and not by {rule!r}"
        await asyncio.sleep(0.002)
    return time.monotonic() - since


def require_in_force(delays: Sequence[float], what: str) -> None:
    """Print how long changes took, and make sure that none took longer than promised."""
    ordered = sorted(delays)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    told = (
        f"median {statistics.median(ordered) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, max {ordered[-1] * 1000:.0f} ms"
    )
    print(f"{what}: {len(ordered)} changes in force elsewhere: {told}")
    assert ordered[-1] < IN_FORCE_SECONDS, f"{what}: {told}"
