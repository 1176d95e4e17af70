"""A call that was refused is over: nothing of its request stays until Python's collector happens to come by.

What a refused call leaves behind closes a circle (grpc.aio's own), which only the collector opens. What hangs in that
circle would add up: requests have up to ``server.max_message_bytes``, and anybody may send such as are refused.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator

import grpc
import pytest

from support.rpc import Rpc, asset, pb

CALLS = 10
METHOD = "/ownkey.v1.KeyService/Unwrap"


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held(marker: bytes) -> int:
    """How many bytes objects have the marker in them, as far as anything refers to them that can close a circle."""
    found = {
        id(one): one
        for holder in gc.get_objects()
        for one in gc.get_referents(holder)
        if type(one) is bytes and marker in one
    }
    return len(found)


def too_long(marker: bytes) -> pb.UnwrapRequest:
    return pb.UnwrapRequest(asset=asset(), wrapped_key=marker * 20_000)


def no_context(marker: bytes) -> pb.UnwrapRequest:
    return pb.UnwrapRequest(asset=asset(), wrapped_key=marker)


def no_wrapped_key_at_all(marker: bytes) -> pb.UnwrapRequest:
    return pb.UnwrapRequest(asset=asset(), wrapped_key=marker, encryption_context={"ownkey:tenant": "acme"})


def nobody_s_tenant(marker: bytes) -> pb.UnwrapRequest:
    context = {"ownkey:tenant": "nobody"}
    return pb.UnwrapRequest(asset=asset(tenant="nobody"), wrapped_key=marker, encryption_context=context)


@pytest.mark.parametrize("request_of", [too_long, no_context, no_wrapped_key_at_all, nobody_s_tenant])
async def test_nothing_of_a_refused_request_waits_for_the_collector(
    rpc: Rpc, no_collector: None, request_of: object
) -> None:
    marker = os.urandom(48)
    raw = request_of(marker).SerializeToString()  # type: ignore[operator]
    call = rpc.channel.unary_unary(METHOD)
    for _ in range(CALLS):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(raw, timeout=20)
    # The client hears of the status a moment before the server's task is over.
    async with asyncio.timeout(20):
        while asyncio.all_tasks() - {asyncio.current_task()} and held(marker) > 2:
            await asyncio.sleep(0.1)
    assert held(marker) <= 2, "the client's own, and the last call's"
