"""What a preview counts is what there is, and it changes nothing."""

from __future__ import annotations

import grpc
import pytest

from ownkey.v1 import asset_pb2, revocation_pb2
from ownkey.v1 import key_service_pb2 as pb
from support.admin import Admin
from support.rpc import Rpc, asset

CHAT = asset_pb2.ASSET_CLASS_TEAM_CHAT


@pytest.fixture
def admin(rpc: Rpc) -> Admin:
    return Admin(rpc.channel)


async def use(rpc: Rpc, **facts: object) -> None:
    await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(**facts), with_plaintext=True))


async def preview(admin: Admin, **scope: object) -> revocation_pb2.RevocationPreview:
    answer = await admin(
        "PreviewRevocation",
        tenant="acme",
        scope=revocation_pb2.RevocationScope(**scope),  # type: ignore[arg-type]
        everything=not scope,
        ending=revocation_pb2.REVOCATION_ENDING_DRAIN,
    )
    return answer.preview  # type: ignore[no-any-return]


def counts(uses: object) -> dict[str, int]:
    return {one.name: one.count for one in uses}  # type: ignore[attr-defined]


async def test_it_counts_what_would_end_and_what_was_used(rpc: Rpc, admin: Admin) -> None:
    for number in range(3):
        await use(rpc, user="frida@acme.example", asset_class=CHAT, asset_id=f"chat-{number}")
    await use(rpc, user="bob@acme.example")
    await use(rpc, asset_class=CHAT, asset_id="chat-9")
    sealed = await rpc.encrypt(bytes(600_000), asset_id="read")
    writing, reading = rpc.stub.EncryptMedia(), rpc.stub.DecryptMedia()
    await writing.write(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset(asset_id="written"))))
    await reading.write(pb.DecryptMediaRequest(start=pb.DecryptMediaStart(asset=asset(asset_id="read"))))
    await reading.write(pb.DecryptMediaRequest(chunk=sealed[:400_000]))
    for stream in (writing, reading):
        assert (await stream.read()).HasField("started")

    told = await preview(admin)
    assert (told.streams_ended, told.streams_draining, told.other_processes, told.streams_elsewhere) == (1, 1, 0, 0)
    assert told.uses == 8
    assert counts(told.keys) == {"finance": 3, "main": 5}
    assert counts(told.asset_classes) == {"team_chat": 4, "phone_recording": 4}
    assert counts(told.groups) == {"finance": 3}
    assert counts(told.users) == {"frida@acme.example": 3, "bob@acme.example": 1}
    assert (told.leases_ended, told.calls, told.call_gate) == (2, True, "refuse")

    by_class = await preview(admin, asset_classes=[CHAT])
    assert (by_class.uses, by_class.streams_ended, by_class.leases_ended) == (4, 0, 0)
    by_key = await preview(admin, keys=["finance"])
    assert (by_key.uses, by_key.leases_ended, counts(by_key.users)) == (3, 1, {"frida@acme.example": 3})
    by_asset = await preview(admin, asset_ids=["written"])
    assert (by_asset.uses, by_asset.streams_draining, by_asset.calls) == (1, 1, False)

    assert not (await admin("ListRevocations", tenant="acme", restored=True)).revocations
    await writing.done_writing()
    while await writing.read() is not grpc.aio.EOF:
        pass
    reading.cancel()


async def test_what_could_not_be_revoked_has_no_preview(rpc: Rpc, admin: Admin) -> None:
    assert rpc
    for fields in ({}, {"scope": revocation_pb2.RevocationScope(keys=["none"])}, {"hours": 169}):
        scope = fields.pop("scope", revocation_pb2.RevocationScope())
        failure = await admin.fail("PreviewRevocation", tenant="acme", scope=scope, **fields)
        assert failure.reason == "INVALID_FIELD"
