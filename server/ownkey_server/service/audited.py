"""One use of a key, from its beginning to its record: one block decides and writes, so that nobody can forget it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from ownkey_server.domain.assets import Asset
from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result, canonical
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.encryption_context import RESERVED_KEYS
from ownkey_server.domain.errors import AuditUnavailable, OwnkeyError
from ownkey_server.service.access import Ruling
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.key_store_calls import LEFT, OK, KeyStoreCall, KeyStoreCalls, as_detail

MAX_CONTEXT = 4096


class Audited:
    """Records what happens in its block, and lets the block end well only when that is durable.

    Example::

        async with Audited(log, clock, Action.UNWRAP, caller, asset) as use:
            use.ruling = rule_on(tenant, ...)
            ...

    A refusal is recorded with its reason. What cannot be recorded at all is not even begun.

    Attributes:
        asset: The facts, as policy came to see them.
        ruling: What policy decided.
        key: Name of the key concerned, when it is another than the ruling's.
        replica: Where it was used.
        backend_request_id: By which the key store's own log has the use.
        context: The encryption context.
        cached: Whether a key that was held served, and no key store was asked.
        detail: What else there is to say.
        calls: Every place of a key that was asked: the record lists them where there were several.
    """

    def __init__(self, log: AuditLog, clock: Clock, action: str, caller: Caller, asset: Asset) -> None:
        self._log = log
        self._clock = clock
        self._action = action
        self._caller = caller
        self.asset = asset
        self.ruling: Ruling | None = None
        self.key = ""
        self.replica = ""
        self.backend_request_id = ""
        self.cached = False
        self.detail: dict[str, object] = {}
        self.calls = KeyStoreCalls(self._late)
        self.context: Mapping[str, str] = {}

    async def __aenter__(self) -> Self:
        self._log.require_writable()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._log.record(self._record(Result.OK, ""))
        elif isinstance(error, asyncio.CancelledError):
            # The caller has left, and gets nothing; but the key may have been used.
            self._log.note(self._record(Result.FAILED, "CANCELLED"))
        elif isinstance(error, AuditUnavailable):
            return
        elif isinstance(error, OwnkeyError):
            result = Result.REFUSED if error.refusal else Result.FAILED
            self.replica = getattr(error, "replica", "") or self.replica
            self.backend_request_id = getattr(error, "request_id", "") or self.backend_request_id
            await self._log.record(self._record(result, error.reason))
        elif isinstance(error, Exception):
            await self._log.record(self._record(Result.FAILED, "INTERNAL"))

    def _late(self, call: KeyStoreCall) -> None:
        """A place has answered after the record was written: that goes into the trail too."""
        if call.result != LEFT:
            self._log.note(late_answer(self._record(Result.OK, ""), call))

    def _record(self, result: Result, reason: str) -> AuditRecord:
        self.detail |= as_detail(self.calls.tell())
        ruling = self.ruling
        decision = ruling.decision if ruling else None
        return AuditRecord(
            time=self._clock(),
            action=self._action,
            result=result,
            caller=self._caller,
            reason=reason,
            tenant=self.asset.tenant,
            key=self.key or (ruling.key.name if ruling and ruling.key else ""),
            replica=self.replica,
            backend_request_id=self.backend_request_id,
            cached=self.cached,
            detail=self.detail,
            asset=self.asset,
            context=_bounded(self.context),
            decision=decision.outcome.effect.value if decision else "",
            rule=decision.rule if decision else "",
            policy_version=ruling.tenant.policy_version if ruling else 0,
        )


def late_answer(of: AuditRecord, call: KeyStoreCall) -> AuditRecord:
    """The record of a call of a key store that has ended after the record of the use for which it was made.

    Args:
        of: That record; what a late call says of the use is what it said.
        call: The call.
    """
    worked = call.result == OK
    return replace(
        of,
        action=Action.LATE_ANSWER,
        result=Result.OK if worked else Result.FAILED,
        reason="" if worked else call.result,
        replica=call.replica,
        backend_request_id=call.request_id,
        cached=False,
        detail={"of": str(of.action), "operation": call.operation},
    )


def _bounded(context: Mapping[str, str]) -> Mapping[str, str]:
    """The context, or what is reserved of it and the rest's digest: an object that anybody sends may bring 64 KiB."""
    size = sum(len(key) + len(value) for key, value in context.items())
    if size <= MAX_CONTEXT:
        return context
    kept = {key: value[:MAX_CONTEXT] for key, value in context.items() if key in RESERVED_KEYS}
    digest = hashlib.sha256(canonical(dict(context))).hexdigest()
    return kept | {"ownkey:truncated": f"{len(context)} pairs, sha256 {digest}"}
