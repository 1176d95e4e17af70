"""The second person: changes that wait for somebody else's agreement."""

from __future__ import annotations

from ownkey_server.domain.audit import microseconds
from ownkey_server.domain.errors import ApprovalInvalid, PermissionDenied, ResourceNotFound
from ownkey_server.domain.roles import Facts, Permit
from ownkey_server.service.administration.desk import Act, Desk, Done
from ownkey_server.service.authorization import Authorizer
from ownkey_server.storage import approvals
from ownkey_server.storage.approvals import name
from ownkey_server.storage.records import ApprovalRecord
from ownkey_server.storage.registry import Change


class Approvals:
    """What can be done with changes that wait. Asking for one is to make the change (``desk.py``)."""

    def __init__(self, desk: Desk, authorizer: Authorizer) -> None:
        self._desk = desk
        self._authorizer = authorizer

    async def list(self, tenant: str, permit: Permit) -> list[ApprovalRecord]:
        """Those that the caller may see, the oldest first.

        Args:
            tenant: Only this tenant's; empty means all.
            permit: What the caller may see.
        """
        now = microseconds(self._desk.clock())
        found = await self._desk.read(lambda reader: approvals.waiting(reader.connection, now))
        return [one for one in found if permit.sees(one.tenant) and tenant in ("", one.tenant)]

    async def approve(self, act: Act, approval: str) -> ApprovalRecord:
        """Agree to somebody else's change.

        Raises:
            ResourceNotFound: There is none of that id that the caller could make.
            ApprovalInvalid: It is the caller's own change.
        """
        waiting = await self._required(approval)
        who = act.caller.principal
        facts = Facts((waiting.tenant,) if waiting.tenant else ())
        try:
            await self._authorizer.require(who, waiting.method, facts)
        except PermissionDenied:
            raise ResourceNotFound(name(approval)) from None
        if waiting.requested_by == who:
            raise ApprovalInvalid(waiting.resource, approval, "is your own: somebody else must approve it")

        def work(change: Change) -> Done:
            found = approvals.find(change.connection, approval, microseconds(self._desk.clock()))
            if found is None:
                raise ResourceNotFound(name(approval))
            approvals.approve(change.connection, approval, who)
            agreed = approvals.find(change.connection, approval, microseconds(self._desk.clock()))
            return Done(agreed, {"requested_by": found.requested_by, "summary": found.summary})

        approved: ApprovalRecord = await self._desk.change(act, "approve_change", waiting.tenant, name(approval), work)
        return approved

    async def withdraw(self, act: Act, approval: str, permit: Permit) -> None:
        """Let a change fall.

        Raises:
            ResourceNotFound: There is none of that id that the caller may see.
        """
        waiting = await self._required(approval)
        if not permit.sees(waiting.tenant):
            raise ResourceNotFound(name(approval))

        def work(change: Change) -> Done:
            approvals.remove(change.connection, approval)
            return Done(None, {"requested_by": waiting.requested_by, "summary": waiting.summary})

        await self._desk.change(act, "withdraw_approval", waiting.tenant, name(approval), work)

    async def _required(self, approval: str) -> ApprovalRecord:
        now = microseconds(self._desk.clock())
        found = await self._desk.read(lambda reader: approvals.find(reader.connection, approval, now))
        if found is None:
            raise ResourceNotFound(name(approval))
        return found
