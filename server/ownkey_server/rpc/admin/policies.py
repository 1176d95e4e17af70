"""Versions of policies, and what they would do."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.rpc import admin_convert, convert, page_tokens, pages
from ownkey_server.rpc.admin.services import Room
from ownkey_server.rpc.calls import Call

HISTORY = timedelta(days=7)
"""How far back a simulation looks when the request does not say."""


class PolicyRoom(Room):
    """Versions of policies, and what they would do."""

    async def CreatePolicyVersion(self, request: pb.CreatePolicyVersionRequest, call: Call) -> Message:
        """Add a version of a policy."""
        act = call.act(request)
        if request.activate and not request.etag:
            raise InvalidRequest("etag", "is required with activate: the tenant's, as you read it")
        made = await self._services.policies.create(
            act, request.tenant, admin_convert.policy(request.policy), etag=request.etag, put_in_force=request.activate
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
