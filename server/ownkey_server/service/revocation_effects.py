"""A revocation takes effect in this process: streams and leases end, and the trail says so, in the chain of its uses.

The record of the effect stands in the same chain as every use of a key by this process, and every use looks at the
revocations once more in the very step in which it takes its place in that chain (``data_keys.py``). So the order of the
chain is the proof: no use that the revocation is about stands after the effect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import Executor

from ownkey_server.domain.audit import SERVER, Action, AuditRecord, Result
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import OwnkeyError
from ownkey_server.domain.revocations import Revocation
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.directory import Directory
from ownkey_server.service.open_streams import OpenStreams
from ownkey_server.service.view_cache import on_thread

_log = logging.getLogger(__name__)

NewSince = Callable[[int], list[Revocation]]
"""Asks the database for the revocations that were put into force after a revision, and are in force."""


class RevocationEffects:
    """Belongs to one event loop.

    Args:
        new_since: Asks the database what is new.
        executor: Where that waits.
    """

    def __init__(
        self,
        directory: Directory,
        streams: OpenStreams,
        branches: BranchKeys,
        audit: AuditLog,
        clock: Clock,
        new_since: NewSince,
        executor: Executor,
    ) -> None:
        self._directory = directory
        self._streams = streams
        self._branches = branches
        self._audit = audit
        self._clock = clock
        self._new_since = new_since
        self._executor = executor
        self._revision = 0

    def start(self, revision: int) -> None:
        """What was in force at that revision was so before this process served anybody."""
        self._revision = revision

    async def changed(self, revision: int, tenants: Collection[str] | None) -> None:
        """Let what is new take effect; called when the directory has heard of the same changes.

        Args:
            revision: The newest there is.
            tenants: Those that have changed; None when it may be any.

        Raises:
            DatabaseUnavailable: The database does not answer: the same changes come again.
        """
        await self._streams.changed(tenants)
        if revision == self._revision:
            return
        new = await on_thread(self._executor, lambda: self._new_since(self._revision))
        for revocation in new:
            await self._take_effect(revocation)
        self._revision = revision

    async def _take_effect(self, revocation: Revocation) -> None:
        try:
            # From here on every use sees it, for whoever decided by an older view looks at this one again.
            await self._directory.tenant(revocation.tenant)
        except OwnkeyError:
            _log.warning("tenant %s cannot be looked at: what it took back serves nobody either", revocation.tenant)
        leases = self._branches.end_taken_back(revocation)
        record = AuditRecord(
            time=self._clock(),
            action=Action.REVOCATION_IN_FORCE,
            result=Result.OK,
            caller=SERVER,
            tenant=revocation.tenant,
            detail={
                "revocation": revocation.id,
                "streams_ended": self._streams.ended_by(revocation.id),
                "leases_ended": leases,
            },
        )
        self._audit.note(record)
