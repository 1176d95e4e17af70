"""A watch of calls that are under way: which of them have lost the key that they need, and which have it back.

Example::

    with Client() as client, client.watch_calls("acme") as watch:
        watch.add(WatchedCall("call-1", "tel:+15550100", stores=("phone_recording",)))
        for event in watch:
            if event.change and event.change.action == "end":
                hang_up(event.change.call_id)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from ownkey._call_watching import CallWatching
from ownkey._watch import AsyncWatch, Watch
from ownkey.models import CallWatchEvent, WatchedCall
from ownkey.v1 import call_watch_pb2

SILENCE: Final = 15.0
"""Seconds; longer than the service's ``call_gate.heartbeat_seconds``."""


class CallWatch(Watch[CallWatchEvent]):
    """What is to be done with calls, for as long as it is asked for. Iterate over it; use it as a context manager.

    Calls come and go by :meth:`add` and :meth:`ended`, from any thread, also while the service is away. Then there is a
    ``disconnected`` event for each try; after the reconnect the service is told of all calls again, and says what has
    become of them meanwhile: nothing is missed, and nothing told twice.

    Raises:
        OwnkeyError: While iterating: there is no such tenant, the caller may not watch it, or a call names a group that
            does not exist. The iteration may be gone on with: calls are kept.
    """

    def __init__(self, call: Callable[[Any], Any], watching: CallWatching, silence: float = SILENCE) -> None:
        super().__init__(watching, silence)
        self._call = call
        self._watching = watching
        self._news = threading.Condition()
        # The stream that requests are for: one that has ended gets no more.
        self._stream: object | None = None

    def __len__(self) -> int:
        """How many calls are watched."""
        return len(self._watching)

    def __bool__(self) -> bool:
        return True

    def add(self, *calls: WatchedCall) -> None:
        """Watch these calls from now on.

        Raises:
            InvalidRequest: What is said of one cannot be; then none is added.
        """
        self._watching.add(calls)
        with self._news:
            self._news.notify_all()

    def ended(self, *call_ids: str) -> None:
        """Watch these calls no more: they are over."""
        self._watching.ended(call_ids)
        with self._news:
            self._news.notify_all()

    def _start(self) -> Any:
        self._watching.begin()
        stream = object()
        with self._news:
            self._stream = stream
        return self._call(self._requests(stream))

    def _over(self) -> None:
        with self._news:
            self._stream = None
            self._news.notify_all()

    def _requests(self, stream: object) -> Iterator[call_watch_pb2.WatchCallsRequest]:
        while True:
            with self._news:
                while True:
                    # Whoever is closed while a stream begins has no stream either.
                    if self._stream is not stream or self._closed.is_set():
                        return
                    request = self._watching.request()
                    if request is not None:
                        break
                    self._news.wait()
            yield request


class AsyncCallWatch(AsyncWatch[CallWatchEvent]):
    """The same as :class:`CallWatch`, for one event loop."""

    def __init__(self, call: Callable[[], Any], watching: CallWatching, silence: float = SILENCE) -> None:
        super().__init__(watching, silence)
        self._call = call
        self._watching = watching
        self._news = asyncio.Event()
        self._answered = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many calls are watched."""
        return len(self._watching)

    def __bool__(self) -> bool:
        return True

    def add(self, *calls: WatchedCall) -> None:
        """As :meth:`CallWatch.add`."""
        self._watching.add(calls)
        self._news.set()

    def ended(self, *call_ids: str) -> None:
        """As :meth:`CallWatch.ended`."""
        self._watching.ended(call_ids)
        self._news.set()

    def _start(self) -> Any:
        self._watching.begin()
        self._answered = asyncio.Event()
        running = self._call()
        self._sending = asyncio.get_running_loop().create_task(self._send(running, self._answered))
        return running

    def _over(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    async def _next(self) -> Any:
        message = await super()._next()
        self._answered.set()
        return message

    async def _send(self, running: Any, answered: asyncio.Event) -> None:
        # Whoever reads learns why a stream has ended.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                self._news.clear()
                while (request := self._watching.request()) is not None:
                    await running.write(request)
                    # grpcio loses the reason when the service ends a call while a message is being written (grpc issue
                    # 36066); most streams that end early end with their first answer.
                    await answered.wait()
                await self._news.wait()
