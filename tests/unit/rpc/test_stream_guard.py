"""Each limit of a stream, on a guard whose transport is two queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import fields, replace

import grpc
import pytest

from ownkey_server.domain.errors import PermissionDenied
from ownkey_server.rpc.stream_guard import (
    StreamGuard,
    StreamLimitReached,
    StreamLimits,
    Streams,
    StreamsBusy,
    StreamTooMuch,
    StreamTooSlow,
)
from ownkey_server.settings.limits import LimitSettings

MIB = 1024 * 1024
SOON = 5.0


class Peer:
    """A client: what it sends is read, and what is written waits until it takes it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[object] = asyncio.Queue()
        self.taken = asyncio.Semaphore(0)
        self.headers = 0

    async def read(self) -> object:
        return await self.sent.get()

    async def write(self, message: bytes) -> None:
        await self.taken.acquire()

    async def send_initial_metadata(self, initial_metadata: object) -> None:
        self.headers += 1


class Repeater(Peer):
    """A client that sends one message over and over, as fast as it is read."""

    def __init__(self, message: bytes) -> None:
        super().__init__()
        self.message = message

    async def read(self) -> object:
        return self.message


def limits(**changes: float) -> StreamLimits:
    return replace(StreamLimits(), **changes)  # type: ignore[arg-type]


async def serve(
    streams: Streams, peer: Peer, work: Callable[[StreamGuard], Awaitable[None]], caller: str = "a"
) -> None:
    """A stream, in a task of its own as the transport would make it."""

    async def handler() -> None:
        async with streams.guard(peer, caller) as guard:
            await work(guard)

    await asyncio.wait_for(asyncio.create_task(handler()), SOON)


async def read_all(guard: StreamGuard) -> None:
    while await guard.read() is not grpc.aio.EOF:
        pass


async def ended(streams: Streams, peer: Peer, work: Callable[[StreamGuard], Awaitable[None]]) -> StreamLimitReached:
    """How a stream that breaks a limit ends; what it took is given back."""
    with pytest.raises(StreamLimitReached) as caught:
        await serve(streams, peer, work)
    assert (len(streams), streams.buffered) == (0, 0)
    return caught.value


@pytest.fixture
async def feeding() -> AsyncIterator[Callable[[Peer, bytes, float], None]]:
    """Makes a client send a message every so many seconds, until the test ends."""
    tasks = []

    def feed(peer: Peer, message: bytes, seconds: float) -> None:
        async def run() -> None:
            while True:
                peer.sent.put_nowait(message)
                await asyncio.sleep(seconds)

        tasks.append(asyncio.create_task(run()))

    yield feed
    for task in tasks:
        task.cancel()


async def test_messages_pass_unchanged_and_the_end_too() -> None:
    streams, peer, got = Streams(limits()), Peer(), []

    async def echo(guard: StreamGuard) -> None:
        while (message := await guard.read()) is not grpc.aio.EOF:
            got.append(message)
            await guard.write(message)

    for message in (b"a", b"", b"b" * MIB, grpc.aio.EOF):
        peer.sent.put_nowait(message)
        peer.taken.release()
    await serve(streams, peer, echo)
    assert got == [b"a", b"", b"b" * MIB]
    assert (len(streams), streams.buffered, peer.headers) == (0, 0, 1)


async def test_a_client_that_sends_nothing_is_waited_for_as_long_as_the_limit_says() -> None:
    started = asyncio.get_running_loop().time()
    error = await ended(Streams(limits(stream_idle_seconds=0.2)), Peer(), read_all)
    assert asyncio.get_running_loop().time() - started >= 0.2
    assert isinstance(error, StreamTooSlow)
    assert error.limit == "limits.stream_idle_seconds"


