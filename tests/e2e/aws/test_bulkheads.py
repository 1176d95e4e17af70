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
from support.rpc import Rpc, asset

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
# More at once than all threads of the key store, and no more than streams on a connection.
CALLS = 50
THREADS = 24


@pytest.fixture
async def one_sick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Rpc, Rpc, FakeKms]]:
    """A connection for each tenant, whose keys are in KMS; where that of ``globex`` is, every question is swallowed."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "dummy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dummy")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with FakeKms() as kms, FaultProxy(kms.url) as proxy:
        arns = {HEALTHY: kms.create_key(FIRST), SICK: kms.create_key(SECOND)}
        tenants = PROVIDER + "".join(TENANT.format(tenant=tenant, arn=arn) for tenant, arn in arns.items())
        store = STORE.format(first=FIRST, first_url=kms.url, second=SECOND, second_url=proxy.url, sts_url=kms.url)
        extra = f"{store}threads = {THREADS}\n"
        with server.process(tmp_path, tenants=tenants, extra=extra) as running:
            async with own_connection(running.address) as healthy, own_connection(running.address) as sick:
                proxy.fault = Fault.BLACK_HOLE
                yield Rpc(running.address, healthy), Rpc(running.address, sick), kms


def own_connection(address: str) -> grpc.aio.Channel:
    """Channels to one address would share a connection, and its streams, otherwise."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def generate(rpc: Rpc, tenant: str, number: int, deadline: float) -> grpc.StatusCode:
    request = pb.GenerateDataKeyRequest(asset=asset(tenant=tenant, asset_id=f"call-{number}"))
    try:
        await rpc.stub.GenerateDataKey(request, timeout=deadline)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_every_call_of_a_tenant_is_served_while_another_s_kms_swallows_all_questions(
    one_sick: tuple[Rpc, Rpc, FakeKms],
) -> None:
    healthy, sick, kms = one_sick
    hanging = [asyncio.create_task(generate(sick, SICK, number, DEADLINE)) for number in range(CALLS)]
    one_by_one = [await generate(healthy, HEALTHY, number, DEADLINE) for number in range(CALLS)]
    at_once = await asyncio.gather(*(generate(healthy, HEALTHY, number, DEADLINE) for number in range(CALLS)))
    assert set(one_by_one) | set(at_once) == {grpc.StatusCode.OK}
    assert set(await asyncio.gather(*hanging)) == {grpc.StatusCode.UNAVAILABLE}
    # Each was asked once: none came to KMS late, or again, for want of a place. Probes have no asset.
    asked = [one.region for one in list(kms.calls) if one.context.get("ownkey:asset-id")]
    assert asked == [FIRST] * (2 * CALLS)
