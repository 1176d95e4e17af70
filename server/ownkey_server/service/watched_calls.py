"""Calls that are under way, and which of them have lost the key that they need, or have it back."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from ownkey_server.domain.audit import Caller
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.service.call_gate import FIRST_SECONDS, Call, CallAnswer, CallDecision, CallGateKeeper, CallReason

# Between so many decisions others have their turn.
TOGETHER = 50
NOTHING_TOLD: Final[Mapping[str, CallDecision]] = MappingProxyType({})


class TooManyCalls(Exception):
    """More calls are watched than may be.

    Attributes:
        limit: Name of the setting.
    """

    def __init__(self, limit: str, most: int) -> None:
        super().__init__(f"at most {most} calls are watched: end those that are over, or use another stream")
        self.limit = limit


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls are watched.

    Attributes:
        per_stream: By one stream.
        per_tenant: Of one tenant in this process.
    """

    per_stream: int = 10_000
    per_tenant: int = 100_000


@dataclass(slots=True)
class _Watched:
    call: Call
    decision: CallDecision = CallDecision.ALLOW
    graced: bool = False
    # Whether it was decided about before, here or by another stream: its group was one then.
    known: bool = False


class WatchedCalls:
    """All calls that are watched in this process."""

    def __init__(self, keeper: CallGateKeeper, limits: CallLimits) -> None:
        self._keeper = keeper
        self._limits = limits
        self._of: Counter[str] = Counter()

    @contextlib.contextmanager
    def watching(self, tenant: str, caller: Caller) -> Iterator[CallWatch]:
        """A watch of calls of a tenant, for as long as the block takes."""
        watch = CallWatch(self._keeper, self, tenant, caller)
        try:
            yield watch
        finally:
            watch.close()

    def count(self, tenant: str, change: int, of_stream: int) -> None:
        """Count more calls, or less.

        Raises:
            TooManyCalls: There are too many.
        """
        if change > 0:
            if of_stream + change > self._limits.per_stream:
                raise TooManyCalls("watched_calls_per_stream", self._limits.per_stream)
            if self._of[tenant] + change > self._limits.per_tenant:
                raise TooManyCalls("watched_calls_per_tenant", self._limits.per_tenant)
        self._of[tenant] += change
        if not self._of[tenant]:
            del self._of[tenant]


class CallWatch:
    """The calls of one stream. Use :meth:`WatchedCalls.watching`."""

    def __init__(self, keeper: CallGateKeeper, all_calls: WatchedCalls, tenant: str, caller: Caller) -> None:
        self._keeper = keeper
        self._all = all_calls
        self._tenant = tenant
        self._caller = caller
        self._calls: dict[str, _Watched] = {}

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def graced(self) -> bool:
        """Whether time alone may change what is said of some call."""
        return any(one.graced for one in self._calls.values())

    async def add(
        self, calls: Collection[Call], told: Mapping[str, CallDecision] = NOTHING_TOLD
    ) -> list[tuple[str, CallAnswer]]:
        """Watch more calls, or calls with other facts; gives those of which something else is to be said than was last.

        Args:
            calls: The calls.
            told: What was last said of calls that were watched before, elsewhere; of others nothing was: they go on.

        Raises:
            TooManyCalls: There are too many.
            OwnkeyError: As of :meth:`CallGateKeeper.decide`.
        """
        new = {call.call_id: call for call in calls}
        self._all.count(self._tenant, len(new.keys() - self._calls.keys()), len(self._calls))
        added = []
        for call_id, call in new.items():
            before = _Watched(call, told.get(call_id, CallDecision.ALLOW), known=call_id in told)
            watched = self._calls.setdefault(call_id, before)
            watched.known = watched.known and watched.call.group == call.group
            watched.call = call
            added.append(watched)
        return await self._look(added, new=True)

    def ended(self, call_ids: Collection[str]) -> None:
        """Watch these calls no more."""
        for call_id in call_ids:
            if self._calls.pop(call_id, None) is not None:
                self._all.count(self._tenant, -1, 0)

    async def changed(self) -> list[tuple[str, CallAnswer]]:
        """The calls of which something else is to be said than was last."""
        return await self._look(list(self._calls.values()), new=False)

    def close(self) -> None:
        """Watch no call any more."""
        self._all.count(self._tenant, -len(self._calls), 0)
        self._calls.clear()

    async def _look(self, calls: list[_Watched], *, new: bool) -> list[tuple[str, CallAnswer]]:
        found = []
        # A key that was never asked after is no reason to end a call: new calls wait for its first word, all together
        # no longer than one would.
        waiting_ends = asyncio.get_running_loop().time() + FIRST_SECONDS
        for number, watched in enumerate(calls):
            if number % TOGETHER == TOGETHER - 1:
                await asyncio.sleep(0)
            call = watched.call
            wait = new and asyncio.get_running_loop().time() < waiting_ends
            answer = await self._answer(watched, wait=wait)
            watched.known = True
            watched.graced = answer.reason is CallReason.GRACE
            if answer.decision is watched.decision or call.call_id not in self._calls:
                continue
            watched.decision = answer.decision
            if answer.decision is not CallDecision.ALLOW:
                self._keeper.note(call, self._caller, answer, mid_call=True)
            found.append((call.call_id, answer))
        return found

    async def _answer(self, watched: _Watched, *, wait: bool) -> CallAnswer:
        call = watched.call
        urgent = await self._keeper.emergency_answer(call.tenant, call.callee)
        if urgent is not None:
            return urgent
        try:
            return await self._keeper.decide(call, wait=wait)
        except InvalidRequest as error:
            if not watched.known:
                raise InvalidRequest("add.group", f"call {call.call_id!r}: {error.description}") from None
            # Its group was deleted meanwhile. The call goes on, and so does what may be said of it.
            return await self._keeper.decide(replace(call, group=""), wait=wait)
