"""Two processes over one PostgreSQL: what is taken back at one ends at the other; nothing is claimed of the silent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from e2e.durability.changes import require_in_force
from e2e.durability.instances import Fleet, fleet, until
from interop import receipt_verifier
from ownkey.v1 import asset_pb2, revocation_pb2
from ownkey.v1 import key_service_pb2 as pb
from ownkey_server.storage import upgrade
from ownkey_server.storage.database import Database
from support import admin as admins
from support.admin import Admin
from support.postgres import PostgresServer
from support.receipts import receipt
from support.rpc import Failure, Rpc, asset, connected

# Bounds that are promised in seconds say nothing on a machine that is busy with other tests.
pytestmark = pytest.mark.alone

CHAT = asset_pb2.ASSET_CLASS_TEAM_CHAT
USER = "frida@acme.example"  # of group finance, whose key is finance
HOUR = timedelta(hours=1)


def scopes() -> dict[str, dict[str, Any]]:
    now = datetime.now(UTC)
    return {
        "everything": {},
        "key": {"keys": ["finance"]},
        "group": {"groups": ["finance"]},
        "user": {"users": [USER]},
        "class": {"asset_classes": [CHAT]},
        "asset": {"asset_ids": ["chat-1"]},
        "span": {"created_from": now - HOUR, "created_before": now + HOUR},
        "all of these": {"keys": ["finance"], "users": [USER], "asset_classes": [CHAT], "asset_ids": ["chat-1"]},
    }


@contextlib.asynccontextmanager
async def two(postgres: PostgresServer, folder: Path) -> AsyncIterator[tuple[Fleet, list[Rpc], Admin]]:
    url = postgres.new_database()
    database = Database(url)
    upgrade.upgrade(database)
    database.close()
    async with fleet(folder / "servers", url, 2) as servers, contextlib.AsyncExitStack() as stack:
        rpcs = [await stack.enter_async_context(connected(one.address)) for one in servers.instances]
        yield servers, rpcs, await stack.enter_async_context(admins.connected(servers.instances[0].address))


def chat() -> asset_pb2.Asset:
    return asset(user=USER, asset_class=CHAT, asset_id="chat-1")


async def reason(rpc: Rpc, made: pb.GenerateDataKeyResponse) -> str:
    """Why one's data key is not opened; empty when it is."""
    request = pb.UnwrapRequest(asset=chat(), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context)
    try:
        await rpc.stub.Unwrap(request, timeout=10)
    except grpc.aio.AioRpcError as error:
        return Failure.of(error).reason
    return ""


async def becomes(rpc: Rpc, made: pb.GenerateDataKeyResponse, wanted: str, since: float) -> float:
    for _ in range(2000):
        if await reason(rpc, made) == wanted:
            return time.monotonic() - since
        await asyncio.sleep(0.005)
    pytest.fail(f"{wanted!r} does not come")


async def writing(rpc: Rpc) -> grpc.aio.StreamStreamCall:
    stream = rpc.stub.EncryptMedia()
    await stream.write(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=chat())))
    assert (await stream.read()).HasField("started")
    return stream


async def ended(stream: grpc.aio.StreamStreamCall) -> str:
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await stream.read() is not grpc.aio.EOF:
            pass
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    return Failure.of(caught.value).reason


async def test_what_is_taken_back_at_one_ends_at_the_other_and_comes_back_there(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    delays = []
    async with two(postgres, tmp_path) as (servers, rpcs, admin):
        made = await rpcs[0].stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=chat(), with_plaintext=True))
        assert [await reason(rpc, made) for rpc in rpcs] == ["", ""]
        for name, scope in scopes().items():
            stream = await writing(rpcs[1])
            since = time.monotonic()
            revocation = revocation_pb2.RevocationScope(**scope)
            answer = await admin("Revoke", tenant="acme", scope=revocation, everything=name == "everything")
            one = answer.revocation.id
            delays.append(await becomes(rpcs[1], made, "KEY_REVOKED", since))
            assert await ended(stream) == "KEY_REVOKED", name
            file, said = await receipt(admin, revocation=one)
            assert receipt_verifier.check(file, servers.public_key.read_bytes()) == said
            assert [one["standing"] for one in said["instances"]] == ["in_force", "in_force"]
            assert [one["streams_ended"] for one in said["instances"]] == [0, 1], name
            assert [one["served_after"] for one in said["instances"]] == [0, 0]
            since = time.monotonic()
            await admin("Restore", tenant="acme", revocation=one)
            delays.append(await becomes(rpcs[1], made, "", since))
        require_in_force(delays, "taken back and given back")

        # A key that is taken away in its key store and found at one ends streams at the other, and the trail says so.
        stream = await writing(rpcs[1])
        (servers.config.parent / "keys" / "acme-finance.disabled").touch()
        assert await becomes(rpcs[0], made, "KEY_REVOKED", time.monotonic())
        assert await ended(stream) == "KEY_REVOKED"
        _, said = await receipt(admin, key="finance")
        assert [one["standing"] for one in said["instances"]] == ["in_force", "in_force"]
        assert said["instances"][1]["streams_ended"] == 1


async def test_nothing_is_claimed_of_who_is_frozen_or_dead(postgres: PostgresServer, tmp_path: Path) -> None:
    async def stands(admin: Admin, revocation: str, fits: Callable[[list[str]], bool]) -> Any:
        for _ in range(400):
            _, said = await receipt(admin, revocation=revocation, complete=False)
            if fits([one["standing"] for one in said["instances"]]):
                return said
            await asyncio.sleep(0.02)
        pytest.fail(f"it stays so: {said}")

    async with two(postgres, tmp_path) as (servers, rpcs, admin):
        made = await rpcs[0].stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=chat(), with_plaintext=True))
        assert await reason(rpcs[1], made) == ""
        second = servers.instances[1]
        os.kill(second.pid, signal.SIGSTOP)
        try:
            scope = revocation_pb2.RevocationScope(users=[USER])
            one = (await admin("Revoke", tenant="acme", scope=scope)).revocation.id
            said = await stands(admin, one, lambda found: found == ["in_force", "silent"])
            assert not said["complete"]
            silent = said["instances"][1]
            assert (silent["proved"], "effect" in silent, "served_after" in silent) == (False, False, False)
            assert silent["last_served"][0]["action"] == "unwrap"
            assert silent["last_served"][0]["sequence"] <= silent["head"]["sequence"]
        finally:
            os.kill(second.pid, signal.SIGCONT)
        await becomes(rpcs[1], made, "KEY_REVOKED", time.monotonic())
        await stands(admin, one, lambda found: found == ["in_force", "in_force"])

        # Dead between the act and its effect: never claimed, not even when another has taken its place.
        os.kill(second.pid, signal.SIGSTOP)
        scope = revocation_pb2.RevocationScope(asset_ids=["chat-1"])
        other = (await admin("Revoke", tenant="acme", scope=scope)).revocation.id
        second.kill()
        second.start()
        await until(lambda: second.address, "it serves again")
        said = await stands(admin, other, lambda found: found == ["in_force", "silent", "since_start"])
        assert not said["complete"]
        assert said["instances"][2]["served_after"] == 0
        # What it had recorded before it died stays proved.
        await stands(admin, one, lambda found: found == ["in_force", "in_force", "since_start"])
