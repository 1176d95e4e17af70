from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from ownkey_server.worker import VARIABLE, Worker, environment

# A worker that SIGTERM does not end, as one whose event loop hangs.
HANGING = """
import signal, time
from ownkey_server.worker import Worker
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = Worker.from_environment()
worker.end_with_supervisor(0.2)
worker.tell_serving()
time.sleep(60)
"""


def test_a_process_that_no_supervisor_started_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Worker.from_environment() is None


@pytest.mark.parametrize("value", ["", "1", "1:", "x:y", "1:99999"])
def test_the_variable_is_not_for_users_to_set(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(OSError, match="OWNKEY_WORKER is not for you to set: use --workers"):
        Worker.from_environment()


def test_it_tells_that_it_serves_and_what_it_starts_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        for name, value in environment(3, theirs.detach()).items():
            monkeypatch.setenv(name, value)
        worker = Worker.from_environment()
        assert worker is not None
        assert worker.number == 3
        assert VARIABLE not in os.environ
        worker.tell_serving()
        assert ours.recv(1) == b"1"
        worker._line.close()


def test_it_ends_with_its_supervisor_even_when_it_hangs() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        hanging = subprocess.Popen(
            [sys.executable, "-c", HANGING],
            env={**os.environ, **environment(1, theirs.fileno())},
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        try:
            assert ours.recv(1) == b"1"
            ours.close()
            assert hanging.wait(20) == 1
        finally:
            hanging.kill()
            hanging.wait()
