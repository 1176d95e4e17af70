"""Who was turned away at the door, in the audit trail: the first time at once, and a storm of them by its count.

However many calls are refused, and whatever they name, only so many records a minute come of it: what is beyond is
summed up in one record for each caller. No refusal goes uncounted: what is counted is written when it is a minute old,
by a timer, and when the service stops.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import OwnkeyError
from ownkey_server.service.audit_log import AuditLog

# What is counted is told once in so long.
QUIET_SECONDS = 60.0
LOOK_SECONDS = 5.0
# Different refusals of one caller, and of all, that are told apart in that time. The rest is summed up.
MAX_OF_CALLER = 20
MAX_TOLD = 1000
# Callers whose refusals are summed up apart. Those of the rest are summed up together.
MAX_CALLERS = 1000
# Tenants and methods that one sum counts; of more it says that they are at least so many.
MAX_COUNTED = 10_000
MAX_NAMED = 20
MAX_TENANT = 63
MAX_WHY = 500


@dataclass(slots=True)
class _Told:
    """What is told apart: when it was last recorded, and how often it has happened since."""

    at: float
    caller: Caller
    method: str
    error: str
    reason: str
    tenant: str
    since: int = 0


@dataclass(slots=True)
class _Sum:
    """What is not told apart."""

    since: float
    caller: Caller
    count: int = 0
    apart: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    methods: set[str] = field(default_factory=set)
    tenants: set[int] = field(default_factory=set)

    def add(self, method: str, reason: str, tenant: str) -> None:
        """Count one more."""
        self.count += 1
        self.reasons[reason] += 1
        self.methods.add(method)
        if tenant and len(self.tenants) < MAX_COUNTED:
            self.tenants.add(hash(tenant))


class Refusals:
    """Records callers that are nobody we know, may not do what they ask, or ask too much. Belongs to one event loop."""

    def __init__(self, audit: AuditLog, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._monotonic = monotonic
        self._told: dict[tuple[str, ...], _Told] = {}
        self._sums: dict[tuple[str, str], _Sum] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def kept(self) -> int:
        """How much is in memory."""
        return len(self._told) + len(self._sums)

    def start(self) -> None:
        """From now on, write what is counted when it is due."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="refusals")

    async def close(self) -> None:
        """Write what is counted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self.flush(everything=True)

    def note(self, caller: Caller, method: str, error: OwnkeyError, tenant: str = "", *, at_once: bool = True) -> None:
        """Take note of a refusal. It holds up nobody: what is refused gives nobody anything.

        Args:
            caller: Who was refused.
            method: What was called.
            error: Why.
            tenant: Which tenant the request named.
            at_once: Whether the first of its kind is recorded now, and not with the count of those that follow. What is
                refused because there is too much of it must not make more work while there is.
        """
        host = caller.peer.rpartition(":")[0]  # the port is another with every connection
        tenant = tenant[:MAX_TENANT]
        what = (caller.principal, host, method, error.reason, tenant)
        told = self._told.get(what)
        if told is not None:
            told.since += 1
            return
        now = self._monotonic()
        total = self._sum_of(caller, host, now)
        if total.apart >= MAX_OF_CALLER or len(self._told) >= MAX_TOLD:
            total.add(method, error.reason, tenant)
            return
        total.apart += 1
        told = self._told[what] = _Told(now, caller, method, str(error)[:MAX_WHY], error.reason, tenant)
        if at_once:
            self._write(caller, error.reason, tenant, {"method": method, "why": told.error})
        else:
            told.since = 1

    def flush(self, *, everything: bool = False) -> None:
        """Write what was counted a minute ago or longer, or all of it, and forget what has ended."""
        now = self._monotonic()
        for what, told in list(self._told.items()):
            if everything or now - told.at >= QUIET_SECONDS:
                if told.since:
                    detail = {"method": told.method, "why": told.error, "repeated": str(told.since)}
                    self._write(told.caller, told.reason, told.tenant, detail)
                    told.at, told.since = now, 0
                else:
                    del self._told[what]
        for who, total in list(self._sums.items()):
            if everything or now - total.since >= QUIET_SECONDS:
                del self._sums[who]
                if total.count:
                    self._write_sum(total)

    def _sum_of(self, caller: Caller, host: str, now: float) -> _Sum:
        # Whoever is nobody we know is told by the address.
        who = (caller.principal, host if caller.principal == Caller().principal else "")
        found = self._sums.get(who)
        if found is None and len(self._sums) >= MAX_CALLERS:
            who, caller = ("", ""), Caller("")
            found = self._sums.get(who)
        if found is None:
            found = self._sums[who] = _Sum(now, caller, apart=MAX_OF_CALLER if who == ("", "") else 0)
        return found

    def _write_sum(self, total: _Sum) -> None:
        tenants = len(total.tenants)
        detail = {
            "refusals": str(total.count),
            "tenants": f"{tenants} or more" if tenants >= MAX_COUNTED else str(tenants),
            "methods": sorted(total.methods)[:MAX_NAMED],
            "reasons": {reason: str(count) for reason, count in total.reasons.most_common()},
        }
        reason = next(iter(total.reasons)) if len(total.reasons) == 1 else ""
        self._write(total.caller, reason, "", detail)

    def _write(self, caller: Caller, reason: str, tenant: str, detail: Mapping[str, Any]) -> None:
        self._audit.note(
            AuditRecord(
                time=self._clock(),
                action=Action.ACCESS,
                result=Result.REFUSED,
                caller=caller,
                reason=reason,
                tenant=tenant,
                detail=detail,
            )
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.flush()
