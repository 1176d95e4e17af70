"""Groups of a tenant's users, by which its policy can decide."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ownkey_server.domain.errors import ResourceExists, ResourceInUse
from ownkey_server.service.administration.desk import Act, Desk, Done
from ownkey_server.service.administration.tenants import name as tenant_name
from ownkey_server.storage import revocations
from ownkey_server.storage.records import GroupRecord, TenantRecord
from ownkey_server.storage.registry import Change, Reader, required


class Groups:
    """What can be done with groups."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, tenant: str, group: str) -> GroupRecord:
        """A group.

        Raises:
            ResourceNotFound: There is none of that id.
        """
        found = await self._desk.read(lambda reader: reader.group(tenant, group))
        record: GroupRecord = required(found, name(tenant, group))
        return record

    async def list(self, tenant: str, after: str, limit: int) -> list[GroupRecord]:
        """A tenant's groups by id, from after ``after``.

        Raises:
            ResourceNotFound: There is no such tenant.
        """

        def question(reader: Reader) -> list[GroupRecord]:
            required(reader.tenant(tenant), tenant_name(tenant))
            return reader.groups(tenant, after, limit)

        return await self._desk.read(question)

    async def create(self, act: Act, tenant: str, group: str, users: Sequence[str]) -> GroupRecord:
        """Add a group.

        Raises:
            ResourceNotFound: There is no such tenant.
            ResourceExists: There is a group of that id.
        """

        def work(change: Change) -> Done:
            required(change.tenant(tenant), tenant_name(tenant))
            if change.group(tenant, group):
                raise ResourceExists(name(tenant, group), "the tenant has a group of that id already")
            change.insert_group(tenant, group, users)
            return Done(change.group(tenant, group), {"after": {"users": sorted(set(users))}})

        made: GroupRecord = await self._desk.change(act, "create_group", tenant, name(tenant, group), work)
        return made

    async def update(self, act: Act, tenant: str, group: str, etag: str, users: Sequence[str]) -> GroupRecord:
        """Say anew who is in a group.

        Raises:
            ResourceNotFound: There is none of that id.
            EtagMismatch: It was changed since it was read.
            ResourceInUse: Users would leave it whom a revocation means by it.
        """

        def work(change: Change) -> Done:
            before: GroupRecord = required(change.group(tenant, group), name(tenant, group))
            require_still_taken_back(change, tenant, group, set(before.users) - set(users))
            change.update_group(before, etag, users)
            added, removed = set(users) - set(before.users), set(before.users) - set(users)
            return Done(change.group(tenant, group), {"added": sorted(added), "removed": sorted(removed)})

        changed: GroupRecord = await self._desk.change(act, "update_group", tenant, name(tenant, group), work)
        return changed

    async def delete(self, act: Act, tenant: str, group: str, etag: str) -> None:
        """Delete a group that neither the policy in force, nor the call gate, nor a revocation in force names.

        Raises:
            ResourceNotFound: There is none of that id.
            ResourceInUse: One of them names it.
            EtagMismatch: It was changed since it was read.
        """

        def work(change: Change) -> Done:
            before: GroupRecord = required(change.group(tenant, group), name(tenant, group))
            owner: TenantRecord = required(change.tenant(tenant), tenant_name(tenant))
            policy = change.policy_version(tenant, owner.policy_version)
            where = policy.policy.groups().get(group) if policy else None
            where = f"{where} of the policy in force" if where else owner.call_gate.groups().get(group)
            if where:
                raise ResourceInUse(name(tenant, group), f"{where} names it")
            require_still_taken_back(change, tenant, group, before.users)
            change.delete_group(before, etag)
            return Done(None, {"before": {"users": list(before.users)}})

        await self._desk.change(act, "delete_group", tenant, name(tenant, group), work)


def require_still_taken_back(change: Change, tenant: str, group: str, leaving: Collection[str]) -> None:
    """Make sure that nobody is given back what was taken from a group by leaving it, without a Restore.

    Raises:
        ResourceInUse: A revocation in force names the group, and users would leave it.
    """
    found = next((one for one in revocations.in_force(change.connection, tenant) if group in one.scope.groups), None)
    if found is not None and leaving:
        raise ResourceInUse(
            name(tenant, group),
            f"revocation {found.id} is in force and names it: who leaves it would be given back what that took. Restore"
            " it first, and take back from users whom you name",
        )


def name(tenant: str, group: str) -> str:
    """A group's name as a resource."""
    return f"tenants/{tenant}/groups/{group}"
