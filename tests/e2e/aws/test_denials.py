"""A key that is denied us while no server runs: the next one tells it as what it is, from its first answer on."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from ownkey.v1 import key_service_pb2, key_state_pb2
from support import server
from support.aws_subjects import dummy_credentials
from support.fake_kms import FakeKms
from support.key_stores import until
from support.rpc import asset, connected

TENANTS = """
[provider_key]
key_store = "embedded"
reference = "provider"

[[tenants]]
id = "acme"
enrolled_at = 2026-01-01T00:00:00Z
keys = [{{ id = "main", key_store = "aws", reference = "{key}" }}]
policy = {{ default = "key:main" }}
"""


async def state(address: str) -> str:
    async with connected(address) as calls:
        answer = await calls.stub.KeyStatus(key_service_pb2.KeyStatusRequest(tenant="acme"))
    return key_state_pb2.KeyState.Name(answer.keys[0].state).removeprefix("KEY_STATE_")


def is_remembered(database: Path, key: str) -> bool:
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return bool(connection.execute("SELECT 1 FROM first_uses WHERE reference = ?", (key,)).fetchall())


@pytest.mark.parametrize("ours", [False, True], ids=["its holder", "we ourselves"])
async def test_a_denial_after_a_restart_is_a_revocation_only_while_our_canary_works(tmp_path: Path, ours: bool) -> None:
    with dummy_credentials(), FakeKms() as kms:
        key = kms.create_key()
        store = f'[key_stores.aws]\nkind = "aws_kms"\nendpoint_url = "{kms.url}"\n'
        store += f'sts_endpoint_url = "{kms.url}"\nrequire_tenant_context = false\n'
        store += f'canary_key = "{kms.create_key()}"\n'
        tenants = TENANTS.format(key=key)
        with server.process(tmp_path, tenants=tenants, extra=store) as first:
            assert await state(first.address) == "AVAILABLE"
            # What worked is written down when STS has said who we are, and nobody waits for that.
            server.wait_until(partial(is_remembered, tmp_path / "ownkey.db", key), "the first use was remembered")
        if ours:
            kms.fail("*", "AccessDeniedException")
        else:
            kms.set_policy(key, {"Statement": []})
        with server.process(tmp_path, tenants=tenants, extra=store) as second:
            async with connected(second.address) as calls:
                refused = await calls.fail("GenerateDataKey", key_service_pb2.GenerateDataKeyRequest(asset=asset()))
            assert refused.reason == ("KEY_MISCONFIGURED" if ours else "KEY_REVOKED")

            async def told() -> bool:
                return await state(second.address) == ("MISCONFIGURED" if ours else "REVOKED")

            await until(told)
