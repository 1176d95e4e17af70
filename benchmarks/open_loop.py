"""An open loop of unary gRPC calls: they come when they come, whether the server has answered the others or not.

A closed loop cannot overload a server, for it asks only as fast as it is answered. Here calls fall due at random
moments at a set rate (a Poisson process), each with a deadline, in as little HTTP/2 as ``http2.py``, whose frames it
shares.

A connection does what gRPC's clients do: it keeps to the server's SETTINGS_MAX_CONCURRENT_STREAMS, calls beyond that
wait on the client's side in the order in which they came, and a call that is under way at its deadline is cancelled by
RST_STREAM. One thing is set for each kind of call: how long one waits on the client's side before it is given up there.
Unlike gRPC's clients it does not send a call again that the server turned away (REFUSED_STREAM).

Run as a program, it takes jobs as lines of JSON, and answers each with a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    LARGEST_WINDOW,
    PING,
    RST_STREAM,
    SETTINGS,
    SETTINGS_INITIAL_WINDOW_SIZE,
    WINDOW_UPDATE,
    frame,
    literal,
)

SETTINGS_HEADER_TABLE_SIZE, SETTINGS_MAX_CONCURRENT_STREAMS = 1, 3
CANCEL = (8).to_bytes(4)
STATUS = b"grpc-status\x01"
# How long to sleep at most.
NO_EVENT_SECONDS = 0.05


@dataclass(slots=True)
class Source:
    """Calls of one kind.

    Attributes:
        rate: Calls a second, over all of its connections.
        deadline: Seconds from when a call falls due.
        patience: Seconds after which it is given up if it was not sent by then.
    """

    name: str
    path: str
    request: bytes
    metadata: Mapping[str, str]
    rate: float
    deadline: float
    patience: float
    connections: int
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    made: list[Line] = field(default_factory=list)
    next_due: float = 0.0

    def tell(self, seconds: float) -> dict[str, Any]:
        """What became of its calls.

        ``ok`` in time; ``late``; ``unsent`` for too long; ``refused`` with RESOURCE_EXHAUSTED; ``turned_away`` by the
        server's transport; ``failed`` in another way, mostly because the server saw the deadline pass first.
        """
        ordered = sorted(self.latencies) or [float("nan")]
        found: dict[str, Any] = dict(self.outcomes)
        for percent in (50, 99):
            found[f"p{percent}_ms"] = 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
        found["goodput"] = self.outcomes["ok"] / seconds
        return found


class Line:
    """One connection, with the calls that are under way on it and those that wait for a stream."""

    def __init__(self, address: str, source: Source) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.source = source
        self.counting = False
        self.pending: deque[float] = deque()
        self._under_way: dict[int, float] = {}
        self._answered: set[int] = set()
        self._deadlines: deque[tuple[float, int]] = deque()
        self._streams = 100
        self._window = FIRST_WINDOW
        self._next_stream = 1
        self._buffer = bytearray()
        # No table for the server's headers, so that its status stands in each answer as text.
        wide = struct.pack(">HIHI", SETTINGS_INITIAL_WINDOW_SIZE, LARGEST_WINDOW, SETTINGS_HEADER_TABLE_SIZE, 0)
        more = frame(WINDOW_UPDATE, 0, 0, (LARGEST_WINDOW - FIRST_WINDOW).to_bytes(4))
        self.out = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, wide) + more)
        pairs = {":method": "POST", ":scheme": "http", ":path": source.path, ":authority": address}
        pairs |= {"content-type": "application/grpc", "te": "trailers", **source.metadata}
        self._headers = b"".join(literal(*pair) for pair in pairs.items()) + b"\0\x0cgrpc-timeout\x09"
        self._message = b"\0" + len(source.request).to_bytes(4) + source.request

    def begin(self, now: float) -> None:
        """Send what is due, as far as there are streams; give up what is too late, and cancel what takes too long."""
        source = self.source
        while self._deadlines and self._deadlines[0][0] <= now:
            _, stream = self._deadlines.popleft()
            if self._under_way.pop(stream, None) is not None:
                self._answered.discard(stream)
                self.out += frame(RST_STREAM, 0, stream, CANCEL)
                self._end("late")
        while self.pending and self.pending[0] + source.patience <= now:
            self.pending.popleft()
            self._end("unsent")
        while self.pending and len(self._under_way) < self._streams and self._window >= len(self._message):
            due = self.pending.popleft()
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            headers = self._headers + b"%08dm" % max(1, int((due + source.deadline - now) * 1000))
            self.out += frame(HEADERS, END_HEADERS, stream, headers)
            self.out += frame(DATA, END_STREAM, stream, self._message)
            self._window -= len(self._message)
            self._under_way[stream] = due
            self._deadlines.append((due + source.deadline, stream))

    def _end(self, outcome: str) -> None:
        if self.counting:
            self.source.outcomes[outcome] += 1

    def flush(self) -> None:
        """Send as much as the socket takes."""
        if self.out:
            with contextlib.suppress(BlockingIOError):
                del self.out[: self.socket.send(self.out)]

    def receive(self, now: float) -> None:
        """Take what has come."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server closed the connection")
        self._buffer += piece
        at = 0
        while len(self._buffer) - at >= FRAME_HEADER:
            length = int.from_bytes(self._buffer[at : at + 3])
            if len(self._buffer) - at < FRAME_HEADER + length:
                break
            kind, flags = self._buffer[at + 3], self._buffer[at + 4]
            stream = int.from_bytes(self._buffer[at + 5 : at + 9])
            payload = bytes(self._buffer[at + FRAME_HEADER : at + FRAME_HEADER + length])
            at += FRAME_HEADER + length
            self._take(kind, flags, stream, payload, now)
        del self._buffer[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == HEADERS:
            if flags & END_STREAM and stream in self._under_way:
                due = self._under_way.pop(stream)
                self._finish(payload, now - due)
        elif kind == WINDOW_UPDATE:
            self._window += 0 if stream else int.from_bytes(payload)
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == SETTINGS_MAX_CONCURRENT_STREAMS:
                    self._streams = value
            self.out += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self.out += frame(PING, ACK, 0, payload)
        elif kind == RST_STREAM and self._under_way.pop(stream, None) is not None:
            self._end("turned_away")
        elif kind == GOAWAY:
            raise ConnectionError(f"the server ends the connection: {payload!r}")

    def _finish(self, trailers: bytes, seconds: float) -> None:
        at = trailers.find(STATUS)
        status = trailers[at + len(STATUS) :][:1] if at >= 0 else b"?"
        if status == b"0":
            self._end("ok" if seconds <= self.source.deadline else "late")
            if self.counting:
                self.source.latencies.append(seconds)
        else:
            self._end("refused" if status == b"8" else "failed")


def run(address: str, sources: list[Source], *, warm_up: float, seconds: float, seed: int = 1) -> None:
    """Let calls fall due for so many seconds after a warm-up; the sources keep what became of those that ended then."""
    chance = random.Random(seed)
    lines: dict[int, Line] = {}
    try:
        for source in sources:
            source.made = [Line(address, source) for _ in range(source.connections)]
            lines |= {line.socket.fileno(): line for line in source.made}
        _offer(lines, sources, chance, warm_up, seconds)
    finally:
        for line in lines.values():
            line.socket.close()


def _offer(
    lines: Mapping[int, Line],
    sources: list[Source],
    chance: random.Random,
    warm_up: float,
    seconds: float,
) -> None:
    turns: dict[str, Iterator[int]] = {source.name: count() for source in sources}
    start = time.perf_counter()
    for source in sources:
        source.next_due = start + chance.expovariate(source.rate)
    counting = False
    while (now := time.perf_counter()) < start + warm_up + seconds:
        if not counting and now >= start + warm_up:
            counting = True
            for line in lines.values():
                line.counting = True
        for source in sources:
            while source.next_due <= now:
                line = source.made[next(turns[source.name]) % source.connections]
                line.pending.append(source.next_due)
                source.next_due += chance.expovariate(source.rate)
        for line in lines.values():
            line.begin(now)
            line.flush()
        wait = min(source.next_due for source in sources) - time.perf_counter()
        # Not epoll, which counts in milliseconds.
        for number in select.select(lines, (), (), min(max(wait, 0.0), NO_EVENT_SECONDS))[0]:
            lines[number].receive(time.perf_counter())


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        seconds = job["seconds"]
        sources = [Source(**one | {"request": bytes.fromhex(one["request"])}) for one in job["sources"]]
        cpu = time.process_time()
        run(job["address"], sources, warm_up=job["warm_up"], seconds=seconds)
        share = (time.process_time() - cpu) / (seconds + job["warm_up"])
        answer = {"sources": {source.name: source.tell(seconds) for source in sources}, "client_share": share}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
