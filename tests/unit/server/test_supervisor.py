from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from ownkey_server.supervisor import Backoff, Plan, WorkersError, supervise, supervise_until_signal

# What every stand-in for a worker begins with: which one it is, and its end of the socket pair.
BEGIN = """
import os, signal, socket, sys, time
number, descriptor = os.environ["OWNKEY_WORKER"].split(":")
line = socket.socket(fileno=int(descriptor))
"""
SERVE = BEGIN + "line.sendall(b'1'); line.recv(1)"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plan(code: str, *arguments: str, workers: int = 2, patience: float = 10) -> Plan:
    return Plan(workers, "127.0.0.1:0", (sys.executable, "-c", code, *arguments), patience)


async def until(condition: object, what: str) -> None:
    assert callable(condition)
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"it did not happen that {what}")


def test_the_wait_doubles_up_to_five_seconds() -> None:
    backoff = Backoff(Clock())
    assert [backoff.ended() for _ in range(8)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])


def test_the_wait_is_short_again_after_a_worker_that_served_for_ten_seconds() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    waits = []
    for seconds in (1.0, 9.9, 10.0, 0.0):
        backoff.serving()
        clock.now += seconds
        waits.append(backoff.ended())
    assert waits == pytest.approx([0.1, 0.2, 0.1, 0.2])


def test_time_that_a_worker_did_not_serve_proves_nothing() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    backoff.serving()
    backoff.ended()
    clock.now += 100  # it was being started all that time
    assert backoff.ended() == pytest.approx(0.2)


async def test_it_announces_the_address_when_all_serve_and_ends_them_when_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stop = asyncio.Event()
    running = asyncio.create_task(supervise(plan(SERVE, workers=3), "127.0.0.1:7", stop))
    await until(lambda: "serving with 3 workers on 127.0.0.1:7" in caplog.text, "all serve")
    assert caplog.text.index("worker 3 is ready") < caplog.text.index("serving with")
    stop.set()
    await asyncio.wait_for(running, 20)


async def test_a_first_worker_that_fails_ends_all(tmp_path: Path) -> None:
    code = BEGIN + (
        "open(sys.argv[1], 'w').close()\n"
        "if number == '2': sys.exit(3)\n"
        "line.sendall(b'1'); line.recv(1); open(sys.argv[1] + '.orphan', 'w')"
    )
    with pytest.raises(WorkersError, match=r"worker 2 \(pid \d+\) ended with exit code 3 before it served"):
        await supervise(plan(code, str(tmp_path / "ran")), "127.0.0.1:7", asyncio.Event())
    assert [path.name for path in tmp_path.iterdir()] == ["ran"], "worker 1 was ended, and not left alone"


async def test_a_command_that_cannot_be_run_is_told() -> None:
    wrong = Plan(2, "127.0.0.1:0", ("/does/not/exist",), 10)
    with pytest.raises(WorkersError, match=r"could not be started: .*No such file"):
        await supervise(wrong, "127.0.0.1:7", asyncio.Event())


async def test_a_replacement_that_fails_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # Serves and dies, fails to start, serves.
    code = BEGIN + (
        "runs = open(sys.argv[1], 'a+b'); runs.write(b'.'); runs.flush(); times = runs.tell()\n"
        "if times == 2: sys.exit(4)\n"
        "line.sendall(b'1')\n"
        "if times == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "line.recv(1)"
    )
    stop = asyncio.Event()
    running = asyncio.create_task(supervise(plan(code, str(tmp_path / "runs"), workers=1), "127.0.0.1:7", stop))
    await until(lambda: caplog.text.count("is ready") == 2, "it serves again")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(") ")[2] for text in warnings] == [
        "was ended by SIGKILL; another starts in 0.1 s",
        "ended with exit code 4; another starts in 0.2 s",
    ]
    stop.set()
    await asyncio.wait_for(running, 20)


async def test_a_worker_that_does_not_end_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    code = BEGIN + "signal.signal(signal.SIGTERM, signal.SIG_IGN); line.sendall(b'1'); time.sleep(60)"
    stop = asyncio.Event()
    running = asyncio.create_task(supervise(plan(code, patience=0.2), "127.0.0.1:7", stop))
    await until(lambda: "serving with 2 workers" in caplog.text, "both serve")
    stop.set()
    await asyncio.wait_for(running, 20)
    assert caplog.text.count("did not end in time, and is killed") == 2


async def test_what_is_done_once_is_done_before_any_worker_starts(tmp_path: Path) -> None:
    async def prepare() -> None:
        raise OSError("no database")

    code = BEGIN + "open(sys.argv[1], 'w').close()"
    with pytest.raises(OSError, match="no database"):
        await supervise_until_signal(plan(code, str(tmp_path / "ran")), prepare)
    assert list(tmp_path.iterdir()) == []
