"""Other processes on the database of a running server take nothing away from it.

SQLite's locks are POSIX locks, which a process loses on a file as soon as it closes *any* descriptor of that file. A
server that has lost them looks like none: the next process that ends deletes the log which the server writes to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ownkey import Asset, Client
from support import server
from support.server import OWNKEY, ServerProcess, wait_until

RECORDED = "generate_data_key"


@pytest.fixture(params=[(), ("--workers", "2")], ids=["one process", "two workers"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    with server.process(tmp_path / "server", request.param) as started:
        yield started


def audit(running: ServerProcess, *arguments: str) -> str:
    command = [OWNKEY, "audit", *arguments, "--config", str(running.directory / "ownkey.toml")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def use(running: ServerProcess, count: int) -> None:
    with Client(running.address) as client:
        for number in range(count):
            client.generate_data_key(Asset("acme", "phone_recording", f"call-{number}"))


def recorded(running: ServerProcess) -> int:
    lines = audit(running, "tail", "-n", "1000", "--json").splitlines()
    return sum(json.loads(line)["action"] == RECORDED for line in lines)


def processes(running: ServerProcess) -> list[int]:
    """The server's process and its workers."""
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="ascii").split()
    return [running.pid, *map(int, children)]


def deleted_files(running: ServerProcess) -> list[str]:
    """What the server's processes hold open of the database, and is there no more."""
    found = []
    for pid in processes(running):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(entry.readlink())
            except FileNotFoundError:
                continue
            if "ownkey.db" in target and target.endswith("(deleted)"):
                found.append(f"{pid}: {target}")
    return found


@pytest.mark.parametrize(
    "command",
    [
        lambda running: audit(running, "tail"),
        lambda running: audit(running, "verify"),
        lambda running: audit(running, "export"),
    ],
    ids=["tail", "verify", "export"],
)
def test_a_command_beside_the_server_deletes_nothing_of_it(
    running: ServerProcess, command: Callable[[ServerProcess], object]
) -> None:
    use(running, 3)
    for _ in range(2):
        command(running)
    assert not deleted_files(running)
    use(running, 3)
    assert recorded(running) == 6


def test_what_was_recorded_after_a_command_beside_outlives_a_kill(tmp_path: Path) -> None:
    with server.process(tmp_path / "server") as running:
        use(running, 2)
        audit(running, "tail")
        use(running, 3)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        assert recorded(running) == 5
        audit(running, "verify")


def test_a_worker_that_ends_takes_nothing_from_the_others(tmp_path: Path) -> None:
    with server.process(tmp_path / "server", ("--workers", "2")) as running:
        use(running, 4)
        _, *workers = processes(running)
        os.kill(workers[0], signal.SIGTERM)
        wait_until(lambda: len(set(processes(running)) - {workers[0]}) == 3, "the worker was replaced")
        use(running, 4)
        assert not deleted_files(running)
        assert recorded(running) == 8
    audit(running, "verify")
