"""What a tenant takes back, its preview, and its receipt."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.rpc import admin_convert, page_tokens, pages, revocation_messages
from ownkey_server.rpc.admin.services import Room
from ownkey_server.rpc.calls import Call

PREVIEWED = timedelta(hours=24)
"""How far back a preview of a revocation looks when the request does not say."""


class RevocationRoom(Room):
    """What a tenant takes back, its preview, and its receipt."""

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
