"""A change that is made in a process is told by it at once, on SQLite too, where nothing tells of changes."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from ownkey.v1 import key_state_pb2, key_status_pb2, revocation_pb2
from ownkey_server.composition import upkeep
from ownkey_server.storage.change_feed import ChangeFeed
from support import server
from support.admin import Admin
from support.rpc import connected

NEVER = 3600.0


async def test_a_watcher_hears_of_a_revocation_made_here_without_waiting_for_the_next_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ChangeFeed", partial(ChangeFeed, poll=NEVER))
    async with server.in_process(tmp_path) as address, connected(address) as rpc, asyncio.timeout(20):
        watch = rpc.stub.WatchKeyStatus(key_status_pb2.WatchKeyStatusRequest(tenant="acme", key="main"))
        assert (await watch.read()).WhichOneof("event") == "snapshot"
        # By the revocation itself, and by what this process sees of the key, which it writes for all.
        scope = revocation_pb2.RevocationScope(keys=["main"])
        await Admin(rpc.channel)("Revoke", tenant="acme", scope=scope)
        assert key_state_pb2.KEY_STATE_REVOKED in await changes(watch)
        (tmp_path / "keys" / "acme-finance.disabled").touch()
        other = rpc.stub.WatchKeyStatus(key_status_pb2.WatchKeyStatusRequest(tenant="acme", key="finance"))
        assert key_state_pb2.KEY_STATE_REVOKED in await changes(other)


async def changes(watch: object) -> list[int]:
    """The states that a key as a whole is told to have come to, up to its being revoked."""
    found: list[int] = []
    while key_state_pb2.KEY_STATE_REVOKED not in found:
        message = await watch.read()  # type: ignore[attr-defined]
        if message.WhichOneof("event") == "change" and not message.change.replica:
            found.append(message.change.state)
    return found
