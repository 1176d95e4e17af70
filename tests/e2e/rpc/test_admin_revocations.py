"""What a tenant takes back is served no more, and what it gives back is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import grpc
import pytest

from ownkey.v1 import asset_pb2, call_pb2, revocation_pb2
from ownkey.v1 import key_service_pb2 as pb
from support.admin import Admin
from support.rpc import Failure, Rpc, asset

RECORDING, CHAT = asset_pb2.ASSET_CLASS_PHONE_RECORDING, asset_pb2.ASSET_CLASS_TEAM_CHAT
BOUND_SECONDS = 1.0


@pytest.fixture
def admin(rpc: Rpc) -> Admin:
    return Admin(rpc.channel)


async def made_for(rpc: Rpc, **facts: object) -> pb.GenerateDataKeyResponse:
    return await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(**facts), with_plaintext=True))


def opening(made: pb.GenerateDataKeyResponse, **facts: object) -> pb.UnwrapRequest:
    return pb.UnwrapRequest(
        asset=asset(**facts), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
    )


async def revoked(rpc: Rpc, method: str, request: object) -> Failure:
    """The refusal, which comes within the bound."""
    end = time.monotonic() + BOUND_SECONDS
    while True:
        try:
            await getattr(rpc.stub, method)(request)
        except grpc.aio.AioRpcError as error:
            return Failure.of(error)
        assert time.monotonic() < end, f"{method} is served longer than {BOUND_SECONDS} s after the revocation"
        await asyncio.sleep(0)


SCOPES = {
    "everything": {},
    "key": {"keys": ["main"]},
    "user": {"users": ["ann@example.com"]},
    "class": {"asset_classes": [RECORDING]},
    "asset": {"asset_ids": ["call-1"]},
}


@pytest.mark.parametrize("name", SCOPES)
async def test_what_is_taken_back_is_served_no_more_and_what_is_given_back_is(
    rpc: Rpc, admin: Admin, name: str
) -> None:
    facts = {"user": "ann@example.com", "asset_id": "call-1", "asset_class": RECORDING}
    made = await made_for(rpc, **facts)
    scope = revocation_pb2.RevocationScope(**SCOPES[name])
    answer = await admin("Revoke", tenant="acme", scope=scope, everything=name == "everything")
    for method, request in (
        ("Unwrap", opening(made, **facts)),
        ("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset(**facts))),
    ):
        failure = await revoked(rpc, method, request)
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_REVOKED")
        assert failure.metadata == {"tenant": "acme", "revocation": answer.revocation.id}
    if name != "everything":
        other = {"user": "bob@example.com", "asset_id": "call-2", "asset_class": asset_pb2.ASSET_CLASS_PHONE_MMS}
        other |= {"group": "finance"} if name == "key" else {}
        spared = await rpc.stub.CheckPolicy(pb.CheckPolicyRequest(asset=asset(**other)))
        if spared.key:
            assert await made_for(rpc, **other)
    await admin("Restore", tenant="acme", revocation=answer.revocation.id)
    assert (await rpc.stub.Unwrap(opening(made, **facts))).plaintext == made.plaintext


async def test_leaving_facts_out_gets_nobody_around_it(rpc: Rpc, admin: Admin) -> None:
    made = await made_for(rpc, group="finance")
    await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(groups=["finance"]))
    assert (await revoked(rpc, "Unwrap", opening(made))).reason == "KEY_REVOKED"
    rewrap = pb.RewrapRequest(asset=asset(), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context)
    assert (await rpc.fail("Rewrap", rewrap)).reason == "KEY_REVOKED"


async def test_what_is_nowhere_cannot_be_taken_back(rpc: Rpc, admin: Admin) -> None:
    for scope, everything in (
        ({}, False),
        ({"users": ["a"]}, True),
        ({"keys": ["none"]}, False),
        ({"groups": ["x"]}, False),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(**scope), everything=everything)
        assert Failure.of(caught.value).reason == "INVALID_FIELD"
    assert not (await admin("ListRevocations", tenant="acme", restored=True)).revocations


async def test_they_are_listed_the_newest_first_and_page_by_page(rpc: Rpc, admin: Admin) -> None:
    made = [
        (
            await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(users=[f"user-{number}"]))
        ).revocation
        for number in range(5)
    ]
    await admin("Restore", tenant="acme", revocation=made[2].id)
    with pytest.raises(grpc.aio.AioRpcError, match="restored already"):
        await admin("Restore", tenant="acme", revocation=made[2].id)
    for restored, expected in ((False, [4, 3, 1, 0]), (True, [4, 3, 2, 1, 0])):
        found, token = [], ""
        while True:
            page = await admin("ListRevocations", tenant="acme", page_size=2, page_token=token, restored=restored)
            found += [one.id for one in page.revocations]
            token = page.next_page_token
            if not token:
                break
        assert found == [made[number].id for number in expected]
    one = (await admin("GetRevocation", tenant="acme", revocation=made[2].id)).revocation
    assert one.HasField("restore_time")


async def test_streams_that_are_under_way_end_although_nothing_flows(rpc: Rpc, admin: Admin) -> None:
    sealed = await rpc.encrypt(bytes(1_000_000), asset_id="call-1")
    writing = rpc.stub.EncryptMedia()
    await writing.write(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset(asset_id="call-1"))))
    reading = rpc.stub.DecryptMedia()
    await reading.write(pb.DecryptMediaRequest(start=pb.DecryptMediaStart(asset=asset(asset_id="call-1"))))
    await reading.write(pb.DecryptMediaRequest(chunk=sealed[:600_000]))
    other = rpc.stub.EncryptMedia()
    await other.write(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset(asset_id="call-2"))))
    for stream in (writing, reading, other):
        assert (await stream.read()).HasField("started")

    await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(asset_ids=["call-1"]))
    began = time.monotonic()

    async def ended(stream: grpc.aio.StreamStreamCall) -> Failure:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await stream.read() is not grpc.aio.EOF:
                pass
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        return Failure.of(caught.value)

    chunk = bytes(300_000)
    for stream in (writing, reading):
        assert (await ended(stream)).reason == "KEY_REVOKED"
    assert time.monotonic() - began < BOUND_SECONDS + 0.5
    await other.write(pb.EncryptMediaRequest(chunk=chunk))
    await other.done_writing()
    while await other.read() is not grpc.aio.EOF:
        pass
    assert await other.code() is grpc.StatusCode.OK


async def test_the_call_gate_policy_and_status_say_so_too(rpc: Rpc, admin: Admin) -> None:
    call = {"tenant": "acme", "call_id": "1", "callee": "+15550100", "stores": [RECORDING]}
    recorded = call_pb2.AuthorizeCallRequest(**call)
    supported = call_pb2.AuthorizeCallRequest(**call, queue="support")
    assert (await rpc.stub.AuthorizeCall(supported)).decision == call_pb2.CALL_DECISION_ALLOW

    by_queue = await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(queues=["support"]))
    end = time.monotonic() + BOUND_SECONDS
    while (answer := await rpc.stub.AuthorizeCall(supported)).decision == call_pb2.CALL_DECISION_ALLOW:
        assert time.monotonic() < end
    assert (answer.decision, answer.reason, answer.sip_status) == (
        call_pb2.CALL_DECISION_REFUSE,
        call_pb2.CALL_REASON_KEY_REVOKED,
        403,
    )
    assert by_queue.revocation.id in answer.explanation
    assert (await rpc.stub.AuthorizeCall(recorded)).decision == call_pb2.CALL_DECISION_ALLOW
    emergency = call_pb2.AuthorizeCallRequest(**call | {"callee": "911"}, queue="support")
    assert (await rpc.stub.AuthorizeCall(emergency)).emergency
    assert (await rpc.stub.KeyStatus(pb.KeyStatusRequest(tenant="acme", key="main"))).keys[0].state == 1

    whole = await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(keys=["main"]))
    assert (await revoked(rpc, "GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset()))).reason == "KEY_REVOKED"
    status = (await rpc.stub.KeyStatus(pb.KeyStatusRequest(tenant="acme"))).keys
    assert {one.key.rpartition("/")[2]: one.state for one in status} == {"main": 3, "finance": 1}
    check = await rpc.stub.CheckPolicy(pb.CheckPolicyRequest(asset=asset()))
    assert check.key_state == 3
    assert whole.revocation.id in check.explanation
    assert (await rpc.stub.AuthorizeCall(recorded)).decision == call_pb2.CALL_DECISION_REFUSE


async def test_no_use_stands_in_the_trail_after_the_revocation_took_effect(rpc: Rpc, admin: Admin) -> None:
    """However many uses are under way at that moment: the chain's order is the proof."""
    made = await made_for(rpc, asset_class=CHAT)
    stop = asyncio.Event()

    async def use_it() -> None:
        while not stop.is_set():
            with contextlib.suppress(grpc.aio.AioRpcError):
                await rpc.stub.Unwrap(opening(made, asset_class=CHAT))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await made_for(rpc)

    users = [asyncio.create_task(use_it()) for _ in range(8)]
    stream = rpc.stub.EncryptMedia()
    await stream.write(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset())))
    assert (await stream.read()).HasField("started")
    answer = await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(keys=["main"]))
    failure = await revoked(rpc, "Unwrap", opening(made, asset_class=CHAT))
    assert failure.metadata["revocation"] == answer.revocation.id

    async def records() -> list[dict[str, Any]]:
        found, token = [], ""
        while True:
            page = await admin("ListAuditRecords", tenant="acme", page_size=1000, page_token=token)
            found += [json.loads(one.json) | {"writer": one.writer, "sequence": one.sequence} for one in page.records]
            token = page.next_page_token
            if not token:
                return found

    end = time.monotonic() + 10
    while not (effects := [one for one in await records() if one["action"] == "revocation_in_force"]):
        assert time.monotonic() < end
    stop.set()
    await asyncio.gather(*users)
    (effect,) = effects
    ended = {"streams_ended": 1, "streams_draining": 0, "leases_ended": 1}
    assert effect["detail"] == {"revocation": answer.revocation.id} | ended
    uses = [
        one
        for one in await records()
        if one["action"] in ("unwrap", "generate_data_key") and one["writer"] == effect["writer"]
    ]
    before = [one["result"] for one in uses if one["sequence"] < effect["sequence"]]
    after = [(one["result"], one.get("reason")) for one in uses if one["sequence"] > effect["sequence"]]
    assert "ok" in before
    assert set(after) == {("refused", "KEY_REVOKED")}