async def test_a_client_that_takes_nothing_is_waited_for_as_long_as_the_limit_says() -> None:
    async def write(guard: StreamGuard) -> None:
        await guard.write(b"x" * 1000)

    error = await ended(Streams(limits(stream_write_seconds=0.2)), Peer(), write)
    assert isinstance(error, StreamTooSlow)
    assert error.limit == "limits.stream_write_seconds"


async def test_each_message_has_the_whole_time(feeding: Callable[[Peer, bytes, float], None]) -> None:
    peer = Peer()
    feeding(peer, b"x" * 100, 0.05)

    async def several(guard: StreamGuard) -> None:
        for _ in range(10):
            await guard.read()

    await serve(Streams(limits(stream_idle_seconds=0.3, stream_write_seconds=0.3)), peer, several)


async def test_the_server_s_own_time_is_not_the_client_s() -> None:
    async def slow_key_store(guard: StreamGuard) -> None:
        await asyncio.sleep(0.5)

    quick = limits(stream_idle_seconds=0.1, stream_write_seconds=0.1, stream_progress_seconds=0.1)
    await serve(Streams(quick), Peer(), slow_key_store)


async def test_a_stream_without_end_ends(feeding: Callable[[Peer, bytes, float], None]) -> None:
    peer = Peer()
    feeding(peer, b"x" * 1000, 0.01)
    error = await ended(Streams(limits(stream_seconds=0.3)), peer, read_all)
    assert isinstance(error, StreamTooSlow)
    assert error.limit == "limits.stream_seconds"


async def test_time_that_is_up_while_the_server_works_is_told_at_the_next_message() -> None:
    async def work(guard: StreamGuard) -> None:
        await asyncio.sleep(0.2)
        await guard.write(b"x")

    error = await ended(Streams(limits(stream_seconds=0.1)), Peer(), work)
    assert error.limit == "limits.stream_seconds"


async def test_a_stream_of_too_many_bytes_ends() -> None:
    error = await ended(Streams(limits(stream_bytes=10 * MIB)), Repeater(b"x" * MIB), read_all)
    assert isinstance(error, StreamTooMuch)
    assert error.limit == "limits.stream_bytes"


async def test_a_client_that_sends_a_trickle_ends_and_a_voice_goes_on(
    feeding: Callable[[Peer, bytes, float], None],
) -> None:
    least = limits(stream_min_bytes_per_second=1000.0, stream_progress_seconds=0.3)
    slow, voice = Peer(), Peer()
    feeding(slow, b"x", 0.02)
    feeding(voice, b"x" * 160, 0.02)
    error = await ended(Streams(least), slow, read_all)
    assert isinstance(error, StreamTooSlow)
    assert error.limit == "limits.stream_min_bytes_per_second"

    async def three_windows(guard: StreamGuard) -> None:
        for _ in range(45):
            await guard.read()

    await serve(Streams(least), voice, three_windows)


async def test_a_million_tiny_chunks_are_too_many_long_before() -> None:
    seen = 0

    async def count(guard: StreamGuard) -> None:
        nonlocal seen
        while True:
            await guard.read()
            seen += 1

    error = await ended(Streams(limits()), Repeater(b"\x12\x01x"), count)
    assert isinstance(error, StreamTooMuch)
    assert error.limit == "limits.stream_messages_per_mib"
    assert 10_000 <= seen < 20_000


@pytest.mark.parametrize("size", [64, 160])
async def test_two_hours_of_voice_packets_are_not_too_many_however_fast_they_come(size: int) -> None:
    async def two_hours(guard: StreamGuard) -> None:
        for _ in range(2 * 3600 * 50):
            await guard.read()

    await serve(Streams(limits()), Repeater(b"x" * size), two_hours)


async def test_tiny_packets_at_the_pace_of_live_voice_are_let_through() -> None:
    few = limits(stream_messages_burst=10, stream_messages_per_mib=1, stream_messages_per_second=100.0)
    peer = Peer()

    async def packets(guard: StreamGuard) -> None:
        for _ in range(60):
            peer.sent.put_nowait(b"x" * 13)
            await guard.read()
            await asyncio.sleep(0.02)

    await serve(Streams(few), peer, packets)


