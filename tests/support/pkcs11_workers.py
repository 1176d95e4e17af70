"""The processes in which PKCS#11 modules are, as whoever may kill them sees them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from ownkey_server.keystores.pkcs11.child import WORKER


def worker_pids(parent: int | None = None, store: str = "") -> list[int]:
    """Those that a process has started, this one if no other is named, for one key store or for all.

    The ones that have ended are not among them.
    """
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            after_name = (process / "stat").read_text().rpartition(")")[2].split()
            wanted = {WORKER.encode(), *([f"--store={store}".encode()] if store else [])}
            if wanted <= set(command) and int(after_name[1]) == (parent or os.getpid()):
                found.append(int(process.name))
    return found


def signal_workers(number: signal.Signals, parent: int | None = None) -> list[int]:
    """Send all of them a signal; which they were."""
    pids = worker_pids(parent)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return pids


@contextlib.asynccontextmanager
async def stopped_workers(parent: int | None = None) -> AsyncIterator[None]:
    """Let none of them do anything until the block ends: those that there are, and those that are yet to come."""

    async def keep_stopped() -> None:
        while True:
            signal_workers(signal.SIGSTOP, parent)
            await asyncio.sleep(0.03)

    signal_workers(signal.SIGSTOP, parent)
    keeping = asyncio.ensure_future(keep_stopped())
    try:
        yield
    finally:
        keeping.cancel()
        signal_workers(signal.SIGCONT, parent)
