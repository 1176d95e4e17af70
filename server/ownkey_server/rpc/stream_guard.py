"""What one stream may take of time, bytes and attention, and all streams of a process together.

A stream's messages go through its guard, which looks on: in time (nothing came, nothing was taken, too long, too
slowly), in size, and in number. A stream that breaks a limit ends with a status that names the setting
(docs/limits.md).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from enum import Enum
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import grpc

from ownkey_server.domain.errors import OwnkeyError
from ownkey_server.rpc.call_release import CallReleaser
from ownkey_server.settings.limits import LimitSettings

MIB = 1024 * 1024
RETRY_SECONDS = 1.0
# How long a client that takes no bytes is waited for to take the status.
LAST_WORD_SECONDS = 10.0


class StreamLimitReached(OwnkeyError):
    """A stream broke a limit.

    Attributes:
        limit: Name of the setting.
    """

    reason: ClassVar[str] = "STREAM_LIMIT"
    refusal: ClassVar[bool] = True

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = f"limits.{limit}"


class StreamTooSlow(StreamLimitReached):
    """It did not go on as fast as it must, or takes too long. The time was up: DEADLINE_EXCEEDED."""


class StreamTooMuch(StreamLimitReached):
    """It is more than one stream may be: RESOURCE_EXHAUSTED, and the same stream again fares no better."""


class StreamsBusy(StreamLimitReached):
    """Other streams take what this one needs: RESOURCE_EXHAUSTED, and later it may be had.

    Attributes:
        retry_seconds: When to try again, in seconds from now.
    """

    refusal = False
    retry_seconds = RETRY_SECONDS


class RequestMissing(OwnkeyError):
    """A unary call came without its request."""

    reason: ClassVar[str] = "STREAM_PROTOCOL"
    refusal: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of streams; names as in the settings, ``[limits]``.

    Attributes:
        request_seconds: The longest wait for the one request of a unary call.
        streams: In this process at once.
        streams_per_caller: Of one caller.
        stream_seconds: The longest that a stream may take.
        stream_idle_seconds: The longest wait for a message of the client.
        stream_write_seconds: The longest wait for the client to take a message.
        stream_bytes: The most that a client may send.
        stream_min_bytes_per_second: The least that it must send, on average over ``stream_progress_seconds``, counted
            while this server waits for it; 0 for no least.
        stream_messages_per_mib: Messages that a MiB may come in. With it come ``stream_messages_per_second`` for live
            media, whose messages are small and seldom, and ``stream_messages_burst`` for every stream.
        buffered_bytes: What all streams together may hold: a frame each, and the messages in hand.
        prefix: By what name the counts of watches begin, which are other settings than those of media streams.
    """

    request_seconds: float = 30.0
    streams: int = 1000
    streams_per_caller: int = 500
    stream_seconds: float = 14_400.0
    stream_idle_seconds: float = 60.0
    stream_write_seconds: float = 60.0
    stream_bytes: int = 64 * 1024 * MIB
    stream_min_bytes_per_second: float = 8.0
    stream_progress_seconds: float = 60.0
    stream_messages_per_mib: int = 16_384
    stream_messages_per_second: float = 100.0
    stream_messages_burst: int = 10_000
    buffered_bytes: int = 512 * MIB
    prefix: str = ""


def stream_limits(settings: LimitSettings) -> StreamLimits:
    """The limits of the settings."""
    names = [field.name for field in fields(StreamLimits) if field.name != "prefix"]
    return StreamLimits(**{name: getattr(settings, name) for name in names})


def watch_limits(settings: LimitSettings) -> StreamLimits:
    """The limits of watches: they last for as long as somebody listens, and are counted by themselves."""
    return replace(
        stream_limits(settings),
        streams=settings.watches,
        streams_per_caller=settings.watches_per_caller,
        stream_seconds=math.inf,
        buffered_bytes=settings.watch_buffered_bytes,
        prefix="watch",
    )


class Transport(Protocol):
    """What a guard needs of a call's context."""

    async def read(self) -> Any:
        """The next message, or ``grpc.aio.EOF``."""

    async def write(self, message: bytes) -> None:
        """Send a message; returns when the client has room for it."""

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send the response's headers."""