async def test_streams_are_counted_by_caller_and_together() -> None:
    streams = Streams(limits(streams=3, streams_per_caller=2))
    tasks, peers = [], []

    def begin(caller: str) -> asyncio.Task[None]:
        peers.append(Peer())
        return asyncio.create_task(serve(streams, peers[-1], read_all, caller))

    async def refused(caller: str) -> str:
        with pytest.raises(StreamsBusy) as caught:
            await begin(caller)
        assert caught.value.retry_seconds > 0
        return caught.value.limit

    tasks = [begin("a"), begin("a")]
    await asyncio.sleep(0)
    while len(streams) < 2:
        await asyncio.sleep(0)
    assert await refused("a") == "limits.streams_per_caller"
    tasks.append(begin("b"))
    while len(streams) < 3:
        await asyncio.sleep(0)
    assert await refused("c") == "limits.streams"
    for peer in peers:
        peer.sent.put_nowait(grpc.aio.EOF)
    await asyncio.gather(*tasks)
    assert len(streams) == 0
    peer = Peer()
    peer.sent.put_nowait(grpc.aio.EOF)
    await serve(streams, peer, read_all, "a")


async def test_what_all_streams_hold_together_is_bounded() -> None:
    streams = Streams(limits(buffered_bytes=16 * MIB, stream_write_seconds=60))
    stuck = [Peer() for _ in range(3)]

    async def write(guard: StreamGuard) -> None:
        guard.holds_frame(MIB)
        await guard.write(b"x" * 4 * MIB)

    tasks = [asyncio.create_task(serve(streams, peer, write)) for peer in stuck]
    while streams.buffered < 15 * MIB:
        await asyncio.sleep(0)
    with pytest.raises(StreamsBusy) as caught:
        await serve(streams, Peer(), write)
    assert caught.value.limit == "limits.buffered_bytes"
    assert streams.buffered == 15 * MIB
    for peer in stuck:
        peer.taken.release()
    await asyncio.gather(*tasks)
    assert streams.buffered == 0


async def test_a_client_that_goes_away_is_no_broken_limit() -> None:
    streams, peer = Streams(limits()), Peer()
    task = asyncio.create_task(serve(streams, peer, read_all))
    while not len(streams):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(streams), streams.buffered) == (0, 0)


async def test_a_status_that_nobody_takes_is_not_waited_for() -> None:
    streams, ends = Streams(limits(stream_write_seconds=0.1)), asyncio.Event()

    async def handler() -> None:
        try:
            async with streams.guard(Peer(), "a") as guard:
                await guard.write(b"x")
        except StreamTooSlow:
            await ends.wait()  # as abort() does, while the client takes nothing

    task = asyncio.create_task(handler())
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, SOON)
    assert len(streams) == 0


def test_the_settings_are_the_limits() -> None:
    settings, ours = LimitSettings(), StreamLimits()
    for field in fields(StreamLimits):
        if field.name == "prefix":
            continue  # says which settings these are
        assert getattr(settings, field.name) == getattr(ours, field.name), field.name


@pytest.mark.parametrize("waits", [True, False])
async def test_a_stream_that_is_ended_from_outside_ends_with_that_error(waits: bool) -> None:
    streams, denied = Streams(limits(stream_idle_seconds=60)), PermissionDenied("a", "EncryptMedia", "")

    async def work(guard: StreamGuard) -> None:
        def end() -> None:
            for error in (denied, PermissionDenied("b", "EncryptMedia", "")):
                guard.end(error)

        if waits:
            asyncio.get_running_loop().call_soon(end)
        else:
            end()
        await guard.read()

    with pytest.raises(PermissionDenied) as caught:
        await serve(streams, Peer(), work)
    assert caught.value is denied
    assert (len(streams), streams.buffered) == (0, 0)
