"""A proxy before a fake or an emulator of AWS KMS, that breaks in every way in which a way there breaks.

In a test, with threads of its own::

    with FaultProxy("http://127.0.0.1:5066") as proxy:
        proxy.url                              # the endpoint of a region
        proxy.fault = Fault.BLACK_HOLE         # from now on, for connections that are there too
        proxy.fault = None                     # in order again
        proxy.connections, proxy.requests      # how many there were in all
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

DRIP_SECONDS = 0.1
LATENCY_SECONDS = 5.0
# No answer of KMS is slower, and no test waits longer for a hole to fill.
HOLE_SECONDS = 60.0
CHUNK = 65536

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")


class Fault(StrEnum):
    """What is out of order."""

    LATENCY = "latency"
    RESET = "reset"
    BLACK_HOLE = "black hole"
    SLOW_DRIP = "slow drip"
    REFUSE = "refuse"
    THROTTLE = "throttle"
    ERROR_500 = "500"


class FaultProxy:
    """See the module.

    Args:
        target: URL of what is behind it.

    Attributes:
        latency: Seconds before each answer, with ``Fault.LATENCY``.
        connections: How many were accepted.
        requests: How many came whole.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._fault: Fault | None = None
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.latency = LATENCY_SECONDS
        self.connections = 0
        self.requests = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def fault(self) -> Fault | None:
        """What is out of order now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        asyncio.run_coroutine_threadsafe(self._switch(fault), self._loop).result(20)

    def __enter__(self) -> Self:
        self._thread.start()
        self.fault = None
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _switch(self, fault: Fault | None) -> None:
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if fault in (Fault.RESET, Fault.REFUSE):
            for writer in list(self._writers):
                _reset(writer)
        if fault is Fault.REFUSE:
            await self._stop_listening()
        elif self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._port, backlog=1024)
            self._port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _end(self) -> None:
        await self._stop_listening()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        behind: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await self._serve(await _message(reader), writer, behind)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            for one in (writer, *(other for _, other in behind)):
                one.close()

    async def _serve(
        self,
        request: bytes,
        writer: asyncio.StreamWriter,
        behind: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    ) -> None:
        self.requests += 1
        match self._fault:
            case Fault.RESET | Fault.REFUSE:
                _reset(writer)
                raise ConnectionResetError
            case Fault.BLACK_HOLE:
                await self._until_changed(HOLE_SECONDS)
                raise ConnectionResetError  # what was swallowed is never answered
            case Fault.THROTTLE:
                writer.write(_answer(400, "ThrottlingException", "Rate exceeded"))
                return
            case Fault.ERROR_500:
                writer.write(_answer(500, "KMSInternalException", "an internal error"))
                return
            case Fault.LATENCY:
                await self._until_changed(self.latency)
        if not behind:
            behind.append(await asyncio.open_connection(*self._target))
        from_target, to_target = behind[0]
        to_target.write(request)
        answer = await _message(from_target)
        if self._fault is not Fault.SLOW_DRIP:
            writer.write(answer)
            return
        for at in range(len(answer)):
            writer.write(answer[at : at + 1])
            await writer.drain()
            await self._until_changed(DRIP_SECONDS)

    async def _until_changed(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """A whole request or answer of HTTP/1.1."""
    head = await reader.readuntil(b"\r\n\r\n")
    if _CHUNKED.search(head):
        body = b""
        while True:
            size = await reader.readuntil(b"\r\n")
            piece = await reader.readexactly(int(size.split(b";")[0], 16) + 2)
            body += size + piece
            if size.strip() == b"0":
                return head + body
    length = _LENGTH.search(head)
    return head + await reader.readexactly(int(length[1]) if length else 0)


def _answer(status: int, code: str, message: str) -> bytes:
    body = json.dumps({"__type": code, "message": message}).encode()
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST, not by FIN."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
