"""WatchCallGate and WatchCalls on a running server, and the SDK's gate that follows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from ownkey.call_gate import AsyncCallGate, CallGate
from ownkey.errors import InvalidRequest, NotFound
from ownkey.models import CallAuthorization
from ownkey.v1 import asset_pb2, call_watch_pb2, revocation_pb2
from support import server
from support.admin import Admin
from support.rpc import Failure, Rpc, connected

RECORDING = asset_pb2.ASSET_CLASS_PHONE_RECORDING
BOUND_SECONDS = 1.5
STORES = ("phone_recording",)


@pytest.fixture
def admin(rpc: Rpc) -> Admin:
    return Admin(rpc.channel)


@pytest.fixture
def gate(rpc: Rpc) -> Iterator[CallGate]:
    with CallGate(rpc.address, when_stale="refuse", first_wait=5) as made:
        yield made


def ask(gate: CallGate, callee: str = "+15550100", **facts: object) -> CallAuthorization:
    return gate.authorize("acme", "call-1", callee, **({"stores": STORES} | facts))  # type: ignore[arg-type]


async def until(question: Callable[[], bool], what: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not question():
        assert time.monotonic() - began < BOUND_SECONDS, what
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def test_the_gate_follows_revocations_restorations_and_rules(rpc: Rpc, admin: Admin, gate: CallGate) -> None:
    assert await asyncio.to_thread(gate.prepare, "acme")
    await until(lambda: ask(gate).reason == "key_available", "it knows the key")
    assert ask(gate, stores=()).reason == "nothing_stored"
    taken = await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(queues=["support"]))
    await until(lambda: ask(gate, queue="support").sip_status == 403, "a revocation reaches the gate")
    assert ask(gate, queue="support").reason == "key_revoked"
    assert ask(gate, queue="support", callee="911").emergency
    assert ask(gate).decision == "allow"
    await admin("Restore", tenant="acme", revocation=taken.revocation.id)
    await until(lambda: ask(gate, queue="support").decision == "allow", "so does its end")
    tenant = (await admin("GetTenant", tenant="acme")).tenant
    tenant.call_gate.rules.add(name="quiet", sites=["berlin"], mode=3)
    await admin("UpdateTenant", tenant="acme", etag=tenant.etag, call_gate=tenant.call_gate)
    await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(), everything=True)
    await until(lambda: ask(gate, site="berlin").decision == "allow_no_recording", "a new rule reaches the gate")
    assert ask(gate, site="berlin").rule == "quiet"
    assert (ask(gate).decision, ask(gate).rule) == ("refuse", "default")


async def test_who_asks_wrongly_is_told_and_an_emergency_call_connects_all_the_same(gate: CallGate) -> None:
    for wrong in ({"direction": "sideways"}, {"stores": ("x",)}, {"group": "no-such-group"}):
        with pytest.raises(InvalidRequest):
            await asyncio.to_thread(ask, gate, **wrong)
        assert ask(gate, "911", **wrong).emergency
    with pytest.raises(NotFound):
        await asyncio.to_thread(lambda: gate.authorize("nobody", "1", "+15550100", stores=STORES))
    assert gate.authorize("nobody", "1", "tel:112", stores=STORES).emergency


async def test_when_the_server_is_gone_the_gate_decides_until_its_limit_and_then_as_it_was_told(
    tmp_path: Path,
) -> None:
    clock = [0.0]
    async with server.in_process(tmp_path) as address:
        gates = {
            when: CallGate(address, when_stale=when, staleness=15.0, first_wait=5, monotonic=lambda: clock[0])  # type: ignore[arg-type]
            for when in ("allow", "allow_no_recording", "refuse")
        }
        for gate in gates.values():
            assert await asyncio.to_thread(gate.prepare, "acme")
            await until(lambda gate=gate: ask(gate).reason == "key_available", "it knows the key")  # type: ignore[misc]
    for when, gate in gates.items():
        clock[0] = 14.9
        assert ask(gate).reason == "key_available"
        clock[0] = 15.1
        answer = ask(gate)
        assert (answer.decision, answer.reason) == (when, "view_stale")
        assert answer.sip_status == (503 if when == "refuse" else 0)
        assert (answer.retry_after is not None) == (when == "refuse")
        assert ask(gate, "911").emergency
        clock[0] = 0.0
        await asyncio.to_thread(gate.close)


async def test_the_gate_of_asyncio_follows_the_service_and_waits_for_nothing_but_a_first_view(
    tmp_path: Path,
) -> None:
    clock = [0.0]
    async with server.in_process(tmp_path) as address:
        gate = AsyncCallGate(address, staleness=15.0, first_wait=5, monotonic=lambda: clock[0])
        first = await gate.authorize("acme", "call-1", "+15550100", stores=STORES)
        assert first.decision in ("allow", "refuse"), "it has waited for the view"
        assert first.reason != "view_stale"
        with pytest.raises(NotFound):
            await gate.authorize("nobody", "1", "+15550100", stores=STORES)
        async with grpc.aio.insecure_channel(address) as channel:
            await Admin(channel)("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(queues=["support"]))
        began = time.monotonic()
        while (answer := await gate.authorize("acme", "1", "+1555", stores=STORES, queue="support")).sip_status != 403:
            assert time.monotonic() - began < BOUND_SECONDS, "a revocation reaches the gate"
            await asyncio.sleep(0.002)
        assert (answer.decision, answer.reason) == ("refuse", "key_revoked")
        assert (await gate.authorize("acme", "1", "911", stores=STORES, queue="support")).emergency
    clock[0] = 15.1
    stale = await gate.authorize("acme", "1", "+15550100", stores=STORES)
    assert (stale.decision, stale.reason, stale.sip_status) == ("refuse", "view_stale", 503)
    await gate.close()


def add(*calls: call_watch_pb2.WatchedCall, **more: object) -> call_watch_pb2.WatchCallsRequest:
    return call_watch_pb2.WatchCallsRequest(tenant="acme", add=calls, **more)  # type: ignore[arg-type]


def a_call(call_id: str, **facts: object) -> call_watch_pb2.WatchedCall:
    return call_watch_pb2.WatchedCall(**({"call_id": call_id, "callee": "+15550100", "stores": [RECORDING]} | facts))  # type: ignore[arg-type]


async def test_a_gateway_is_told_which_of_its_calls_lost_their_key_and_which_have_it_back(
    rpc: Rpc, admin: Admin
) -> None:
    tenant = (await admin("GetTenant", tenant="acme")).tenant
    tenant.call_gate.rules.add(name="quiet", sites=["berlin"], mode=3)
    await admin("UpdateTenant", tenant="acme", etag=tenant.etag, call_gate=tenant.call_gate)
    stream = rpc.stub.WatchCalls(timeout=20)
    calls = [a_call("plain"), a_call("quiet", site="berlin"), a_call("none", stores=[]), a_call("sos", callee="911")]
    await stream.write(add(*calls[:2]))
    first = await stream.read()
    assert (first.calls, list(first.changes)) == (2, []), "a key that was never asked after ends no call"
    await stream.write(add(*calls[2:]))
    while (answer := await stream.read()).calls < 4:
        assert not answer.changes

    taken = await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(), everything=True)
    began = time.monotonic()
    told = {one.call_id: one for one in (await changes(stream))}
    assert time.monotonic() - began < BOUND_SECONDS
    assert {name: one.action for name, one in told.items()} == {
        "plain": call_watch_pb2.CALL_ACTION_END,
        "quiet": call_watch_pb2.CALL_ACTION_STOP_RECORDING,
    }
    assert (told["quiet"].rule, told["plain"].key) == ("quiet", "tenants/acme/keys/main")
    await stream.write(add(a_call("late"), ended=["quiet"]))
    late = await changes(stream)
    assert [(one.call_id, one.action) for one in late] == [("late", call_watch_pb2.CALL_ACTION_END)]
    await admin("Restore", tenant="acme", revocation=taken.revocation.id)
    back = {one.call_id: one.action for one in await changes(stream)}
    assert back == dict.fromkeys(("plain", "late"), call_watch_pb2.CALL_ACTION_CONTINUE)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_what_was_said_of_a_call_before_is_said_again_only_if_it_is_otherwise_now(rpc: Rpc, admin: Admin) -> None:
    await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(queues=["support"]))
    end, go_on = call_watch_pb2.CALL_ACTION_END, call_watch_pb2.CALL_ACTION_CONTINUE
    stream = rpc.stub.WatchCalls(timeout=20)
    await stream.write(
        add(
            a_call("told", queue="support", last_action=end),
            a_call("untold", queue="support", last_action=go_on),
            a_call("freed", last_action=end),
            a_call("free", last_action=go_on),
            a_call("sos", callee="911", queue="support", last_action=end),
        )
    )
    told = {one.call_id: one.action for one in await changes(stream)}
    assert told == {"untold": end, "freed": go_on, "sos": go_on}
    stream.cancel()


async def test_a_call_whose_group_is_gone_is_watched_on_and_one_that_never_had_it_is_named(
    rpc: Rpc, admin: Admin
) -> None:
    stream = rpc.stub.WatchCalls(timeout=20)
    await stream.write(add(a_call("old", group="gone", last_action=call_watch_pb2.CALL_ACTION_CONTINUE)))
    first = await stream.read()
    assert (first.calls, list(first.changes)) == (1, [])
    await admin("Revoke", tenant="acme", scope=revocation_pb2.RevocationScope(), everything=True)
    assert [(one.call_id, one.action) for one in await changes(stream)] == [("old", call_watch_pb2.CALL_ACTION_END)]
    await stream.write(add(a_call("new", group="gone")))
    failure = await the_end(stream)
    assert (failure.reason, "call 'new'" in failure.message) == ("INVALID_FIELD", True), failure


async def changes(stream: grpc.aio.StreamStreamCall) -> list[call_watch_pb2.CallChange]:  # type: ignore[type-arg]
    while not (message := await stream.read()).changes:
        pass
    return list(message.changes)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [("watched_calls_per_stream = 2", "watched_calls_per_stream"), ("watched_calls_per_tenant = 2", "per_tenant")],
)
async def test_a_stream_with_too_many_calls_ends_and_says_which_limit_it_was(
    tmp_path: Path, settings: str, limit: str
) -> None:
    async with server.in_process(tmp_path, extra=f"[limits]\n{settings}\n") as address, connected(address) as rpc:
        stream = rpc.stub.WatchCalls(timeout=20)
        await stream.write(add(a_call("1"), a_call("2")))
        assert (await stream.read()).calls == 2
        await stream.write(add(a_call("3")))
        failure = await the_end(stream)
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAM_LIMIT")
        assert limit in str(failure.metadata) + failure.message
        again = rpc.stub.WatchCalls(timeout=20)
        await again.write(add(a_call("1"), a_call("2")))
        assert (await again.read()).calls == 2, "what the ended stream held is free"
        again.cancel()


async def test_one_stream_is_about_one_tenant(rpc: Rpc) -> None:
    stream = rpc.stub.WatchCalls(timeout=20)
    await stream.write(add(a_call("1")))
    await stream.read()
    await stream.write(call_watch_pb2.WatchCallsRequest(tenant="globex", add=[a_call("2")]))
    assert (await the_end(stream)).reason == "STREAM_PROTOCOL"


async def the_end(stream: grpc.aio.StreamStreamCall) -> Failure:  # type: ignore[type-arg]
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return Failure.of(error)
    raise AssertionError("the stream ended well")


async def test_a_stream_is_no_way_around_the_rate_of_calls(tmp_path: Path) -> None:
    rates = "\n[limits]\ntenant_calls_per_second = 0.01\nburst_seconds = 400\n"
    async with server.in_process(tmp_path, extra=rates) as address, connected(address) as rpc:
        stream = rpc.stub.WatchCalls(timeout=20)
        for number in range(4):
            await stream.write(add(a_call(f"call-{number}", stores=[])))
            assert (await stream.read()).calls == number + 1
        await stream.write(add(a_call("one-too-many", stores=[])))
        assert (await the_end(stream)).reason == "RATE_LIMITED"
