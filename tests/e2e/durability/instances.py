"""Server processes over one database and one set of keys, which tests kill and start again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from support.server import OWNKEY, write_settings

SECONDS = 30.0
_TICK = 0.005


async def until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: It does not come true in time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"it did not happen within {seconds:g} s that {what}"
        await asyncio.sleep(_TICK)


class Instance:
    """``ownkey serve``: one process after the other, each with the same settings.

    Attributes:
        name: What its logs are called.
        starts: How often it was started.
    """

    def __init__(self, name: str, config: Path, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.name = name
        self.starts = 0
        self._config = config
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said since its last start."""
        return self._log.read_text(encoding="utf-8")

    @property
    def address(self) -> str:
        """Where it serves; empty while it does not."""
        if not self._address and self.starts:
            for line in self.log.splitlines():
                if " on 127.0.0.1:" in line:
                    self._address = line.rpartition(" on ")[2]
        return self._address

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Start it, and do not wait."""
        assert self._process is None or self.exit_code is not None
        self.starts += 1
        self._address = ""
        with self._log.open("wb") as sink:
            command = [OWNKEY, "serve", "--config", str(self._config), *self._arguments]
            self._process = subprocess.Popen(command, stdout=sink, stderr=sink, env=self._environment)

    async def serving(self) -> str:
        """Wait until it serves; gives the address."""
        await until(lambda: self.address or self._ended, f"{self.name} serves")
        assert self.address, f"{self.name} did not start:\n{self.log}"
        return self.address

    async def ended(self) -> None:
        """Wait until it has ended by itself."""
        await until(lambda: self._ended, f"{self.name} ends")

    def kill(self) -> None:
        """End it as a crash does."""
        self._signal(signal.SIGKILL)

    async def stop(self, seconds: float = SECONDS) -> None:
        """End it as an operator does."""
        if self._process is not None and self.exit_code is None:
            self._process.terminate()
            try:
                await until(lambda: self.exit_code is not None, f"{self.name} ends", seconds)
            finally:
                self.kill()

    @property
    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    @property
    def _log(self) -> Path:
        return self._config.with_name(f"{self.name}-{self.starts}.log")

    def _signal(self, number: int) -> None:
        if self._process is not None and self.exit_code is None:
            self._process.send_signal(number)
            self._process.wait(SECONDS)
        self._address = ""


class Fleet:
    """Several instances over one database.

    Attributes:
        config: Their settings file.
        url: Of the database.
        settings: What the environment puts over the file.
    """

    def __init__(self, folder: Path, url: str, **settings: str) -> None:
        self.config = write_settings(folder)
        self.url = url
        self.instances: list[Instance] = []
        self.settings = {"OWNKEY_STORAGE__URL": url, **settings}

    @property
    def environment(self) -> Mapping[str, str]:
        """What their processes get."""
        return {**os.environ, **self.settings}

    @property
    def public_key(self) -> Path:
        """Of the audit trail."""
        return self.config.with_name("audit-signing.pem.pub")

    def add(self, *arguments: str) -> Instance:
        """One more, not started yet."""
        name = f"instance-{len(self.instances) + 1}"
        self.instances.append(Instance(name, self.config, arguments, self.environment))
        return self.instances[-1]


@contextlib.asynccontextmanager
async def fleet(folder: Path, url: str, size: int, **settings: str) -> AsyncIterator[Fleet]:
    """Instances that serve, until the block ends."""
    made = Fleet(folder, url, **settings)
    try:
        for _ in range(size):
            instance = made.add()
            instance.start()
            await instance.serving()
        yield made
        await asyncio.gather(*(instance.stop() for instance in made.instances))
    finally:
        for instance in made.instances:
            instance.kill()
