"""The second person: changes that wait for somebody else's agreement."""

from __future__ import annotations

from ownkey_server.domain import approvals as agreements
from ownkey_server.domain.audit import microseconds
from ownkey_server.domain.errors import ApprovalInvalid, OwnkeyError, PermissionDenied, ResourceNotFound
from ownkey_server.domain.roles import Facts, Permit
from ownkey_server.service.administration.desk import Act, Desk, Done
from ownkey_server.service.authorization import Authorizer
from ownkey_server.storage import approvals
from ownkey_server.storage.approvals import name
from ownkey_server.storage.records import ApprovalRecord
from ownkey_server.storage.registry import Change

START = (0, "")
"""The place before all that wait."""


class Approvals:
    """What can be done with changes that wait. Asking for one is to make the change (``desk.py``)."""

    def __init__(self, desk: Desk, authorizer: Authorizer) -> None:
        self._desk = desk
        self._authorizer = authorizer

    async def list(
        self, tenant: str, permit: Permit, after: tuple[int, str] = START, limit: int = 1000
    ) -> list[ApprovalRecord]:
        """Those that the caller may see, the oldest first.

        Args:
            tenant: Only this tenant's; empty means all.
            permit: What the caller may see.
            after: Only those after the one of that time and id.
            limit: At most so many.
        """
        now = microseconds(self._desk.clock())
        seen = permit.tenants
        if tenant:
            seen = frozenset({tenant}) if permit.sees(tenant) else frozenset()
        return await self._desk.read(lambda reader: approvals.waiting(reader.connection, now, seen, after, limit))

    async def get(self, approval: str, permit: Permit) -> ApprovalRecord:
        """One of them.

        Raises:
            ResourceNotFound: There is none of that id that the caller may see.
        """
        found, _ = await self._look_up(approval)
        if found is None or not permit.sees(found.tenant):
            raise ResourceNotFound(name(approval))
        return found

    async def approve(self, act: Act, approval: str, permit: Permit) -> ApprovalRecord:
        """Agree to somebody else's change. A refusal is recorded, with what the caller is not told.

        Raises:
            ResourceNotFound: There is none of that id that the caller could make.
            ApprovalInvalid: It is the caller's own change.
        """
        what = "approve_change"
        waiting = await self._required(act, what, approval)
        who = act.caller.principal
        try:
            await self._require_able(act, waiting, permit)
        except PermissionDenied as error:
            await self._refuse(act, what, approval, error, waiting)
            raise ResourceNotFound(name(approval)) from None
        if waiting.requested_by == who:
            own = ApprovalInvalid(waiting.resource, approval, "is your own: somebody else must approve it")
            await self._refuse(act, what, approval, own, waiting)
            raise own

        def work(change: Change) -> Done:
            found = approvals.find(change.connection, approval, microseconds(self._desk.clock()))
            if found is None:
                raise ResourceNotFound(name(approval))
            approvals.approve(change.connection, approval, who)
            agreed = approvals.find(change.connection, approval, microseconds(self._desk.clock()))
            return Done(agreed, _said(found))

        approved: ApprovalRecord = await self._desk.change(act, what, waiting.tenant, name(approval), work)
        return approved

    async def withdraw(self, act: Act, approval: str, permit: Permit) -> None:
        """Let a change fall.

        Raises:
            ResourceNotFound: There is none of that id that the caller may see.
        """
        what = "withdraw_approval"
        waiting = await self._required(act, what, approval)
        if not permit.sees(waiting.tenant):
            denied = PermissionDenied(act.caller.principal, act.method, f"tenant {waiting.tenant!r}")
            await self._refuse(act, what, approval, denied, waiting)
            raise ResourceNotFound(name(approval))

        def work(change: Change) -> Done:
            approvals.remove(change.connection, approval)
            return Done(None, _said(waiting))

        await self._desk.change(act, what, waiting.tenant, name(approval), work)

    async def _required(self, act: Act, what: str, approval: str) -> ApprovalRecord:
        found, expired = await self._look_up(approval)
        if found is None:
            error: OwnkeyError = ResourceNotFound(name(approval))
            if expired:
                await self._refuse(act, what, approval, ApprovalInvalid(name(approval), approval, "has expired"))
            else:
                await self._refuse(act, what, approval, error)
            raise error
        return found

    async def _require_able(self, act: Act, waiting: ApprovalRecord, permit: Permit) -> None:
        """Make sure that the caller could make the change; ``agreements.may_approve`` asks the same when it is made."""
        facts = Facts((waiting.tenant,) if waiting.tenant else ())
        await self._authorizer.require(act.caller.principal, waiting.method, facts)
        if not permit.sees(waiting.tenant):
            raise PermissionDenied(act.caller.principal, act.method, f"tenant {waiting.tenant!r}")

    async def _look_up(self, approval: str) -> tuple[ApprovalRecord | None, bool]:
        """What waits under an id, and whether something that has expired is still there."""
        now = microseconds(self._desk.clock())
        return await self._desk.read(
            lambda reader: (
                approvals.find(reader.connection, approval, now),
                approvals.has_expired(reader.connection, approval),
            )
        )

    async def _refuse(
        self, act: Act, what: str, approval: str, error: OwnkeyError, about: ApprovalRecord | None = None
    ) -> None:
        await self._desk.refuse(act, what, about.tenant if about else "", name(approval), error)


def _said(record: ApprovalRecord) -> dict[str, object]:
    return {
        "requested_by": record.requested_by,
        "summary": record.summary,
        "effect": agreements.digest(record.change),
    }
