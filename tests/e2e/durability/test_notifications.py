"""A server that is killed in the middle of a delivery loses no notification; the command line shows all of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ownkey import AdminClient
from ownkey.v1 import policy_pb2
from support import server
from support.pki import Authority
from support.receiver import HANG, OK, Receiver, receiving, status

EXTRA = """
[notifications]
allow_addresses = ["127.0.0.0/8", "::1/128"]
ca_file = "{ca}"
attempt_seconds = 1
lease_seconds = 2
retry_seconds = 0.05
"""


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    async with receiving(Authority(tmp_path / "authority")) as made:
        yield made


@pytest.fixture
def extra(tmp_path: Path) -> str:
    return EXTRA.format(ca=tmp_path / "authority" / "ca.pem")


async def until(receiver: Receiver, condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            receiver.arrived.clear()
            await receiver.arrived.wait()


def channel(address: str, url: str) -> None:
    with AdminClient(address) as admin:
        admin.create_notification_channel("acme", webhook=url)


def change_policy(address: str, times: int) -> None:
    with AdminClient(address) as admin:
        for _ in range(times):
            etag = admin.get_tenant("acme").etag
            admin.create_policy_version("acme", policy_pb2.Policy(default_use="key:main"), activate_with=etag)


async def test_kill_9_in_the_middle_of_a_delivery_loses_nothing(tmp_path: Path, receiver: Receiver, extra: str) -> None:
    receiver.answer = lambda _: HANG
    with server.process(tmp_path, extra=extra) as running:
        await asyncio.to_thread(channel, running.address, receiver.url)
        await asyncio.to_thread(change_policy, running.address, 5)
        await until(receiver, lambda: receiver.came)
        os.kill(running.pid, signal.SIGKILL)
        await asyncio.to_thread(running.wait)
    cut, receiver.came, receiver.answer = receiver.ids[0], [], lambda _: OK
    with server.process(tmp_path, extra=extra):
        await until(receiver, lambda: len(set(receiver.ids)) == 5)
    # The very one that was cut off comes again, with the same id, and the others after it.
    assert receiver.ids[0] == cut
    versions = [one.told["data"]["details"]["version"] for one in receiver.came]
    assert versions == [2, 3, 4, 5, 6]


async def run(*arguments: str, code: int = 0, **environment: str) -> Any:
    def work() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [server.OWNKEY, "notify", *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )

    done = await asyncio.to_thread(work)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


async def test_the_command_line_from_a_channel_to_a_replay(tmp_path: Path, receiver: Receiver, extra: str) -> None:
    with server.process(tmp_path, extra=extra) as running:
        at = ("--address", running.address)
        acme = ("--tenant", "acme", *at)
        made = await run("channel", "create", *acme, "--webhook", receiver.url, "--name", "Ops")
        one, secret = made["channel"]["id"], made["secret"]
        tested = await run("test", one, *acme)
        assert tested["result"] == "HTTP 204"
        [came] = receiver.came
        body = tmp_path / "body"
        body.write_bytes(came.body)
        headers = [f"--{name}={came.headers[f'webhook-{name}']}" for name in ("id", "timestamp", "signature")]
        verified = await run("verify", *headers, "-f", str(body), OWNKEY_WEBHOOK_SECRET=secret)
        assert verified["notice"]["type"] == "test"
        body.write_bytes(came.body + b" ")
        refused = await run("verify", *headers, "-f", str(body), code=1, OWNKEY_WEBHOOK_SECRET=secret)
        assert "not to be believed" in refused

        receiver.answer = lambda _: status(500)
        failed = await run("test", one, *acme, code=1)
        assert "not delivered: HTTP 500" in failed
        [dead] = (await run("list", *acme, "--dead"))["notifications"]
        assert dead["id"] in failed
        receiver.answer = lambda _: OK
        await run("replay", dead["id"], *acme)
        await until(receiver, lambda: receiver.ids.count(dead["id"]) == 2)

        rotated = await run("channel", "update", one, *acme, "--rotate-secret", "--kind", "key_revoked")
        assert rotated["secret"] not in ("", secret)
        assert (await run("channel", "get", one, *acme))["kinds"] == ["key_revoked"]
        [listed] = (await run("channel", "list", *acme))["channels"]
        assert listed["id"] == one
        assert secret not in str(listed)
        assert (await run("channel", "list", *at))["channels"] == []
        await run("channel", "delete", one, *acme, "--yes")
        assert (await run("channel", "list", *acme))["channels"] == []
