"""A door before a server: open, shut (nobody listens), or stuck (takes connections and carries nothing)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")


class TcpGate:
    """Forwards a loopback port to another one, in a thread of its own."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-gate", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        self.mend()
        return self

    def stop(self) -> None:
        self.cut_off()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def cut_off(self) -> None:
        """Listen no more, and cut every connection."""

        async def work() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            # What was just accepted has not begun: it is not cancelled, which would leave it open, but sees that it is
            # to end.
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in tuple(self._tasks):
                    task.cancel()
                await asyncio.wait(others, timeout=0.1)

        self._run(work())

    def mend(self) -> None:
        """Listen, on the same port as before."""

        async def work() -> None:
            if self._server is None:
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
                self.port = self._server.sockets[0].getsockname()[1]

        self._run(work())

    def hang(self) -> None:
        """Carry nothing."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def resume(self) -> None:
        """Carry again, and what was held too."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._server is None:
            writer.transport.abort()
            return
        self._tasks.add(task)
        out: asyncio.StreamWriter | None = None
        try:
            back, out = await asyncio.open_connection("127.0.0.1", self._target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, out))
                both.create_task(self._carry(back, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass  # one of the two ends is gone, or the gate shuts
        finally:
            self._tasks.discard(task)
            for end in (writer, out):
                if end is not None:
                    end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
