"""Watchers of keys by the thousand, in one process: answers a line of JSON to each line of JSON.

A watcher costs so little here that it is the server that is measured: gRPC's Python client takes longer to receive a
message than the server to send it, and has one core as well. Here frames are cut apart (RFC 9113, section 4.1), each
message is put together again and looked up by its bytes: all watchers are told the same, so that each is parsed once.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    connect,
    frame,
)

from ownkey.v1 import key_status_pb2

METHOD = "/ownkey.v1.KeyService/WatchKeyStatus"
# A connection carries 64 calls at once, by the server's default.
PER_CONNECTION = 50
PREFIX = 5  # of a message: whether it is compressed, and its length
PATIENCE_SECONDS = 60.0

Seen = tuple[str, int]
"""What a message tells: its kind, and the state that a change of the key as a whole leads to, 0 for anything else."""


@dataclass(slots=True)
class Connection:
    """One connection and what its watches have not yet had whole."""

    socket: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    parts: dict[int, bytes] = field(default_factory=dict)


class Watchers:
    """Notes when each saw a change of the key as a whole to each state."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._known: dict[bytes, Seen] = {}
        self._count = 0
        self._present = 0
        self._seen: dict[int, list[float]] = {}
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._input = bytearray()

    def begin(self, address: str, count: int) -> None:
        """Begin so many watches, and wait until each has the present state."""
        self._count = count
        request = key_status_pb2.WatchKeyStatusRequest(tenant="acme", key="main").SerializeToString()
        for begun in range(0, count, PER_CONNECTION):
            made = connect(address, METHOD, [request])
            streams = range(1, 2 * min(PER_CONNECTION, count - begun), 2)
            for stream in streams:
                made.socket.sendall(
                    frame(HEADERS, END_HEADERS, stream, made.headers)
                    + frame(DATA, END_STREAM, stream, made.messages[0])
                )
            connection = Connection(made.socket)
            self._selector.register(made.socket, selectors.EVENT_READ, connection)
        self._until(lambda: self._present >= count)

    def all_saw(self, state: int) -> list[float]:
        """When each saw the key in that state, by the monotonic clock."""
        self._until(lambda: len(self._seen.get(state, ())) >= self._count)
        return self._seen.pop(state)

    def job(self) -> dict[str, Any] | None:
        """The next line of input, while everything that comes is taken; None at its end."""
        while b"\n" not in self._input:
            if not self._turn(None):
                return None
        line, _, rest = self._input.partition(b"\n")
        self._input = bytearray(rest)
        job: dict[str, Any] = json.loads(line)
        return job

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            self._turn(1.0)
            if time.monotonic() > end:
                raise TimeoutError(f"{self._present} watchers have begun, and saw {[*map(len, self._seen.values())]}")

    def _turn(self, timeout: float | None) -> bool:
        """Take what has come; whether there may be more input."""
        for key, _ in self._selector.select(timeout):
            if key.data is not None:
                self._receive(key.data)
                continue
            piece = os.read(key.fd, 1 << 16)
            if not piece:
                return False
            self._input += piece
        return True

    def _receive(self, connection: Connection) -> None:
        piece = connection.socket.recv(1 << 18)
        now = time.monotonic()
        if not piece:
            raise ConnectionError("the server closed the connection")
        buffer, at, answer = connection.buffer, 0, b""
        buffer += piece
        while len(buffer) - at >= FRAME_HEADER:
            length = int.from_bytes(buffer[at : at + 3])
            if len(buffer) - at < FRAME_HEADER + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9])
            payload = bytes(buffer[at + FRAME_HEADER : at + FRAME_HEADER + length])
            at += FRAME_HEADER + length
            if kind == DATA:
                self._take(connection, stream, payload, now)
            elif kind == SETTINGS and not flags & ACK:
                answer += frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                answer += frame(PING, ACK, 0, payload)
            elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM):
                raise ConnectionError(f"the server ended a watch or the connection: {payload!r}")
        del buffer[:at]
        if answer:
            connection.socket.sendall(answer)

    def _take(self, connection: Connection, stream: int, payload: bytes, now: float) -> None:
        whole = connection.parts.pop(stream, b"") + payload
        while len(whole) >= PREFIX:
            end = PREFIX + int.from_bytes(whole[1:PREFIX])
            if len(whole) < end:
                break
            message, whole = whole[PREFIX:end], whole[end:]
            kind, state = self._known.get(message) or self._parse(message)
            if kind == "snapshot":
                self._present += 1
            elif state:
                self._seen.setdefault(state, []).append(now)
        if whole:
            connection.parts[stream] = whole

    def _parse(self, raw: bytes) -> Seen:
        message = key_status_pb2.WatchKeyStatusResponse.FromString(raw)
        kind = message.WhichOneof("event") or ""
        is_whole = kind == "change" and not message.change.replica
        self._known[raw] = kind, message.change.state if is_whole else 0
        return self._known[raw]


def main() -> None:
    watchers = Watchers()
    while (job := watchers.job()) is not None:
        answer: Any = None
        if job["do"] == "begin":
            watchers.begin(job["address"], job["count"])
        elif job["do"] == "all_saw":
            answer = watchers.all_saw(job["state"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
