"""Each argument for gRPC Core, shown to work on a real server: Core ignores what it does not know without a word."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from h2.settings import SettingCodes

from ownkey_server.rpc import transport
from ownkey_server.rpc.transport import MIB, RESERVED_DESCRIPTORS, TransportLimits, channel_options
from ownkey_server.settings.limits import LimitSettings
from support.http2 import PREFACE, Connection, message

T = TypeVar("T")
UNARY, STREAM, REPEAT, HANG = (f"/test.Test/{name}" for name in ("Unary", "Stream", "Repeat", "Hang"))
EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


@contextlib.asynccontextmanager
async def serving(**changes: float) -> AsyncIterator[str]:
    """A server with our arguments for these limits; it echoes."""

    async def echo(raw: bytes, context: object) -> bytes:
        return raw

    async def echo_all(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            await context.write(raw)

    async def repeat(raw: bytes, context: object) -> bytes:
        return b"x" * int(raw)

    limits = replace(TransportLimits(), **changes)  # type: ignore[arg-type]
    server = grpc.aio.server(options=channel_options(limits))

    async def hang(raw: bytes, context: object) -> bytes:
        time.sleep(float(raw))  # holds up the event loop, so that calls wait in Core
        return raw

    handlers = {
        "Hang": grpc.unary_unary_rpc_method_handler(hang),
        "Unary": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.stream_stream_rpc_method_handler(echo_all),
        "Repeat": grpc.unary_unary_rpc_method_handler(repeat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def client(address: str, work: Callable[[Connection], T], *, greet: bool = True) -> T:
    """Do something on a connection, in a thread."""

    def run() -> T:
        with Connection(address, greet=greet) as connection:
            return work(connection)

    return await asyncio.to_thread(run)


def opened(connection: Connection) -> Connection:
    """The same, after a first call: the server's settings have come, and its limits for connections hold."""
    assert connection.call(UNARY, b"x").status == 0
    return connection


def seconds_until_closed(connection: Connection, most: float = 8.0) -> float:
    began = time.monotonic()
    assert connection.read_until(lambda: connection.closed, most), "the server left it open"
    return time.monotonic() - began


