"""A server whose tenant has a multi-Region key in AWS KMS, each region behind a proxy that can break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support import server
from support.fake_kms import FakeKms
from support.fault_proxy import FaultProxy
from support.regions import FIRST, SECOND, STORE, TENANTS, Regions, until_states
from support.rpc import Rpc, connected


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    """Both regions, in order, and a server process."""
    with (
        pytest.MonkeyPatch.context() as patch,
        FakeKms() as kms,
        FaultProxy(kms.url) as first,
        FaultProxy(kms.url) as second,
    ):
        patch.setenv("AWS_ACCESS_KEY_ID", "dummy")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "dummy")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        arn = kms.create_key(FIRST, multi_region=True)
        found = Regions(kms, {FIRST: arn, SECOND: kms.replicate(arn, SECOND)}, {FIRST: first, SECOND: second})
        folder: Path = tmp_path_factory.mktemp("server")
        tenants = TENANTS.format(first=found.arns[FIRST], second=found.arns[SECOND])
        store = STORE.format(first=FIRST, first_url=first.url, second=SECOND, second_url=second.url, sts_url=kms.url)
        store += f'canary_keys = ["{kms.create_key(FIRST)}", "{kms.create_key(SECOND)}"]\n'
        with server.process(folder, tenants=tenants, extra=store) as running:
            found.address = running.address
            yield found


@pytest.fixture
async def rpc(regions: Regions) -> AsyncIterator[Rpc]:
    """Calls to that server, with everything in order."""
    regions.mend()
    async with connected(regions.address) as calls:
        await until_states(calls, lambda states: set(states.values()) == {"AVAILABLE"})
        yield calls
