"""Real servers for tests: one in this process, where tasks can be counted, and one as a process of its own."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ownkey_server import settings
from ownkey_server.main import running_server

OWNKEY = str(Path(sys.executable).parent / "ownkey")
_ADDRESS = re.compile(r" on (127\.0\.0\.1:\d+|unix:\S+)$", re.MULTILINE)
TEMPLATES = resources.files("ownkey_server") / "templates"


def write_settings(
    folder: Path,
    *,
    tenants: str = "",
    extra: str = "",
    access: str = "",
    listen: str = "127.0.0.1:0",
    replace: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Settings for a server on a free port with the example tenants and embedded keys; gives the settings file.

    Args:
        folder: Where they go.
        tenants: The tenants file.
        extra: Further tables.
        listen: Where it listens.
        replace: What stands in place of other words of the settings.
        access: Settings of [server] and further tables that say who may call; everybody by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = (TEMPLATES / "ownkey.toml").read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:7400", listen)
    if access:
        text = re.sub(r"development = true.*\n", lambda _: access, text, count=1)
    text = text.replace("probe_interval_seconds = 10 ", "recovery_seconds = 0.1\nprobe_interval_seconds = 0.2 ")
    for words, others in replace.items():
        assert words in text
        text = text.replace(words, others)
    (folder / "ownkey.toml").write_text(text + extra, encoding="utf-8")
    tenants = tenants or (TEMPLATES / "tenants.toml").read_text(encoding="utf-8")
    (folder / "tenants.toml").write_text(tenants, encoding="utf-8")
    return folder / "ownkey.toml"


@contextlib.asynccontextmanager
async def in_process(folder: Path, **options: str) -> AsyncIterator[str]:
    """A server in this event loop; gives its address."""
    loaded = settings.load(write_settings(folder, **options))
    async with running_server(loaded) as server:
        yield server.address


def free_port() -> int:
    """A TCP port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, within: float = 20.0) -> None:
    """Wait for a condition, and fail when it does not come about within so many seconds or so."""
    tick = threading.Event()
    for _ in range(int(within / 0.02)):
        if condition():
            return
        tick.wait(0.02)
    raise AssertionError(f"it did not happen that {what}")


class ServerProcess:
    """A running server.

    Attributes:
        address: Where it listens.
        directory: Its settings' folder.
        pid: Its process id.
    """

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self.pid = process.pid
        self.directory = directory
        self.address = ""

    def wait_until_serving(self, log: Path, within: float = 20.0) -> None:
        """Read the address from the log, which tells it once the server serves; fails at once when the server ended."""

        def told() -> bool:
            ended = self._process.poll() is not None
            found = _ADDRESS.search(log.read_text(encoding="utf-8"))
            assert found or not ended, f"the server did not start:\n{log.read_text(encoding='utf-8')}"
            self.address = found[1] if found else ""
            return found is not None

        wait_until(told, "the server served", within)

    def wait(self) -> int:
        """Wait for its end; gives its exit code."""
        return self._process.wait(timeout=20)

    def disable(self, reference: str = "acme-main") -> None:
        """Take a key away, as its holder would."""
        self._keystore("disable", reference)

    def enable(self, reference: str = "acme-main") -> None:
        """Give a key back."""
        self._keystore("enable", reference)

    def _keystore(self, verb: str, reference: str) -> None:
        config = str(self.directory / "ownkey.toml")
        subprocess.run([OWNKEY, "keystore", verb, reference, "--config", config], check=True, capture_output=True)


@contextlib.contextmanager
def process(
    folder: Path, arguments: Sequence[str] = (), *, through: Sequence[str] = (), within: float = 20.0, **options: Any
) -> Iterator[ServerProcess]:
    """A server as its users run it, until the block ends.

    Args:
        folder: Of its settings.
        arguments: Follow ``ownkey serve``.
        through: A program and its arguments that become the server, with fewer rights for one.
        within: Seconds until it must serve.
        options: As for :func:`write_settings`.
    """
    config = write_settings(folder, **options)
    log = folder / "server.log"
    with log.open("wb") as sink:
        command = [*through, OWNKEY, "serve", "--config", str(config), *arguments]
        started = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        server = ServerProcess(started, folder)
        server.wait_until_serving(log, within)
        yield server
    finally:
        started.terminate()
        try:
            started.wait(timeout=20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
