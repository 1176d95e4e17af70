"""The asyncio client: the same calls as :class:`ownkey.client.Client`, awaited.

Example::

    async with AsyncClient() as client:
        answer = await client.authorize_call("acme", "call-1", "+15551234567", stores=("phone_recording",))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import grpc

from ownkey import _exchange, _stream, emergency, errors
from ownkey._call_watching import CallWatching
from ownkey._exchange import CHANNEL_OPTIONS, DEFAULT_ADDRESS, Exchange
from ownkey._stream import Answer
from ownkey._watching import Watching
from ownkey.call_gate import AsyncCallGate
from ownkey.call_watch import AsyncCallWatch
from ownkey.client import EMERGENCY_TIMEOUT, LOCAL_EMERGENCY
from ownkey.container import Buffer
from ownkey.key_watch import AsyncKeyWatch
from ownkey.models import (
    Asset,
    CallAuthorization,
    CustomerKeyStatus,
    DataKey,
    KeyStateChanges,
    MediaInfo,
    PolicyCheck,
    RewrappedKey,
)
from ownkey.v1 import key_service_pb2_grpc

__all__ = ["AsyncCallGate", "AsyncCallWatch", "AsyncClient", "AsyncKeyWatch", "AsyncMediaStream"]

T = TypeVar("T")


class AsyncMediaStream(AsyncIterator[Buffer]):
    """Chunks of an object or of content as they come.

    Iterating raises :class:`ownkey.errors.OwnkeyError`, or what reading the source raised; only when it ends without an
    error are the chunks whole. Whoever may stop before that uses it in an ``async with`` block.
    """

    def __init__(
        self,
        call: Any,
        requests: AsyncIterator[bytes],
        parse: Callable[[bytes], Answer],
        on_started: Callable[[Answer], None],
    ) -> None:
        self._call = call
        self._parse = parse
        self._on_started = on_started
        self._first: Answer | None = None
        self._source_error: BaseException | None = None
        self._answered = asyncio.Event()
        self._sending = asyncio.create_task(self._send(requests))

    async def info(self) -> MediaInfo:
        """What was decided about the object; waits for the first answer."""
        if self._first is None:
            try:
                self._first = await self._next()
            except StopAsyncIteration:
                raise errors.ServiceFailed("the stream ended before its first answer") from None
            self._on_started(self._first)
            self._answered.set()
        if self._first.info is None:
            raise errors.ServiceFailed("the service's first answer does not say what it decided")
        return self._first.info

    async def __anext__(self) -> Buffer:
        await self.info()
        while True:
            chunk = (await self._next()).chunk
            if len(chunk):
                return chunk

    def close(self) -> None:
        """Give up the stream."""
        self._sending.cancel()
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        await asyncio.wait((self._sending,))

    async def _send(self, requests: AsyncIterator[bytes]) -> None:
        # grpcio loses the reason when the service ends a call while a message is being written (grpc issue 36066). Most
        # calls that end early end with their first answer, so nothing beyond an object's header is sent before that.
        room = _stream.HEADER_ROOM
        try:
            async for request in requests:
                if room <= 0:
                    await self._answered.wait()
                room -= len(request)
                await self._call.write(request)
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the service has ended the call, and whoever reads learns why
        except Exception as error:  # noqa: BLE001 - the source's, for whoever reads
            self._source_error = error
            self._call.cancel()

    async def _next(self) -> Answer:
        try:
            raw = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._sending.cancel()
            raise errors.from_rpc_error(error) from error
        except asyncio.CancelledError:
            self.close()
            if self._source_error is not None:
                raise self._source_error from None
            raise
        if raw is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._parse(raw)


class AsyncClient:
    """A client of one ownkey service, for one event loop; keep one and reuse it.

    Arguments and errors are those of :class:`ownkey.client.Client`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
        countries: tuple[str, ...] = (),
    ) -> None:
        _exchange.require_timeout(timeout)
        if credentials is None:
            _exchange.require_local(address)
            self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._timeout = timeout
        self._countries = countries
        self._stub = key_service_pb2_grpc.KeyServiceStub(self._channel)
        self._encrypt: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            "/ownkey.v1.KeyService/EncryptMedia"
        )
        self._decrypt: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            "/ownkey.v1.KeyService/DecryptMedia"
        )

    async def generate_data_key(
        self,
        asset: Asset,
        *,
        extra_context: Mapping[str, str] | None = None,
        with_plaintext: bool = False,
        request_id: str = "",
    ) -> DataKey:
        """A data key for one asset, under the key that the tenant's policy names."""
        return await self._run(_exchange.generate_data_key(asset, extra_context, with_plaintext, request_id))

    async def unwrap(
        self, asset: Asset, wrapped_key: bytes, encryption_context: Mapping[str, str], *, request_id: str = ""
    ) -> DataKey:
        """The data key in clear again, for the asset that it was made for."""
        return await self._run(_exchange.unwrap(asset, wrapped_key, encryption_context, request_id))

    async def rewrap(
        self, asset: Asset, wrapped_key: bytes, encryption_context: Mapping[str, str], *, request_id: str = ""
    ) -> RewrappedKey:
        """The data key wrapped as policy says today: to be stored in place of the old one, with the same context."""
        return await self._run(_exchange.rewrap(asset, wrapped_key, encryption_context, request_id))

    async def key_status(self, tenant: str, key: str = "", *, request_id: str = "") -> list[CustomerKeyStatus]:
        """The state of one of the tenant's keys, or of all."""
        return await self._run(_exchange.key_status(tenant, key, request_id))

    def watch_key_status(
        self, tenant: str, key: str = "", *, resume_token: str = "", request_id: str = ""
    ) -> AsyncKeyWatch:
        """As :meth:`ownkey.client.Client.watch_key_status`."""
        return AsyncKeyWatch(self._stub.WatchKeyStatus, Watching(tenant, key, resume_token, request_id))

    def watch_calls(self, tenant: str, *, request_id: str = "") -> AsyncCallWatch:
        """As :meth:`ownkey.client.Client.watch_calls`."""
        return AsyncCallWatch(self._stub.WatchCalls, CallWatching(tenant, request_id))

    async def key_state_changes(
        self, tenant: str, key: str = "", *, page_size: int = 0, page_token: str = ""
    ) -> KeyStateChanges:
        """As :meth:`ownkey.client.Client.key_state_changes`."""
        return await self._run(_exchange.key_state_changes(tenant, key, page_size, page_token))

    async def check_policy(self, asset: Asset, *, request_id: str = "") -> PolicyCheck:
        """Which key would protect an asset, which rule decides, and why."""
        return await self._run(_exchange.check_policy(asset, request_id))

    async def authorize_call(
        self,
        tenant: str,
        call_id: str,
        callee: str,
        *,
        caller: str = "",
        direction: str = "",
        user: str = "",
        group: str = "",
        stores: tuple[str, ...] = (),
        site: str = "",
        queue: str = "",
        request_id: str = "",
    ) -> CallAuthorization:
        """Whether a call may be set up. An emergency call always may, within half a second."""
        urgent = emergency.is_emergency(callee, self._countries)
        try:
            exchange = _exchange.authorize_call(
                tenant=tenant,
                call_id=call_id,
                callee=callee,
                caller=caller,
                direction=direction,
                user=user,
                group=group,
                stores=stores,
                site=site,
                queue=queue,
                request_id=request_id,
            )
            answer = await self._run(exchange, min(self._timeout, EMERGENCY_TIMEOUT) if urgent else None)
        except Exception:
            # Whatever went wrong, here or there: it is nothing that may keep an emergency call from connecting.
            if urgent:
                return LOCAL_EMERGENCY
            raise
        return LOCAL_EMERGENCY if urgent and not answer.allowed else answer

    def encrypt_stream(
        self,
        source: AsyncIterable[Buffer],
        asset: Asset,
        *,
        extra_context: Mapping[str, str] | None = None,
        frame_length: int = 0,
        request_id: str = "",
    ) -> AsyncMediaStream:
        """Send content, get the object: its chunks, one after the other, are the file."""
        start = _stream.encrypt_start(asset, extra_context, frame_length, request_id)
        return AsyncMediaStream(self._encrypt(), _requests(start, source), _stream.encrypt_answer, _ignore)

    def decrypt_stream(
        self,
        source: AsyncIterable[Buffer],
        asset: Asset,
        *,
        expected_context: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> AsyncMediaStream:
        """Send an object, get its content, each chunk authenticated; whole only when no error ends the stream."""
        start = _stream.decrypt_start(asset, expected_context, None, 0, request_id)
        return AsyncMediaStream(self._decrypt(), _requests(start, source), _stream.decrypt_answer, _ignore)

    def decrypt_range(
        self,
        source: BinaryIO,
        object_size: int,
        asset: Asset,
        offset: int,
        length: int | None = None,
        *,
        expected_context: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> AsyncMediaStream:
        """Get a range of an object's content from a seekable local file; only the frames that it touches are sent."""
        if length == 0:
            raise errors.InvalidRequest("a range of no bytes: give a length, or None for all that follows")
        started: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[bytes]:
            yield _stream.decrypt_start(asset, expected_context, (offset, length or 0), object_size, request_id)
            yield _stream.chunk_message(source.read(_stream.HEADER_ROOM))
            for start, count in (await started).spans:
                source.seek(start)
                left = count
                while left and (piece := source.read(min(left, _stream.CHUNK_LENGTH))):
                    left -= len(piece)
                    yield _stream.chunk_message(piece)

        return AsyncMediaStream(self._decrypt(), requests(), _stream.decrypt_answer, started.set_result)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[T], timeout: float | None = None) -> T:
        try:
            answer = await getattr(self._stub, exchange.method)(exchange.request, timeout=timeout or self._timeout)
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from error
        return exchange.parse(answer)


async def _requests(start: bytes, source: AsyncIterable[Buffer]) -> AsyncIterator[bytes]:
    yield start
    async for chunk in source:
        for piece in _stream.pieces(chunk):
            yield _stream.chunk_message(piece)


def _ignore(answer: Answer) -> None:
    """Whole streams do not wait for the first answer."""
