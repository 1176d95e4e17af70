"""AdminService's methods: one call, and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import notification_pb2
from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.rpc import (
    admin_convert,
    convert,
    gate_convert,
    notification_messages,
    page_tokens,
    pages,
    revocation_messages,
)
from ownkey_server.rpc.calls import Call
from ownkey_server.service.administration.approvals import Approvals
from ownkey_server.service.administration.audit_trail import AuditTrail
from ownkey_server.service.administration.branch_keys import BranchKeyOffice
from ownkey_server.service.administration.configuration import Configuration
from ownkey_server.service.administration.groups import Groups
from ownkey_server.service.administration.keys import Keys
from ownkey_server.service.administration.notifications import Notifications
from ownkey_server.service.administration.policies import Policies
from ownkey_server.service.administration.principals import Principals
from ownkey_server.service.administration.receipts import Receipts
from ownkey_server.service.administration.retention import AuditRetention
from ownkey_server.service.administration.revocation_previews import RevocationPreviews
from ownkey_server.service.administration.revocations import Revocations
from ownkey_server.service.administration.simulation import Simulation
from ownkey_server.service.administration.tenants import Tenants
from ownkey_server.storage.gate_documents import CallGateTable

HISTORY = timedelta(days=7)
"""How far back a simulation looks when the request does not say."""
PREVIEWED = timedelta(hours=24)
"""How far back a preview of a revocation looks when the request does not say."""
REWRAPPED_AT_ONCE = 20
"""How many branch keys one call moves when the request does not say: each asks two key stores."""


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The use cases of the control plane."""

    tenants: Tenants
    keys: Keys
    branch_keys: BranchKeyOffice
    groups: Groups
    policies: Policies
    principals: Principals
    configuration: Configuration
    simulation: Simulation
    audit_trail: AuditTrail
    approvals: Approvals
    retention: AuditRetention
    revocations: Revocations
    receipts: Receipts
    revocation_previews: RevocationPreviews
    notifications: Notifications


