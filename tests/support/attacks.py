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

from ownkey.v1 import call_pb2, key_service_pb2_grpc
from support.http2 import Connection
from support.rpc import asset, pb

MIB = 1024 * 1024
# An honest call fails beyond this.
DEADLINE_SECONDS = 5.0
# Half of the honest calls are answered within so many times what the idle server needed, or within the least bound:
# this is for attacks that make calls take seconds, and no measurement of the machine.
IDLE_TIMES = 60
LEAST_BOUND_SECONDS = 0.5
IDLE_CALLS = 10
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
        latencies: Seconds, one for each call of GenerateDataKey that succeeded.
        emergencies: The same of AuthorizeCall with an emergency number.
        failures: Status codes of those that did not.
    """

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.emergencies: list[float] = []
        self.failures: list[str] = []
        # Medians on the idle server, and how many calls they are of.
        self._idle = (0.0, 0.0)
        self._idle_count = 0

    def __str__(self) -> str:
        told = []
        for name, latencies in (("honest", self._under_attack()[0]), ("emergency", self._under_attack()[1])):
            middle, longest = statistics.median(latencies) * 1000, max(latencies) * 1000
            told.append(f"{len(latencies)} {name} calls, median {middle:.1f} ms, longest {longest:.0f} ms")
        idle = ", ".join(f"{1000 * one:.1f}" for one in self._idle)
        return f"{'; '.join(told)} (idle: {idle} ms)"

    def idle(self) -> None:
        """Take what was measured until now for that of the idle server."""
        self._idle_count = len(self.emergencies)
        self._idle = (statistics.median(self.latencies), statistics.median(self.emergencies))

    def require_latencies(self) -> None:
        """Make sure that calls took no longer than an attack may make them take."""
        for idle, latencies in zip(self._idle, self._under_attack(), strict=True):
            assert statistics.median(latencies) < max(IDLE_TIMES * idle, LEAST_BOUND_SECONDS), str(self)

    def _under_attack(self) -> tuple[list[float], list[float]]:
        return self.latencies[self._idle_count :], self.emergencies[self._idle_count :]


@contextlib.contextmanager
def honest_calls(address: str, credentials: grpc.ChannelCredentials | None = None) -> Iterator[Honest]:
    """Calls of GenerateDataKey and about emergency calls, by turns on a connection of their own, while the block runs.

    None may fail or take longer than its deadline. Half of them must be answered within a bound that follows from what
    the idle server needed, which is measured before the block begins.
    """
    honest, stop = Honest(), threading.Event()
    enough = threading.Event()

    def timed(call: Callable[[], object]) -> float:
        started = time.perf_counter()
        assert call()
        return time.perf_counter() - started

    def calls() -> None:
        # A pool of its own: an attacker's connection must never carry them.
        options = (("grpc.use_local_subchannel_pool", 1),)
        with (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        ) as channel:
            stub = key_service_pb2_grpc.KeyServiceStub(channel)
            generate = pb.GenerateDataKeyRequest(asset=asset())
            emergency = call_pb2.AuthorizeCallRequest(tenant="acme", call_id="1", callee="911")
            while not stop.wait(0.01):
                try:
                    key = timed(lambda: stub.GenerateDataKey(generate, timeout=DEADLINE_SECONDS))
                    call = timed(lambda: stub.AuthorizeCall(emergency, timeout=DEADLINE_SECONDS).emergency)
                except grpc.RpcError as error:
                    honest.failures.append(f"{error.code()}: {error.details()}")
                else:
                    honest.latencies.append(key)
                    honest.emergencies.append(call)
                if len(honest.emergencies) + len(honest.failures) >= IDLE_CALLS:
                    enough.set()

    thread = threading.Thread(target=calls)
    thread.start()
    try:
        assert enough.wait(IDLE_CALLS * DEADLINE_SECONDS)
        assert not honest.failures, honest.failures[:5]
        honest.idle()
        before = len(honest.emergencies)
        yield honest
        assert eventually(lambda: bool(honest.failures) or len(honest.emergencies) > before)
    finally:
        stop.set()
        thread.join()
    assert not honest.failures, honest.failures[:5]
    honest.require_latencies()


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
