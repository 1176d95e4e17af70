"""The synchronous client.

Example::

    with Client() as client:
        key = client.generate_data_key(Asset("acme", "phone_recording", "call-1"), with_plaintext=True)
"""

from __future__ import annotations

import io
import queue
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import grpc

from ownkey import _exchange, _stream, emergency, errors
from ownkey._call_watching import CallWatching
from ownkey._exchange import CHANNEL_OPTIONS, DEFAULT_ADDRESS, Exchange
from ownkey._stream import Answer
from ownkey._watching import Watching
from ownkey.call_watch import CallWatch
from ownkey.container import Buffer
from ownkey.key_watch import KeyWatch
from ownkey.media_stream import MediaStream
from ownkey.models import (
    Asset,
    CallAuthorization,
    CustomerKeyStatus,
    DataKey,
    KeyStateChanges,
    PolicyCheck,
    RewrappedKey,
)
from ownkey.v1 import key_service_pb2_grpc

T = TypeVar("T")

# An emergency call waits no longer for a service that does not answer.
EMERGENCY_TIMEOUT = 0.5
LOCAL_EMERGENCY = CallAuthorization(
    "allow", "emergency", "emergency calls always connect; the service was not asked", emergency=True
)


class Client:
    """A client of one ownkey service. Thread-safe; keep one and reuse it.

    Args:
        address: ``HOST:PORT`` or ``unix:PATH``; without credentials on this machine only.
        timeout: Seconds that a unary call may take, retries included.
        credentials: For a service elsewhere.
        countries: ISO 3166 codes whose emergency numbers count when the service cannot be asked; none means all.

    Raises:
        InvalidRequest: The address is on another machine, and there are no credentials; or the timeout is not positive.
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
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._timeout = timeout
        self._countries = countries
        self._stub = key_service_pb2_grpc.KeyServiceStub(self._channel)
        # Without (de)serializers: chunks go as they are.
        self._encrypt: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            "/ownkey.v1.KeyService/EncryptMedia"
        )
        self._decrypt: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            "/ownkey.v1.KeyService/DecryptMedia"
        )

    def generate_data_key(
        self,
        asset: Asset,
        *,
        extra_context: Mapping[str, str] | None = None,
        with_plaintext: bool = False,
        request_id: str = "",
    ) -> DataKey:
        """A data key for one asset, under the key that the tenant's policy names.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`. No other key is ever used instead.
        """
        return self._run(_exchange.generate_data_key(asset, extra_context, with_plaintext, request_id))

    def unwrap(
        self, asset: Asset, wrapped_key: bytes, encryption_context: Mapping[str, str], *, request_id: str = ""
    ) -> DataKey:
        """The data key in clear again, for the asset that it was made for.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`.
        """
        return self._run(_exchange.unwrap(asset, wrapped_key, encryption_context, request_id))

    def rewrap(
        self, asset: Asset, wrapped_key: bytes, encryption_context: Mapping[str, str], *, request_id: str = ""
    ) -> RewrappedKey:
        """The data key wrapped as policy says today: to be stored in place of the old one, with the same context.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`.
        """
        return self._run(_exchange.rewrap(asset, wrapped_key, encryption_context, request_id))

    def key_status(self, tenant: str, key: str = "", *, request_id: str = "") -> list[CustomerKeyStatus]:
        """The state of one of the tenant's keys, or of all.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`.
        """
        return self._run(_exchange.key_status(tenant, key, request_id))

    def watch_key_status(self, tenant: str, key: str = "", *, resume_token: str = "", request_id: str = "") -> KeyWatch:
        """Be told of the states of one of the tenant's keys, or of all: the present ones, and then every change.

        It goes on by itself when the connection is lost, and misses no change that the service keeps. Each watch takes
        one of the calls that a connection may have at once (``server.max_concurrent_streams``).

        Args:
            tenant: Id of the tenant.
            key: Id of one of its keys; empty for all of them.
            resume_token: Of an earlier watch's last event: the changes since then come first.
            request_id: For audit and tracing.

        Raises:
            OwnkeyError: While iterating. See :mod:`ownkey.errors`.
        """
        return KeyWatch(self._stub.WatchKeyStatus, Watching(tenant, key, resume_token, request_id))

    def watch_calls(self, tenant: str, *, request_id: str = "") -> CallWatch:
        """Be told which calls that are under way have lost the key that they need, and which have it back.

        It goes on by itself when the connection is lost, misses nothing and tells nothing twice. Each watch takes one
        of the calls that a connection may have at once.

        Raises:
            OwnkeyError: While iterating. See :mod:`ownkey.errors`.
        """
        return CallWatch(self._stub.WatchCalls, CallWatching(tenant, request_id))

    def key_state_changes(
        self, tenant: str, key: str = "", *, page_size: int = 0, page_token: str = ""
    ) -> KeyStateChanges:
        """What became of one of the tenant's keys, or of all, the newest first, a page at a time.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`.
        """
        return self._run(_exchange.key_state_changes(tenant, key, page_size, page_token))

    def check_policy(self, asset: Asset, *, request_id: str = "") -> PolicyCheck:
        """Which key would protect an asset, which rule decides, and why.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`.
        """
        return self._run(_exchange.check_policy(asset, request_id))

    def authorize_call(
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
        """Whether a call may be set up. An emergency call always may, and waits half a second for the service at most.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`; never for an emergency call.
        """
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
            answer = self._run(exchange, min(self._timeout, EMERGENCY_TIMEOUT) if urgent else None)
        except Exception:
            # Whatever went wrong, here or there: it is nothing that may keep an emergency call from connecting.
            if urgent:
                return LOCAL_EMERGENCY
            raise
        return LOCAL_EMERGENCY if urgent and not answer.allowed else answer

    def encrypt_stream(
        self,
        source: Iterable[Buffer],
        asset: Asset,
        *,
        extra_context: Mapping[str, str] | None = None,
        frame_length: int = 0,
        request_id: str = "",
    ) -> MediaStream:
        """Send content, get the object: its chunks, one after the other, are the file.

        Args:
            source: The content in pieces of any size; read in another thread.
            asset: What it is.
            extra_context: Your own pairs to bind to the object.
            frame_length: Plaintext bytes in a frame; 0 lets the service choose by class.
            request_id: Your id of this request.
        """
        start = _stream.encrypt_start(asset, extra_context, frame_length, request_id)
        return MediaStream(self._encrypt, _requests(start, source), _stream.encrypt_answer, lambda _: None)

    def decrypt_stream(
        self,
        source: Iterable[Buffer],
        asset: Asset,
        *,
        expected_context: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> MediaStream:
        """Send an object, get its content, each chunk authenticated; whole only when the stream ends without an error.

        Args:
            source: The object in pieces of any size; read in another thread.
            asset: What it must be: tenant, class and id are compared with the object.
            expected_context: Further pairs that the object must hold.
            request_id: Your id of this request.
        """
        start = _stream.decrypt_start(asset, expected_context, None, 0, request_id)
        return MediaStream(self._decrypt, _requests(start, source), _stream.decrypt_answer, lambda _: None)

    def decrypt_range(
        self,
        source: BinaryIO | io.FileIO,
        object_size: int,
        asset: Asset,
        offset: int,
        length: int | None = None,
        *,
        expected_context: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> MediaStream:
        """Get a range of an object's content; only the frames that it touches are read and sent.

        Args:
            source: The object, seekable; read in another thread.
            object_size: Its size in bytes.
            asset: What it must be.
            offset: The first byte of content wanted.
            length: How many; None means to the end.
            expected_context: Further pairs that the object must hold.
            request_id: Your id of this request.
        """
        if length == 0:
            raise errors.InvalidRequest("a range of no bytes: give a length, or None for all that follows")
        started: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()

        def requests() -> Iterator[bytes]:
            yield _stream.decrypt_start(asset, expected_context, (offset, length or 0), object_size, request_id)
            yield _stream.chunk_message(source.read(_stream.HEADER_ROOM))
            answer = started.get()
            for start, count in answer.spans if answer else ():
                source.seek(start)
                left = count
                while left and (piece := source.read(min(left, _stream.CHUNK_LENGTH))):
                    left -= len(piece)
                    yield _stream.chunk_message(piece)

        return MediaStream(self._decrypt, requests(), _stream.decrypt_answer, started.put)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T], timeout: float | None = None) -> T:
        try:
            answer = getattr(self._stub, exchange.method)(exchange.request, timeout=timeout or self._timeout)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error
        return exchange.parse(answer)


def _requests(start: bytes, source: Iterable[Buffer]) -> Iterator[bytes]:
    yield start
    for chunk in source:
        for piece in _stream.pieces(chunk):
            yield _stream.chunk_message(piece)
