"""A stream under way ends when its key is taken away, although nothing flows and nothing else uses the key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from ownkey.v1 import key_service_pb2 as pb
from ownkey.v1 import revocation_pb2
from support import server
from support.admin import Admin
from support.receipts import receipt
from support.rpc import Failure, Rpc, asset, connected

CHECK_SECONDS = 0.5
# A probe of keys in files takes no time; the machine may be busy.
SLACK_SECONDS = 2.0


@pytest.fixture
async def rpc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rpc]:
    """A server that asks after no key by itself, but for streams; leases are short."""
    monkeypatch.setenv("OWNKEY_KEYS__PROBE_INTERVAL_SECONDS", "3600")
    monkeypatch.setenv("OWNKEY_KEYS__STREAM_CHECK_SECONDS", str(CHECK_SECONDS))
    monkeypatch.setenv("OWNKEY_KEYS__LEASE_SECONDS", "0.3")
    async with server.in_process(tmp_path) as address, connected(address) as calls:
        yield calls


async def writing(rpc: Rpc, **facts: object) -> grpc.aio.StreamStreamCall:
    stream = rpc.stub.EncryptMedia()
    await stream.write(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset(**facts))))
    assert (await stream.read()).HasField("started")
    return stream


async def ended(stream: grpc.aio.StreamStreamCall) -> Failure:
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await stream.read() is not grpc.aio.EOF:
            pass
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    return Failure.of(caught.value)


async def test_a_stream_in_which_nothing_flows_ends_within_the_bound(rpc: Rpc, tmp_path: Path) -> None:
    stream = await writing(rpc)
    (tmp_path / "keys" / "acme-main.disabled").touch()
    began = time.monotonic()
    failure = await ended(stream)
    assert failure.reason == "KEY_REVOKED"
    assert time.monotonic() - began < CHECK_SECONDS + SLACK_SECONDS


async def test_what_is_let_finish_outlives_its_lease_and_what_is_read_does_not(rpc: Rpc) -> None:
    sealed = await rpc.encrypt(bytes(1_000_000), asset_id="read")
    stream = await writing(rpc, asset_id="written")
    reading = rpc.stub.DecryptMedia()
    await reading.write(pb.DecryptMediaRequest(start=pb.DecryptMediaStart(asset=asset(asset_id="read"))))
    await reading.write(pb.DecryptMediaRequest(chunk=sealed[:600_000]))
    assert (await reading.read()).HasField("started")
    admin = Admin(rpc.channel)
    scope = revocation_pb2.RevocationScope(asset_ids=["read", "written"])
    made = await admin("Revoke", tenant="acme", scope=scope, ending=revocation_pb2.REVOCATION_ENDING_DRAIN)
    assert (await ended(reading)).reason == "KEY_REVOKED"
    # As many renewals as it takes for one to stand in the trail after the effect.
    end = time.monotonic() + 20
    while not await renewed_after_effect(admin):
        assert time.monotonic() < end
        await stream.write(pb.EncryptMediaRequest(chunk=bytes(1000)))
    await stream.done_writing()
    while await stream.read() is not grpc.aio.EOF:
        pass
    assert await stream.code() is grpc.StatusCode.OK
    _, said = await receipt(admin, revocation=made.revocation.id)
    (instance,) = said["instances"]
    assert (instance["streams_ended"], instance["streams_draining"], instance["served_after"]) == (1, 1, 0)


async def renewed_after_effect(admin: Admin) -> bool:
    page = await admin("ListAuditRecords", tenant="acme", page_size=1000)
    actions = [(one.action, '"finishing":true' in one.json) for one in page.records if one.action != "admin.revoke"]
    effect = actions.index(("revocation_in_force", False)) if ("revocation_in_force", False) in actions else None
    return effect is not None and ("renew_lease", True) in actions[effect:]
