"""Who may call, and the changes that take two persons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ownkey._requests import made
from ownkey.admin._calls import AdminCalls
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import (
    approval_pb2,
    role_pb2,
    tenant_pb2,
)


class PrincipalCalls(AdminCalls):
    """Who may call, and the changes that take two persons."""

    def create_service_principal(
        self,
        principal: str,
        *,
        display_name: str = "",
        grants: Iterable[role_pb2.RoleGrant] = (),
        reason: str = "",
    ) -> tenant_pb2.ServicePrincipal:
        """Add a service or a person, and say what they may do."""
        request = made(
            pb.CreateServicePrincipalRequest,
            id=principal,
            display_name=display_name,
            grants=list(grants),
            note=self._note(reason),
        )
        return self._call(self._stub.CreateServicePrincipal, request).service_principal

    def get_service_principal(self, principal: str) -> tenant_pb2.ServicePrincipal:
        """A service principal."""
        request = made(pb.GetServicePrincipalRequest, service_principal=principal)
        return self._call(self._stub.GetServicePrincipal, request).service_principal

    def list_service_principals(self) -> Iterator[tenant_pb2.ServicePrincipal]:
        """All service principals, by id."""
        for page in self._pages(self._stub.ListServicePrincipals, pb.ListServicePrincipalsRequest()):
            yield from page.service_principals

    def update_service_principal(
        self,
        principal: str,
        etag: str,
        *,
        display_name: str,
        grants: Iterable[role_pb2.RoleGrant],
        reason: str = "",
    ) -> tenant_pb2.ServicePrincipal:
        """Say anew what a service principal is called, and all that it may do."""
        request = made(
            pb.UpdateServicePrincipalRequest,
            service_principal=principal,
            etag=etag,
            display_name=display_name,
            grants=list(grants),
            note=self._note(reason),
        )
        return self._call(self._stub.UpdateServicePrincipal, request).service_principal

    def delete_service_principal(self, principal: str, etag: str, *, reason: str = "") -> None:
        """Delete a service principal."""
        note = self._note(reason)
        request = made(pb.DeleteServicePrincipalRequest, service_principal=principal, etag=etag, note=note)
        self._call(self._stub.DeleteServicePrincipal, request)

    def list_approvals(self, tenant: str = "") -> list[approval_pb2.Approval]:
        """The changes that wait for a second person, or to be made after one agreed; the oldest first."""
        pages = self._pages(self._stub.ListApprovals, made(pb.ListApprovalsRequest, tenant=tenant))
        return [one for page in pages for one in page.approvals]

    def get_approval(self, approval: str) -> approval_pb2.Approval:
        """A change that waits, with all that it would do."""
        return self._call(self._stub.GetApproval, made(pb.GetApprovalRequest, approval=approval)).approval

    def approve_change(self, approval: str, *, reason: str = "") -> approval_pb2.Approval:
        """Agree to somebody else's change, which they can make then."""
        request = made(pb.ApproveChangeRequest, approval=approval, note=self._note(reason))
        return self._call(self._stub.ApproveChange, request).approval

    def withdraw_approval(self, approval: str, *, reason: str = "") -> None:
        """Let a change fall that waits."""
        self._call(
            self._stub.WithdrawApproval, made(pb.WithdrawApprovalRequest, approval=approval, note=self._note(reason))
        )
