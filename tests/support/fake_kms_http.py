"""A small HTTP server in a thread of its own, that can be slow, hang, and be away."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Self


class FakeHttpServer:
    """Serves what :meth:`answer` gives, on a loopback port.

    Attributes:
        latency: Seconds before each answer, by region; ``""`` is for those that are not named.
    """

    def __init__(self, port: int = 0) -> None:
        self.latency: dict[str, float] = {}
        self._hung: set[str] = set()
        self._held: list[tuple[str, Callable[[], None]]] = []
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()
        self._thread: threading.Thread | None = None

    def answer(self, head: bytes, body: bytes) -> tuple[int, str, bytes, str]:
        """Status, kind of content, content, and the region that was asked, or what else of it hangs."""
        raise NotImplementedError

    def start(self) -> Self:
        """Begin to serve, in a thread of its own."""
        started = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._listen())
            started.set()
            self._loop.run_forever()
            self._loop.close()

        self._thread = threading.Thread(target=run, name="fake-kms", daemon=True)
        self._thread.start()
        started.wait(20)
        return self

    def stop(self) -> None:
        """End, with all connections."""
        if self._thread is not None:
            self.cut_off()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(20)
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The endpoint, of KMS and of STS."""
        return f"http://127.0.0.1:{self._port}"

    def cut_off(self) -> None:
        """Listen no more, and cut every connection."""

        async def work() -> None:
            if self._server is not None:
                for listening in self._server.sockets:
                    self._loop.remove_reader(listening.fileno())
                while len(asyncio.all_tasks()) > 1:  # what a server took just before it closes would never be closed
                    await asyncio.sleep(0)
                self._server.close()
                self._server = None
            for connection in list(self.connections):
                connection.abort()

        asyncio.run_coroutine_threadsafe(work(), self._loop).result(20)

    def mend(self) -> None:
        """Listen again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(20)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self._loop.create_server(
                lambda: _Connection(self), "127.0.0.1", self._port, backlog=1024
            )
            self._port = self._server.sockets[0].getsockname()[1]

    def hang(self, region: str = "") -> None:
        """Take requests of a region (all, when empty), or of what else :meth:`answer` tells, and do not answer them."""
        self._hung.add(region)

    def resume(self, hung: str | None = None) -> None:
        """Answer again, and what was held too: all of it, or what :meth:`hang` was given."""
        if hung is None:
            self._hung.clear()
        else:
            self._hung.discard(hung)
        held, self._held = self._held, []
        for what, answer in held:
            if hung is None or what == hung:
                self._loop.call_soon_threadsafe(answer)
            else:
                self._held.append((what, answer))

    def later(self, region: str, write: Callable[[], None]) -> None:
        """Write an answer when its region answers."""
        if self._hung and (region in self._hung or "" in self._hung):
            self._held.append((region, write))
            return
        delay = self.latency.get(region, self.latency.get("", 0.0)) if self.latency else 0.0
        if delay > 0:
            self._loop.call_later(delay, write)
        else:
            write()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as AWS's clients need it."""

    def __init__(self, server: FakeHttpServer) -> None:
        self._server = server
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < size:
                return
            body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
            status, kind, content, region = self._server.answer(head, body)
            text = f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
            whole = text.encode() + content
            self._server.later(region, lambda whole=whole: self._write(whole))

    def _write(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)
