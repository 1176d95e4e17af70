"""The synchronous client.

Example::

    with Client() as client:
        key = client.generate_data_key(Asset("acme", "phone_recording", "call-1"), with_plaintext=True)
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import grpc

from ownkey import _exchange, _stream, emergency, errors
from ownkey._exchange import CHANNEL_OPTIONS, DEFAULT_ADDRESS, Exchange
from ownkey._stream import Answer
from ownkey.container import Buffer
from ownkey.models import Asset, CallAuthorization, CustomerKeyStatus, DataKey, MediaInfo, PolicyCheck
from ownkey.v1 import key_service_pb2_grpc

T = TypeVar("T")

# An emergency call waits no longer for a service that does not answer.
EMERGENCY_TIMEOUT = 0.5
LOCAL_EMERGENCY = CallAuthorization(
    "allow", "emergency", "emergency calls always connect; the service was not asked", emergency=True
)


class MediaStream(Iterator[Buffer]):
    """Chunks of an object or of content as they come.

    Attributes:
        info: What was decided about the object. Reading it waits for the first answer.

    Iterating raises :class:`ownkey.errors.OwnkeyError`, or what reading the source raised; only when it ends without an
    error are the chunks whole.
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

    def key_status(self, tenant: str, key: str = "", *, request_id: str = "") -> list[CustomerKeyStatus]:
        """The state of one of the tenant's keys, or of all.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`.
        """
        return self._run(_exchange.key_status(tenant, key, request_id))

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
