"""Who may call, and the second person."""

from __future__ import annotations

from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey_server.rpc import admin_convert, page_tokens, pages
from ownkey_server.rpc.admin.services import Room
from ownkey_server.rpc.calls import Call


class PrincipalRoom(Room):
    """Who may call, and the second person."""

    async def CreateServicePrincipal(self, request: pb.CreateServicePrincipalRequest, call: Call) -> Message:
        """Add a service principal."""
        act = call.act(request)
        grants = admin_convert.grants(request.grants)
        made = await self._services.principals.create(act, request.id, request.display_name, grants)
        return pb.CreateServicePrincipalResponse(service_principal=admin_convert.principal(made))

    async def GetServicePrincipal(self, request: pb.GetServicePrincipalRequest, _call: Call) -> Message:
        """Tell of a service principal."""
        found = await self._services.principals.get(request.service_principal)
        return pb.GetServicePrincipalResponse(service_principal=admin_convert.principal(found))

    async def ListServicePrincipals(self, request: pb.ListServicePrincipalsRequest, _call: Call) -> Message:
        """List service principals."""
        size = page_tokens.page_size(request)
        found = await self._services.principals.list(page_tokens.decode(request, str, ""), size + 1)
        page = pages.cut(map(admin_convert.principal, found), size)
        more = page_tokens.encode(request, page[-1].id) if len(page) < len(found) else ""
        return pb.ListServicePrincipalsResponse(service_principals=page, next_page_token=more)

    async def UpdateServicePrincipal(self, request: pb.UpdateServicePrincipalRequest, call: Call) -> Message:
        """Say anew what a service principal is called, and what it may do."""
        act = call.act(request)
        changed = await self._services.principals.update(
            act, request.service_principal, request.etag, request.display_name, admin_convert.grants(request.grants)
        )
        return pb.UpdateServicePrincipalResponse(service_principal=admin_convert.principal(changed))

    async def DeleteServicePrincipal(self, request: pb.DeleteServicePrincipalRequest, call: Call) -> Message:
        """Delete a service principal."""
        act = call.act(request)
        await self._services.principals.delete(act, request.service_principal, request.etag)
        return pb.DeleteServicePrincipalResponse()

    async def ListApprovals(self, request: pb.ListApprovalsRequest, call: Call) -> Message:
        """List the changes that wait."""
        size = page_tokens.page_size(request)
        after = admin_convert.approval_position(page_tokens.decode(request, str, ""))
        found = await self._services.approvals.list(
            request.tenant, call.permit, after, min(size, pages.MOST_APPROVALS) + 1
        )
        page = pages.cut(map(admin_convert.approval, found), min(size, pages.MOST_APPROVALS))
        last = admin_convert.approval_cursor(found[len(page) - 1]) if page else ""
        more = page_tokens.encode(request, last) if len(page) < len(found) else ""
        return pb.ListApprovalsResponse(approvals=page, next_page_token=more)

    async def GetApproval(self, request: pb.GetApprovalRequest, call: Call) -> Message:
        """Tell of a change that waits."""
        found = await self._services.approvals.get(request.approval, call.permit)
        return pb.GetApprovalResponse(approval=admin_convert.approval(found))

    async def ApproveChange(self, request: pb.ApproveChangeRequest, call: Call) -> Message:
        """Approve somebody else's change."""
        approved = await self._services.approvals.approve(call.act(request), request.approval, call.permit)
        return pb.ApproveChangeResponse(approval=admin_convert.approval(approved))

    async def WithdrawApproval(self, request: pb.WithdrawApprovalRequest, call: Call) -> Message:
        """Let a change fall."""
        await self._services.approvals.withdraw(call.act(request), request.approval, call.permit)
        return pb.WithdrawApprovalResponse()
