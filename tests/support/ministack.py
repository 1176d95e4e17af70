"""ministack as a process of its own: AWS's services on one endpoint (``docs/aws.md`` says what it gets wrong)."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAM = Path(sys.executable).parent.parent / "emulators" / "bin" / "ministack"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(
    folder: Path, services: str = "kms,sts,iam,cloudformation,sns,events", *, auth: bool = False
) -> Iterator[str]:
    """A running ministack, until the block ends; gives its endpoint."""
    port = _free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": services,
        "IOT_MTLS_ENABLED": "0",  # else it listens to the world
        "SFTP_ENABLED": "0",
        "STATE_DIR": str(folder),
        "AUTH": "true" if auth else "false",
    }
    log = folder / "ministack.log"
    with log.open("wb") as sink:
        started = subprocess.Popen([str(PROGRAM)], stdout=sink, stderr=sink, env=environment, cwd=folder)
    try:
        _wait_until_it_listens(started, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        try:
            started.wait(timeout=10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"ministack does not listen:\n{log.read_text(encoding='utf-8')}")
