"""The control plane's client: tenants, keys, groups, policies, and the audit trail.

It takes plain values, and answers with the contract's own messages (protos/ownkey/v1): their fields are documented
there.

Example::

    with AdminClient(author="ann") as admin:
        tenant = admin.create_tenant("acme", display_name="Acme")
        admin.enrol_key("acme", "main", "hsm", "acme-main", reason="enrolment")
        policy = policy_pb2.Policy(default_use="key:main")
        admin.create_policy_version("acme", policy, activate_with=tenant.etag)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from ownkey import _exchange, errors
from ownkey._exchange import CHANNEL_OPTIONS, DEFAULT_ADDRESS
from ownkey._requests import listed, made, set_time
from ownkey.models import Asset
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import (
    admin_service_pb2_grpc,
    approval_pb2,
    audit_record_pb2,
    branch_key_pb2,
    customer_key_pb2,
    policy_pb2,
    revocation_pb2,
    role_pb2,
    tenant_pb2,
)

M = TypeVar("M", bound=Message)

PAGE_SIZE = 500
ANY_ETAG = "*"
"""The etag of whoever wants to write over whatever there is."""


class AdminClient:
    """A client of the control plane of one ownkey service. Thread-safe; every method raises :mod:`ownkey.errors`.

    Methods that change something take ``reason``: why, for whoever reads the audit trail. Those that change what is
    there take the ``etag`` that was read with it, and raise :class:`ownkey.errors.Conflict` when somebody changed it
    since. No change is ever sent twice.

    Args:
        address: ``HOST:PORT`` or ``unix:PATH``; without credentials on this machine only.
        timeout: Seconds that a call may take. Enrolling a key waits for its key store.
        credentials: For a service elsewhere.
        author: Who stands behind the changes; kept in the audit trail.
        approval: Id of the approval by which changes are made, where a second person had to agree.

    Raises:
        InvalidRequest: The address is on another machine, and there are no credentials; or the timeout is not positive.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        author: str = "",
        approval: str = "",
    ) -> None:
        _exchange.require_timeout(timeout)
        if credentials is None:
            _exchange.require_local(address)
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._timeout = timeout
        self._author = author
        self._approval = approval
        self._stub = admin_service_pb2_grpc.AdminServiceStub(self._channel)

    # Tenants

    def create_tenant(
        self,
        tenant: str,
        *,
        display_name: str = "",
        enrolled_at: datetime | None = None,
        call_gate: tenant_pb2.CallGate | None = None,
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
        call_gate: tenant_pb2.CallGate | None = None,
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

    # Customer keys

    def enrol_key(
        self, tenant: str, key: str, key_store: str, reference: str, *, reason: str = ""
    ) -> customer_key_pb2.CustomerKey:
        """Add a key by its primary place, once it has proved that it wraps and unwraps."""
        place = made(customer_key_pb2.KeyPlace, key_store=key_store, reference=reference)
        request = made(pb.EnrolKeyRequest, tenant=tenant, key=key, primary=place, note=self._note(reason))
        return self._call(self._stub.EnrolKey, request).key

    def get_key(self, tenant: str, key: str) -> customer_key_pb2.CustomerKey:
        """A key."""
        return self._call(self._stub.GetKey, made(pb.GetKeyRequest, tenant=tenant, key=key)).key

    def list_keys(self, tenant: str) -> Sequence[customer_key_pb2.CustomerKey]:
        """All keys of a tenant by name, removed ones too."""
        return self._call(self._stub.ListKeys, made(pb.ListKeysRequest, tenant=tenant)).keys

    def add_key_replica(
        self, tenant: str, key: str, etag: str, key_store: str, reference: str, *, reason: str = ""
    ) -> customer_key_pb2.CustomerKey:
        """Add another place where the very same key can be used."""
        place = made(customer_key_pb2.KeyPlace, key_store=key_store, reference=reference)
        request = made(
            pb.AddKeyReplicaRequest, tenant=tenant, key=key, etag=etag, replica=place, note=self._note(reason)
        )
        return self._call(self._stub.AddKeyReplica, request).key

    def remove_key_replica(
        self, tenant: str, key: str, etag: str, key_store: str, *, reason: str = ""
    ) -> customer_key_pb2.CustomerKey:
        """Take a place away from a key.

        Args:
            tenant: Id of the tenant.
            key: Id of the key.
            etag: Of the key, as it was read.
            key_store: Name of the place, as the status tells it: ``hsm``, or ``aws/eu-west-1`` for an ARN.
            reason: Why, for the audit trail.
        """
        note = self._note(reason)
        request = made(pb.RemoveKeyReplicaRequest, tenant=tenant, key=key, etag=etag, key_store=key_store, note=note)
        return self._call(self._stub.RemoveKeyReplica, request).key

    def activate_key(self, tenant: str, key: str, etag: str, *, reason: str = "") -> customer_key_pb2.CustomerKey:
        """Try a key anew, and let it wrap again."""
        request = made(pb.ActivateKeyRequest, tenant=tenant, key=key, etag=etag, note=self._note(reason))
        return self._call(self._stub.ActivateKey, request).key

    def retire_key(self, tenant: str, key: str, etag: str, *, reason: str = "") -> customer_key_pb2.CustomerKey:
        """Let a key open what it has wrapped, and wrap nothing more."""
        request = made(pb.RetireKeyRequest, tenant=tenant, key=key, etag=etag, note=self._note(reason))
        return self._call(self._stub.RetireKey, request).key

    def remove_key(
        self, tenant: str, key: str, etag: str, *, abandon_branch_keys: bool = False, reason: str = ""
    ) -> customer_key_pb2.CustomerKey:
        """Let go of a retired key: nothing that it wrapped can be opened any more.

        With branch keys under it, that is refused, unless what these wrapped is to be given up.
        """
        request = made(
            pb.RemoveKeyRequest,
            tenant=tenant,
            key=key,
            etag=etag,
            abandon_branch_keys=abandon_branch_keys,
            note=self._note(reason),
        )
        return self._call(self._stub.RemoveKey, request).key

    # Revocations

    def revoke(
        self,
        tenant: str,
        scope: revocation_pb2.RevocationScope | None = None,
        *,
        drain: bool = False,
        reason: str = "",
    ) -> revocation_pb2.Revocation:
        """Take something back: what a scope says, or everything of the tenant without one.

        Args:
            tenant: Whose.
            scope: What; all conditions that it has must hold.
            drain: Whether what is being encrypted at the moment may be finished.
            reason: Why.
        """
        request = made(
            pb.RevokeRequest,
            tenant=tenant,
            scope=scope or revocation_pb2.RevocationScope(),
            everything=scope is None,
            ending=revocation_pb2.REVOCATION_ENDING_DRAIN if drain else revocation_pb2.REVOCATION_ENDING_CUT,
            note=self._note(reason),
        )
        return self._call(self._stub.Revoke, request).revocation

    def restore(self, tenant: str, revocation: str, *, reason: str = "") -> revocation_pb2.Revocation:
        """Give back what a revocation took."""
        request = made(pb.RestoreRequest, tenant=tenant, revocation=revocation, note=self._note(reason))
        return self._call(self._stub.Restore, request).revocation

    def get_revocation(self, tenant: str, revocation: str) -> revocation_pb2.Revocation:
        """A revocation, in force or not."""
        return self._call(
            self._stub.GetRevocation, made(pb.GetRevocationRequest, tenant=tenant, revocation=revocation)
        ).revocation

    def list_revocations(self, tenant: str, *, restored: bool = False) -> Iterator[revocation_pb2.Revocation]:
        """A tenant's revocations, the newest first; with ``restored`` those too that are not in force any more."""
        request = made(pb.ListRevocationsRequest, tenant=tenant, restored=restored)
        for page in self._pages(self._stub.ListRevocations, request):
            yield from page.revocations

    # Branch keys

    def rotate_branch_key(self, tenant: str, key: str, *, reason: str = "") -> branch_key_pb2.BranchKey:
        """Make a new branch key under a key, or under ``provider_key``; the one before wraps no more."""
        request = made(pb.RotateBranchKeyRequest, tenant=tenant, key=key, note=self._note(reason))
        return self._call(self._stub.RotateBranchKey, request).branch_key

    def list_branch_keys(self, tenant: str, key: str = "") -> Iterator[branch_key_pb2.BranchKey]:
        """A tenant's branch keys, wrapped: all, or those under one key."""
        for page in self._pages(self._stub.ListBranchKeys, made(pb.ListBranchKeysRequest, tenant=tenant, key=key)):
            yield from page.branch_keys

    def rewrap_branch_keys(
        self, tenant: str, from_key: str, to_key: str, *, most: int = 0, reason: str = ""
    ) -> pb.RewrapBranchKeysResponse:
        """Move some branch keys from one key to another; to be called again while any remain. 0 means 20 at a time."""
        request = made(
            pb.RewrapBranchKeysRequest,
            tenant=tenant,
            from_key=from_key,
            to_key=to_key,
            max_count=most,
            note=self._note(reason),
        )
        return self._call(self._stub.RewrapBranchKeys, request)

    # Groups

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

    # Policy

    def create_policy_version(
        self, tenant: str, policy: policy_pb2.Policy, *, activate_with: str = "", reason: str = ""
    ) -> policy_pb2.PolicyVersion:
        """Add a version; with the tenant's etag in ``activate_with`` it decides from now on."""
        request = made(
            pb.CreatePolicyVersionRequest,
            tenant=tenant,
            policy=policy,
            activate=bool(activate_with),
            etag=activate_with,
            note=self._note(reason),
        )
        return self._call(self._stub.CreatePolicyVersion, request).policy_version

    def get_policy_version(self, tenant: str, number: int = 0) -> policy_pb2.PolicyVersion:
        """A version; without a number, the one in force."""
        request = made(pb.GetPolicyVersionRequest, tenant=tenant, number=number)
        return self._call(self._stub.GetPolicyVersion, request).policy_version

    def list_policy_versions(self, tenant: str) -> Iterator[policy_pb2.PolicyVersion]:
        """All versions, the newest first."""
        for page in self._pages(self._stub.ListPolicyVersions, made(pb.ListPolicyVersionsRequest, tenant=tenant)):
            yield from page.policy_versions

    def activate_policy_version(
        self, tenant: str, number: int, etag: str, *, reason: str = ""
    ) -> policy_pb2.PolicyVersion:
        """Let a version decide from now on; the etag is the tenant's."""
        note = self._note(reason)
        request = made(pb.ActivatePolicyVersionRequest, tenant=tenant, number=number, etag=etag, note=note)
        return self._call(self._stub.ActivatePolicyVersion, request).policy_version

    def simulate_policy(
        self,
        tenant: str,
        candidate: policy_pb2.Policy | int,
        *,
        assets: Iterable[Asset] = (),
        since: timedelta | None = None,
    ) -> pb.SimulatePolicyResponse:
        """What would change with another policy: for these assets, or else for what was protected lately."""
        request = made(
            pb.SimulatePolicyRequest, tenant=tenant, assets=[_exchange.asset_message(asset) for asset in assets]
        )
        with _exchange.sendable():
            if isinstance(candidate, int):
                request.number = candidate
            else:
                request.policy.CopyFrom(candidate)
            if since is not None:
                request.since.FromTimedelta(since)
        return self._call(self._stub.SimulatePolicy, request)

    # Service principals

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

    # Changes that take two persons

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

    # How long audit records are kept

    def get_audit_retention(self) -> pb.AuditRetention:
        """How long audit records are kept: as was agreed, and as the settings say."""
        return self._call(self._stub.GetAuditRetention, pb.GetAuditRetentionRequest()).audit_retention

    def update_audit_retention(self, agreed: timedelta | None, etag: str, *, reason: str = "") -> pb.AuditRetention:
        """Agree to how long audit records are kept at least; None for ever."""
        request = made(pb.UpdateAuditRetentionRequest, etag=etag, note=self._note(reason))
        if agreed is not None:
            request.agreed.FromTimedelta(agreed)
        return self._call(self._stub.UpdateAuditRetention, request).audit_retention

    # Documents and the audit trail

    def apply_tenants(
        self, document: str, *, dry_run: bool = False, etag: str = "", reason: str = ""
    ) -> pb.ApplyTenantsResponse:
        """Make tenants as a tenants file says, all at once or not at all; tells each difference.

        With the etag of an earlier answer, nothing is done if anything was changed since.
        """
        note = self._note(reason)
        request = made(pb.ApplyTenantsRequest, document=document, dry_run=dry_run, etag=etag, note=note)
        return self._call(self._stub.ApplyTenants, request)

    def export_tenants(self, tenants: Iterable[str] = ()) -> str:
        """The tenants file that says what there is, of all tenants or of some."""
        return self._call(self._stub.ExportTenants, made(pb.ExportTenantsRequest, tenants=listed(tenants))).document

    def list_audit_records(
        self, tenant: str = "", *, start: datetime | None = None, end: datetime | None = None
    ) -> Iterator[audit_record_pb2.AuditRecord]:
        """Audit records in the order of their times: a tenant's, or everybody's."""
        request = made(pb.ListAuditRecordsRequest, tenant=tenant)
        set_time(request, "start_time", start)
        set_time(request, "end_time", end)
        for page in self._pages(self._stub.ListAuditRecords, request):
            yield from page.records

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, reason: str) -> pb.ChangeNote:
        return made(pb.ChangeNote, author=self._author, reason=reason, approval=self._approval)

    def _call(self, method: Callable[..., M], request: Message) -> M:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error

    def _pages(self, method: Callable[..., M], request: Any) -> Iterator[M]:
        request.page_size = PAGE_SIZE
        while True:
            page: Any = self._call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
