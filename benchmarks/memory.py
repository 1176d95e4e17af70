"""Memory of the server while many large streams run against slow readers.

The clients send as fast as the server takes it, do not read at all for a while, and then read more slowly than the
server could give. What the server would then hold is what it does not push back on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import CLIENT_CORE, MIB, Result, ownkey_server, peer

STREAMS = 16
CHUNK = 256 * 1024
AIM_MIB = 64
SAMPLE_SECONDS = 0.05
PAGE = os.sysconf("SC_PAGE_SIZE")


def results(quick: bool) -> list[Result]:
    size, pause, each, seconds = (32 * MIB, 2, 6 * MIB, 30) if quick else (1024 * MIB, 8, 18 * MIB, 90)
    with ExitStack() as stack:
        server = stack.enter_context(ownkey_server())
        client = stack.enter_context(peer("client.py", CLIENT_CORE))
        # One whole stream first: what every use loads and keeps once is not what streams cost.
        job = {"do": "slow_readers", "address": server.address, "chunk": CHUNK}
        warm = client.ask(**job, streams=1, size=4 * CHUNK, pause=0, each=1 << 30, seconds=30)
        if not warm["completed"]:
            raise RuntimeError(f"the first stream did not end: {warm}")
        idle = resident(server.pid)
        with sampled(server.pid) as samples:
            moved = client.ask(**job, streams=STREAMS, size=size, pause=pause, each=each, seconds=seconds)
        after = resident(server.pid)
    return _figures(moved, samples, idle, after, size)


def _figures(
    moved: dict[str, float], samples: list[tuple[float, int]], idle: int, after: int, size: int
) -> list[Result]:
    end = moved["seconds"]
    peak = max(used for _, used in samples)
    first = max(used for at, used in samples if at <= end / 2)
    second = max(used for at, used in samples if at > end / 2)
    what = (
        f"the same server before; {STREAMS} streams of EncryptMedia at once, {moved['received'] / 2**30:.1f} of "
        f"{STREAMS * size / 2**30:.1f} GiB moved in {end:.0f} s, {moved['completed']} streams complete"
    )
    common = {"unit": "MiB", "baseline": what, "runs": 1}
    peak_above, growth = (peak - idle) / MIB, (second - first) / MIB
    details = {"idle_mib": round(idle / MIB, 1), "after_mib": round(after / MIB, 1), "samples": len(samples)}
    return [
        {
            "name": "memory with slow readers, peak above idle",
            "value": round(peak_above, 1),
            **common,
            "aim": AIM_MIB,
            "met": peak_above < AIM_MIB,
            **details,
        },
        {
            "name": "memory with slow readers, second half's peak above the first's",
            "value": round(growth, 1),
            **common,
            "aim": 8,
            "met": growth < 8,
        },
    ]


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE


@contextmanager
def sampled(pid: int) -> Iterator[list[tuple[float, int]]]:
    """Seconds and resident bytes, over and over until the block ends."""
    samples: list[tuple[float, int]] = []
    ended = threading.Event()
    begin = time.perf_counter()

    def sample() -> None:
        while True:
            samples.append((time.perf_counter() - begin, resident(pid)))
            if ended.wait(SAMPLE_SECONDS):
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        ended.set()
        sampler.join()
