"""How a watch goes on: a stream that is read, and begun again when it ends. The same for keys and for calls."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc

from ownkey import errors
from ownkey._watching import SILENCE, ended, silent

# Messages that were received and not yet taken; beyond that the service waits, and then tells only the present.
_HELD = 64

E = TypeVar("E")


class Understands(Protocol[E]):
    """What a stream's messages and its end mean."""

    def events(self, message: Any, /) -> list[E]:
        """What a message tells; may be nothing."""

    def failed(self, error: errors.OwnkeyError, /) -> tuple[E, float]:
        """What a stream's end means, and how many seconds to wait before the next. Raises what no other try mends."""


class Watch(Iterator[E], Generic[E]):
    """Events for as long as they are asked for. Iterate over it; use it as a context manager, or close it."""

    def __init__(self, understands: Understands[E], silence: float = SILENCE) -> None:
        self._understands = understands
        self._silence = silence
        self._events: deque[E] = deque()
        self._messages: queue.Queue[Any] = queue.Queue(_HELD)
        self._running: Any = None
        self._closed = threading.Event()
        self._pause = 0.0

    @abstractmethod
    def _start(self) -> Any:
        """Begin a stream; gives its call."""

    def _over(self) -> None:
        """A stream has ended."""

    def __next__(self) -> E:
        while True:
            if self._closed.is_set() or (self._pause and self._closed.wait(self._pause)):
                raise StopIteration
            self._pause = 0.0
            if self._events:
                return self._events.popleft()
            if self._running is None:
                self._begin()
            try:
                message = self._messages.get(timeout=self._silence)
            except queue.Empty:
                message = silent(self._silence)
            if self._closed.is_set():
                raise StopIteration
            if isinstance(message, errors.OwnkeyError):
                self._running.cancel()
                self._running = None
                self._over()
                event, self._pause = self._understands.failed(message)
                return event
            self._events.extend(self._understands.events(message))

    def close(self) -> None:
        """End it, from whatever thread; an iteration that waits ends."""
        self._closed.set()
        self._over()
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
        running = self._start()
        self._messages, self._running = messages, running
        threading.Thread(
            target=_receive, args=(running, messages, self._closed), name="ownkey-watch", daemon=True
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


class AsyncWatch(AsyncIterator[E], Generic[E]):
    """The same as :class:`Watch`, for one event loop."""

    def __init__(self, understands: Understands[E], silence: float = SILENCE) -> None:
        self._understands = understands
        self._silence = silence
        self._events: deque[E] = deque()
        self._running: Any = None
        self._closed = asyncio.Event()
        self._pause = 0.0

    @abstractmethod
    def _start(self) -> Any:
        """Begin a stream; gives its call."""

    def _over(self) -> None:
        """A stream has ended."""

    async def __anext__(self) -> E:
        while True:
            if self._pause:
                await self._wait(self._pause)
                self._pause = 0.0
            if self._closed.is_set():
                raise StopAsyncIteration
            if self._events:
                return self._events.popleft()
            if self._running is None:
                self._running = self._start()
            message = await self._next()
            if self._closed.is_set():
                raise StopAsyncIteration
            if isinstance(message, errors.OwnkeyError):
                self._running.cancel()
                self._running = None
                self._over()
                event, self._pause = self._understands.failed(message)
                return event
            self._events.extend(self._understands.events(message))

    def close(self) -> None:
        """End it; an iteration that waits ends."""
        self._closed.set()
        self._over()
        if self._running is not None:
            self._running.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _next(self) -> Any:
        """The next message, or the error with which the stream ended."""
        try:
            async with asyncio.timeout(self._silence):
                message = await self._running.read()
        except TimeoutError:
            return silent(self._silence)
        except grpc.aio.AioRpcError as error:
            return errors.from_rpc_error(error)
        except asyncio.CancelledError:
            # Also raised by a read of a call that was closed meanwhile.
            if not self._closed.is_set():
                raise
            return None
        return ended() if message is grpc.aio.EOF else message

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
