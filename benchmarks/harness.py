"""What all measurements share: results, interleaved rounds, and processes of their own on cores of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
SERVER_CORE, CLIENT_CORE = 0, 1
STOP_SECONDS = 20

Result = dict[str, Any]
NOTHING: Mapping[str, str] = {}


def ratio(
    name: str, baseline: str, values: Sequence[float], aim: float | None, unit: str = "of the baseline's rate"
) -> Result:
    """A figure from the ratios of all rounds: their median, and the range of the middle half."""
    middle = statistics.median(values)
    spread = statistics.quantiles(values, n=4) if len(values) > 1 else [middle] * 3
    return {
        "name": name,
        "ratio": round(middle, 3),
        "unit": unit,
        "baseline": baseline,
        "runs": len(values),
        "middle_half": [round(spread[0], 3), round(spread[2], 3)],
        "aim": aim,
        "met": None if aim is None else middle >= aim,
    }


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes that start inside run on that core, where there is more than one and the system can."""
    if not hasattr(os, "sched_setaffinity") or not {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_on_fast_loop(job: Coroutine[Any, Any, None]) -> None:
    """Run a job on the event loop that the server takes: uvloop's where it is there."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        asyncio.run(job)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(job)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, in user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Peer:
    """A process of ours that answers one line of JSON to each line of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def send(self, **job: Any) -> None:
        """Give it a job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """The answer to the oldest job that has none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended early: {self._process.args!r}")
        return json.loads(line)

    def ask(self, **job: Any) -> Any:
        """Give it a job and wait for the answer."""
        self.send(**job)
        return self.receive()


@contextlib.contextmanager
def peer(script: str, core: int) -> Iterator[Peer]:
    """One of our scripts as a process; it ends when its input does."""
    with pinned(core):
        process = subprocess.Popen(
            [sys.executable, str(HERE / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Peer(process)
    finally:
        process.stdin.close()
        _end(process)
        process.stdout.close()


class OwnkeyServer:
    """A server as its users run it.

    Attributes:
        address: Where it listens.
        pid: Its process id.
        start_seconds: How long it took from its start until it served.
    """

    def __init__(self, pid: int, address: str, start_seconds: float) -> None:
        self.pid = pid
        self.address = address
        self.start_seconds = start_seconds


OWNKEY = str(Path(sys.executable).parent / "ownkey")


@contextlib.contextmanager
def ownkey_server(
    core: int = SERVER_CORE,
    program: Sequence[str] = (OWNKEY,),
    settings: Mapping[str, str] = NOTHING,
    prepare: Callable[[Path], None] = lambda _: None,
) -> Iterator[OwnkeyServer]:
    """`ownkey serve` on a free port, with the example tenants and embedded keys, in a folder that goes away.

    `program` stands in for `ownkey`, `settings` are variables of its environment, and `prepare` gets the folder first.
    """
    environment = os.environ | {"OWNKEY_SERVER__LISTEN": "127.0.0.1:0", "OWNKEY_SERVER__DRAIN_SECONDS": "1"} | settings
    with tempfile.TemporaryDirectory(prefix="ownkey-benchmark-") as folder:
        subprocess.run([OWNKEY, "init", folder], check=True, capture_output=True)
        prepare(Path(folder))
        begin = time.perf_counter()
        with pinned(core):
            process = subprocess.Popen(
                [*program, "serve", "--config", f"{folder}/ownkey.toml"],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert process.stderr is not None
        reader: threading.Thread | None = None
        try:
            address = _address(process.stderr)
            start_seconds = time.perf_counter() - begin
            # What else it logs is read and dropped, so that it never waits for us.
            reader = threading.Thread(target=_drop, args=(process.stderr,))
            reader.start()
            yield OwnkeyServer(process.pid, address, start_seconds)
        finally:
            process.terminate()
            _end(process)
            if reader:
                reader.join()
            process.stderr.close()


def _address(log: IO[str]) -> str:
    told = []
    for line in log:
        told.append(line)
        if " serving " in line and " on " in line:
            return line.rpartition(" on ")[2].strip()
    raise RuntimeError(f"the server did not start:\n{''.join(told)}")


def _drop(log: IO[str]) -> None:
    for _ in log:
        pass


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
