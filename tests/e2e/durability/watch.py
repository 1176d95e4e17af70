"""Calls of several kinds to several instances, one after the other without end, and what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ownkey.v1 import asset_pb2, call_pb2
from support.rpc import Failure, Rpc, asset, connected, pb

RECORDING = asset_pb2.ASSET_CLASS_PHONE_RECORDING
Ask = Callable[[Rpc], Awaitable[str | None]]


@dataclass(frozen=True)
class Call:
    """One call, by the monotonic clock.

    Attributes:
        outcome: The reason of its error, or the status where there is none; empty for an answer.
    """

    kind: str
    place: str
    begun: float
    ended: float
    outcome: str

    @property
    def seconds(self) -> float:
        """How long its caller waited."""
        return self.ended - self.begun


class Watch:
    """What became of every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @contextlib.asynccontextmanager
    async def on(self, addresses: Iterable[str], kinds: dict[str, Ask], callers: int = 2) -> AsyncIterator[None]:
        """While the block runs, ask everything of everybody."""
        async with contextlib.AsyncExitStack() as stack:
            tasks = []
            for address in addresses:
                rpc = await stack.enter_async_context(connected(address))
                tasks += [asyncio.create_task(self._ask(rpc, *kind)) for kind in kinds.items() for _ in range(callers)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            assert isinstance(end, asyncio.CancelledError), end

    def of(self, kind: str, begun_after: float = 0.0, begun_before: float = float("inf")) -> list[Call]:
        """Those of a kind that began in a span of time."""
        return [call for call in self.calls if call.kind == kind and begun_after < call.begun < begun_before]

    def outcomes(self, kind: str, begun_after: float = 0.0, begun_before: float = float("inf")) -> set[str]:
        """How those ended."""
        found = self.of(kind, begun_after, begun_before)
        assert found, f"there was no call of kind {kind}"
        return {call.outcome for call in found}

    def answered_everywhere(self, kinds: Iterable[str], since: float) -> bool:
        """Whether each kind of call was answered by each instance since then."""
        wanted = {(kind, call.place) for kind in kinds for call in self.calls}
        return wanted <= {(call.kind, call.place) for call in self.calls if call.begun > since and not call.outcome}

    async def _ask(self, rpc: Rpc, kind: str, ask: Ask) -> None:
        while True:
            begun = time.monotonic()
            outcome = ""
            try:
                outcome = await ask(rpc) or ""
            except grpc.aio.AioRpcError as error:
                failure = Failure.of(error)
                outcome = failure.reason or failure.code.name
            self.calls.append(Call(kind, rpc.address, begun, time.monotonic(), outcome))
            await asyncio.sleep(0.02)


async def check_policy(rpc: Rpc) -> None:
    """Which key would protect a recording."""
    await rpc.stub.CheckPolicy(pb.CheckPolicyRequest(asset=asset(asset_id="x")), timeout=10)


async def emergency_call(rpc: Rpc) -> None:
    """Must be allowed."""
    await _allowed(rpc, "acme")


async def emergency_call_of_a_stranger(rpc: Rpc) -> None:
    """Must be allowed too, though nobody has ever asked for the tenant, and it must be looked up."""
    await _allowed(rpc, f"nobody-{uuid.uuid4().hex}")


async def other_call(rpc: Rpc) -> str:
    """Any other; gives what decided, unless that was a key which works."""
    request = call_pb2.AuthorizeCallRequest(tenant="acme", call_id="1", callee="+15551234567", stores=[RECORDING])
    answer = await rpc.stub.AuthorizeCall(request, timeout=10)
    return "" if answer.reason == call_pb2.CALL_REASON_KEY_AVAILABLE else call_pb2.CallReason.Name(answer.reason)


async def health(rpc: Rpc) -> None:
    """Must be well: this asks nothing but the event loop."""
    stub = health_pb2_grpc.HealthStub(rpc.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def _allowed(rpc: Rpc, tenant: str) -> None:
    request = call_pb2.AuthorizeCallRequest(tenant=tenant, call_id="1", callee="911", stores=[RECORDING])
    answer = await rpc.stub.AuthorizeCall(request, timeout=10)
    assert answer.decision == call_pb2.CALL_DECISION_ALLOW
    assert answer.emergency
