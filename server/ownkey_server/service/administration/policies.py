"""Policy as immutable numbered versions, of which one is in force."""

from __future__ import annotations

from ownkey_server.domain.errors import InvalidRequest, ResourceInUse
from ownkey_server.service.administration import notices
from ownkey_server.service.administration.desk import Act, Desk, Done
from ownkey_server.service.administration.tenants import name as tenant_name
from ownkey_server.storage.documents import PolicyTable
from ownkey_server.storage.records import PolicyVersion, TenantRecord
from ownkey_server.storage.registry import Change, Reader, required
from ownkey_server.storage.tables import plain


class Policies:
    """What can be done with policies."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, tenant: str, number: int) -> PolicyVersion:
        """A version; 0 means the one in force.

        Raises:
            ResourceNotFound: There is no such tenant, or no such version.
        """

        def question(reader: Reader) -> PolicyVersion:
            owner: TenantRecord = required(reader.tenant(tenant), tenant_name(tenant))
            wanted = number or owner.policy_version
            found: PolicyVersion = required(reader.policy_version(tenant, wanted), name(tenant, wanted))
            return found

        return await self._desk.read(question)

    async def list(self, tenant: str, before: int | None, limit: int) -> list[PolicyVersion]:
        """A tenant's versions, the newest first, from before ``before``.

        Raises:
            ResourceNotFound: There is no such tenant.
        """

        def question(reader: Reader) -> list[PolicyVersion]:
            required(reader.tenant(tenant), tenant_name(tenant))
            return reader.policy_versions(tenant, before, limit)

        return await self._desk.read(question)

    async def create(
        self, act: Act, tenant: str, policy: PolicyTable, *, etag: str, put_in_force: bool
    ) -> PolicyVersion:
        """Add a version, and put it in force if asked to.

        Args:
            act: Who, and why: both are kept with the version.
            tenant: Whose policy it is.
            policy: The rules.
            etag: The tenant's, when the version is put in force.
            put_in_force: Whether it decides from now on.

        Raises:
            ResourceNotFound: There is no such tenant.
            InvalidRequest: It names keys or groups that the tenant does not have.
            EtagMismatch: The tenant was changed since it was read.
        """

        def work(change: Change) -> Done:
            owner: TenantRecord = required(change.tenant(tenant), tenant_name(tenant))
            mistakes = _mistakes(change, tenant, policy)
            if mistakes:
                raise InvalidRequest("policy", "; ".join(mistakes))
            number = change.insert_policy(tenant, policy, act.author, act.reason)
            if put_in_force:
                change.put_policy_in_force(owner, etag, number)
                notices.policy_changed(change, act, owner, number, self._desk.clock())
            detail = {"version": number, "in_force": put_in_force, "after": {"policy": plain(policy)}}
            return Done(change.policy_version(tenant, number), detail)

        made: PolicyVersion = await self._desk.change(act, "create_policy_version", tenant, tenant_name(tenant), work)
        return made

    async def put_in_force(self, act: Act, tenant: str, number: int, etag: str) -> PolicyVersion:
        """Let a version decide from now on, an older one too.

        Args:
            act: Who, and why.
            tenant: Whose policy it is.
            number: The version.
            etag: The tenant's.

        Raises:
            ResourceNotFound: There is no such tenant, or no such version.
            ResourceInUse: It names keys or groups that the tenant has no longer.
            EtagMismatch: The tenant was changed since it was read.
        """

        def work(change: Change) -> Done:
            owner: TenantRecord = required(change.tenant(tenant), tenant_name(tenant))
            version: PolicyVersion = required(change.policy_version(tenant, number), name(tenant, number))
            mistakes = _mistakes(change, tenant, version.policy)
            if mistakes:
                raise ResourceInUse(name(tenant, number), "; ".join(mistakes))
            change.put_policy_in_force(owner, etag, number)
            notices.policy_changed(change, act, owner, number, self._desk.clock())
            detail = {"before": {"version": owner.policy_version}, "after": {"version": number}}
            return Done(change.policy_version(tenant, number), detail)

        changed: PolicyVersion = await self._desk.change(act, "put_policy_in_force", tenant, name(tenant, number), work)
        return changed


def _mistakes(reader: Reader, tenant: str, policy: PolicyTable) -> list[str]:
    keys = reader.keys(tenant)
    found = policy.mistakes({key.id for key in keys}, {group.id for group in reader.groups(tenant)})
    named = policy.keys()
    found += [
        f"{named[key.id]}: key {key.id!r} is {key.lifecycle}"
        for key in keys
        if key.id in named and not key.lifecycle.wraps
    ]
    return found


def name(tenant: str, number: int) -> str:
    """A version's name as a resource."""
    return f"tenants/{tenant}/policyVersions/{number}"
