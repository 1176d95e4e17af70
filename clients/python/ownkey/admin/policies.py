"""Policy versions, and what a policy would decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from ownkey import _exchange
from ownkey._requests import made
from ownkey.admin._calls import AdminCalls
from ownkey.models import Asset
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import policy_pb2


class PolicyCalls(AdminCalls):
    """Policy versions, and what a policy would decide."""

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
