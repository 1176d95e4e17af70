"""A revocation takes effect in this process: streams and leases end, and the trail says so, in the chain of its uses.

The record of the effect stands in the same chain as every use of a key by this process, and every use looks at the
revocations once more in the very step in which it takes its place in that chain (``data_keys.py``). So the order of the
chain is the proof: no use that the revocation is about stands after the effect.

What a customer takes away in its own key store takes the same path as soon as it is found: :meth:`key_taken`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import Executor

from ownkey_server.domain.audit import SERVER, Action, AuditRecord, Result
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import DatabaseUnavailable, ServiceImpaired, TenantNotFound
from ownkey_server.domain.revocations import Revocation
from ownkey_server.domain.tenants import tenant_of
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.directory import Directory
from ownkey_server.service.open_streams import OpenStreams
from ownkey_server.service.view_cache import on_thread

_log = logging.getLogger(__name__)

NewSince = Callable[[int], list[Revocation]]
"""Asks the database for the revocations that were put into force, or restored, after a revision."""


class KnownRevision:
    """The number of the last change of which everything is in force in this process. Its chains begin with it.

    Attributes:
        number: It.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self) -> int:
        """It, for whoever asks."""
        return self.number


class RevocationEffects:
    """Belongs to one event loop.

    Args:
        new_since: Asks the database what is new.
        executor: Where that waits.
        revision: What was in force before this process had a chain, and so before it served anybody.
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
        revision: KnownRevision,
    ) -> None:
        self._directory = directory
        self._streams = streams
        self._branches = branches
        self._audit = audit
        self._clock = clock
        self._new_since = new_since
        self._executor = executor
        self._revision = revision
        self._told: set[tuple[str, bool]] = set()
        streams.on_drained(self._drained)

    async def changed(self, revision: int, tenants: Collection[str] | None) -> None:
        """Let what is new take effect; called when the directory has heard of the same changes.

        Args:
            revision: The newest there is.
            tenants: Those that have changed; None when it may be any.

        Raises:
            DatabaseUnavailable: The database does not answer: the same changes come again.
        """
        await self._streams.changed(tenants)
        since = self._revision.number
        if revision == since:
            return
        for revocation in await on_thread(self._executor, lambda: self._new_since(since)):
            if (revocation.id, revocation.in_force) in self._told:
                continue  # the database fell silent after it, and the same changes come again
            # From here on every use sees it, for whoever decided by an older view looks at this one again.
            if not await self._is_seen(revocation.tenant):
                continue
            if revocation.in_force:
                self._take_effect(revocation)
            else:
                self._note(Action.REVOCATION_RESTORED, revocation.tenant, {"revocation": revocation.id})
            self._told.add((revocation.id, revocation.in_force))
        self._told.clear()
        self._revision.number = revision

    def key_taken(self, key_name: str, replica: str, cause: str) -> None:
        """Its holder was found to have taken a key away in its key store: end all that is under it, and record that."""
        # Uses ask the board, which knows by now, or the key store itself.
        detail = {
            "streams_ended": self._streams.key_taken(key_name, replica, cause),
            "leases_ended": self._branches.end_under(key_name),
            "cause": cause,
        }
        self._note(Action.KEY_TAKEN_AWAY, tenant_of(key_name), detail, key=key_name, replica=replica)

    def _take_effect(self, revocation: Revocation) -> None:
        detail = {
            "revocation": revocation.id,
            "streams_ended": self._streams.take_back(revocation),
            "streams_draining": self._streams.drain(revocation),
            "leases_ended": self._branches.end_taken_back(revocation),
        }
        self._note(Action.REVOCATION_IN_FORCE, revocation.tenant, detail)

    async def _is_seen(self, tenant: str) -> bool:
        """Whether the newest view of a tenant is what uses are decided by: else nothing may be said of them."""
        try:
            await self._directory.tenant(tenant)
        except TenantNotFound:
            return True  # it was deleted, and serves nobody
        except ServiceImpaired as error:
            raise DatabaseUnavailable(f"tenant {tenant} could not be looked at: {error}") from error
        except Exception:  # noqa: BLE001 - logged whole; one tenant must not keep all others from being heard of
            _log.exception(
                "tenant %s cannot be looked at: it serves nobody, and what it took back is not recorded", tenant
            )
            return False
        return True

    def _drained(self, tenant: str, revocation: str) -> None:
        self._note(Action.REVOCATION_DRAINED, tenant, {"revocation": revocation})

    def _note(
        self, action: Action, tenant: str, detail: dict[str, object], *, key: str = "", replica: str = ""
    ) -> None:
        record = AuditRecord(
            self._clock(), action, Result.OK, SERVER, tenant=tenant, key=key, replica=replica, detail=detail
        )
        self._audit.note(record)
