"""Local mode: the data key is fetched once, and content is encrypted and decrypted here. It never leaves the machine.

What is written is the same as what the service writes, so each opens the other's objects.

A data key is held under a lease. Whoever encrypts or decrypts for longer than that asks the service again, and stops
when the answer is no: so a revocation reaches content that is being worked on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import BinaryIO

from ownkey.client import Client
from ownkey.container import (
    Buffer,
    ContainerError,
    Decryptor,
    Encryptor,
    Header,
    HeaderReader,
    RangeDecryptor,
    Truncated,
)
from ownkey.errors import CiphertextInvalid, InvalidRequest, ServiceFailed, from_container_error
from ownkey.frame_lengths import frame_length_of
from ownkey.models import Asset, DataKey, MediaInfo
from ownkey.wrapped_key import WrappedKey

# The first bytes of an object that hold its header for certain.
_HEADER_ROOM = 65_536 + 16
_CHUNK_LENGTH = 1024 * 1024
_ALLOWED_FRAME_LENGTHS = frozenset(1 << power for power in range(12, 23))


def _now() -> datetime:
    return datetime.now(UTC)


class _Lease:
    """The permission to go on using a data key."""

    def __init__(self, key: DataKey, ask: Callable[[], DataKey], now: Callable[[], datetime]) -> None:
        self._until = key.lease_expire_time
        self._ask = ask
        self._now = now

    def require(self) -> None:
        """Ask again when the lease has run out; raises what the service answers."""
        if self._now() >= self._until:
            self._until = self._ask().lease_expire_time


class LocalEncryption(Iterator[bytes]):
    """An object in pieces: its header, then frames as the content comes.

    Args:
        client: Where the data key is asked for.
        source: The content in pieces of any size.
        asset: What it is.
        extra_context: Your own pairs to bind to the object.
        frame_length: Plaintext bytes in a frame; 0 chooses by class, as the service does.
        now: The clock.

    Attributes:
        info: What was decided about the object.

    Raises:
        OwnkeyError: See :mod:`ownkey.errors`; while iterating also when the lease is not given anew.
    """

    def __init__(
        self,
        client: Client,
        source: Iterable[Buffer],
        asset: Asset,
        *,
        extra_context: Mapping[str, str] | None = None,
        frame_length: int = 0,
        now: Callable[[], datetime] = _now,
    ) -> None:
        frame_length = frame_length or frame_length_of(asset.asset_class)
        if frame_length not in _ALLOWED_FRAME_LENGTHS:
            raise InvalidRequest(f"a frame length is a power of two from 4,096 to 4,194,304, not {frame_length}")
        key = client.generate_data_key(asset, extra_context=extra_context, with_plaintext=True)
        # What is written says which asset it is: the service must not make another's of it.
        _require_pairs(key.encryption_context, asset, extra_context)
        try:
            entries = WrappedKey.from_bytes(key.wrapped_key).encrypted_data_keys
            encryptor = Encryptor(
                key.plaintext,
                encryption_context=key.encryption_context,
                encrypted_data_keys=entries,
                frame_length=frame_length,
            )
        except (ContainerError, ValueError) as error:
            raise ServiceFailed(f"the service's data key cannot be used: {error}") from error
        header = encryptor.header
        self.info = MediaInfo(
            key.key, key.encryption_context, header.message_id, header.frame_length, key.decision, key.rule
        )
        lease = _Lease(key, lambda: client.unwrap(asset, key.wrapped_key, key.encryption_context), now)
        self._pieces = self._encrypt(encryptor, source, lease)

    def __next__(self) -> bytes:
        return next(self._pieces)

    def _encrypt(self, encryptor: Encryptor, source: Iterable[Buffer], lease: _Lease) -> Iterator[bytes]:
        yield encryptor.header.to_bytes()
        try:
            for chunk in source:
                lease.require()
                piece = encryptor.update(chunk)
                if piece:
                    yield piece
            lease.require()
            yield encryptor.finish()
        except ContainerError as error:
            raise from_container_error(error) from error


class LocalDecryption(Iterator[bytes]):
    """An object's content in pieces, each authenticated; whole only when it ends without an error.

    Args:
        client: Where the data key is asked for.
        source: The object in pieces of any size.
        asset: What it must be: tenant, class and id are compared with the object.
        expected_context: Further pairs that the object must hold.
        now: The clock.

    Attributes:
        info: What was opened.

    Raises:
        OwnkeyError: See :mod:`ownkey.errors`; while iterating also when the lease is not given anew.
    """

    def __init__(
        self,
        client: Client,
        source: Iterable[Buffer],
        asset: Asset,
        *,
        expected_context: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        chunks = iter(source)
        reader = HeaderReader()
        try:
            header = None
            while header is None:
                chunk = next(chunks, None)
                if chunk is None:
                    raise Truncated("the object ends inside its header")
                header = reader.feed(chunk)
            key, lease = _opened(client, header, asset, expected_context, now)
            decryptor = Decryptor(header, key.plaintext)
        except ContainerError as error:
            raise from_container_error(error) from error
        self.info = _info(key, header)
        self._pieces = self._decrypt(decryptor, reader.rest, chunks, lease)

    def __next__(self) -> bytes:
        return next(self._pieces)

    def _decrypt(self, decryptor: Decryptor, rest: Buffer, chunks: Iterator[Buffer], lease: _Lease) -> Iterator[bytes]:
        try:
            chunk: Buffer | None = rest
            while chunk is not None:
                lease.require()
                piece = decryptor.update(chunk)
                if piece:
                    yield piece
                chunk = next(chunks, None)
            decryptor.finish()
        except ContainerError as error:
            raise from_container_error(error) from error


def decrypt_range(
    client: Client,
    source: BinaryIO | io.FileIO,
    object_size: int,
    asset: Asset,
    offset: int,
    length: int | None = None,
    *,
    expected_context: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = _now,
) -> Iterator[bytes]:
    """A range of an object's content; only the frames that it touches are read.

    Args:
        client: Where the data key is asked for.
        source: The object, seekable.
        object_size: Its size in bytes; proven by its final frame.
        asset: What it must be.
        offset: The first byte of content wanted.
        length: How many; None means to the end.
        expected_context: Further pairs that the object must hold.
        now: The clock.

    Raises:
        OwnkeyError: See :mod:`ownkey.errors`.
    """
    if length == 0:
        raise InvalidRequest("a range of no bytes: give a length, or None for all that follows")
    try:
        source.seek(0)
        header = HeaderReader().feed(source.read(_HEADER_ROOM))
        if header is None:
            raise Truncated("the object ends inside its header")
        key, lease = _opened(client, header, asset, expected_context, now)
        stream = RangeDecryptor(header, key.plaintext, object_size=object_size).stream(offset, length)
        for span in stream.spans:
            source.seek(span.offset)
            left = span.length
            while left and (chunk := source.read(min(left, _CHUNK_LENGTH))):
                lease.require()
                left -= len(chunk)
                piece = stream.update(chunk)
                if piece:
                    yield piece
        stream.finish()
    except ContainerError as error:
        raise from_container_error(error) from error


def _require_pairs(context: Mapping[str, str], asset: Asset, expected_context: Mapping[str, str] | None) -> None:
    """Make sure that a context is that of the asset that it should be.

    Raises:
        CiphertextInvalid: A pair is another's.
    """
    wanted = {
        "ownkey:tenant": asset.tenant,
        "ownkey:asset-class": asset.asset_class,
        "ownkey:asset-id": asset.asset_id,
        **(expected_context or {}),
    }
    if asset.group:
        wanted["ownkey:group"] = asset.group
    for pair, value in wanted.items():
        if context.get(pair) != value:
            raise CiphertextInvalid(
                f"this is not the asset that was asked for: the pair {pair!r} of its context differs",
                reason="ASSET_MISMATCH",
            )


def _opened(
    client: Client,
    header: Header,
    asset: Asset,
    expected_context: Mapping[str, str] | None,
    now: Callable[[], datetime],
) -> tuple[DataKey, _Lease]:
    _require_pairs(header.encryption_context, asset, expected_context)
    wrapped = WrappedKey.from_header(header).to_bytes()

    def ask() -> DataKey:
        return client.unwrap(asset, wrapped, header.encryption_context)

    key = ask()
    return key, _Lease(key, ask, now)


def _info(key: DataKey, header: Header) -> MediaInfo:
    return MediaInfo(key.key, header.encryption_context, header.message_id, header.frame_length)
