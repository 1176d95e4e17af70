"""A key whose key store is gone from the settings: every way to open says so, as its status does."""

from __future__ import annotations

from pathlib import Path

from ownkey.v1 import asset_pb2
from ownkey.v1 import key_service_pb2 as pb
from ownkey.wrapped_key import WrappedKey
from ownkey_server import main, settings
from support import server
from support.admin import Admin
from support.rpc import Rpc, asset, connected

CLASSES = (asset_pb2.ASSET_CLASS_PHONE_RECORDING, asset_pb2.ASSET_CLASS_TEAM_CHAT)


async def test_what_a_lost_store_s_key_wrapped_is_misconfigured_and_nobody_else_s_is(tmp_path: Path) -> None:
    path = server.write_settings(tmp_path)
    made = {}
    async with main.running_server(settings.load(path)) as running, connected(running.address) as rpc:
        for one in CLASSES:
            request = pb.GenerateDataKeyRequest(asset=asset(asset_class=one))
            made[one] = await rpc.stub.GenerateDataKey(request)
        sealed = await rpc.encrypt(b"content")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[key_stores.embedded]", "[key_stores.renamed]"), encoding="utf-8")
    async with main.running_server(settings.load(path)) as running, connected(running.address) as rpc:
        for one in CLASSES:
            await check(rpc, made[one], asset_class=one)
        opened = await rpc.decrypt(sealed)
        assert opened.failure is not None
        assert (opened.failure.reason, opened.data) == ("KEY_MISCONFIGURED", b"")
        records = (await Admin(rpc.channel)("ListAuditRecords", tenant="acme")).records
        unwraps = [(one.result, one.key) for one in records if one.action == "unwrap"]
        assert unwraps[0] == ("failed", "tenants/acme/keys/main")


async def check(rpc: Rpc, made: pb.GenerateDataKeyResponse, *, asset_class: int) -> None:
    facts = {
        "asset": asset(asset_class=asset_class),
        "wrapped_key": made.wrapped_key,
        "encryption_context": made.encryption_context,
    }
    for method, request in (("Unwrap", pb.UnwrapRequest(**facts)), ("Rewrap", pb.RewrapRequest(**facts))):
        failure = await rpc.fail(method, request)
        assert (failure.reason, failure.metadata["replica"]) == ("KEY_MISCONFIGURED", "embedded"), method
        assert "this server's settings have no such key store" in failure.message
    if asset_class == asset_pb2.ASSET_CLASS_PHONE_RECORDING:
        (entry,) = WrappedKey.from_bytes(made.wrapped_key).encrypted_data_keys
        info = entry.provider_info.replace(b"acme-main", b"acme-othe")
        assert info != entry.provider_info
        stranger = WrappedKey("", (type(entry)(entry.provider_id, info, entry.ciphertext),))
        request = pb.UnwrapRequest(**facts | {"wrapped_key": stranger.to_bytes()})
        assert (await rpc.fail("Unwrap", request)).reason == "KEY_NOT_FOUND"
