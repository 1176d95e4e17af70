"""What a tenant takes back here, and gives back."""

from __future__ import annotations

from collections.abc import Iterator

from ownkey._requests import made
from ownkey.admin._calls import AdminCalls
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import revocation_pb2


class RevocationCalls(AdminCalls):
    """What a tenant takes back here, and gives back."""

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
