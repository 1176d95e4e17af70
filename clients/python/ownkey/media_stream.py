"""A media stream of the synchronous client: gRPC takes the requests in a thread, answers come when asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from ownkey import errors
from ownkey._stream import Answer
from ownkey.container import Buffer
from ownkey.models import MediaInfo


class MediaStream(Iterator[Buffer]):
    """Chunks of an object or of content as they come.

    Attributes:
        info: What was decided about the object. Reading it waits for the first answer.

    Iterating raises :class:`ownkey.errors.OwnkeyError`, or what reading the source raised; only when it ends without an
    error are the chunks whole. Whoever may stop before that uses it in a ``with`` block, which gives the rest up.
    """

    def __init__(
        self,
        method: Callable[[Iterator[bytes]], Any],
        requests: Iterator[bytes],
        parse: Callable[[bytes], Answer],
        on_started: Callable[[Answer | None], None],
    ) -> None:
        self._sending = _Sending(requests)
        self._call = method(self._sending)
        self._sending.belongs_to(self._call)
        # However the call ends, nobody waits for its first answer any longer.
        if not self._call.add_callback(lambda: on_started(None)):
            on_started(None)
        self._parse = parse
        self._on_started = on_started
        self._first: Answer | None = None

    @property
    def info(self) -> MediaInfo:
        """What was decided about the object, before its first chunk."""
        if self._first is None:
            self._first = self._next()
            self._on_started(self._first)
        if self._first.info is None:
            raise errors.ServiceFailed("the service's first answer does not say what it decided")
        return self._first.info

    def __next__(self) -> Buffer:
        self.info  # noqa: B018 - waits for the first answer
        while True:
            chunk = self._next().chunk
            if len(chunk):
                return chunk

    def close(self) -> None:
        """Give up the stream."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> Answer:
        try:
            return self._parse(next(self._call))
        except StopIteration:
            if self._first is None:
                raise errors.ServiceFailed("the stream ended before its first answer") from None
            raise
        except grpc.RpcError as error:
            if self._sending.error is not None:
                raise self._sending.error from None
            raise errors.from_rpc_error(error) from error


class _Sending(Iterator[bytes]):
    """The requests of a stream, as gRPC takes them in a thread of its own.

    When reading the source fails, the call is cancelled, so that the service never takes a part for the whole, and the
    failure is kept for whoever reads the answers.
    """

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._call: Any = None
        self._has_call = threading.Event()
        self.error: Exception | None = None

    def belongs_to(self, call: Any) -> None:
        self._call = call
        self._has_call.set()

    def __next__(self) -> bytes:
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the answers are read
            self.error = error
            self._has_call.wait()
            self._call.cancel()
            raise StopIteration from None
