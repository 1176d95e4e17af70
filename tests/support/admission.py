"""Calls that come to a real admission, wait and go, with a clock of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from ownkey_server.domain.errors import Overloaded
from ownkey_server.service.admission import Admission, AdmissionLimits, Priority

LIVE, PLAYBACK, CHANGE, READ, BACKGROUND = (
    Priority.LIVE,
    Priority.PLAYBACK,
    Priority.CHANGE,
    Priority.READ,
    Priority.BACKGROUND,
)


LIMITS = AdmissionLimits(
    places=dict.fromkeys((LIVE, PLAYBACK, CHANGE, READ, BACKGROUND), 2),
    reserved={},
    place_seconds=0.05,
    slow=8,
    slow_of_tenant=3,
    waiting=6,
    patience={CHANGE: 5.0, READ: 5.0, LIVE: 1.0, PLAYBACK: 0.5, BACKGROUND: 0.1},
    streams={LIVE: 8, PLAYBACK: 6, BACKGROUND: 4},
    stream_share=0.5,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


class Desk:
    """Calls that come, wait, are worked on until they are told to end, and are remembered in the order they began."""

    def __init__(self, limits: AdmissionLimits = LIMITS) -> None:
        self.clock = Clock()
        self.admission = Admission(limits, self.clock)
        self.began: list[str] = []
        self.refused: dict[str, Overloaded] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def call(
        self, name: str, priority: Priority = LIVE, tenant: str = "acme", remaining: float | None = None
    ) -> None:
        """A call comes; on return it works, waits or was refused."""
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, priority, tenant, remaining))
        await asyncio.sleep(0)

    async def _run(self, name: str, priority: Priority, tenant: str, remaining: float | None) -> None:
        try:
            async with self.admission.admitted(priority, tenant, remaining):
                self.began.append(name)
                await self._ends[name].wait()
        except Overloaded as error:
            self.refused[name] = error

    async def end(self, *names: str) -> None:
        """These calls end."""
        for name in names:
            self._ends[name].set()
        await asyncio.gather(*(self.tasks[name] for name in names))

    async def leave(self, *names: str) -> None:
        """The callers of these calls hang up."""
        for name in names:
            self.tasks[name].cancel()
        await asyncio.gather(*(self.tasks[name] for name in names), return_exceptions=True)

    async def end_all(self) -> None:
        """Whatever still runs ends, and nothing may be left over."""
        for end in self._ends.values():
            end.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert (self.admission.working, self.admission.waiting, self.admission.slow) == (0, 0, 0)
        assert self.admission.reserved == 0


@contextlib.asynccontextmanager
async def opened(limits: AdmissionLimits = LIMITS) -> AsyncIterator[Desk]:
    desk = Desk(limits)
    yield desk
    await desk.end_all()


async def full(desk: Desk) -> None:
    await desk.call("first")
    await desk.call("second")
