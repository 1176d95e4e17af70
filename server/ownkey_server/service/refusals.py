"""Who was turned away at the door, in the audit trail: the first time at once, and a storm of them by its count."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import OwnkeyError
from ownkey_server.service.audit_log import AuditLog

# A storm is told once in so long.
QUIET_SECONDS = 60.0
# Different callers, methods and tenants that are told apart at once.
MAX_TOLD = 1000
MAX_TENANT = 63


@dataclass(slots=True)
class _Told:
    """When this was last recorded, and how often it has happened since."""

    at: float
    since: int = 0


class Refusals:
    """Records callers that are nobody we know, or may not do what they ask. Belongs to one event loop."""

    def __init__(self, audit: AuditLog, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._monotonic = monotonic
        self._told: OrderedDict[tuple[str, ...], _Told] = OrderedDict()

    def note(self, caller: Caller, method: str, error: OwnkeyError, tenant: str = "") -> None:
        """Take note of a refusal. It holds up nobody: what is refused gives nobody anything."""
        host = caller.peer.rpartition(":")[0]  # the port is another with every connection
        what = (caller.principal, host, method, error.reason, tenant)
        now = self._monotonic()
        told = self._told.get(what)
        if told is not None and now - told.at < QUIET_SECONDS:
            told.since += 1
            return
        detail = {"method": method, "why": str(error)}
        if told is not None and told.since:
            detail["repeated"] = str(told.since)
        self._told[what] = _Told(now)
        self._told.move_to_end(what)
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        self._audit.note(
            AuditRecord(
                time=self._clock(),
                action=Action.ACCESS,
                result=Result.REFUSED,
                caller=caller,
                reason=error.reason,
                tenant=tenant[:MAX_TENANT],
                detail=detail,
            )
        )
