"""One client that wants to hold up, or use up, the server for all others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from ownkey.container import EncryptedDataKey, Encryptor
from ownkey.v1 import call_pb2
from support import server
from support.rpc import Rpc, asset, connected, pb

MIB = 1024 * 1024


async def answer_time(rpc: Rpc) -> float:
    started = time.perf_counter()
    answer = await rpc.stub.AuthorizeCall(call_pb2.AuthorizeCallRequest(tenant="acme", call_id="c", callee="911"))
    assert answer.emergency
    return time.perf_counter() - started


@pytest.mark.parametrize("count", [65, 10_000, 1_000_000])
@pytest.mark.parametrize("item", [0, 5])
async def test_a_list_of_very_many_entries_is_refused_at_once(rpc: Rpc, count: int, item: int) -> None:
    request = call_pb2.AuthorizeCallRequest(tenant="acme", call_id="c", callee="1", stores=[item] * count)  # type: ignore[list-item]
    failure, waited = await asyncio.gather(rpc.fail("AuthorizeCall", request), answer_time(rpc))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "stores" in failure.fields or "stores[0]" in failure.fields
    # Generous: unbounded, a million entries took half a minute and gigabytes.
    assert waited < 5


async def test_a_map_of_very_many_pairs_is_refused_at_once(rpc: Rpc) -> None:
    pairs = {f"ownkey:{i}": "" for i in range(50_000)}
    failure = await rpc.fail("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset(), extra_context=pairs))
    assert list(failure.fields) == ["extra_context"]


@pytest.mark.parametrize("frame_length", [1, 1023])
async def test_frames_that_cost_more_than_they_hold_are_refused(rpc: Rpc, frame_length: int) -> None:
    sealed = bytearray(await rpc.encrypt(b"x" * 5000))
    at = sealed.index((262_144).to_bytes(4, "big"))
    sealed[at : at + 4] = frame_length.to_bytes(4, "big")
    result = await rpc.decrypt(bytes(sealed))
    assert result.failure
    assert result.failure.reason == "CONTAINER_LIMIT_EXCEEDED"


async def test_frames_larger_than_the_server_holds_are_refused(rpc: Rpc) -> None:
    sealed = bytearray(await rpc.encrypt(b"x" * 5000))
    at = sealed.index((262_144).to_bytes(4, "big"))
    sealed[at : at + 4] = (4 * MIB + 1).to_bytes(4, "big")
    result = await rpc.decrypt(bytes(sealed))
    assert result.failure
    assert result.failure.reason == "CONTAINER_LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x0a\x04acme\x12\x01c\x22\x03911\x1a\x05M\xfcller",
        b"\x0a\x04acme\x12\x01c\x22\x03911" + b"\xff" * 40,
        b"\x22\x0fM\xfcller <tel:911>"[:2] + b"M\xfcller <tel:911>",
        b"\x22\x03911\x0a\xff\xff\xff\xff\x0f",
    ],
)
async def test_an_emergency_call_connects_from_bytes_that_are_no_message(rpc: Rpc, raw: bytes) -> None:
    answer = await rpc.channel.unary_unary("/ownkey.v1.KeyService/AuthorizeCall")(raw, timeout=10)
    assert call_pb2.AuthorizeCallResponse.FromString(answer).emergency


async def test_an_emergency_call_connects_after_a_display_name_of_any_length(rpc: Rpc) -> None:
    callee = '"' + "x" * 100_000 + '" <sip:911@x>'
    assert (await rpc.stub.AuthorizeCall(call_pb2.AuthorizeCallRequest(callee=callee))).emergency


@pytest.mark.parametrize("method", ["EncryptMedia", "DecryptMedia"])
async def test_a_revocation_ends_a_stream_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setenv("OWNKEY_KEYS__LEASE_SECONDS", "0.05")
    async with server.in_process(tmp_path) as address, connected(address) as rpc:
        sealed = await rpc.encrypt(bytes(4 * MIB))

        started = threading.Event()

        def messages() -> Iterator[object]:
            if method == "EncryptMedia":
                yield pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset()))
                yield pb.EncryptMediaRequest(chunk=bytes(300_000))
            else:
                yield pb.DecryptMediaRequest(start=pb.DecryptMediaStart(asset=asset()))
                yield pb.DecryptMediaRequest(chunk=sealed[:300_000])
            assert started.wait(10)
            (tmp_path / "keys" / "acme-main.disabled").touch()
            tick = threading.Event()
            for position in range(300_000, 1_300_000, 1000):
                tick.wait(0.005)
                piece = sealed[position : position + 1000]
                yield (
                    pb.EncryptMediaRequest(chunk=piece)
                    if method == "EncryptMedia"
                    else pb.DecryptMediaRequest(chunk=piece)
                )

        result = await rpc.stream(method, messages(), started.set)
        assert result.started
        assert result.failure
        assert result.failure.reason == "KEY_REVOKED"


def test_the_engine_takes_what_the_server_s_limits_allow() -> None:
    entry = EncryptedDataKey("x", b"y", b"z")
    for length in (4096, 4 * MIB):
        Encryptor(bytes(32), encryption_context={"a": "b"}, encrypted_data_keys=[entry], frame_length=length)
