"""A closed loop of unary gRPC calls, in so little HTTP/2 that the client is never what limits the server.

gRPC's own client costs as much for a call as its server does, so that with one core each it would hide half of what is
measured. Here a request is bytes made before, but for its stream's number, and of an answer only frames are counted
(RFC 9113, sections 4.1 and 6; "gRPC over HTTP2").
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from dataclasses import dataclass, field

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
FRAME_HEADER = 9
LARGEST_WINDOW = (1 << 31) - 1
FIRST_WINDOW = 65_535
SETTINGS_INITIAL_WINDOW_SIZE = 4
ANSWER_SECONDS = 30


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def literal(name: str, value: str) -> bytes:
    """A header that enters no table (RFC 7541, section 6.2.2); both parts are shorter than 127 bytes."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


@dataclass(slots=True)
class Connection:
    """One connection with a number of calls under way, each begun anew when it ends."""

    socket: socket.socket
    headers: bytes
    messages: list[bytes]
    next_stream: int = 1
    to_begin: int = 0
    window: int = FIRST_WINDOW
    ended: int = 0
    answered: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    # When each call under way was begun, and how long the others took, where that is asked for.
    began: dict[int, float] | None = None
    latencies: list[float] = field(default_factory=list)

    def begin(self, count: int) -> bytes:
        """The bytes of so many more requests, as far as the connection's window lets them."""
        self.to_begin += count
        out = bytearray()
        while self.to_begin and self.window >= len(self.messages[0]):
            message = self.messages[(self.next_stream >> 1) % len(self.messages)]
            out += frame(HEADERS, END_HEADERS, self.next_stream, self.headers)
            out += frame(DATA, END_STREAM, self.next_stream, message)
            if self.began is not None:
                self.began[self.next_stream] = time.perf_counter()
            self.next_stream += 2
            self.window -= len(message)
            self.to_begin -= 1
        return bytes(out)

    def receive(self) -> tuple[int, bytes]:
        """Take what has come: how many calls ended, and what to answer to the connection itself."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server closed the connection")
        self.buffer += piece
        answer, ended, at = bytearray(), 0, 0
        while len(self.buffer) - at >= FRAME_HEADER:
            length = int.from_bytes(self.buffer[at : at + 3])
            if len(self.buffer) - at < FRAME_HEADER + length:
                break
            kind, flags = self.buffer[at + 3], self.buffer[at + 4]
            payload = self.buffer[at + FRAME_HEADER : at + FRAME_HEADER + length]
            at += FRAME_HEADER + length
            if kind == DATA:
                self.answered += 1
            elif kind == HEADERS:
                ended += flags & END_STREAM
                if self.began is not None and flags & END_STREAM:
                    stream = int.from_bytes(self.buffer[at - length - 4 : at - length])
                    self.latencies.append(time.perf_counter() - self.began.pop(stream))
            elif kind in (RST_STREAM, GOAWAY):
                raise ConnectionError(f"the server ended a call or the connection: {bytes(payload)!r}")
            elif kind == WINDOW_UPDATE:
                # A stream's own window is never the narrower one: each carries one small message.
                self.window += int.from_bytes(payload) if not any(self.buffer[at - length - 4 : at - length]) else 0
            elif kind == SETTINGS and not flags & ACK:
                answer += frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                answer += frame(PING, ACK, 0, bytes(payload))
        del self.buffer[:at]
        self.ended += ended
        return ended, bytes(answer)


def connect(address: str, path: str, requests: list[bytes]) -> Connection:
    host, _, port = address.rpartition(":")
    connected = socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wide = struct.pack(">HI", SETTINGS_INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
    more = frame(WINDOW_UPDATE, 0, 0, (LARGEST_WINDOW - FIRST_WINDOW).to_bytes(4))
    connected.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, wide) + more)
    pairs = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address}
    pairs |= {"content-type": "application/grpc", "te": "trailers"}
    headers = b"".join(literal(*pair) for pair in pairs.items())
    return Connection(connected, headers, [b"\0" + len(request).to_bytes(4) + request for request in requests])


def closed_loop(
    address: str,
    path: str,
    requests: list[bytes],
    *,
    calls: int,
    connections: int,
    at_once: int,
    latencies: list[float] | None = None,
) -> float:
    """Make so many calls, `at_once` under way on each connection; gives the seconds from the first to the last.

    Each connection takes the requests in turn; all are of one length. How long each call took is put into `latencies`.
    """
    made = [connect(address, path, requests) for _ in range(connections)]
    if latencies is not None:
        for connection in made:
            connection.began = {}
    try:
        with selectors.DefaultSelector() as selector:
            for connection in made:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            left = calls - at_once * connections
            begin = time.perf_counter()
            for connection in made:
                connection.socket.sendall(connection.begin(at_once))
            ended = 0
            while ended < calls:
                ready = selector.select(ANSWER_SECONDS)
                if not ready:
                    raise TimeoutError("the server does not answer")
                for key, _ in ready:
                    done, answer = key.data.receive()
                    ended += done
                    again = min(done, left)
                    left -= again
                    out = answer + key.data.begin(again)
                    if out:
                        key.data.socket.sendall(out)
            spent = time.perf_counter() - begin
    finally:
        for connection in made:
            connection.socket.close()
    if sum(connection.answered for connection in made) != calls:
        raise RuntimeError("a call had no answer")
    if latencies is not None:
        for connection in made:
            latencies += connection.latencies
    return spent
