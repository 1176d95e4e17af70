"""What attacks on a running server need: a look at what it uses, an honest caller meanwhile, and raw frames."""

from __future__ import annotations

import contextlib
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import hpack

from ownkey.v1 import key_service_pb2_grpc
from support.http2 import Connection
from support.rpc import asset, pb

MIB = 1024 * 1024
# An honest call fails beyond this.
DEADLINE_SECONDS = 5.0
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM = ACK = 1
END_HEADERS = 4


class Process:
    """What a process uses, as /proc tells."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")

    def resident(self) -> int:
        """Bytes of memory."""
        text = (self._proc / "status").read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS"))

    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(list((self._proc / "fd").iterdir()))

    def cpu_seconds(self) -> float:
        """Processor time used so far."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


class Honest:
    """Calls of somebody who does nothing wrong.

    Attributes:
        latencies: Seconds, one for each call that succeeded.
        failures: Status codes of those that did not.
    """

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failures: list[str] = []

    def __str__(self) -> str:
        middle, longest = statistics.median(self.latencies) * 1000, max(self.latencies) * 1000
        return f"{len(self.latencies)} honest calls, median {middle:.1f} ms, longest {longest:.0f} ms"


@contextlib.contextmanager
def honest_calls(address: str) -> Iterator[Honest]:
    """Calls of GenerateDataKey, one after the other on a connection of their own, while the block runs.

    None may fail or take longer than its deadline.
    """
    honest, stop = Honest(), threading.Event()
    began = threading.Event()

    def call() -> None:
        with grpc.insecure_channel(address) as channel:
            stub = key_service_pb2_grpc.KeyServiceStub(channel)
            while not stop.wait(0.01):
                started = time.perf_counter()
                try:
                    assert stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset()), timeout=DEADLINE_SECONDS)
                except grpc.RpcError as error:
                    honest.failures.append(f"{error.code()}: {error.details()}")
                else:
                    honest.latencies.append(time.perf_counter() - started)
                began.set()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        began.wait(DEADLINE_SECONDS)
        yield honest
    finally:
        stop.set()
        thread.join()
    assert not honest.failures, honest.failures[:5]
    assert honest.latencies


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether the condition comes to hold in this time."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113 §4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(connection: Connection, path: str) -> bytes:
    """The header block of a call that leaves the header table as it is, so that it can be sent again and again."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", connection.authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    block: bytes = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in headers])
    return block
