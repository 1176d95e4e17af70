"""A watch of keys: what the service tells of their states, reconnected by itself, without missing a change."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from ownkey import errors
from ownkey._watching import SILENCE, Watching, ended, silent
from ownkey.models import KeyWatchEvent

# Messages that were received and not yet taken; beyond that the service waits, and then tells only the present.
_HELD = 64

Call = Callable[[Any], Any]


class KeyWatch(Iterator[KeyWatchEvent]):
    """Events of keys, for as long as they are asked for. Iterate over it; use it as a context manager, or close it.

    The first event is a snapshot. When the service is away there is a ``disconnected`` event for each try, and after
    the reconnect come the changes that were missed, and a snapshot.

    Raises:
        OwnkeyError: While iterating: there is no such tenant or key, or the caller may not watch it.
    """

    def __init__(self, call: Call, watching: Watching) -> None:
        self._call = call
        self._watching = watching
        self._messages: queue.Queue[Any] = queue.Queue(_HELD)
        self._running: Any = None
        self._closed = threading.Event()
        self._pause = 0.0

    @property
    def resume_token(self) -> str:
        """Where a later watch goes on."""
        return self._watching.token

    def __next__(self) -> KeyWatchEvent:
        if self._closed.is_set() or (self._pause and self._closed.wait(self._pause)):
            raise StopIteration
        self._pause = 0.0
        if self._running is None:
            self._begin()
        try:
            message = self._messages.get(timeout=SILENCE)
        except queue.Empty:
            self._running.cancel()
            message = silent()
        if self._closed.is_set():
            raise StopIteration
        if not isinstance(message, errors.OwnkeyError):
            return self._watching.event(message)
        self._running = None
        event, self._pause = self._watching.failed(message)
        return event

    def close(self) -> None:
        """End it, from whatever thread; an iteration that waits ends."""
        self._closed.set()
        if self._running is not None:
            self._running.cancel()
        _put(self._messages, ended(), self._closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        messages: queue.Queue[Any] = queue.Queue(_HELD)
        running = self._call(self._watching.request())
        self._messages, self._running = messages, running
        threading.Thread(
            target=_receive, args=(running, messages, self._closed), name="ownkey-key-watch", daemon=True
        ).start()


def _receive(running: Any, messages: queue.Queue[Any], closed: threading.Event) -> None:
    last = ended()
    try:
        for message in running:
            if not _put(messages, message, closed):
                running.cancel()
                return
    except grpc.RpcError as error:
        last = errors.from_rpc_error(error)
    _put(messages, last, closed)


def _put(messages: queue.Queue[Any], message: object, closed: threading.Event) -> bool:
    """Hand a message over; False when nobody takes it any more."""
    given_up = time.monotonic() + 10 * SILENCE
    while time.monotonic() < given_up:
        try:
            messages.put(message, timeout=0.5)
        except queue.Full:
            if closed.is_set():
                return False
        else:
            return True
    return False


class AsyncKeyWatch(AsyncIterator[KeyWatchEvent]):
    """The same as :class:`KeyWatch`, for one event loop."""

    def __init__(self, call: Call, watching: Watching) -> None:
        self._call = call
        self._watching = watching
        self._running: Any = None
        self._closed = asyncio.Event()
        self._pause = 0.0

    @property
    def resume_token(self) -> str:
        """Where a later watch goes on."""
        return self._watching.token

    async def __anext__(self) -> KeyWatchEvent:
        if self._pause:
            await self._wait(self._pause)
            self._pause = 0.0
        if self._closed.is_set():
            raise StopAsyncIteration
        if self._running is None:
            self._running = self._call(self._watching.request())
        try:
            async with asyncio.timeout(SILENCE):
                message = await self._running.read()
            failure = ended() if message is grpc.aio.EOF else None
        except TimeoutError:
            failure = silent()
        except grpc.aio.AioRpcError as error:
            failure = errors.from_rpc_error(error)
        except asyncio.CancelledError:
            if not self._closed.is_set():
                raise
            raise StopAsyncIteration from None
        if self._closed.is_set():
            raise StopAsyncIteration
        if failure is None:
            return self._watching.event(message)
        self._running.cancel()
        self._running = None
        event, self._pause = self._watching.failed(failure)
        return event

    def close(self) -> None:
        """End it; an iteration that waits ends."""
        self._closed.set()
        if self._running is not None:
            self._running.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
