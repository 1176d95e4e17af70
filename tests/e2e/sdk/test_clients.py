"""Both clients against a running server: what one can, the other can."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from ownkey import AdminClient, Asset, AsyncClient, Client, errors, local
from ownkey.container import Buffer
from support.server import ServerProcess

ASSET = Asset("acme", "phone_recording", "call-1", user="sam@acme.example")
MIB = 1024 * 1024
SIZES = [0, 1, 256 * 1024, 3 * MIB + 17]


@pytest.fixture
def client(ownkey_server: ServerProcess) -> Iterator[Client]:
    with Client(ownkey_server.address) as opened:
        yield opened


@pytest.fixture
async def async_client(ownkey_server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(ownkey_server.address) as opened:
        yield opened


async def in_chunks(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def joined(pieces: Iterator[Buffer]) -> bytes:
    return b"".join(pieces)


def test_a_data_key_opens_again(client: Client) -> None:
    made = client.generate_data_key(ASSET, extra_context={"a": "b"}, with_plaintext=True)
    opened = client.unwrap(ASSET, made.wrapped_key, made.encryption_context)
    assert opened.plaintext == made.plaintext
    assert (made.key, made.decision, made.rule) == ("tenants/acme/keys/main", "allow", "default")
    assert made.plaintext.hex() not in repr(made)
    assert "plaintext" not in repr(made)


async def test_a_data_key_opens_again_async(async_client: AsyncClient) -> None:
    made = await async_client.generate_data_key(ASSET, with_plaintext=True)
    opened = await async_client.unwrap(ASSET, made.wrapped_key, made.encryption_context)
    assert opened.plaintext == made.plaintext


async def test_status_policy_and_calls_are_the_same_from_both(client: Client, async_client: AsyncClient) -> None:
    statuses = client.key_status("acme"), await async_client.key_status("acme")
    assert [[key.key for key in keys] for keys in statuses] == [
        ["tenants/acme/keys/finance", "tenants/acme/keys/main"]
    ] * 2
    assert client.check_policy(ASSET) == await async_client.check_policy(ASSET)
    for callee, emergency in (("+15551234567", False), ("911", True)):
        calls = (
            client.authorize_call("acme", "c", callee, stores=("phone_recording",)),
            await async_client.authorize_call("acme", "c", callee, stores=("phone_recording",)),
        )
        assert [(call.decision, call.emergency) for call in calls] == [("allow", emergency)] * 2


@pytest.mark.parametrize("size", SIZES)
async def test_every_way_opens_what_every_way_made(client: Client, async_client: AsyncClient, size: int) -> None:
    content = os.urandom(size)
    made = {
        "stream": joined(client.encrypt_stream([content], ASSET)),
        "local": joined(local.LocalEncryption(client, [content], ASSET)),
        "async": b"".join([bytes(p) async for p in async_client.encrypt_stream(in_chunks(content), ASSET)]),
    }
    for sealed in made.values():
        assert joined(client.decrypt_stream([sealed], ASSET)) == content
        assert joined(local.LocalDecryption(client, [sealed[:7], sealed[7:]], ASSET)) == content
        opened = [bytes(p) async for p in async_client.decrypt_stream(in_chunks(sealed), ASSET)]
        assert b"".join(opened) == content


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (262_143, 2), (1_000_000, None), (3 * MIB, 100), (3 * MIB + 17, None)]
)
async def test_a_range_is_the_same_every_way(
    client: Client, async_client: AsyncClient, offset: int, length: int | None
) -> None:
    content = os.urandom(3 * MIB + 17)
    sealed = joined(client.encrypt_stream([content], ASSET))
    wanted = content[offset:] if length is None else content[offset : offset + length]
    stream = client.decrypt_range(io.BytesIO(sealed), len(sealed), ASSET, offset, length)
    assert joined(stream) == wanted
    assert stream.info.content_size == len(content)
    assert joined(local.decrypt_range(client, io.BytesIO(sealed), len(sealed), ASSET, offset, length)) == wanted
    pieces = async_client.decrypt_range(io.BytesIO(sealed), len(sealed), ASSET, offset, length)
    assert b"".join([bytes(p) async for p in pieces]) == wanted


def test_the_stream_tells_what_was_decided_before_its_first_byte(client: Client) -> None:
    stream = client.encrypt_stream([b"x"], Asset("acme", "phone_recording", "c", group="finance"))
    assert (stream.info.key, stream.info.rule) == ("tenants/acme/keys/finance", "finance")
    assert stream.info.encryption_context["ownkey:group"] == "finance"
    assert joined(stream)[3:35] == stream.info.message_id


OTHERS = [
    Asset("acme", "phone_recording", "call-2"),
    Asset("acme", "phone_voicemail", "call-1"),
    Asset("acme", "phone_recording", "call-1", group="finance"),
]


@pytest.mark.parametrize("other", OTHERS)
async def test_another_asset_s_object_does_not_open(client: Client, async_client: AsyncClient, other: Asset) -> None:
    sealed = joined(client.encrypt_stream([b"secret"], ASSET))
    with pytest.raises(errors.CiphertextInvalid):
        joined(client.decrypt_stream([sealed], other))
    with pytest.raises(errors.CiphertextInvalid):
        joined(local.LocalDecryption(client, [sealed], other))
    with pytest.raises(errors.CiphertextInvalid):
        [piece async for piece in async_client.decrypt_stream(in_chunks(sealed), other)]


@pytest.mark.parametrize("mode", ["stream", "local"])
def test_a_cut_object_gives_its_whole_frames_and_an_error(client: Client, mode: str) -> None:
    content = os.urandom(MIB)
    sealed = joined(client.encrypt_stream([content], ASSET))[:-1000]
    opened: Iterator[Buffer] = (
        client.decrypt_stream([sealed], ASSET) if mode == "stream" else local.LocalDecryption(client, [sealed], ASSET)
    )
    got = b""
    with pytest.raises(errors.CiphertextInvalid, match="final frame"):  # noqa: PT012 - what came before counts
        for piece in opened:
            got += piece
    assert content.startswith(got)
    assert len(got) < len(content)


class SourceFailed(Exception):
    """What reading the content raised."""


def failing() -> Iterator[bytes]:
    yield b"x" * 400_000
    raise SourceFailed


async def failing_async() -> AsyncIterator[bytes]:
    yield b"x" * 400_000
    raise SourceFailed


async def test_what_reading_the_content_raises_reaches_whoever_asked(client: Client, async_client: AsyncClient) -> None:
    with pytest.raises(SourceFailed):
        joined(client.encrypt_stream(failing(), ASSET))
    with pytest.raises(SourceFailed):
        joined(local.LocalEncryption(client, failing(), ASSET))
    with pytest.raises(SourceFailed):
        [piece async for piece in async_client.encrypt_stream(failing_async(), ASSET)]


async def test_a_wrong_value_is_told_before_anything_is_sent(client: Client, async_client: AsyncClient) -> None:
    with pytest.raises(errors.InvalidRequest, match="there are: meeting_recording"):
        client.generate_data_key(Asset("acme", "fax", "1"))
    with pytest.raises(errors.InvalidRequest, match="no call direction 'up'"):
        await async_client.authorize_call("acme", "c", "+1555", direction="up")
    with pytest.raises(errors.InvalidRequest) as caught:
        client.generate_data_key(Asset("Acme!", "phone_recording", "1"))
    assert list(caught.value.violations) == ["asset.tenant"]


def test_each_failure_has_its_kind(client: Client) -> None:
    with pytest.raises(errors.NotFound):
        client.key_status("nobody")
    with pytest.raises(errors.NotFound):
        client.key_status("acme", "nothing")
    with pytest.raises(errors.PolicyDenied) as caught:
        client.generate_data_key(Asset("acme", "phone_mms", "1"))
    assert caught.value.metadata["rule"] == "no-mms"
    assert caught.value.hint


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(100_000)


async def endless_async() -> AsyncIterator[bytes]:
    while True:
        yield bytes(100_000)


async def test_a_stream_that_is_given_up_leaves_nothing_running(ownkey_server: ServerProcess) -> None:
    tasks, threads = asyncio.all_tasks(), own_threads()
    async with AsyncClient(ownkey_server.address) as other:
        async with other.encrypt_stream(endless_async(), ASSET) as given_up:
            assert await anext(given_up)
        # grpc ends a task of its own a moment later.
        for _ in range(1000):
            if asyncio.all_tasks() <= tasks:
                break
            await asyncio.sleep(0.02)
        assert asyncio.all_tasks() <= tasks
    with Client(ownkey_server.address) as client:
        with client.encrypt_stream(endless(), ASSET) as stream:
            assert next(stream)
        with pytest.raises(errors.OwnkeyError, match="given up") as caught:
            joined(stream)
        assert type(caught.value) is errors.OwnkeyError
    tick = threading.Event()
    for _ in range(1000):
        if own_threads() <= threads:
            return
        tick.wait(0.02)
    raise AssertionError(own_threads() - threads)


def own_threads() -> set[threading.Thread]:
    """All threads but the one that grpc.aio keeps for the process once it was used."""
    return {thread for thread in threading.enumerate() if "_poll_wrapper" not in thread.name}


def unused_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_without_the_service_calls_fail_and_emergency_calls_connect() -> None:
    address = unused_address()
    with Client(address, timeout=2) as client:
        with pytest.raises(errors.ServiceUnavailable):
            client.authorize_call("acme", "c", "+15551234567", stores=("phone_recording",))
        answer = client.authorize_call("acme", "c", "tel:911", stores=("phone_recording",))
        assert (answer.decision, answer.emergency, answer.valid_until) == ("allow", True, None)
        with pytest.raises(errors.ServiceUnavailable):
            joined(client.encrypt_stream([b"x"], ASSET))
    async with AsyncClient(address, timeout=2) as other:
        with pytest.raises(errors.ServiceUnavailable):
            await other.authorize_call("acme", "c", "+15551234567")
        assert (await other.authorize_call("acme", "c", "urn:service:sos")).emergency
        assert (await other.authorize_call("acme", "c", "112", direction="sideways")).emergency


@pytest.mark.parametrize("address", ["10.0.0.1:7400", "example.com:7400", "0.0.0.0:7400", "localhost.example:1"])
def test_keys_are_not_sent_unencrypted_to_another_machine(address: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="credentials"):
        Client(address)
    with pytest.raises(errors.InvalidRequest, match="credentials"):
        AsyncClient(address)


@pytest.mark.parametrize("address", [":7400", "127.0.0.1", "http://127.0.0.1:7400", ""])
def test_what_is_no_address_is_told_as_that(address: str) -> None:
    for kind in (Client, AsyncClient, AdminClient):
        with pytest.raises(errors.InvalidRequest, match="give HOST:PORT"):
            kind(address)
