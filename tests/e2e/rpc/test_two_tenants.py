from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from ownkey.wrapped_key import WrappedKey
from support import server
from support.rpc import Rpc, asset, connected, pb

TENANTS = """
[provider_key]
key_store = "embedded"
reference = "provider"

[[tenants]]
id = "acme"
enrolled_at = 2026-01-01T00:00:00Z
keys = [{ id = "main", key_store = "embedded", reference = "acme-main" }]
policy = { default = "key:main" }

[[tenants]]
id = "globex"
enrolled_at = 2026-01-01T00:00:00Z
keys = [{ id = "main", key_store = "embedded", reference = "globex-main" }]
policy = { default = "key:main" }
"""


@pytest.fixture
async def rpc(tmp_path: Path) -> AsyncIterator[Rpc]:
    async with server.in_process(tmp_path, tenants=TENANTS) as address, connected(address) as calls:
        yield calls


async def test_a_tenant_s_wrapped_key_does_not_open_for_another(rpc: Rpc) -> None:
    made = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset()))
    stolen = WrappedKey.from_bytes(made.wrapped_key)
    context = dict(made.encryption_context)

    def request(wrapped: WrappedKey, pairs: dict[str, str]) -> pb.UnwrapRequest:
        fields = {"asset": asset(tenant="globex"), "wrapped_key": wrapped.to_bytes(), "encryption_context": pairs}
        return pb.UnwrapRequest(**fields)  # type: ignore[arg-type]

    honest = await rpc.fail("Unwrap", request(stolen, context))
    assert honest.reason == "ASSET_MISMATCH"
    lying = await rpc.fail("Unwrap", request(stolen, context | {"ownkey:tenant": "globex"}))
    assert (lying.code, lying.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    renamed = WrappedKey("tenants/globex/keys/main", stolen.encrypted_data_keys)
    assert (await rpc.fail("Unwrap", request(renamed, context | {"ownkey:tenant": "globex"}))).reason == "KEY_NOT_FOUND"


async def test_a_tenant_s_object_does_not_open_for_another(rpc: Rpc) -> None:
    sealed = await rpc.encrypt(b"secret" * 1000)
    stolen = await rpc.decrypt(sealed, tenant="globex")
    assert (stolen.data, stolen.started) == (b"", None)
    assert stolen.failure
    assert stolen.failure.reason == "ASSET_MISMATCH"


async def test_the_provider_s_key_does_not_open_one_tenant_s_content_for_another(rpc: Rpc) -> None:
    request = pb.GenerateDataKeyRequest(asset=asset())
    made = await rpc.stub.GenerateDataKey(request)
    lie = dict(made.encryption_context) | {"ownkey:tenant": "globex"}
    wrapped = WrappedKey("", WrappedKey.from_bytes(made.wrapped_key).encrypted_data_keys)
    unwrap = pb.UnwrapRequest(asset=asset(tenant="globex"), wrapped_key=wrapped.to_bytes(), encryption_context=lie)
    assert (await rpc.fail("Unwrap", unwrap)).reason == "KEY_NOT_FOUND"
