"""Tells watchers of the states of keys: the present ones, and then every change, whichever instance sees it.

A message is made once, and all watchers share it. Each has a queue of bounded length; who reads too slowly loses what
is in it, is told that, and is given the present states instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import DatabaseUnavailable, KeyNotFound, OwnkeyError
from ownkey_server.domain.key_history import KeyTransition
from ownkey_server.domain.tenants import Tenant, tenant_of
from ownkey_server.service.directory import Directory
from ownkey_server.service.key_status import KeyReport, KeyStatus
from ownkey_server.service.status_board import StatusBoard

_log = logging.getLogger(__name__)

# Messages that wait for one watcher, at most.
QUEUE = 256
# Changes that are told after a reconnect, at most.
MOST_RESUMED = 5_000
# What changes by the passing of time alone, such as evidence that grows old, is looked for so often.
ROUND_SECONDS = 2.0
# What happens within this time is looked at together.
GATHER_SECONDS = 0.05
# So many watchers are woken at once; others, calls first among them, have their turn before the next are.
WOKEN_AT_ONCE = 64
# How long is waited at most until all watchers have been woken.
LONGEST_WAKING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The present states; ``missed``: not every change until then was told."""

    keys: tuple[KeyReport, ...]
    missed: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """That a watch is alive."""

    time: datetime


@dataclass(slots=True, eq=False)
class Told:
    """A message to watchers.

    Attributes:
        sequence: The last change that was told before it, or by it: where to go on after a reconnect.
        what: What it tells.
        raw: The message's bytes, once somebody has made them.
    """

    sequence: int
    what: KeyTransition | KeyReport | Snapshot | Heartbeat
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Missed:
    """The changes after a sequence; ``whole``: those are all that there were."""

    changes: Sequence[KeyTransition]
    whole: bool


History = Callable[[str, int, int, int], Awaitable[Missed]]
"""Of a tenant, after a sequence, up to another, at most so many."""


