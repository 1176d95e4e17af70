"""The core of the media streams for both clients, without any I/O: which message comes next, and what an answer is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ownkey import _exchange
from ownkey.container import Buffer
from ownkey.media_messages import chunk_of, chunk_prefix
from ownkey.models import Asset, MediaInfo
from ownkey.v1 import key_service_pb2

# Where the service is fastest.
CHUNK_LENGTH = 256 * 1024
# The first bytes of an object that hold its header for certain: 64 KiB, and the tag.
HEADER_ROOM = 65_536 + 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a media stream: information or a chunk."""

    info: MediaInfo | None = None
    spans: tuple[tuple[int, int], ...] = ()
    chunk: bytes | memoryview = b""


def chunk_message(chunk: Buffer) -> bytes:
    """The request that holds a chunk."""
    return b"".join((chunk_prefix(len(chunk)), chunk))


def pieces(chunk: Buffer) -> Iterator[Buffer]:
    """The chunk in pieces that the contract allows."""
    if len(chunk) <= CHUNK_LENGTH:
        if len(chunk):
            yield chunk
        return
    view = memoryview(chunk)
    for start in range(0, len(view), CHUNK_LENGTH):
        yield view[start : start + CHUNK_LENGTH]


@_exchange.sendable()
def encrypt_start(asset: Asset, extra_context: Mapping[str, str] | None, frame_length: int, request_id: str) -> bytes:
    """The first request of EncryptMedia."""
    start = key_service_pb2.EncryptMediaStart(
        asset=_exchange.asset_message(asset),
        extra_context=extra_context,
        frame_length=frame_length,
        request_id=request_id,
    )
    return key_service_pb2.EncryptMediaRequest(start=start).SerializeToString()


@_exchange.sendable()
def decrypt_start(
    asset: Asset,
    expected_context: Mapping[str, str] | None,
    byte_range: tuple[int, int] | None,
    object_size: int,
    request_id: str,
) -> bytes:
    """The first request of DecryptMedia."""
    start = key_service_pb2.DecryptMediaStart(
        asset=_exchange.asset_message(asset),
        expected_context=expected_context,
        object_size=object_size,
        request_id=request_id,
    )
    if byte_range is not None:
        start.range.CopyFrom(key_service_pb2.ByteRange(offset=byte_range[0], length=byte_range[1]))
    return key_service_pb2.DecryptMediaRequest(start=start).SerializeToString()


def encrypt_answer(raw: bytes) -> Answer:
    """One answer of EncryptMedia."""
    chunk = chunk_of(raw)
    if chunk is not None:
        return Answer(chunk=chunk)
    message = key_service_pb2.EncryptMediaResponse.FromString(raw)
    if message.WhichOneof("payload") == "started":
        return Answer(info=_exchange.encrypted_info(message.started))
    return Answer(chunk=message.chunk)


def decrypt_answer(raw: bytes) -> Answer:
    """One answer of DecryptMedia."""
    chunk = chunk_of(raw)
    if chunk is not None:
        return Answer(chunk=chunk)
    message = key_service_pb2.DecryptMediaResponse.FromString(raw)
    if message.WhichOneof("payload") == "started":
        spans = tuple((span.offset, span.length) for span in message.started.ciphertext_ranges)
        return Answer(info=_exchange.decrypted_info(message.started), spans=spans)
    return Answer(chunk=message.chunk)
