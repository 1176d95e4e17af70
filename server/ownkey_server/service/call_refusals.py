"""Calls that were not allowed in full, in the audit trail: each of them, and of a storm the first and their number.

So many a second are recorded whole. What is beyond is counted for each tenant, reason, rule and key, with the time of
the first and of the last, and recorded a few seconds later, and when the service stops: no refusal goes uncounted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from ownkey_server.domain.audit import AuditRecord, Caller, timestamp

WHOLE_PER_SECOND = 50
SUM_SECONDS = 5.0
# Different sums at once; what is beyond is summed up by tenant, and of very many tenants together.
MAX_SUMS = 1000
MAX_TENANT_SUMS = 2000


class Trail(Protocol):
    """What takes records: :class:`ownkey_server.service.audit_log.AuditLog`."""

    def note(self, record: AuditRecord) -> None:
        """Have a record written without waiting."""


@dataclass(slots=True)
class _Sum:
    record: AuditRecord
    first: datetime
    last: datetime
    count: int = 0


class CallRefusals:
    """Belongs to one event loop.

    Args:
        whole_per_second: How many are recorded whole.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self,
        trail: Trail,
        *,
        whole_per_second: int = WHOLE_PER_SECOND,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trail = trail
        self._most = whole_per_second
        self._monotonic = monotonic
        self._second = float("-inf")
        self._whole = 0
        self._sums: dict[tuple[str, ...], _Sum] = {}
        self._timer: asyncio.TimerHandle | None = None

    def note(self, record: AuditRecord) -> None:
        """Take note of a call that was not allowed in full. It holds up nobody."""
        now = self._monotonic()
        if now - self._second >= 1:
            self._second, self._whole = now, 0
        if self._whole < self._most:
            self._whole += 1
            self._trail.note(record)
            return
        found = self._sum_of(record)
        found.count += 1
        found.first, found.last = min(found.first, record.time), max(found.last, record.time)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SUM_SECONDS, self.flush)

    def flush(self) -> None:
        """Record what is counted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sums, self._sums = self._sums, {}
        for one in sums.values():
            detail = {"calls": one.count, "first": timestamp(one.first), "last": timestamp(one.last)}
            self._trail.note(replace(one.record, time=one.last, detail=detail))

    def _sum_of(self, record: AuditRecord) -> _Sum:
        anybody = replace(record, caller=Caller(record.caller.principal), detail={})
        what: tuple[str, ...] = (
            record.tenant,
            record.caller.principal,
            record.reason,
            record.rule,
            record.key,
            record.decision,
        )
        if what not in self._sums and len(self._sums) >= MAX_SUMS:
            anybody = replace(anybody, caller=Caller(""), reason="", rule="", key="", decision="")
            what = (record.tenant,)
            if what not in self._sums and len(self._sums) >= MAX_TENANT_SUMS:
                anybody, what = replace(anybody, tenant=""), ()
        found = self._sums.get(what)
        if found is None:
            found = self._sums[what] = _Sum(anybody, record.time, record.time)
        return found