def ended_silently(address: str, first: bytes, most: float = 8.0) -> tuple[float, bytes]:
    """How long a server bears a client that says this much and no more, and what it said."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as raw:
        began, said = time.monotonic(), b""
        raw.sendall(first)
        raw.settimeout(most)
        while data := raw.recv(1 << 16):
            said += data
        return time.monotonic() - began, said


async def test_settings_are_announced() -> None:
    async with serving(max_concurrent_streams=7, max_metadata_bytes=20_000) as address:
        settings = await client(address, lambda c: opened(c).settings)
    assert settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 7
    assert settings[SettingCodes.MAX_HEADER_LIST_SIZE] == 20_000
    assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == MIB


async def test_calls_beyond_the_limit_of_a_connection_are_refused() -> None:
    def many(connection: Connection) -> list[int | None]:
        opened(connection)
        connection.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
        connection.h2.remote_settings.acknowledge()
        streams = [connection.open(STREAM) for _ in range(20)]
        connection.read_until(lambda: sum(connection.answers[s].reset is not None for s in streams) == 13)
        return [connection.answers[s].reset for s in streams]

    async with serving(max_concurrent_streams=7) as address:
        resets = await client(address, many)
    assert resets == [None] * 7 + [7] * 13  # REFUSED_STREAM


async def test_calls_that_wait_for_a_busy_server_are_not_cancelled_below_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crowd(connection: Connection) -> set[int | None]:
        opened(connection)
        first = connection.open(HANG)
        connection.send(first, message(b"1"), end=True)
        streams = [connection.open(UNARY) for _ in range(60)]
        for stream in streams:
            connection.send(stream, message(b"x"), end=True)
        connection.read_until(lambda: all(connection.answers[s].over for s in streams))
        return {connection.answers[s].status for s in streams}

    async with serving() as address:
        assert await client(address, crowd) == {0}
    # The argument works: with a limit of 20, calls are cancelled.
    monkeypatch.setattr(transport, "PENDING_CALLS", 20)
    async with serving() as address:
        assert await client(address, crowd) == {0, grpc.StatusCode.CANCELLED.value[0]}


async def test_connections_beyond_the_limit_are_closed_and_those_below_it_work() -> None:
    def several(first: Connection) -> list[int | None]:
        opened(first)
        statuses = []
        with Connection(first.authority) as second, Connection(first.authority) as third:
            statuses += [second.call(UNARY, b"x").status, third.call(UNARY, b"x").status]
        statuses.append(first.call(UNARY, b"x").status)
        return statuses

    async with serving(max_connections=2) as address:
        assert await client(address, several) == [0, None, 0]


@pytest.mark.parametrize("first", [b"", PREFACE, b"GET / HTTP/1.1\r\n"])
async def test_a_peer_that_does_not_finish_its_greeting_is_not_waited_for(first: bytes) -> None:
    async with serving(handshake_seconds=0.4) as address:
        seconds, _ = await asyncio.to_thread(ended_silently, address, first)
    assert seconds < 4


async def test_a_peer_that_does_not_acknowledge_settings_is_not_waited_for() -> None:
    async with serving(handshake_seconds=0.4) as address:
        _, said = await asyncio.to_thread(ended_silently, address, PREFACE + EMPTY_SETTINGS)
    assert b"settings_timeout" in said


async def test_an_idle_connection_is_closed_and_one_with_a_call_is_not() -> None:
    def idle(connection: Connection) -> float:
        return seconds_until_closed(opened(connection))

    def busy(connection: Connection) -> bool:
        connection.open(STREAM)
        connection.read_until(lambda: connection.closed, 1.5)
        return connection.closed

    async with serving(connection_idle_seconds=0.4) as address:
        assert await client(address, idle) < 4
        assert not await client(address, busy)


async def test_an_old_connection_is_told_to_go_and_its_calls_end_after_the_grace() -> None:
    def grow_old(connection: Connection) -> tuple[object, float, int | None]:
        stream = connection.open(STREAM)
        began = time.monotonic()
        connection.read_until(lambda: connection.goaway is not None)
        told = time.monotonic()
        seconds_until_closed(connection)
        assert told - began < 3
        return connection.goaway, time.monotonic() - told, connection.answers[stream].status

    async with serving(connection_age_seconds=0.5, connection_grace_seconds=1.0) as address:
        goaway, grace, status = await client(address, grow_old)
    assert goaway == (0, "max_age")
    assert grace >= 0.9
    assert status == grpc.StatusCode.UNAVAILABLE.value[0]


@pytest.mark.parametrize("path", ["", STREAM])
async def test_a_silent_peer_is_pinged_with_and_without_calls_and_kept_while_it_answers(path: str) -> None:
    def answer(connection: Connection) -> tuple[bool, bool]:
        if path:
            opened(connection).open(path)
        else:
            opened(connection)
        return connection.read_until(lambda: connection.pings >= 3), connection.closed

    async with serving(keepalive_seconds=0.3, ping_timeout_seconds=0.4) as address:
        assert await client(address, answer) == (True, False)


async def test_a_peer_that_does_not_answer_pings_is_taken_for_gone() -> None:
    async with serving(keepalive_seconds=0.3, ping_timeout_seconds=0.4) as address:
        greeting = PREFACE + EMPTY_SETTINGS + b"\0\0\0\4\1\0\0\0\0"
        seconds, said = await asyncio.to_thread(ended_silently, address, greeting)
    assert b"ping_timeout" in said
    assert seconds < 4


async def test_bytes_that_nobody_acknowledges_end_a_connection_in_the_time_of_a_ping() -> None:
    def timeout(connection: Connection) -> list[int]:
        opened(connection)
        _, port = connection.socket.getsockname()
        found = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(descriptor.name))) as one:
                if one.family != socket.AF_UNIX and one.getpeername()[1] == port:
                    found.append(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        return found

    async with serving(ping_timeout_seconds=3.0) as address:
        assert await client(address, timeout) == [3000]


@pytest.mark.parametrize("path", ["", STREAM])
async def test_pings_at_the_allowed_pace_are_answered_and_faster_ones_end_the_connection(path: str) -> None:
    def ping(connection: Connection, pause: float) -> int:
        opened(connection)
        if path:
            connection.open(path)
        for number in range(8):
            connection.h2.ping(struct.pack(">Q", number))
            connection.flush()
            connection.read_until(lambda: connection.goaway is not None, pause)
            if connection.goaway:
                break
        return connection.acked

    def patient(connection: Connection) -> tuple[int, object]:
        return ping(connection, 0.25), connection.goaway

    def flood(connection: Connection) -> tuple[bool, object]:
        ping(connection, 0.01)
        connection.read_until(lambda: connection.closed)
        return connection.closed, connection.goaway

    async with serving(min_ping_seconds=0.2) as address:
        assert await client(address, patient) == (8, None)
        assert await client(address, flood) == (True, (11, "too_many_pings"))  # ENHANCE_YOUR_CALM


async def test_headers_up_to_the_limit_pass_and_beyond_it_none_does() -> None:
    def sizes(connection: Connection) -> list[set[int | None]]:
        opened(connection)
        results = []
        for size in (19_000, 20_100, 60_000):
            # Several: what Core refuses by chance, it does not refuse each time. At once: it makes the refused wait.
            answers = []
            for _ in range(5):
                stream = connection.open(UNARY, [("x-big", "a" * size)])
                connection.send(stream, message(b"x"), end=True)
                answers.append(connection.answers[stream])
            connection.read_until(lambda among=answers: all(answer.over for answer in among))  # type: ignore[misc]
            results.append({answer.status for answer in answers})
        return results

    async with serving(max_metadata_bytes=20_000) as address:
        assert await client(address, sizes) == [{0}, {8}, {8}]


async def test_a_message_is_refused_by_the_length_that_it_claims() -> None:
    def claim(connection: Connection) -> tuple[int | None, str]:
        stream = opened(connection).open(UNARY)
        connection.send(stream, struct.pack(">BI", 0, 2 * MIB))
        connection.read_until(lambda: connection.answers[stream].over)
        return connection.answers[stream].status, connection.answers[stream].text

    async with serving(max_message_bytes=MIB) as address:
        status, text = await client(address, claim)
        assert status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert str(MIB) in text
        assert (await client(address, lambda c: c.call(REPEAT, b"1000000"))).status == 0
        assert (await client(address, lambda c: c.call(REPEAT, b"2000000"))).status == 8


async def test_the_window_is_fixed_and_no_bandwidth_is_probed() -> None:
    def upload(connection: Connection) -> int:
        stream = opened(connection).open(STREAM)
        for _ in range(20):
            connection.send(stream, message(b"x" * 500_000))
            connection.read_until(lambda: False, 0.01)
        return connection.pings

    async with serving() as address:
        assert await client(address, upload) == 0


def test_connections_leave_descriptors_for_the_rest() -> None:
    limits = TransportLimits(max_connections=12_000)
    assert limits.fitting(100_000).max_connections == 12_000
    assert limits.fitting(4096).max_connections == 4096 - RESERVED_DESCRIPTORS
    assert limits.fitting(256).max_connections == 128


def test_the_settings_are_the_limits() -> None:
    settings, ours = LimitSettings(), TransportLimits()
    elsewhere = {"max_message_bytes", "max_concurrent_streams", "connection_grace_seconds"}
    for field in fields(TransportLimits):
        if field.name not in elsewhere:
            assert getattr(settings, field.name) == getattr(ours, field.name), field.name
    assert ours.connection_grace_seconds >= settings.stream_seconds
