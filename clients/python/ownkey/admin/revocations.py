"""What a tenant takes back here, and gives back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

from ownkey._requests import made
from ownkey.admin._calls import AdminCalls
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import revocation_pb2

ASK_SECONDS = 0.2


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

    def preview_revocation(
        self,
        tenant: str,
        scope: revocation_pb2.RevocationScope | None = None,
        *,
        drain: bool = False,
        hours: int = 24,
    ) -> revocation_pb2.RevocationPreview:
        """What a revocation would end, and what was used within its scope in the last hours. Nothing is changed.

        Args:
            tenant: Whose.
            scope: What would be taken back; everything of the tenant without one.
            drain: Whether what is being encrypted at the moment might be finished.
            hours: How many hours of the audit trail are looked at, up to 168.
        """
        request = made(
            pb.PreviewRevocationRequest,
            tenant=tenant,
            scope=scope or revocation_pb2.RevocationScope(),
            everything=scope is None,
            ending=revocation_pb2.REVOCATION_ENDING_DRAIN if drain else revocation_pb2.REVOCATION_ENDING_CUT,
            hours=hours,
        )
        return self._call(self._stub.PreviewRevocation, request).preview

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

    def get_revocation_receipt(
        self, tenant: str, revocation: str, *, wait: float = 0.0
    ) -> revocation_pb2.RevocationReceipt:
        """A signed receipt of what became of a revocation, on every instance.

        Args:
            tenant: Whose.
            revocation: Its id.
            wait: Seconds to wait at most for every instance to be heard of; what is given then says who was not.
        """
        return self._receipt(made(pb.GetRevocationReceiptRequest, tenant=tenant, revocation=revocation), wait)

    def get_key_receipt(
        self, tenant: str, key: str, *, since: datetime | None = None, wait: float = 0.0
    ) -> revocation_pb2.RevocationReceipt:
        """A signed receipt of what became of a key that its holder took away in its key store, when that was found.

        Args:
            tenant: Whose.
            key: Its id.
            since: It was found then or later; an hour ago when it is None.
            wait: Seconds to wait at most, as for :meth:`get_revocation_receipt`.
        """
        request = made(pb.GetRevocationReceiptRequest, tenant=tenant, key=key)
        if since is not None:
            request.since.FromDatetime(since)
        return self._receipt(request, wait)

    def _receipt(self, request: pb.GetRevocationReceiptRequest, wait: float) -> revocation_pb2.RevocationReceipt:
        end = time.monotonic() + wait
        while True:
            receipt = self._call(self._stub.GetRevocationReceipt, request).receipt
            left = end - time.monotonic()
            if receipt.complete or left <= 0:
                return receipt
            time.sleep(min(ASK_SECONDS, left))
