"""Load: data keys asked for without a pause, and a memory of every one that was received."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import grpc

from e2e.durability.instances import Instance
from support.rpc import Failure, Rpc, asset, connected, pb

CALL_SECONDS = 20.0


@dataclass(frozen=True)
class Received:
    """A data key whose answer arrived."""

    asset_id: str
    wrapped: bytes
    context: Mapping[str, str]
    plaintext_hash: bytes


class Load:
    """Callers of several instances, four of each.

    Attributes:
        received: Every data key that arrived.
        answers: How many arrived from each instance.
        failures: How often a call failed, by status and reason.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()

    @contextlib.asynccontextmanager
    async def on(self, *instances: Instance, callers: int = 4) -> AsyncIterator[None]:
        """While the block runs, ask; whoever loses its server waits for the next one in its place."""
        tasks = [asyncio.create_task(self._ask(one)) for one in instances for _ in range(callers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            assert isinstance(end, asyncio.CancelledError), end

    async def _ask(self, instance: Instance) -> None:
        while True:
            address = instance.address
            if not address:
                await asyncio.sleep(0.01)
                continue
            async with connected(address) as rpc:
                while instance.address == address:
                    try:
                        self.received.append(await data_key(rpc))
                        self.answers[instance.name] += 1
                    except grpc.aio.AioRpcError as error:
                        failure = Failure.of(error)
                        self.failures[failure.code.name, failure.reason] += 1
                        await asyncio.sleep(0.01)


async def data_key(rpc: Rpc, seconds: float = CALL_SECONDS) -> Received:
    """A data key for an asset of its own."""
    asset_id = uuid.uuid4().hex
    request = pb.GenerateDataKeyRequest(asset=asset(asset_id=asset_id), with_plaintext=True)
    answer = await rpc.stub.GenerateDataKey(request, timeout=seconds)
    hashed = hashlib.sha256(answer.plaintext).digest()
    return Received(asset_id, answer.wrapped_key, dict(answer.encryption_context), hashed)


async def require_all_open(address: str, received: list[Received]) -> None:
    """Make sure that each data key opens again, to the same bytes."""
    left = iter(received)

    async def open_some(rpc: Rpc) -> None:
        for one in left:
            request = pb.UnwrapRequest(
                asset=asset(asset_id=one.asset_id), wrapped_key=one.wrapped, encryption_context=one.context
            )
            answer = await rpc.stub.Unwrap(request, timeout=CALL_SECONDS)
            assert hashlib.sha256(answer.plaintext).digest() == one.plaintext_hash, one.asset_id

    async with connected(address) as rpc:
        await asyncio.gather(*(open_some(rpc) for _ in range(32)))