class AdminServicer:
    """Each method takes a request that was let in (``dispatch.py``), and gives its answer."""

    def __init__(self, services: AdminServices) -> None:
        self._services = services

    async def CreateTenant(self, request: pb.CreateTenantRequest, call: Call) -> Message:
        """Add a tenant."""
        gate = gate_convert.call_gate(request.call_gate) if request.HasField("call_gate") else CallGateTable()
        made = await self._services.tenants.create(
            call.act(request),
            request.id,
            request.display_name,
            admin_convert.time(request, "enrolled_at"),
            gate,
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

    async def EnrolKey(self, request: pb.EnrolKeyRequest, call: Call) -> Message:
        """Add a key that works."""
        act = call.act(request)
        place = admin_convert.place(request.primary)
        made = await self._services.keys.enrol(act, request.tenant, request.key, place)
        return pb.EnrolKeyResponse(key=admin_convert.key(made))

    async def GetKey(self, request: pb.GetKeyRequest, _call: Call) -> Message:
        """Tell of a key."""
        found = await self._services.keys.get(request.tenant, request.key)
        return pb.GetKeyResponse(key=admin_convert.key(found))

    async def ListKeys(self, request: pb.ListKeysRequest, _call: Call) -> Message:
        """List a tenant's keys."""
        found = await self._services.keys.list(request.tenant)
        return pb.ListKeysResponse(keys=map(admin_convert.key, found))

    async def AddKeyReplica(self, request: pb.AddKeyReplicaRequest, call: Call) -> Message:
        """Add a place of a key."""
        act = call.act(request)
        place = admin_convert.place(request.replica)
        changed = await self._services.keys.add_replica(act, request.tenant, request.key, request.etag, place)
        return pb.AddKeyReplicaResponse(key=admin_convert.key(changed))

    async def RemoveKeyReplica(self, request: pb.RemoveKeyReplicaRequest, call: Call) -> Message:
        """Take a place away from a key."""
        act = call.act(request)
        store = request.key_store
        changed = await self._services.keys.remove_replica(act, request.tenant, request.key, request.etag, store)
        return pb.RemoveKeyReplicaResponse(key=admin_convert.key(changed))

    async def ActivateKey(self, request: pb.ActivateKeyRequest, call: Call) -> Message:
        """Let a key wrap again."""
        act = call.act(request)
        changed = await self._services.keys.activate(act, request.tenant, request.key, request.etag)
        return pb.ActivateKeyResponse(key=admin_convert.key(changed))

    async def RetireKey(self, request: pb.RetireKeyRequest, call: Call) -> Message:
        """Let a key open alone."""
        act = call.act(request)
        changed = await self._services.keys.retire(act, request.tenant, request.key, request.etag)
        return pb.RetireKeyResponse(key=admin_convert.key(changed))

    async def RemoveKey(self, request: pb.RemoveKeyRequest, call: Call) -> Message:
        """Let go of a key."""
        act = call.act(request)
        abandon = request.abandon_branch_keys
        changed = await self._services.keys.remove(
            act, request.tenant, request.key, request.etag, abandon_branch_keys=abandon
        )
        return pb.RemoveKeyResponse(key=admin_convert.key(changed))

    async def RotateBranchKey(self, request: pb.RotateBranchKeyRequest, call: Call) -> Message:
        """Make a new branch key."""
        made = await self._services.branch_keys.rotate(call.act(request), request.tenant, request.key)
        return pb.RotateBranchKeyResponse(branch_key=admin_convert.branch_key(made))

    async def ListBranchKeys(self, request: pb.ListBranchKeysRequest, _call: Call) -> Message:
        """List branch keys, wrapped."""
        size, after = page_tokens.page_size(request), page_tokens.decode(request, str, "")
        found = await self._services.branch_keys.list(request.tenant, request.key, after, size + 1)
        page = pages.cut(map(admin_convert.branch_key, found), size)
        more = page_tokens.encode(request, page[-1].id) if len(page) < len(found) else ""
        return pb.ListBranchKeysResponse(branch_keys=page, next_page_token=more)

    async def RewrapBranchKeys(self, request: pb.RewrapBranchKeysRequest, call: Call) -> Message:
        """Move branch keys to another key."""
        most = request.max_count or REWRAPPED_AT_ONCE
        moved = await self._services.branch_keys.rewrap(
            call.act(request), request.tenant, request.from_key, request.to_key, most
        )
        return pb.RewrapBranchKeysResponse(rewrapped=moved.rewrapped, remaining=moved.remaining)

    async def Revoke(self, request: pb.RevokeRequest, call: Call) -> Message:
        """Take something back."""
        made = await self._services.revocations.revoke(
            call.act(request),
            request.tenant,
            revocation_messages.scope(request.scope),
            revocation_messages.ENDINGS[request.ending],
            everything=request.everything,
        )
        return pb.RevokeResponse(revocation=revocation_messages.revocation(made))

    async def PreviewRevocation(self, request: pb.PreviewRevocationRequest, _call: Call) -> Message:
        """Tell what a revocation would do."""
        told = await self._services.revocation_previews.preview(
            request.tenant,
            revocation_messages.scope(request.scope),
            revocation_messages.ENDINGS[request.ending],
            timedelta(hours=request.hours) if request.hours else PREVIEWED,
            everything=request.everything,
        )
        return pb.PreviewRevocationResponse(preview=revocation_messages.preview(told))

    async def Restore(self, request: pb.RestoreRequest, call: Call) -> Message:
        """Give something back."""
        ended = await self._services.revocations.restore(call.act(request), request.tenant, request.revocation)
        return pb.RestoreResponse(revocation=revocation_messages.revocation(ended))

    async def GetRevocation(self, request: pb.GetRevocationRequest, _call: Call) -> Message:
        """Tell of a revocation."""
        found = await self._services.revocations.get(request.tenant, request.revocation)
        return pb.GetRevocationResponse(revocation=revocation_messages.revocation(found))

    async def GetRevocationReceipt(self, request: pb.GetRevocationReceiptRequest, _call: Call) -> Message:
        """Prove what became of a revocation."""
        receipts = self._services.receipts
        if request.WhichOneof("about") == "revocation":
            made = await receipts.of_revocation(request.tenant, request.revocation)
        else:
            made = await receipts.of_key(request.tenant, request.key, admin_convert.time(request, "since"))
        return pb.GetRevocationReceiptResponse(receipt=revocation_messages.receipt(made, receipts.signing_key))

    async def ListRevocations(self, request: pb.ListRevocationsRequest, _call: Call) -> Message:
        """List a tenant's revocations."""
        size = page_tokens.page_size(request)
        at = page_tokens.decode(request, str, "")
        time, _, one = at.partition("/")
        before = (from_microseconds(int(time)), one) if one else None
        found = await self._services.revocations.list(request.tenant, before, size + 1, restored=request.restored)
        page = pages.cut(map(revocation_messages.revocation, found), size)
        last = found[len(page) - 1] if page else None
        more = last and len(page) < len(found)
        token = page_tokens.encode(request, f"{microseconds(last.create_time)}/{last.id}") if last and more else ""
        return pb.ListRevocationsResponse(revocations=page, next_page_token=token)

    async def CreateNotificationChannel(
        self, request: notification_pb2.CreateNotificationChannelRequest, call: Call
    ) -> Message:
        """Add a channel."""
        made, secret = await self._services.notifications.create(
            call.act(request),
            request.tenant,
            request.display_name,
            notification_messages.required_destination(request),
            notification_messages.kinds(request.kinds),
            enabled=not request.disabled,
        )
        return notification_pb2.CreateNotificationChannelResponse(
            channel=notification_messages.channel(made), secret=secret
        )

    async def GetNotificationChannel(
        self, request: notification_pb2.GetNotificationChannelRequest, _call: Call
    ) -> Message:
        """Tell of a channel."""
        found = await self._services.notifications.get(request.tenant, request.channel)
        return notification_pb2.GetNotificationChannelResponse(channel=notification_messages.channel(found))

    async def ListNotificationChannels(
        self, request: notification_pb2.ListNotificationChannelsRequest, _call: Call
    ) -> Message:
        """List a tenant's channels."""
        found = await self._services.notifications.channels(request.tenant)
        return notification_pb2.ListNotificationChannelsResponse(channels=map(notification_messages.channel, found))

    async def UpdateNotificationChannel(
        self, request: notification_pb2.UpdateNotificationChannelRequest, call: Call
    ) -> Message:
        """Change a channel."""
        changed, secret = await self._services.notifications.update(
            call.act(request), request.tenant, request.channel, request.etag, notification_messages.edit(request)
        )
        return notification_pb2.UpdateNotificationChannelResponse(
            channel=notification_messages.channel(changed), secret=secret
        )

    async def DeleteNotificationChannel(
        self, request: notification_pb2.DeleteNotificationChannelRequest, call: Call
    ) -> Message:
        """Remove a channel."""
        dropped = await self._services.notifications.delete(
            call.act(request), request.tenant, request.channel, request.etag
        )
        return notification_pb2.DeleteNotificationChannelResponse(dropped=dropped)

    async def TestNotificationChannel(
        self, request: notification_pb2.TestNotificationChannelRequest, call: Call
    ) -> Message:
        """Send a test."""
        done = await self._services.notifications.test(call.act(request), request.tenant, request.channel)
        return notification_pb2.TestNotificationChannelResponse(
            delivered=done.attempt.taken, result=done.attempt.told, notification=done.notice
        )

    async def ListNotifications(self, request: notification_pb2.ListNotificationsRequest, _call: Call) -> Message:
        """List a tenant's notifications."""
        size = page_tokens.page_size(request)
        time, _, one = page_tokens.decode(request, str, "").partition("/")
        before = (from_microseconds(int(time)), one) if one else None
        found = await self._services.notifications.notices(
            request.tenant, notification_messages.only(request), before, size + 1
        )
        page = pages.cut(map(notification_messages.notification, found), size)
        last = found[len(page) - 1].notice if page and len(page) < len(found) else None
        token = page_tokens.encode(request, f"{microseconds(last.time)}/{last.id}") if last else ""
        return notification_pb2.ListNotificationsResponse(notifications=page, next_page_token=token)

    async def ReplayNotification(self, request: notification_pb2.ReplayNotificationRequest, call: Call) -> Message:
        """Deliver a notification again."""
        again = await self._services.notifications.replay(
            call.act(request), request.tenant, request.notification, request.channel
        )
        return notification_pb2.ReplayNotificationResponse(notification=notification_messages.notification(again))

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

    async def CreatePolicyVersion(self, request: pb.CreatePolicyVersionRequest, call: Call) -> Message:
        """Add a version of a policy."""
        act = call.act(request)
        if request.activate and not request.etag:
            raise InvalidRequest("etag", "is required with activate: the tenant's, as you read it")
        made = await self._services.policies.create(
            act,
            request.tenant,
            admin_convert.policy(request.policy),
            etag=request.etag,
            put_in_force=request.activate,
        )
        return pb.CreatePolicyVersionResponse(policy_version=admin_convert.policy_version(made))

    async def GetPolicyVersion(self, request: pb.GetPolicyVersionRequest, _call: Call) -> Message:
        """Tell a version of a policy."""
        found = await self._services.policies.get(request.tenant, request.number)
        return pb.GetPolicyVersionResponse(policy_version=admin_convert.policy_version(found))

    async def ListPolicyVersions(self, request: pb.ListPolicyVersionsRequest, _call: Call) -> Message:
        """List versions of a policy."""
        size = min(page_tokens.page_size(request), pages.MOST_POLICY_VERSIONS)
        before = page_tokens.decode(request, int, 0) or None
        found = await self._services.policies.list(request.tenant, before, size + 1)
        page = pages.cut(map(admin_convert.policy_version, found), size)
        more = page_tokens.encode(request, page[-1].number) if len(page) < len(found) else ""
        return pb.ListPolicyVersionsResponse(policy_versions=page, next_page_token=more)

    async def ActivatePolicyVersion(self, request: pb.ActivatePolicyVersionRequest, call: Call) -> Message:
        """Put a version of a policy in force."""
        act = call.act(request)
        changed = await self._services.policies.put_in_force(act, request.tenant, request.number, request.etag)
        return pb.ActivatePolicyVersionResponse(policy_version=admin_convert.policy_version(changed))

    async def SimulatePolicy(self, request: pb.SimulatePolicyRequest, _call: Call) -> Message:
        """Tell what would change."""
        simulation, tenant = self._services.simulation, request.tenant
        policy = admin_convert.policy(request.policy) if request.WhichOneof("candidate") == "policy" else None
        if request.assets:
            assets = [convert.asset(asset) for asset in request.assets]
            report = await simulation.of_assets(tenant, policy, request.number, assets)
        else:
            since = request.since.ToTimedelta() if request.HasField("since") else HISTORY
            report = await simulation.of_history(tenant, policy, request.number, since)
        return admin_convert.simulation(report)

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

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, _call: Call) -> Message:
        """List audit records."""
        size = page_tokens.page_size(request)
        start, end = admin_convert.time(request, "start_time"), admin_convert.time(request, "end_time")
        after = page_tokens.decode_cursor(request)
        rows = await self._services.audit_trail.list(request.tenant, start, end, after, size + 1)
        page = pages.cut(map(admin_convert.audit_record, rows), size)
        more = page_tokens.encode(request, list(rows[len(page) - 1].cursor)) if len(page) < len(rows) else ""
        return pb.ListAuditRecordsResponse(records=page, next_page_token=more)

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

    async def GetAuditRetention(self, _request: pb.GetAuditRetentionRequest, _call: Call) -> Message:
        """Tell how long audit records are kept."""
        found = await self._services.retention.get()
        return pb.GetAuditRetentionResponse(audit_retention=admin_convert.audit_retention(found))

    async def UpdateAuditRetention(self, request: pb.UpdateAuditRetentionRequest, call: Call) -> Message:
        """Agree to how long audit records are kept."""
        age = request.agreed.ToTimedelta() if request.HasField("agreed") else None
        changed = await self._services.retention.update(call.act(request), request.etag, age)
        return pb.UpdateAuditRetentionResponse(audit_retention=admin_convert.audit_retention(changed))
