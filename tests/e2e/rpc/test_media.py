from __future__ import annotations

import os

import grpc
import pytest

from support.rpc import Failure, Rpc, asset, pb

FRAME = 262_144
MIB = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 3 * FRAME + 17])
@pytest.mark.parametrize("chunk", [1000, FRAME, FRAME + 1, MIB])
async def test_what_was_encrypted_decrypts_whatever_the_chunks(rpc: Rpc, size: int, chunk: int) -> None:
    content = os.urandom(size)
    sealed = await rpc.encrypt(content, chunk=max(chunk, size // 50 + 1))
    opened = await rpc.decrypt(sealed, chunk=max(chunk, size // 50 + 1))
    assert (opened.failure, opened.data == content) == (None, True)


async def test_the_first_answer_says_what_was_decided(rpc: Rpc) -> None:
    start = pb.EncryptMediaStart(asset=asset(user="frida@acme.example"), extra_context={"a": "b"}, frame_length=4096)
    messages = [pb.EncryptMediaRequest(start=start), pb.EncryptMediaRequest(chunk=b"x" * 10_000)]
    made = await rpc.stream("EncryptMedia", messages)
    started = made.started
    assert isinstance(started, pb.EncryptMediaStarted)
    assert (started.key, started.rule, started.frame_length) == ("tenants/acme/keys/finance", "finance", 4096)
    assert (started.encryption_context["ownkey:group"], started.encryption_context["a"]) == ("finance", "b")
    assert made.data[3:35] == started.message_id
    opened = await rpc.decrypt(made.data, user="frida@acme.example", group="finance")
    assert opened.data == b"x" * 10_000
    assert isinstance(opened.started, pb.DecryptMediaStarted)
    assert opened.started.message_id == started.message_id


async def test_the_frame_length_follows_the_class(rpc: Rpc) -> None:
    for asset_class, expected in ((15, 16_384), (2, 65_536), (5, 262_144)):
        start = pb.EncryptMediaStart(asset=asset(asset_class=asset_class))
        made = await rpc.stream("EncryptMedia", [pb.EncryptMediaRequest(start=start)])
        assert isinstance(made.started, pb.EncryptMediaStarted)
        assert made.started.frame_length == expected


async def read_range(rpc: Rpc, sealed: bytes, offset: int, length: int, size: int | None = None) -> tuple[bytes, int]:
    start = pb.DecryptMediaStart(
        asset=asset(), range=pb.ByteRange(offset=offset, length=length), object_size=size or len(sealed)
    )
    call = rpc.stub.DecryptMedia(timeout=20)
    await call.write(pb.DecryptMediaRequest(start=start))
    await call.write(pb.DecryptMediaRequest(chunk=sealed[:65_552]))
    first = await call.read()
    if first is grpc.aio.EOF:
        await call.wait_for_connection()
        raise AssertionError(f"no answer: {await call.code()} {await call.details()}")
    sent = 0
    for span in first.started.ciphertext_ranges:
        data = sealed[span.offset : span.offset + span.length]
        sent += len(data)
        for i in range(0, len(data), 100_000):
            await call.write(pb.DecryptMediaRequest(chunk=data[i : i + 100_000]))
    await call.done_writing()
    content = b""
    while (answer := await call.read()) is not grpc.aio.EOF:
        content += answer.chunk
    assert await call.code() is grpc.StatusCode.OK, await call.details()
    return content, sent


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 1),
        (0, 0),
        (FRAME - 1, 2),
        (FRAME, FRAME),
        (5 * FRAME, 10),
        (5 * FRAME + 99, 1),
        (5 * FRAME + 100, 5),
        (7, 10**9),
    ],
)
async def test_a_range_needs_only_the_frames_that_it_touches(rpc: Rpc, offset: int, length: int) -> None:
    content = os.urandom(5 * FRAME + 100)
    sealed = await rpc.encrypt(content, chunk=MIB)
    got, sent = await read_range(rpc, sealed, offset, length)
    wanted = content[offset : offset + length] if length else content[offset:]
    assert got == wanted
    assert sent <= len(wanted) + 3 * (FRAME + 40)


async def test_a_range_after_the_end_is_out_of_range(rpc: Rpc) -> None:
    sealed = await rpc.encrypt(b"x" * 100)
    start = pb.DecryptMediaStart(asset=asset(), range=pb.ByteRange(offset=101), object_size=len(sealed))
    messages = [pb.DecryptMediaRequest(start=start), pb.DecryptMediaRequest(chunk=sealed)]
    result = await rpc.stream("DecryptMedia", messages)
    assert result.failure
    assert (result.failure.code, result.failure.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RANGE_INVALID")


async def test_a_range_proves_the_object_s_size(rpc: Rpc) -> None:
    sealed = await rpc.encrypt(os.urandom(2 * FRAME + 100), chunk=MIB)
    start = pb.DecryptMediaStart(
        asset=asset(), range=pb.ByteRange(offset=0, length=10), object_size=len(sealed) - FRAME - 32
    )
    short = sealed[: len(sealed) - FRAME - 32]
    messages = [pb.DecryptMediaRequest(start=start), pb.DecryptMediaRequest(chunk=short[:65_552])]
    call = rpc.stub.DecryptMedia(timeout=20)
    for message in messages:
        await call.write(message)
    # The first span is where the final frame would be; nothing else is sent, so that nothing races with the answer.
    first = (await call.read()).started.ciphertext_ranges[0]
    await call.write(pb.DecryptMediaRequest(chunk=short[first.offset : first.offset + first.length]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert Failure.of(caught.value).reason == "CONTAINER_TRUNCATED"
