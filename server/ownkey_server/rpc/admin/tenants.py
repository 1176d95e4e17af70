"""Tenants, their groups, and documents of them."""

from __future__ import annotations

from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey_server.rpc import admin_convert, gate_convert, page_tokens, pages
from ownkey_server.rpc.admin.services import Room
from ownkey_server.rpc.calls import Call
from ownkey_server.storage.gate_documents import CallGateTable


class TenantRoom(Room):
    """Tenants, their groups, and documents of them."""

    async def CreateTenant(self, request: pb.CreateTenantRequest, call: Call) -> Message:
        """Add a tenant."""
        gate = gate_convert.call_gate(request.call_gate) if request.HasField("call_gate") else CallGateTable()
        made = await self._services.tenants.create(
            call.act(request), request.id, request.display_name, admin_convert.time(request, "enrolled_at"), gate
        )
        return pb.CreateTenantResponse(tenant=admin_convert.tenant(made))

    async def GetTenant(self, request: pb.GetTenantRequest, _call: Call) -> Message:
        """Tell of a tenant."""
        found = await self._services.tenants.get(request.tenant)
        return pb.GetTenantResponse(tenant=admin_convert.tenant(found))

    async def ListTenants(self, request: pb.ListTenantsRequest, call: Call) -> Message:
        """List tenants."""
        size = page_tokens.page_size(request)
        after = page_tokens.decode(request, str, "")
        found = await self._services.tenants.list(after, size + 1, call.permit.tenants)
        page = pages.cut(map(admin_convert.tenant, found), size)
        more = page_tokens.encode(request, page[-1].id) if len(page) < len(found) else ""
        return pb.ListTenantsResponse(tenants=page, next_page_token=more)

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, call: Call) -> Message:
        """Change a tenant."""
        changed = await self._services.tenants.update(
            call.act(request),
            request.tenant,
            request.etag,
            request.display_name if request.HasField("display_name") else None,
            gate_convert.call_gate(request.call_gate) if request.HasField("call_gate") else None,
        )
        return pb.UpdateTenantResponse(tenant=admin_convert.tenant(changed))

    async def DeleteTenant(self, request: pb.DeleteTenantRequest, call: Call) -> Message:
        """Delete a tenant."""
        act = call.act(request)
        await self._services.tenants.delete(
            act, request.tenant, request.etag, abandon_branch_keys=request.abandon_branch_keys
        )
        return pb.DeleteTenantResponse()

    async def CreateGroup(self, request: pb.CreateGroupRequest, call: Call) -> Message:
        """Add a group."""
        act = call.act(request)
        made = await self._services.groups.create(act, request.tenant, request.group, list(request.users))
        return pb.CreateGroupResponse(group=admin_convert.group(made))

    async def GetGroup(self, request: pb.GetGroupRequest, _call: Call) -> Message:
        """Tell of a group."""
        found = await self._services.groups.get(request.tenant, request.group)
        return pb.GetGroupResponse(group=admin_convert.group(found))

    async def ListGroups(self, request: pb.ListGroupsRequest, _call: Call) -> Message:
        """List a tenant's groups."""
        size = min(page_tokens.page_size(request), pages.MOST_GROUPS)
        found = await self._services.groups.list(request.tenant, page_tokens.decode(request, str, ""), size + 1)
        page = pages.cut(map(admin_convert.group, found), size)
        more = page_tokens.encode(request, page[-1].id) if len(page) < len(found) else ""
        return pb.ListGroupsResponse(groups=page, next_page_token=more)

    async def UpdateGroup(self, request: pb.UpdateGroupRequest, call: Call) -> Message:
        """Say anew who is in a group."""
        act = call.act(request)
        users = list(request.users)
        changed = await self._services.groups.update(act, request.tenant, request.group, request.etag, users)
        return pb.UpdateGroupResponse(group=admin_convert.group(changed))

    async def DeleteGroup(self, request: pb.DeleteGroupRequest, call: Call) -> Message:
        """Delete a group."""
        act = call.act(request)
        await self._services.groups.delete(act, request.tenant, request.group, request.etag)
        return pb.DeleteGroupResponse()

    async def ApplyTenants(self, request: pb.ApplyTenantsRequest, call: Call) -> Message:
        """Make tenants as a document says."""
        act = call.act(request)
        plan = await self._services.configuration.apply(
            act, request.document, dry_run=request.dry_run, etag=request.etag
        )
        return pb.ApplyTenantsResponse(steps=map(admin_convert.step, plan.steps), applied=plan.applied, etag=plan.etag)

    async def ExportTenants(self, request: pb.ExportTenantsRequest, _call: Call) -> Message:
        """Write what there is as a document."""
        document = await self._services.configuration.export(list(request.tenants))
        return pb.ExportTenantsResponse(document=pages.require_sendable(document))
