"""Keeps what is in this process inside it: no core dump, no other process that reads its memory, no swap where asked.

Root, or whoever may trace every process (CAP_SYS_PTRACE), is not kept out. docs/secrets.md says what this protects
against and what it cannot.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys
from pathlib import Path

_log = logging.getLogger(__name__)

# linux/prctl.h, linux/capability.h and sys/mman.h
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_CAP_IPC_LOCK = 14
_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4
# As many as Linux allows a process where nobody has set anything (fs.nr_open).
MOST_OPEN_FILES = 1 << 20


class MemoryNotLocked(Exception):
    """The memory was to be locked, and cannot be. The message says what to change."""


def harden() -> None:
    """Forbid core dumps, and other processes of the same user to trace this one or to read its memory.

    Neither outlives an ``exec``: each process calls this for itself, before it reads a secret.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        _log.warning("on %s other processes of this user may read the memory of this one, keys included", sys.platform)
        return
    # Also where core dumps go into a pipe: the kernel does not ask RLIMIT_CORE then (core(5)).
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warning("the system lets other processes of this user read the memory of this one, keys included")


def lock_memory() -> None:
    """Keep every page of this process, present and future, out of swap.

    Pages are locked as they are first used: memory that is merely reserved, such as threads' stacks, costs nothing.

    Raises:
        MemoryNotLocked: The system does not allow it.
    """
    if sys.platform != "linux":
        raise MemoryNotLocked(f"server.lock_memory works on Linux, and not on {sys.platform}: set it to false")
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    # Under a limit this may succeed now, and make every allocation beyond it fail later.
    allowed = hard == resource.RLIM_INFINITY or _has_capability(_CAP_IPC_LOCK)
    libc = ctypes.CDLL(None, use_errno=True)
    if not allowed or libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        why = os.strerror(ctypes.get_errno()) if allowed else f"at most {hard // 1024} KiB may be"
        raise MemoryNotLocked(
            f"server.lock_memory: memory cannot be locked ({why}): put LimitMEMLOCK=infinity into the service's unit,"
            " or set lock_memory = false and encrypt the swap"
        )


def allow_open_files() -> None:
    """Raise the limit of open files as far as this user may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