class Streams:
    """All streams of this process: how many there are, whose, and how much they hold.

    Attributes:
        buffered: Bytes that streams hold now.
    """

    def __init__(self, limits: StreamLimits) -> None:
        self.limits = limits
        self.buffered = 0
        self.releaser = CallReleaser()
        self._what = "watches" if limits.prefix else "streams"
        self._of: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def guard(self, transport: Transport, caller: str) -> StreamGuard:
        """A guard for a new stream of the caller's, to be entered in the task that serves it."""
        return StreamGuard(self, transport, caller)

    async def only_request(self, transport: Transport) -> bytes:
        """The one request of a unary call.

        Raises:
            StreamTooSlow: It did not come, or not all of it.
            RequestMissing: The client ended the call without one.
        """
        seconds = self.limits.request_seconds
        try:
            async with asyncio.timeout(seconds):
                raw = await transport.read()
        except TimeoutError:
            raise StreamTooSlow("request_seconds", f"the request did not come in {seconds:g} s") from None
        if raw is grpc.aio.EOF:
            raise RequestMissing("the call ended without a request")
        request: bytes = raw
        return request

    def add(self, caller: str) -> None:
        """Count one more stream.

        Raises:
            StreamsBusy: There are too many.
        """
        limits = self.limits
        if self._of[caller] >= limits.streams_per_caller:
            raise StreamsBusy(
                f"{self._what}_per_caller",
                f"{caller!r} has {limits.streams_per_caller} {self._what} here, and may have no more",
            )
        if self._count >= limits.streams:
            raise StreamsBusy(self._what, f"this server has {limits.streams} {self._what}, and takes no more")
        self._of[caller] += 1
        self._count += 1

    def remove(self, caller: str) -> None:
        """Count one less."""
        self._count -= 1
        self._of[caller] -= 1
        if not self._of[caller]:
            del self._of[caller]

    def hold(self, size: int) -> None:
        """Count bytes that a stream holds from now on.

        Raises:
            StreamsBusy: All streams together would hold too much.
        """
        most = self.limits.buffered_bytes
        if self.buffered + size > most:
            setting = f"{self.limits.prefix}_buffered_bytes" if self.limits.prefix else "buffered_bytes"
            raise StreamsBusy(setting, f"the {self._what} of this server hold {self.buffered} of {most} bytes")
        self.buffered += size

    def let_go(self, size: int) -> None:
        """Count bytes that a stream holds no more."""
        self.buffered -= size


class _Wait(Enum):
    """What a stream waits for its client to do."""

    NOTHING = 0
    SEND = 1
    TAKE = 2


