"""Tenants and groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from ownkey._requests import listed, made, set_time
from ownkey.admin._calls import AdminCalls
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import call_pb2, tenant_pb2


class TenantCalls(AdminCalls):
    """Tenants and groups."""

    def create_tenant(
        self,
        tenant: str,
        *,
        display_name: str = "",
        enrolled_at: datetime | None = None,
        call_gate: call_pb2.CallGate | None = None,
        reason: str = "",
    ) -> tenant_pb2.Tenant:
        """Add a tenant. Until it has a policy, everything is denied."""
        request = made(
            pb.CreateTenantRequest, id=tenant, display_name=display_name, call_gate=call_gate, note=self._note(reason)
        )
        set_time(request, "enrolled_at", enrolled_at)
        return self._call(self._stub.CreateTenant, request).tenant

    def get_tenant(self, tenant: str) -> tenant_pb2.Tenant:
        """A tenant."""
        return self._call(self._stub.GetTenant, made(pb.GetTenantRequest, tenant=tenant)).tenant

    def list_tenants(self) -> Iterator[tenant_pb2.Tenant]:
        """All tenants, by id."""
        for page in self._pages(self._stub.ListTenants, pb.ListTenantsRequest()):
            yield from page.tenants

    def update_tenant(
        self,
        tenant: str,
        etag: str,
        *,
        display_name: str | None = None,
        call_gate: call_pb2.CallGate | None = None,
        reason: str = "",
    ) -> tenant_pb2.Tenant:
        """Change a tenant; None leaves a field as it is."""
        request = made(
            pb.UpdateTenantRequest,
            tenant=tenant,
            etag=etag,
            display_name=display_name,
            call_gate=call_gate,
            note=self._note(reason),
        )
        return self._call(self._stub.UpdateTenant, request).tenant

    def delete_tenant(self, tenant: str, etag: str, *, abandon_branch_keys: bool = False, reason: str = "") -> None:
        """Delete a tenant that has neither keys nor groups.

        With branch keys, that is refused, unless these are to be deleted too, and all that they wrapped given up.
        """
        request = made(
            pb.DeleteTenantRequest,
            tenant=tenant,
            etag=etag,
            abandon_branch_keys=abandon_branch_keys,
            note=self._note(reason),
        )
        self._call(self._stub.DeleteTenant, request)

    def create_group(self, tenant: str, group: str, users: Iterable[str], *, reason: str = "") -> tenant_pb2.Group:
        """Add a group."""
        request = made(pb.CreateGroupRequest, tenant=tenant, group=group, users=listed(users), note=self._note(reason))
        return self._call(self._stub.CreateGroup, request).group

    def get_group(self, tenant: str, group: str) -> tenant_pb2.Group:
        """A group."""
        return self._call(self._stub.GetGroup, made(pb.GetGroupRequest, tenant=tenant, group=group)).group

    def list_groups(self, tenant: str) -> Iterator[tenant_pb2.Group]:
        """All groups of a tenant, by id."""
        for page in self._pages(self._stub.ListGroups, made(pb.ListGroupsRequest, tenant=tenant)):
            yield from page.groups

    def update_group(
        self, tenant: str, group: str, etag: str, users: Iterable[str], *, reason: str = ""
    ) -> tenant_pb2.Group:
        """Say anew who is in a group."""
        note = self._note(reason)
        request = made(pb.UpdateGroupRequest, tenant=tenant, group=group, etag=etag, users=listed(users), note=note)
        return self._call(self._stub.UpdateGroup, request).group

    def delete_group(self, tenant: str, group: str, etag: str, *, reason: str = "") -> None:
        """Delete a group that the policy in force does not name."""
        request = made(pb.DeleteGroupRequest, tenant=tenant, group=group, etag=etag, note=self._note(reason))
        self._call(self._stub.DeleteGroup, request)
