"""The same way as in ``test_regions.py``, before an emulator that is none of ours: multi-Region keys of ministack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import boto3
import pytest

from ownkey.v1 import key_service_pb2 as pb
from support import ministack, server
from support.fault_proxy import Fault, FaultProxy
from support.regions import FIRST, SECOND, STORE, TENANTS, states, until_states
from support.rpc import Rpc, asset, connected

DEADLINE = 4.0


def kms(url: str, region: str) -> Any:
    session = boto3.session.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=region)
    return session.client("kms", endpoint_url=url)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FaultProxy]]:
    """A server's address, and the way to the first region of its tenant's key."""
    with (
        pytest.MonkeyPatch.context() as patch,
        ministack.server(tmp_path_factory.mktemp("ministack"), "kms,sts,iam") as url,
        FaultProxy(url) as first,
        FaultProxy(url) as second,
    ):
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        primary = kms(url, FIRST).create_key(MultiRegion=True)["KeyMetadata"]["Arn"]
        kms(url, FIRST).replicate_key(KeyId=primary, ReplicaRegion=SECOND)
        tenants = TENANTS.format(first=primary, second=primary.replace(FIRST, SECOND))
        store = STORE.format(first=FIRST, first_url=first.url, second=SECOND, second_url=second.url, sts_url=url)
        with server.process(tmp_path_factory.mktemp("server"), tenants=tenants, extra=store) as running:
            yield running.address, first


@pytest.fixture
async def rpc(served: tuple[str, FaultProxy]) -> AsyncIterator[Rpc]:
    address, first = served
    first.fault = None
    async with connected(address) as calls:
        await until_states(calls, lambda now: set(now.values()) == {"AVAILABLE"})
        yield calls


@pytest.mark.parametrize("fault", Fault)
async def test_what_one_region_wrapped_the_other_opens_while_the_first_is_cut_off(
    rpc: Rpc, served: tuple[str, FaultProxy], fault: Fault
) -> None:
    proxy = served[1]
    request = pb.GenerateDataKeyRequest(asset=asset(), with_plaintext=True)
    made = await rpc.stub.GenerateDataKey(request, timeout=DEADLINE)
    assert FIRST.encode() in made.wrapped_key
    opening = pb.UnwrapRequest(asset=asset(), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context)
    proxy.fault = fault
    assert (await rpc.stub.Unwrap(opening, timeout=DEADLINE)).plaintext == made.plaintext
    assert SECOND.encode() in (await rpc.stub.GenerateDataKey(request, timeout=DEADLINE)).wrapped_key
    assert "REVOKED" not in (await states(rpc)).values()
    proxy.fault = None
    await until_states(rpc, lambda now: now[""] == "AVAILABLE")
    assert (await rpc.stub.Unwrap(opening, timeout=DEADLINE)).plaintext == made.plaintext
