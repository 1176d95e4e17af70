"""Watchers of keys by the thousand, in one process: answers a line of JSON to each line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
from harness import run_on_fast_loop

from ownkey._exchange import CHANNEL_OPTIONS
from ownkey.v1 import key_status_pb2

METHOD = "/ownkey.v1.KeyService/WatchKeyStatus"
# A connection carries 64 calls at once, by the server's default.
PER_CONNECTION = 50


class Watchers:
    """Each notes when it saw a change of the key as a whole to each state."""

    def __init__(self) -> None:
        self.present = 0
        self.seen: dict[int, list[float]] = {}
        self.heartbeats = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.channels: list[grpc.aio.Channel] = []

    async def begin(self, address: str, count: int) -> None:
        request = key_status_pb2.WatchKeyStatusRequest(tenant="acme", key="main").SerializeToString()
        for number in range(-(-count // PER_CONNECTION)):
            options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(address, options=options)
            self.channels.append(channel)
            method = channel.unary_stream(METHOD)
            here = min(PER_CONNECTION, count - number * PER_CONNECTION)
            self.tasks += [asyncio.create_task(self._watch(method(request))) for _ in range(here)]
        await self._until(lambda: self.present >= count)

    async def all_saw(self, state: int) -> list[float]:
        await self._until(lambda: len(self.seen.get(state, ())) >= len(self.tasks))
        return self.seen.pop(state)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        for channel in self.channels:
            await channel.close()

    async def _watch(self, call: Any) -> None:
        async for raw in call:
            now = time.monotonic()
            message = key_status_pb2.WatchKeyStatusResponse.FromString(raw)
            match message.WhichOneof("event"):
                case "snapshot":
                    self.present += 1
                case "heartbeat":
                    self.heartbeats += 1
                case "change" if not message.change.replica:
                    self.seen.setdefault(message.change.state, []).append(now)

    async def _until(self, condition: Any) -> None:
        async with asyncio.timeout(60):
            while not condition():
                if any(task.done() and task.exception() for task in self.tasks):
                    raise RuntimeError("a watch ended")
                await asyncio.sleep(0.05)


async def serve() -> None:
    watchers = Watchers()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        job = json.loads(line)
        answer: Any = None
        if job["do"] == "begin":
            await watchers.begin(job["address"], job["count"])
        elif job["do"] == "all_saw":
            answer = await watchers.all_saw(job["state"])
        print(json.dumps(answer), flush=True)
    await watchers.end()


if __name__ == "__main__":
    run_on_fast_loop(serve())
