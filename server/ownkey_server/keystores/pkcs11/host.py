"""Where a PKCS#11 module is, as a key store sees it: something that does what a request says, or says why it cannot."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from ownkey_server.keystores.pkcs11.messages import Answer, Request

MAX_QUEUED = 256
# A call that has run this long has hung: what a module does takes milliseconds, a login over a network perhaps one
# second. How long callers wait has no part in it: one in a hurry must not make a healthy module look dead to others.
PATIENCE_SECONDS = 2.0


class ModuleBusy(Exception):
    """Too many calls wait, or this one's time ran out, and nothing says that the module is not well."""


class ModuleStuck(Exception):
    """The module does not answer: it has hung, in this call or an earlier one, or its process has died."""


class ModuleHost(Protocol):
    """Runs one module."""

    async def run(self, request: Request, timeout: float) -> Answer:
        """Let the module do it.

        Args:
            request: What is to be done.
            timeout: Seconds until the caller gives up, waiting for the module included.

        Raises:
            ModuleBusy: The queue is full, or the time ran out. What had not begun never will, where anything would be
                left of it in the token.
            ModuleStuck: The module has hung, or its process has died. What had begun may have been done.
        """
        ...

    async def leave(self, request: Request) -> None:
        """Let go of what the store of the request has of it, within a second or so."""
        ...


def take_note(task: asyncio.Task[Any]) -> None:
    """See a task's error, which whoever waited for it has too, or has gone without."""
    if not task.cancelled():
        task.exception()
