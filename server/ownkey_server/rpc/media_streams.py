"""KeyService's media streams: bytes in, bytes out, and nothing held longer than a frame."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Generic, TypeAlias, TypeVar

import grpc

from ownkey.container import Buffer, Header, HeaderReader, Truncated
from ownkey.media_messages import chunk_of
from ownkey.v1 import key_service_pb2
from ownkey_server.domain.errors import InvalidRequest, OwnkeyError
from ownkey_server.rpc import convert
from ownkey_server.rpc.calls import Call
from ownkey_server.rpc.contract import RequestParser
from ownkey_server.rpc.errors import StreamProtocolError
from ownkey_server.rpc.media_messages import ChunkWriter, chunk_message
from ownkey_server.rpc.stream_guard import StreamGuard
from ownkey_server.service.media import READER_LIMITS, Media, NewObject, OpenedObject, OpenedRange
from ownkey_server.service.open_streams import OpenStream, OpenStreams

R = TypeVar("R", key_service_pb2.EncryptMediaRequest, key_service_pb2.DecryptMediaRequest)
EncryptRequests: TypeAlias = "Requests[key_service_pb2.EncryptMediaRequest]"
DecryptRequests: TypeAlias = "Requests[key_service_pb2.DecryptMediaRequest]"

# As in the contract, for messages that are read without it.
MAX_CHUNK = 4 * 1024 * 1024
# How long a stream goes on when its caller's certificate, token or role was taken away.
DECIDED_SECONDS = 5.0


class MediaServicer:
    """Each method takes a stream that was let in by its start (``dispatch.py``), and writes its answers to the call."""

    def __init__(self, media: Media, open_streams: OpenStreams) -> None:
        self._media = media
        self._open_streams = open_streams
        self._writer = ChunkWriter()

    async def EncryptMedia(
        self, first: key_service_pb2.EncryptMediaRequest, requests: EncryptRequests, call: Call
    ) -> None:
        """Encrypt a stream of content into one object."""
        start = first.start
        made = await self._media.encrypt(
            convert.asset(start.asset),
            convert.pairs(start.extra_context),
            start.frame_length,
            call.seconds,
            call.caller(start.request_id),
        )
        issued, encryptor = made.key, made.writer
        requests.holds_frame(encryptor.header.frame_length)
        stream = OpenStream(convert.asset(start.asset), issued.key, issued.context, True, requests.end, made.lease)
        async with self._open_streams.under_way(stream):
            await self._encrypt(made, requests)

    async def _encrypt(self, made: NewObject, requests: EncryptRequests) -> None:
        issued, encryptor = made.key, made.writer
        started = key_service_pb2.EncryptMediaStarted(
            key=issued.key.name,
            decision=convert.POLICY_DECISIONS[issued.decision.outcome.effect],
            rule=issued.decision.rule,
            encryption_context=issued.context,
            message_id=encryptor.header.message_id,
            frame_length=encryptor.header.frame_length,
        )
        await requests.write(key_service_pb2.EncryptMediaResponse(started=started).SerializeToString())
        await requests.write(chunk_message(encryptor.header.to_bytes()))
        while (chunk := await requests.chunk()) is not None:
            await made.lease.require(len(chunk))
            size = encryptor.output_size(len(chunk))
            message = self._writer.message(size, partial(encryptor.update_into, chunk))
            if message:
                await requests.write(message)
        await made.lease.require()
        await requests.write(chunk_message(encryptor.finish()))

    async def DecryptMedia(
        self, first: key_service_pb2.DecryptMediaRequest, requests: DecryptRequests, call: Call
    ) -> None:
        """Decrypt an object, or a byte range of one."""
        if first.start.HasField("range"):
            await self._decrypt_range(call, first.start, requests)
        else:
            await self._decrypt_whole(call, first.start, requests)

    async def _decrypt_whole(
        self, call: Call, start: key_service_pb2.DecryptMediaStart, requests: DecryptRequests
    ) -> None:
        reader = HeaderReader(limits=READER_LIMITS)
        header = None
        while header is None:
            header = reader.feed(await requests.required_chunk())
        requests.holds_frame(header.frame_length)
        opened = await self._media.open(
            header,
            convert.asset(start.asset),
            convert.pairs(start.expected_context),
            call.seconds,
            call.caller(start.request_id),
        )
        async with self._open_streams.under_way(_reading(start, header, opened, requests)):
            await self._decrypt(header, opened, reader.rest, requests)

    async def _decrypt(self, header: Header, opened: OpenedObject, rest: Buffer, requests: DecryptRequests) -> None:
        await requests.write(_started(header, opened.key.key.name))
        decryptor = opened.reader
        chunk: Buffer | None = rest
        while chunk is not None:
            await opened.lease.require(len(chunk))
            size = decryptor.output_size(len(chunk))
            message = self._writer.message(size, partial(decryptor.update_into, chunk))
            if message:
                await requests.write(message)
            chunk = await requests.chunk()
        decryptor.finish()

    async def _decrypt_range(
        self, call: Call, start: key_service_pb2.DecryptMediaStart, requests: DecryptRequests
    ) -> None:
        header = HeaderReader(limits=READER_LIMITS).feed(await requests.required_chunk())
        if header is None:
            raise StreamProtocolError("the message after the start must hold the object's whole header")
        requests.holds_frame(header.frame_length)
        opened = await self._media.open_range(
            header,
            convert.asset(start.asset),
            convert.pairs(start.expected_context),
            start.object_size,
            call.seconds,
            call.caller(start.request_id),
        )
        async with self._open_streams.under_way(_reading(start, header, opened, requests)):
            await self._decrypt_part(start, header, opened, requests)

    async def _decrypt_part(
        self, start: key_service_pb2.DecryptMediaStart, header: Header, opened: OpenedRange, requests: DecryptRequests
    ) -> None:
        stream = opened.reader.stream(start.range.offset, start.range.length or None)
        spans = [key_service_pb2.ByteRange(offset=span.offset, length=span.length) for span in stream.spans]
        await requests.write(_started(header, opened.key.key.name, spans, opened.reader.content_size))
        while (chunk := await requests.chunk()) is not None:
            await opened.lease.require(len(chunk))
            size = stream.output_size(len(chunk))
            message = self._writer.message(size, partial(stream.update_into, chunk))
            if message:
                await requests.write(message)
        stream.finish()


class Requests(Generic[R]):
    """The messages of one stream; requests come in the order that the contract wants: a start, then chunks."""

    def __init__(self, guard: StreamGuard, parser: RequestParser, request_type: type[R]) -> None:
        self._guard = guard
        self._parser = parser
        self._type: type[R] = request_type

    @contextlib.contextmanager
    def watched(self, still_allowed: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """While the block runs, ask from time to time whether the caller may still do this; what is raised ends it.

        By time and not by message: a caller who sends nothing keeps no stream either.
        """
        watch = asyncio.get_running_loop().create_task(self._watch(still_allowed), name="stream-watch")
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self, still_allowed: Callable[[], Awaitable[None]]) -> None:
        try:
            while True:
                await asyncio.sleep(DECIDED_SECONDS)
                await still_allowed()
        except Exception as error:  # noqa: BLE001 - it becomes the stream's status
            self._guard.end(error)

    async def first(self) -> R:
        """The first request, which is a start."""
        raw = await self._guard.read()
        if raw is grpc.aio.EOF:
            raise StreamProtocolError("the stream ended before its start message")
        message = self._parser.parse(raw, self._type)
        if message.WhichOneof("payload") != "start":
            raise StreamProtocolError("the first message of a stream must be a start")
        return message

    async def chunk(self) -> Buffer | None:
        """The next chunk; None when the client has sent its last."""
        raw = await self._guard.read()
        if raw is grpc.aio.EOF:
            return None
        chunk: Buffer | None = chunk_of(raw)
        if chunk is None:
            message = self._parser.parse_unchecked(raw, self._type)
            match message.WhichOneof("payload"):
                case "chunk":
                    chunk = message.chunk
                case "start":
                    raise StreamProtocolError("only the first message of a stream may be a start")
                case _:
                    raise InvalidRequest("payload", "is missing: the message holds no chunk")
        if len(chunk) > MAX_CHUNK:
            raise InvalidRequest("chunk", f"has {len(chunk)} bytes, and may have {MAX_CHUNK}: send smaller ones")
        return chunk

    async def write(self, message: bytes) -> None:
        """Send an answer; returns when the client has room for it."""
        await self._guard.write(message)

    def end(self, error: OwnkeyError) -> None:
        """Let the stream end with this error."""
        self._guard.end(error)

    def holds_frame(self, length: int) -> None:
        """Count a frame of that length among what streams may hold, to the end of this one."""
        self._guard.holds_frame(length)

    async def required_chunk(self) -> Buffer:
        """The next chunk of an object whose header has not come yet."""
        chunk = await self.chunk()
        if chunk is None:
            raise Truncated("the object ends inside its header")
        return chunk


def _started(
    header: Header, key_name: str, spans: list[key_service_pb2.ByteRange] | None = None, content_size: int = 0
) -> bytes:
    started = key_service_pb2.DecryptMediaStarted(
        key=key_name,
        encryption_context=header.encryption_context,
        message_id=header.message_id,
        frame_length=header.frame_length,
        header_length=header.length,
        ciphertext_ranges=spans,
        content_size=content_size,
    )
    return key_service_pb2.DecryptMediaResponse(started=started).SerializeToString()


def _reading(
    start: key_service_pb2.DecryptMediaStart,
    header: Header,
    opened: OpenedObject | OpenedRange,
    requests: DecryptRequests,
) -> OpenStream:
    asset = convert.asset(start.asset)
    return OpenStream(asset, opened.key.key, header.encryption_context, False, requests.end, opened.lease)