@dataclass(slots=True, eq=False)
class Watcher:
    """One watch. Use :meth:`KeyWatches.watching`."""

    tenant: str
    key: str
    resumed: int | None
    hub: KeyWatches
    after: int = 0
    queue: deque[Told] = field(default_factory=deque)
    waiter: asyncio.Future[None] | None = None
    missed: bool = False
    ended: bool = False
    error: OwnkeyError | None = None

    async def beginning(self) -> list[Told]:
        """What comes first: changes that were missed, and the present states.

        Raises:
            OwnkeyError: As of :meth:`KeyWatches.watching`.
        """
        reached = self.hub.number
        missed = await self.hub.missed(self.tenant, self.resumed, reached)
        first = [Told(one.sequence, one) for one in missed.changes if self.concerns(one.key)]
        # What comes by the queue up to here was in that already.
        self.after = max(reached, self.resumed or 0) if missed.whole else reached
        # What happens until the snapshot is made comes after it, so that nobody may go on from later than this.
        return [*first, Told(self.after, await self._snapshot(missed=not missed.whole))]

    async def next(self, patience: float) -> Told | None:
        """The next message, a heartbeat when there is none within so many seconds; None when the watch has ended.

        Raises:
            OwnkeyError: The tenant is not known for certain any more, or is gone.
        """
        while not self.ended:
            if self.error is not None:
                raise self.error
            if self.missed:
                self.missed, self.after = False, self.hub.number
                return Told(self.after, await self._snapshot(missed=True))
            while self.queue:
                told = self.queue.popleft()
                if told.sequence > self.after:
                    self.after = told.sequence
                    return told
                if not isinstance(told.what, KeyTransition):
                    return told if told.sequence == self.after else Told(self.after, told.what)
            await self._wait(patience)
            if not self._has_news():
                # In the same step, so that it says of nothing that it was told which is not.
                beat = self.hub.heartbeat()
                return beat if beat.sequence >= self.after else Told(self.after, beat.what)
        return None

    def concerns(self, key_name: str) -> bool:
        """Whether it watches that key."""
        return not self.key or key_name == f"tenants/{self.tenant}/keys/{self.key}"

    def put(self, told: Told) -> None:
        """Have it told once it is woken; what waits gives way when that is too much."""
        if len(self.queue) >= QUEUE:
            self.queue.clear()
            self.missed = True
        elif not self.missed:
            self.queue.append(told)

    def end(self, error: OwnkeyError | None = None) -> None:
        """End it."""
        self.error, self.ended = error, error is None
        self.wake()

    def wake(self) -> None:
        """Have it look what there is."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def _has_news(self) -> bool:
        return bool(self.queue) or self.missed or self.ended or self.error is not None

    async def _wait(self, patience: float) -> None:
        """Wait until it is woken, or the time is up."""
        loop = asyncio.get_running_loop()
        self.waiter = loop.create_future()
        timer = loop.call_later(patience, self.wake)
        try:
            await self.waiter
        finally:
            timer.cancel()
            self.waiter = None

    async def _snapshot(self, *, missed: bool) -> Snapshot:
        keys = await self.hub.reports(self.tenant, self.key)
        # What was told of keys before they were looked at just now is no news any more.
        self.queue = deque(told for told in self.queue if isinstance(told.what, KeyTransition))
        return Snapshot(tuple(keys), missed)


class KeyWatches:
    """Belongs to one event loop.

    Args:
        history: Reads changes that were missed.
    """

    def __init__(
        self, directory: Directory, board: StatusBoard, key_status: KeyStatus, history: History, clock: Clock
    ) -> None:
        self._directory = directory
        self._key_status = key_status
        self._history = history
        self._clock = clock
        self._watchers: dict[str, set[Watcher]] = {}
        self._last: dict[str, dict[str, tuple[Any, ...]]] = {}
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._to_wake: OrderedDict[Watcher, None] = OrderedDict()
        self._waking: asyncio.Task[None] | None = None
        self._heartbeat: Told | None = None
        self._closed = False
        self.number = 0
        board.on_change(lambda key_name, _: self._mark(tenant_of(key_name)))

    def __len__(self) -> int:
        return sum(map(len, self._watchers.values()))

    @contextlib.contextmanager
    def watching(self, tenant: str, key: str, resumed: int | None) -> Iterator[Watcher]:
        """A watch for as long as the block takes.

        Args:
            tenant: Id of the tenant.
            key: Id of one of its keys; empty for all.
            resumed: The sequence after which changes were missed; None to begin with the present.
        """
        watcher = Watcher(tenant, key, resumed, self, after=self.number)
        watcher.ended = self._closed
        self._watchers.setdefault(tenant, set()).add(watcher)
        try:
            yield watcher
        finally:
            watchers = self._watchers[tenant]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[tenant]
                self._last.pop(tenant, None)

    async def run(self) -> None:
        """Look what has become of the keys that are watched, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(GATHER_SECONDS)
            if self._waking is not None:
                # Changes go first to all watchers, and the statuses that they lead to after them: what each has to be
                # told twice at once would reach the last of thousands in twice the time.
                await asyncio.wait({self._waking}, timeout=LONGEST_WAKING_SECONDS)
            tenants, self._dirty = self._dirty, set()
            for tenant in tenants or list(self._watchers):
                try:
                    await self._look(tenant)
                except Exception:  # noqa: BLE001 - logged whole
                    _log.exception("the watchers of %s could not be told", tenant)

    def heard(self, transitions: Sequence[KeyTransition], number: int) -> None:
        """Take note of the changes up to that number, in their order."""
        if number < self.number:  # an older copy of the database
            for watchers in self._watchers.values():
                for watcher in watchers:
                    watcher.after, watcher.missed = number, True
                self._rouse(watchers)
        for transition in transitions:
            watchers = self._watchers.get(transition.tenant, set())
            if transition.tenant and watchers:
                told = Told(transition.sequence, transition)
                self._tell(told, transition.key, watchers)
                self._mark(transition.tenant)
        self.number = number

    def changed(self, tenants: Collection[str] | None) -> None:
        """Tenants were changed, and with them perhaps what they take back; None when it may be any."""
        for tenant in list(self._watchers) if tenants is None else tenants:
            self._mark(tenant)

    def heartbeat(self) -> Told:
        """That a watch is alive; the same message for all within a second."""
        now, last = self._clock(), self._heartbeat
        same = last is not None and last.sequence == self.number and isinstance(last.what, Heartbeat)
        if last is not None and same and 0 <= (now - last.what.time).total_seconds() < 1:  # type: ignore[union-attr]
            return last
        self._heartbeat = Told(self.number, Heartbeat(now))
        return self._heartbeat

    async def reports(self, tenant_id: str, key_id: str) -> list[KeyReport]:
        """The present states, for somebody who is told them; errors as of :meth:`KeyStatus.report`."""
        reports = await self._key_status.report(tenant_id, key_id)
        if tenant_id in self._watchers:
            # What a first watch was told just now is no news a moment later. What others were told last stays.
            last = self._last.setdefault(tenant_id, {})
            for report in reports:
                last.setdefault(report.key.id, _essence(report))
        return reports

    async def missed(self, tenant: str, resumed: int | None, reached: int) -> Missed:
        """The changes of a tenant after a sequence, up to another."""
        if resumed is None or resumed == reached:
            return Missed((), whole=True)
        try:
            return await self._history(tenant, resumed, reached, MOST_RESUMED)
        except DatabaseUnavailable:
            # The present is known all the same, and is worth more than what went before.
            return Missed((), whole=False)

    def close(self) -> None:
        """End all watches: their callers go on elsewhere, with their tokens."""
        self._closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.end()

    def _tell(self, told: Told, key_name: str, watchers: Collection[Watcher]) -> None:
        concerned = [watcher for watcher in watchers if watcher.concerns(key_name)]
        for watcher in concerned:
            watcher.put(told)
        self._rouse(concerned)

    def _rouse(self, watchers: Collection[Watcher]) -> None:
        """Wake watchers: a few at once, many some at a time. Who wakes by itself meanwhile misses nothing."""
        if self._waking is None and len(watchers) <= WOKEN_AT_ONCE:
            for watcher in watchers:
                watcher.wake()
            return
        self._to_wake.update(dict.fromkeys(watchers))  # each once, in the order in which there was news for them
        if self._waking is None:
            self._waking = asyncio.get_running_loop().create_task(self._wake_all(), name="watchers are woken")

    async def _wake_all(self) -> None:
        try:
            while self._to_wake:
                for _ in range(min(WOKEN_AT_ONCE, len(self._to_wake))):
                    self._to_wake.popitem(last=False)[0].wake()
                await asyncio.sleep(0)
        finally:
            self._waking = None

    def _mark(self, tenant: str) -> None:
        if tenant in self._watchers:
            self._dirty.add(tenant)
            self._wake.set()

    async def _look(self, tenant_id: str) -> None:
        """Tell what is other than it was told last."""
        if tenant_id not in self._watchers:
            return
        try:
            # Asked for, so that its keys count as being in use, and are probed.
            tenant: Tenant = await self._directory.tenant(tenant_id)
        except OwnkeyError as error:
            for watcher in self._watchers.get(tenant_id, ()):
                watcher.end(error)
            return
        now = self._clock()
        last, present = self._last.get(tenant_id, {}), {}
        for key in tenant.keys.values():
            report = self._key_status.of_key(tenant, key, now)
            present[key.id] = _essence(report)
            if key.id in last and last[key.id] == present[key.id]:
                continue
            self._tell(Told(self.number, report), key.name, self._watchers.get(tenant_id, ()))
        for watcher in self._watchers.get(tenant_id, ()):
            if watcher.key and watcher.key not in tenant.keys:
                watcher.end(KeyNotFound(tenant_id, f"has no key {watcher.key!r} any more"))
        self._last[tenant_id] = present


def _essence(report: KeyReport) -> tuple[Any, ...]:
    """What of a report is news when it changes."""
    findings = [("", report.whole), *report.replicas]
    return tuple(
        (name, one.evidence and (one.evidence.state, one.evidence.cause), one.recovering, one.note)
        for name, one in findings
    )
