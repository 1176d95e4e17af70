"""One tenant's KMS swallows every question: the other's calls know nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from ownkey.v1 import key_service_pb2 as pb
from support import server
from support.fake_kms import FakeKms
from support.fault_proxy import Fault, FaultProxy
from support.regions import FIRST, SECOND, STORE
from support.rpc import Rpc, asset, connected

HEALTHY, SICK = "acme", "globex"
TENANT = """
[[tenants]]
id = "{tenant}"
enrolled_at = 2026-01-01T00:00:00Z
keys = [{{ id = "main", key_store = "aws", reference = "{arn}" }}]
policy = {{ default = "key:main" }}
"""
PROVIDER = '[provider_key]\nkey_store = "embedded"\nreference = "provider"\n'
DEADLINE = 10.0
# More at once than the sick tenant's share of threads, and than all of a small store's.
CALLS = 100
THREADS = 24


@pytest.fixture
async def one_sick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Rpc, FakeKms]]:
    """A server whose tenant ``globex`` has its key where every question is swallowed, and their KMS."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "dummy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dummy")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with FakeKms() as kms, FaultProxy(kms.url) as proxy:
        arns = {HEALTHY: kms.create_key(FIRST), SICK: kms.create_key(SECOND)}
        tenants = PROVIDER + "".join(TENANT.format(tenant=tenant, arn=arn) for tenant, arn in arns.items())
        store = STORE.format(first=FIRST, first_url=kms.url, second=SECOND, second_url=proxy.url)
        extra = f"{store}threads = {THREADS}\n"
        with server.process(tmp_path, tenants=tenants, extra=extra) as running:
            async with connected(running.address) as calls:
                proxy.fault = Fault.BLACK_HOLE
                yield calls, kms


async def generate(rpc: Rpc, tenant: str, number: int, deadline: float) -> grpc.StatusCode:
    request = pb.GenerateDataKeyRequest(asset=asset(tenant=tenant, asset_id=f"call-{number}"))
    try:
        await rpc.stub.GenerateDataKey(request, timeout=deadline)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_every_call_of_a_tenant_is_served_while_another_s_kms_swallows_all_questions(
    one_sick: tuple[Rpc, FakeKms],
) -> None:
    rpc, kms = one_sick
    sick = [asyncio.create_task(generate(rpc, SICK, number, DEADLINE)) for number in range(CALLS)]
    # As many as make sure that the sick tenant's calls are where they hang.
    healthy = [await generate(rpc, HEALTHY, number, DEADLINE) for number in range(CALLS)]
    together = await asyncio.gather(*(generate(rpc, HEALTHY, number, DEADLINE) for number in range(CALLS)))
    hanging = sum(not one.done() for one in sick)
    assert set(healthy) | set(together) == {grpc.StatusCode.OK}
    ended = await asyncio.gather(*sick)
    assert grpc.StatusCode.OK not in ended
    assert hanging or grpc.StatusCode.UNAVAILABLE in ended
    # The holder's log has each of them once: none was tried again for want of a place.
    assert kms.counts["GenerateDataKey", FIRST] >= 2 * CALLS
    served = [one for one in list(kms.calls) if one.region == FIRST and one.context.get("ownkey:asset-id")]
    assert len(served) == 2 * CALLS
    assert not any(one.context.get("ownkey:asset-id") for one in list(kms.calls) if one.region == SECOND)
