"""An HTTP/2 client that does what no gRPC library would: the peer of the transport's limits in tests.

Blocking, one connection, one thread. It speaks gRPC over HTTP/2 by hand (doc/PROTOCOL-HTTP2.md of gRPC), so that a test
decides about every frame.
"""

from __future__ import annotations

import base64
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from google.rpc import error_details_pb2, status_pb2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# RFC 9113 sections 4.1 and 6.8.
FRAME_HEADER = 9
GOAWAY = 7


def message(payload: bytes) -> bytes:
    """A gRPC message on the wire: not compressed, its length, its bytes."""
    return struct.pack(">BI", 0, len(payload)) + payload


@dataclass
class Answer:
    """What came back on one stream so far.

    Attributes:
        headers: Response headers and trailers together.
        data: The bytes of all DATA frames.
        ended: The server ended the stream.
        reset: The error code of its RST_STREAM.
    """

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        """No more will come."""
        return self.ended or self.reset is not None

    @property
    def status(self) -> int | None:
        """The gRPC status code, once there is one."""
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None

    @property
    def text(self) -> str:
        """The status's message."""
        return unquote(self.headers.get("grpc-message", ""))

    @property
    def info(self) -> tuple[str, dict[str, str], bool]:
        """The reason and the metadata of the ErrorInfo, and whether RetryInfo came with it."""
        packed = self.headers["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(base64.b64decode(packed + "=" * (-len(packed) % 4)))
        info, retry = error_details_pb2.ErrorInfo(), False
        for detail in status.details:
            detail.Unpack(info)
            retry = retry or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        return info.reason, dict(info.metadata), retry


class Connection:
    """One connection.

    Attributes:
        answers: What came back, by stream.
        goaway: The error code and the text of the server's GOAWAY.
        closed: The server closed the connection.
        pings: PING frames that the server sent of its own accord.
        acked: PING frames of ours that the server answered.
        settings: The server's settings as it announced them.
    """

    def __init__(
        self,
        address: str,
        *,
        source: str = "",
        window: int = 65_535,
        receive_buffer: int = 0,
        greet: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(10)
        self.socket.connect((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname=host)
        self.authority = address
        self.answers: dict[int, Answer] = {}
        self.goaway: tuple[int, str] | None = None
        self.closed = False
        self._partial = b""
        self.pings = self.acked = 0
        self.settings: dict[int, int] = {}
        # Names and values as they are: a limit is tried with what a well-behaved client would not send.
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="latin-1", validate_outbound_headers=False, validate_inbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        if greet:
            self.h2.initiate_connection()
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Send what is ready. Never raises: that the server has hung up is seen by reading."""
        data = self.h2.data_to_send()
        if data:
            try:
                self.socket.sendall(data)
            except OSError:
                self.closed = True

    def open(self, path: str, extra: Iterable[tuple[str, str]] = (), timeout: str = "", *, flush: bool = True) -> int:
        """Start a call; gives its stream's number."""
        stream = self.h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", self.scheme),
            (":path", path),
            (":authority", self.authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *([("grpc-timeout", timeout)] if timeout else []),
            *extra,
        ]
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, headers)
        if flush:
            self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes as the windows allow, reading meanwhile; stops when the stream or the connection is over."""
        view = memoryview(data)
        while (view or end) and not self.closed and not self.answers[stream].over:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(view))
            if room or not view:
                last = end and room == len(view)
                self.h2.send_data(stream, view[:room].tobytes(), end_stream=last)
                view = view[room:]
                self.flush()
                if last:
                    return
            else:
                self.read(1.0)

    def read(self, timeout: float, *, acknowledge: bool = True) -> bool:
        """Take what the server sent; False when nothing came within ``timeout`` seconds.

        Args:
            timeout: Seconds.
            acknowledge: Open the windows again for the bytes that came.
        """
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        finally:
            self.socket.settimeout(10)
        if not data:
            self.closed = True
            return True
        for frame in self._frames(data):
            for event in self.h2.receive_data(frame):
                self._take(event, acknowledge)
        self.flush()
        return True

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """Whole frames but GOAWAY: for h2 it closes a connection, though the streams go on to their end."""
        self._partial += data
        while len(self._partial) >= FRAME_HEADER:
            size = FRAME_HEADER + int.from_bytes(self._partial[:3], "big")
            if len(self._partial) < size:
                return
            frame, self._partial = self._partial[:size], self._partial[size:]
            if frame[3] == GOAWAY:
                self.goaway = (int.from_bytes(frame[13:17], "big"), frame[17:].decode())
            else:
                yield frame

    def read_until(self, condition: Callable[[], bool], seconds: float = 10.0, *, acknowledge: bool = True) -> bool:
        """Read until the condition holds; False when the connection ends, or the time passes, before it does."""
        limit = time.monotonic() + seconds
        while not condition():
            left = limit - time.monotonic()
            if self.closed or left <= 0:
                return condition()
            self.read(min(left, 0.5), acknowledge=acknowledge)
        return True

    def call(self, path: str, payload: bytes, seconds: float = 10.0) -> Answer:
        """A unary call."""
        stream = self.open(path)
        self.send(stream, message(payload), end=True)
        self.read_until(lambda: self.answers[stream].over, seconds)
        return self.answers[stream]

    def _take(self, event: h2.events.Event, acknowledge: bool) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self.answers[event.stream_id].headers.update(
                    (_text(name), _text(value)) for name, value in event.headers
                )
            case h2.events.DataReceived():
                self.answers[event.stream_id].data += event.data
                if acknowledge and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.answers[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.answers[event.stream_id].reset = event.error_code
            case h2.events.PingReceived():
                self.pings += 1
            case h2.events.PingAckReceived():
                self.acked += 1
            case h2.events.RemoteSettingsChanged():
                self.settings.update({code: change.new_value for code, change in event.changed_settings.items()})


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
