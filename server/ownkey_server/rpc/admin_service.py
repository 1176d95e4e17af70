"""AdminService's methods: parse, one call, answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.rpc import admin_convert, convert, page_tokens, pages
from ownkey_server.rpc.contract import RequestParser
from ownkey_server.rpc.key_service import Context
from ownkey_server.service.administration.audit_trail import AuditTrail
from ownkey_server.service.administration.configuration import Configuration
from ownkey_server.service.administration.groups import Groups
from ownkey_server.service.administration.keys import Keys
from ownkey_server.service.administration.policies import Policies
from ownkey_server.service.administration.principals import Principals
from ownkey_server.service.administration.simulation import Simulation
from ownkey_server.service.administration.tenants import Tenants
from ownkey_server.storage.documents import CallGateTable

HISTORY = timedelta(days=7)
"""How far back a simulation looks when the request does not say."""


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The use cases of the control plane."""

    tenants: Tenants
    keys: Keys
    groups: Groups
    policies: Policies
    principals: Principals
    configuration: Configuration
    simulation: Simulation
    audit_trail: AuditTrail


class AdminServicer:
    """Each method takes a request as bytes and gives the answer as a message; ``rpc/server.py`` answers errors."""

    def __init__(self, services: AdminServices, parser: RequestParser) -> None:
        self._services = services
        self._parser = parser

    async def CreateTenant(self, raw: bytes, context: Context) -> Message:
        """Add a tenant."""
        request = self._parser.parse(raw, pb.CreateTenantRequest)
        gate = admin_convert.call_gate(request.call_gate) if request.HasField("call_gate") else CallGateTable()
        made = await self._services.tenants.create(
            admin_convert.act(request.note, context.peer()),
            request.id,
            request.display_name,
            admin_convert.time(request, "enrolled_at"),
            gate,
        )
        return pb.CreateTenantResponse(tenant=admin_convert.tenant(made))

    async def GetTenant(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """Tell of a tenant."""
        request = self._parser.parse(raw, pb.GetTenantRequest)
        found = await self._services.tenants.get(request.tenant)
        return pb.GetTenantResponse(tenant=admin_convert.tenant(found))

    async def ListTenants(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """List tenants."""
        request = self._parser.parse(raw, pb.ListTenantsRequest)
        size = page_tokens.page_size(request)
        found = await self._services.tenants.list(page_tokens.decode(request, str, ""), size + 1)
        page = pages.cut(map(admin_convert.tenant, found), size)
        more = page_tokens.encode(request, page[-1].id) if len(page) < len(found) else ""
        return pb.ListTenantsResponse(tenants=page, next_page_token=more)

    async def UpdateTenant(self, raw: bytes, context: Context) -> Message:
        """Change a tenant."""
        request = self._parser.parse(raw, pb.UpdateTenantRequest)
        changed = await self._services.tenants.update(
            admin_convert.act(request.note, context.peer()),
            request.tenant,
            request.etag,
            request.display_name if request.HasField("display_name") else None,
            admin_convert.call_gate(request.call_gate) if request.HasField("call_gate") else None,
        )
        return pb.UpdateTenantResponse(tenant=admin_convert.tenant(changed))

    async def DeleteTenant(self, raw: bytes, context: Context) -> Message:
        """Delete a tenant."""
        request = self._parser.parse(raw, pb.DeleteTenantRequest)
        act = admin_convert.act(request.note, context.peer())
        await self._services.tenants.delete(act, request.tenant, request.etag)
        return pb.DeleteTenantResponse()

    async def EnrolKey(self, raw: bytes, context: Context) -> Message:
        """Add a key that works."""
        request = self._parser.parse(raw, pb.EnrolKeyRequest)
        act = admin_convert.act(request.note, context.peer())
        place = admin_convert.place(request.primary)
        made = await self._services.keys.enrol(act, request.tenant, request.key, place)
        return pb.EnrolKeyResponse(key=admin_convert.key(made))

    async def GetKey(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """Tell of a key."""
        request = self._parser.parse(raw, pb.GetKeyRequest)
        found = await self._services.keys.get(request.tenant, request.key)
        return pb.GetKeyResponse(key=admin_convert.key(found))

    async def ListKeys(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """List a tenant's keys."""
        request = self._parser.parse(raw, pb.ListKeysRequest)
        found = await self._services.keys.list(request.tenant)
        return pb.ListKeysResponse(keys=map(admin_convert.key, found))

    async def AddKeyReplica(self, raw: bytes, context: Context) -> Message:
        """Add a place of a key."""
        request = self._parser.parse(raw, pb.AddKeyReplicaRequest)
        act = admin_convert.act(request.note, context.peer())
        place = admin_convert.place(request.replica)
        changed = await self._services.keys.add_replica(act, request.tenant, request.key, request.etag, place)
        return pb.AddKeyReplicaResponse(key=admin_convert.key(changed))

    async def RemoveKeyReplica(self, raw: bytes, context: Context) -> Message:
        """Take a place away from a key."""
        request = self._parser.parse(raw, pb.RemoveKeyReplicaRequest)
        act = admin_convert.act(request.note, context.peer())
        store = request.key_store
        changed = await self._services.keys.remove_replica(act, request.tenant, request.key, request.etag, store)
        return pb.RemoveKeyReplicaResponse(key=admin_convert.key(changed))

    async def ActivateKey(self, raw: bytes, context: Context) -> Message:
        """Let a key wrap again."""
        request = self._parser.parse(raw, pb.ActivateKeyRequest)
        act = admin_convert.act(request.note, context.peer())
        changed = await self._services.keys.activate(act, request.tenant, request.key, request.etag)
        return pb.ActivateKeyResponse(key=admin_convert.key(changed))

    async def RetireKey(self, raw: bytes, context: Context) -> Message:
        """Let a key open alone."""
        request = self._parser.parse(raw, pb.RetireKeyRequest)
        act = admin_convert.act(request.note, context.peer())
        changed = await self._services.keys.retire(act, request.tenant, request.key, request.etag)
        return pb.RetireKeyResponse(key=admin_convert.key(changed))

    async def RemoveKey(self, raw: bytes, context: Context) -> Message:
        """Let go of a key."""
        request = self._parser.parse(raw, pb.RemoveKeyRequest)
        act = admin_convert.act(request.note, context.peer())
        changed = await self._services.keys.remove(act, request.tenant, request.key, request.etag)
        return pb.RemoveKeyResponse(key=admin_convert.key(changed))

    async def CreateGroup(self, raw: bytes, context: Context) -> Message:
        """Add a group."""
        request = self._parser.parse(raw, pb.CreateGroupRequest)
        act = admin_convert.act(request.note, context.peer())
        made = await self._services.groups.create(act, request.tenant, request.group, list(request.users))
        return pb.CreateGroupResponse(group=admin_convert.group(made))

    async def GetGroup(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """Tell of a group."""
        request = self._parser.parse(raw, pb.GetGroupRequest)
        found = await self._services.groups.get(request.tenant, request.group)
        return pb.GetGroupResponse(group=admin_convert.group(found))

    async def ListGroups(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """List a tenant's groups."""
        request = self._parser.parse(raw, pb.ListGroupsRequest)
        size = min(page_tokens.page_size(request), pages.MOST_GROUPS)
        found = await self._services.groups.list(request.tenant, page_tokens.decode(request, str, ""), size + 1)
        page = pages.cut(map(admin_convert.group, found), size)
        more = page_tokens.encode(request, page[-1].id) if len(page) < len(found) else ""
        return pb.ListGroupsResponse(groups=page, next_page_token=more)

    async def UpdateGroup(self, raw: bytes, context: Context) -> Message:
        """Say anew who is in a group."""
        request = self._parser.parse(raw, pb.UpdateGroupRequest)
        act = admin_convert.act(request.note, context.peer())
        users = list(request.users)
        changed = await self._services.groups.update(act, request.tenant, request.group, request.etag, users)
        return pb.UpdateGroupResponse(group=admin_convert.group(changed))

    async def DeleteGroup(self, raw: bytes, context: Context) -> Message:
        """Delete a group."""
        request = self._parser.parse(raw, pb.DeleteGroupRequest)
        act = admin_convert.act(request.note, context.peer())
        await self._services.groups.delete(act, request.tenant, request.group, request.etag)
        return pb.DeleteGroupResponse()

    async def CreatePolicyVersion(self, raw: bytes, context: Context) -> Message:
        """Add a version of a policy."""
        request = self._parser.parse(raw, pb.CreatePolicyVersionRequest)
        act = admin_convert.act(request.note, context.peer())
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

    async def GetPolicyVersion(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """Tell a version of a policy."""
        request = self._parser.parse(raw, pb.GetPolicyVersionRequest)
        found = await self._services.policies.get(request.tenant, request.number)
        return pb.GetPolicyVersionResponse(policy_version=admin_convert.policy_version(found))

    async def ListPolicyVersions(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """List versions of a policy."""
        request = self._parser.parse(raw, pb.ListPolicyVersionsRequest)
        size = min(page_tokens.page_size(request), pages.MOST_POLICY_VERSIONS)
        before = page_tokens.decode(request, int, 0) or None
        found = await self._services.policies.list(request.tenant, before, size + 1)
        page = pages.cut(map(admin_convert.policy_version, found), size)
        more = page_tokens.encode(request, page[-1].number) if len(page) < len(found) else ""
        return pb.ListPolicyVersionsResponse(policy_versions=page, next_page_token=more)

    async def ActivatePolicyVersion(self, raw: bytes, context: Context) -> Message:
        """Put a version of a policy in force."""
        request = self._parser.parse(raw, pb.ActivatePolicyVersionRequest)
        act = admin_convert.act(request.note, context.peer())
        changed = await self._services.policies.put_in_force(act, request.tenant, request.number, request.etag)
        return pb.ActivatePolicyVersionResponse(policy_version=admin_convert.policy_version(changed))

    async def SimulatePolicy(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """Tell what would change."""
        request = self._parser.parse(raw, pb.SimulatePolicyRequest)
        simulation, tenant = self._services.simulation, request.tenant
        policy = admin_convert.policy(request.policy) if request.WhichOneof("candidate") == "policy" else None
        if request.assets:
            assets = [convert.asset(asset) for asset in request.assets]
            report = await simulation.of_assets(tenant, policy, request.number, assets)
        else:
            since = request.since.ToTimedelta() if request.HasField("since") else HISTORY
            report = await simulation.of_history(tenant, policy, request.number, since)
        return admin_convert.simulation(report)

    async def CreateServicePrincipal(self, raw: bytes, context: Context) -> Message:
        """Add a service principal."""
        request = self._parser.parse(raw, pb.CreateServicePrincipalRequest)
        act = admin_convert.act(request.note, context.peer())
        made = await self._services.principals.create(act, request.id, request.display_name)
        return pb.CreateServicePrincipalResponse(service_principal=admin_convert.principal(made))

    async def GetServicePrincipal(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """Tell of a service principal."""
        request = self._parser.parse(raw, pb.GetServicePrincipalRequest)
        found = await self._services.principals.get(request.service_principal)
        return pb.GetServicePrincipalResponse(service_principal=admin_convert.principal(found))

    async def ListServicePrincipals(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """List service principals."""
        request = self._parser.parse(raw, pb.ListServicePrincipalsRequest)
        size = page_tokens.page_size(request)
        found = await self._services.principals.list(page_tokens.decode(request, str, ""), size + 1)
        page = pages.cut(map(admin_convert.principal, found), size)
        more = page_tokens.encode(request, page[-1].id) if len(page) < len(found) else ""
        return pb.ListServicePrincipalsResponse(service_principals=page, next_page_token=more)

    async def UpdateServicePrincipal(self, raw: bytes, context: Context) -> Message:
        """Rename a service principal."""
        request = self._parser.parse(raw, pb.UpdateServicePrincipalRequest)
        act = admin_convert.act(request.note, context.peer())
        name = request.display_name
        changed = await self._services.principals.update(act, request.service_principal, request.etag, name)
        return pb.UpdateServicePrincipalResponse(service_principal=admin_convert.principal(changed))

    async def DeleteServicePrincipal(self, raw: bytes, context: Context) -> Message:
        """Delete a service principal."""
        request = self._parser.parse(raw, pb.DeleteServicePrincipalRequest)
        act = admin_convert.act(request.note, context.peer())
        await self._services.principals.delete(act, request.service_principal, request.etag)
        return pb.DeleteServicePrincipalResponse()

    async def ApplyTenants(self, raw: bytes, context: Context) -> Message:
        """Make tenants as a document says."""
        request = self._parser.parse(raw, pb.ApplyTenantsRequest)
        act = admin_convert.act(request.note, context.peer())
        plan = await self._services.configuration.apply(
            act, request.document, dry_run=request.dry_run, etag=request.etag
        )
        return pb.ApplyTenantsResponse(steps=map(admin_convert.step, plan.steps), applied=plan.applied, etag=plan.etag)

    async def ExportTenants(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """Write what there is as a document."""
        request = self._parser.parse(raw, pb.ExportTenantsRequest)
        document = await self._services.configuration.export(list(request.tenants))
        return pb.ExportTenantsResponse(document=pages.require_sendable(document))

    async def ListAuditRecords(self, raw: bytes, context: Context) -> Message:  # noqa: ARG002
        """List audit records."""
        request = self._parser.parse(raw, pb.ListAuditRecordsRequest)
        size = page_tokens.page_size(request)
        start, end = admin_convert.time(request, "start_time"), admin_convert.time(request, "end_time")
        after = page_tokens.decode_cursor(request)
        rows = await self._services.audit_trail.list(request.tenant, start, end, after, size + 1)
        page = pages.cut(map(admin_convert.audit_record, rows), size)
        more = page_tokens.encode(request, list(rows[len(page) - 1].cursor)) if len(page) < len(rows) else ""
        return pb.ListAuditRecordsResponse(records=page, next_page_token=more)
