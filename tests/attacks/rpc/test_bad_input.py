"""Requests that no honest client sends. Each gets a precise answer, and the server goes on."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter

import grpc
import pytest

from ownkey.v1 import call_pb2, key_status_pb2
from support.rpc import Failure, Rpc, asset, pb

MIB = 1024 * 1024
UNARY = {
    "GenerateDataKey": pb.GenerateDataKeyRequest,
    "Unwrap": pb.UnwrapRequest,
    "Rewrap": pb.RewrapRequest,
    "KeyStatus": pb.KeyStatusRequest,
    "ListKeyStateChanges": key_status_pb2.ListKeyStateChangesRequest,
    "CheckPolicy": pb.CheckPolicyRequest,
    "AuthorizeCall": call_pb2.AuthorizeCallRequest,
}
LONG = "a" * (10 * MIB)


async def still_serves(rpc: Rpc) -> None:
    assert (await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset()), timeout=10)).wrapped_key


@pytest.mark.parametrize("method", UNARY)
async def test_an_empty_request_names_every_missing_field(rpc: Rpc, method: str) -> None:
    failure = await rpc.fail(method, UNARY[method]())
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    of_tenant = {"KeyStatus": {"tenant"}, "ListKeyStateChanges": {"tenant"}}
    wanted = {**of_tenant, "AuthorizeCall": {"tenant", "call_id", "callee"}}.get(method, {"asset"})
    assert wanted <= set(failure.fields)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset(asset_id=LONG)), "asset.asset_id"),
        ("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset(user=LONG)), "asset.user"),
        ("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset(), request_id=LONG), "request_id"),
        ("Unwrap", pb.UnwrapRequest(asset=asset(), wrapped_key=LONG.encode()), "wrapped_key"),
        ("KeyStatus", pb.KeyStatusRequest(tenant=LONG), "tenant"),
        ("CheckPolicy", pb.CheckPolicyRequest(asset=asset(group=LONG)), "asset.group"),
        ("AuthorizeCall", call_pb2.AuthorizeCallRequest(tenant="acme", call_id="c", callee=LONG), "callee"),
    ],
)
async def test_ten_mebibytes_in_a_field_are_too_long(rpc: Rpc, method: str, request_: object, field: str) -> None:
    failure = await rpc.fail(method, request_)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert field in failure.fields
    assert len(failure.message) < 10_000
    await still_serves(rpc)


async def test_a_message_beyond_the_transport_s_limit_is_refused(rpc: Rpc) -> None:
    failure = await rpc.fail("KeyStatus", pb.KeyStatusRequest(tenant="a" * (13 * MIB)))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await still_serves(rpc)


@pytest.mark.parametrize("method", UNARY)
@pytest.mark.parametrize("raw", [b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256))])
async def test_bytes_that_are_no_message_are_an_invalid_request(rpc: Rpc, method: str, raw: bytes) -> None:
    call = rpc.channel.unary_unary(f"/ownkey.v1.KeyService/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(raw, timeout=10)
    failure = Failure.of(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tenant": "Acme Corp"}, "asset.tenant"),
        ({"tenant": "a" * 64}, "asset.tenant"),
        ({"asset_class": 99}, "asset.asset_class"),
        ({"asset_id": "with space"}, "asset.asset_id"),
        ({"asset_id": "\u00e9"}, "asset.asset_id"),
        ({"origin": 9}, "asset.origin"),
        ({"group": "no-such-group"}, "asset.group"),
    ],
)
async def test_a_wrong_fact_is_named(rpc: Rpc, change: dict[str, object], field: str) -> None:
    failure = await rpc.fail("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset(**change)))
    assert (failure.code, list(failure.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize(
    "context",
    [
        {"ownkey:tenant": "globex"},
        {"aws-crypto-public-key": "x"},
        {"": "x"},
        {"x": ""},
        {"k" * 129: "x"},
        {"x": "v" * 257},
        {f"k{i}": "x" for i in range(17)},
    ],
)
async def test_a_bad_extra_context_is_refused(rpc: Rpc, context: dict[str, str]) -> None:
    failure = await rpc.fail("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset(), extra_context=context))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert any(field.startswith("extra_context") for field in failure.fields)


async def test_a_time_outside_the_calendar_is_refused(rpc: Rpc) -> None:
    request = pb.GenerateDataKeyRequest(asset=asset())
    request.asset.create_time.seconds = 10**15
    assert "asset.create_time" in (await rpc.fail("GenerateDataKey", request)).fields


@pytest.mark.parametrize("raw", [b"x", b"\x01", b"\x02" + bytes(40), b"\x01\x00\x00\xff\xff", bytes(16_384)])
async def test_bytes_that_are_no_wrapped_key_are_named(rpc: Rpc, raw: bytes) -> None:
    request = pb.UnwrapRequest(asset=asset(), wrapped_key=raw, encryption_context={"ownkey:tenant": "acme"})
    failure = await rpc.fail("Unwrap", request)
    assert (failure.code, list(failure.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["wrapped_key"])


@pytest.mark.parametrize(
    "request_",
    [
        call_pb2.AuthorizeCallRequest(callee="911"),
        call_pb2.AuthorizeCallRequest(tenant="NOBODY " * 50, call_id="\n", callee="tel:112", stores=[99, 0]),
        call_pb2.AuthorizeCallRequest(tenant="acme", callee="urn:service:sos.police", user="u" * 3000, group="?"),
    ],
)
async def test_an_emergency_call_connects_even_when_its_request_is_broken(
    rpc: Rpc, request_: call_pb2.AuthorizeCallRequest
) -> None:
    answer = await rpc.stub.AuthorizeCall(request_)
    assert (answer.decision, answer.reason, answer.emergency) == (1, 1, True)


def start(method: str) -> object:
    if method == "EncryptMedia":
        return pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset()))
    return pb.DecryptMediaRequest(start=pb.DecryptMediaStart(asset=asset()))


def chunk(method: str, data: bytes = b"x" * 1000) -> object:
    return pb.EncryptMediaRequest(chunk=data) if method == "EncryptMedia" else pb.DecryptMediaRequest(chunk=data)


STREAMS = ["EncryptMedia", "DecryptMedia"]


@pytest.mark.parametrize("method", STREAMS)
async def test_a_stream_needs_a_start_and_only_one(rpc: Rpc, method: str) -> None:
    for messages, reason in (
        ([], "STREAM_PROTOCOL"),
        ([chunk(method)], "STREAM_PROTOCOL"),
        ([start(method), start(method)], "STREAM_PROTOCOL"),
        ([type(start(method))()], "INVALID_FIELD"),
        ([start(method), type(start(method))()], "INVALID_FIELD"),
    ):
        result = await rpc.stream(method, messages)
        assert result.failure
        assert (result.failure.code, result.failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason), messages
        assert result.data[:2] in (b"", b"\x02\x04")
    await still_serves(rpc)


@pytest.mark.parametrize("method", STREAMS)
async def test_a_chunk_over_four_mebibytes_is_refused_and_one_of_four_is_not(rpc: Rpc, method: str) -> None:
    result = await rpc.stream(method, [start(method), chunk(method, bytes(4 * MIB + 1))])
    assert result.failure
    assert list(result.failure.fields) == ["chunk"]
    if method == "EncryptMedia":
        sealed = await rpc.encrypt(bytes(4 * MIB), chunk=4 * MIB)
        assert (await rpc.decrypt(sealed, chunk=4 * MIB)).data == bytes(4 * MIB)


@pytest.mark.parametrize(
    ("mangle", "reason"),
    [
        (lambda s: b"", "CONTAINER_TRUNCATED"),
        (lambda s: s[:100], "CONTAINER_TRUNCATED"),
        (lambda s: s[:-1], "CONTAINER_TRUNCATED"),
        (lambda s: s[: len(s) // 2], "CONTAINER_TRUNCATED"),
        (lambda s: s + b"\x00", "CONTAINER_TRAILING_DATA"),
        (lambda s: s + s, "CONTAINER_TRAILING_DATA"),
        (lambda s: b"RIFF" + s, "CONTAINER_UNSUPPORTED"),
        (lambda s: b"\x02\x05\x78" + s[3:], "CONTAINER_UNSUPPORTED"),
        (lambda s: s[:-20] + b"\x00" + s[-19:], "CONTAINER_INVALID"),
        (lambda s: s[:40] + b"\xff" + s[41:], "CONTAINER_INVALID"),
    ],
)
async def test_a_damaged_object_is_told_and_gives_nothing_unverified(rpc: Rpc, mangle, reason: str) -> None:  # type: ignore[no-untyped-def]
    content = bytes(range(256)) * 3000
    sealed = await rpc.encrypt(content)
    result = await rpc.decrypt(mangle(sealed))
    assert result.failure
    assert (result.failure.code, result.failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert content.startswith(result.data)
    await still_serves(rpc)


async def test_bytes_after_a_whole_object_are_refused_in_a_message_of_their_own(rpc: Rpc) -> None:
    sealed = await rpc.encrypt(b"x" * 1000)
    messages = [start("DecryptMedia"), chunk("DecryptMedia", sealed), chunk("DecryptMedia", b"more")]
    result = await rpc.stream("DecryptMedia", messages)
    assert result.failure
    assert result.failure.reason == "CONTAINER_TRAILING_DATA"


async def settled(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    """Wait until the server has noticed; a client learns of the end of its call before the server is done with it."""
    try:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(what) from None


def threads() -> Counter[str]:
    """How many threads there are of each name."""
    return Counter(one.name for one in threading.enumerate())


def left(before: Counter[str]) -> list[str]:
    """The threads that are more than before. A pool may start more of its own; a second pool of its name is a leak."""
    pooled = re.compile(r"[a-z-]+_\d+")
    return [name for name, count in threads().items() if count > max(before[name], bool(pooled.fullmatch(name)))]


@pytest.mark.parametrize("method", STREAMS)
@pytest.mark.parametrize("messages", [1, 2, 20])
async def test_a_client_that_goes_away_leaves_no_task_and_no_thread(rpc: Rpc, method: str, messages: int) -> None:
    sealed = await rpc.encrypt(b"x" * 400_000)
    await still_serves(rpc)
    tasks = len(asyncio.all_tasks())
    before = threads()
    for _ in range(10):
        call = getattr(rpc.stub, method)(timeout=20)
        await call.write(start(method))
        for i in range(messages - 1):
            data = sealed[i * 20_000 : (i + 1) * 20_000] if method == "DecryptMedia" else b"x" * 20_000
            await call.write(chunk(method, data or b"x"))
        call.cancel()
    await settled(lambda: len(asyncio.all_tasks()) <= tasks, "tasks are left")
    await settled(lambda: not left(before), "threads are left")
    await still_serves(rpc)


async def test_a_call_whose_time_has_run_out_leaves_the_server_unharmed(rpc: Rpc) -> None:
    call = rpc.stub.EncryptMedia(timeout=2)
    await call.write(start("EncryptMedia"))
    assert (await call.read()).WhichOneof("payload") == "started"
    assert (await call.read()).WhichOneof("payload") == "chunk"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await still_serves(rpc)


async def test_an_unknown_method_is_unimplemented(rpc: Rpc) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.channel.unary_unary("/ownkey.v1.KeyService/NoSuchMethod")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