class StreamGuard:
    """Reads and writes for one stream.

    Enter it in the task that serves the call, and leave it before the call's status is sent. One timer looks at the
    clock now and then, rather than one for each message: a message costs a microsecond here.
    """

    def __init__(self, streams: Streams, transport: Transport, caller: str) -> None:
        self._streams = streams
        self._limits = streams.limits
        self._transport = transport
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._wait = _Wait.NOTHING
        self._since = 0.0
        self._bytes = self._messages = 0
        self._allowed = self._limits.stream_messages_burst
        # Time that the client was waited for, and bytes, since the average was last looked at.
        self._waited = 0.0
        self._window_bytes = 0
        self._frame = self._in_hand = 0
        self._verdict: Exception | None = None
        self._cancelled = False

    async def __aenter__(self) -> Self:
        """Take a place among the streams.

        Raises:
            StreamsBusy: There is none.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - handlers run in tasks
        self._streams.add(self._caller)
        self._task = task
        task.add_done_callback(self._forget)
        self._began = self._clock()
        self._timer = self._loop.call_later(self._soonest(self._began), self._look)
        # Headers now, so that a status can follow whatever else is under way: grpc.aio cannot send both at once while
        # a first message is stuck.
        await self._transport.send_initial_metadata(())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        grace = min(LAST_WORD_SECONDS, self._limits.stream_write_seconds)
        self._timer = self._loop.call_later(grace, self._streams.releaser.release, self._task)

    async def read(self) -> Any:
        """The client's next message, or ``grpc.aio.EOF``.

        Raises:
            Exception: The stream is over: it broke a limit, or was ended with this.
        """
        self._put_down(self._in_hand)
        self._begin(_Wait.SEND)
        try:
            raw = await self._transport.read()
        except asyncio.CancelledError:
            if self._was_ours():
                raise self._told() from None
            raise
        finally:
            self._waited += self._clock() - self._since
            self._wait = _Wait.NOTHING
        if raw is not grpc.aio.EOF:
            self._count(len(raw))
            self._take_up(len(raw))
        return raw

    async def write(self, message: bytes) -> None:
        """Send a message.

        Raises:
            Exception: The stream is over: it broke a limit, or was ended with this.
        """
        # A message that is not taken stays counted to the end of the stream: the transport holds it so long.
        self._take_up(len(message))
        self._begin(_Wait.TAKE)
        try:
            await self._transport.write(message)
        except asyncio.CancelledError:
            if self._was_ours():
                raise self._told() from None
            raise
        finally:
            self._wait = _Wait.NOTHING
        self._put_down(len(message))

    def holds_frame(self, size: int) -> None:
        """Say that this stream's cipher may hold a frame of so many bytes, to its end.

        Raises:
            StreamsBusy: All streams together would hold too much.
        """
        self._streams.hold(size)
        self._frame += size

    def end(self, error: Exception) -> None:
        """Let the stream end with this error: at once when it waits for its client, else when it next would."""
        if self._verdict is None:
            # What the error came through would close a circle with this guard, and hold the call's messages.
            error.__traceback__ = None
            self._pronounce(error)

    def _take_up(self, size: int) -> None:
        self._streams.hold(size)
        self._in_hand += size

    def _put_down(self, size: int) -> None:
        self._streams.let_go(size)
        self._in_hand -= size

    def _forget(self, _task: asyncio.Task[Any]) -> None:
        self._timer.cancel()
        self._streams.let_go(self._in_hand + self._frame)
        self._streams.remove(self._caller)

    def _begin(self, wait: _Wait) -> None:
        if self._verdict:
            raise self._told()
        self._wait = wait
        self._since = self._clock()

    def _was_ours(self) -> bool:
        """Whether a cancellation was ours, and nobody else's too."""
        if not self._cancelled:
            return False
        self._cancelled = False
        return self._task.uncancel() == 0

    def _told(self) -> Exception:
        """The verdict, which is then the caller's alone.

        An error refers to the frames that it went through, and so to this guard and to the call. Kept here it would
        close a circle, which holds the call and its messages until the garbage collector comes by.
        """
        verdict, self._verdict = self._verdict, None
        assert verdict is not None  # noqa: S101 - only asked when there is one
        return verdict

    def _count(self, size: int) -> None:
        limits = self._limits
        self._messages += 1
        self._bytes += size
        self._window_bytes += size
        if self._bytes > limits.stream_bytes:
            raise StreamTooMuch(
                "stream_bytes", f"the stream has more than {limits.stream_bytes} bytes: send it in several objects"
            )
        if self._messages > self._allowed:
            elapsed = self._clock() - self._began
            self._allowed = int(
                limits.stream_messages_burst
                + limits.stream_messages_per_second * elapsed
                + limits.stream_messages_per_mib * self._bytes / MIB
            )
            if self._messages > self._allowed:
                least = MIB // limits.stream_messages_per_mib
                raise StreamTooMuch(
                    "stream_messages_per_mib",
                    f"{self._messages} messages for {self._bytes} bytes are too many: send chunks of {least} bytes"
                    f" or more, or at most {limits.stream_messages_per_second:g} a second",
                )

    def _look(self) -> None:
        if self._verdict is not None:
            return
        now = self._clock()
        verdict = self._judge(now)
        if verdict is None:
            self._timer = self._loop.call_later(self._soonest(now), self._look)
        else:
            self._pronounce(verdict)

    def _pronounce(self, verdict: Exception) -> None:
        self._verdict = verdict
        if self._wait is not _Wait.NOTHING:
            self._cancelled = True
            self._task.cancel()

    def _judge(self, now: float) -> StreamLimitReached | None:
        limits, waiting = self._limits, now - self._since
        if now - self._began >= limits.stream_seconds:
            return StreamTooSlow(
                "stream_seconds", f"the stream took more than {limits.stream_seconds:g} s: send several objects"
            )
        match self._wait:
            case _Wait.SEND if waiting >= limits.stream_idle_seconds:
                return StreamTooSlow("stream_idle_seconds", f"no message came in {limits.stream_idle_seconds:g} s")
            case _Wait.TAKE if waiting >= limits.stream_write_seconds:
                return StreamTooSlow(
                    "stream_write_seconds", f"a message was not taken in {limits.stream_write_seconds:g} s: read faster"
                )
        waited = self._client_time(now)
        if waited >= limits.stream_progress_seconds:
            if self._window_bytes < limits.stream_min_bytes_per_second * waited:
                return StreamTooSlow(
                    "stream_min_bytes_per_second",
                    f"{self._window_bytes} bytes came in {waited:.0f} s, and at least"
                    f" {limits.stream_min_bytes_per_second:g} a second must",
                )
            self._window_bytes = 0
            self._waited -= waited
        return None

    def _client_time(self, now: float) -> float:
        return self._waited + (now - self._since if self._wait is _Wait.SEND else 0.0)

    def _soonest(self, now: float) -> float:
        """Seconds until a limit can be reached at the earliest."""
        limits = self._limits
        # A wait may begin, or change its kind, right after this look.
        left = min(limits.stream_idle_seconds, limits.stream_write_seconds)
        match self._wait:
            case _Wait.SEND:
                left = min(left, self._since + limits.stream_idle_seconds - now)
            case _Wait.TAKE:
                left = min(left, self._since + limits.stream_write_seconds - now)
        left = min(left, self._began + limits.stream_seconds - now)
        left = min(left, limits.stream_progress_seconds - self._client_time(now))
        return max(left, 0.001)
