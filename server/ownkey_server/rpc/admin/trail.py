"""The audit trail, and for how long it is kept."""

from __future__ import annotations

from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey_server.rpc import admin_convert, page_tokens, pages
from ownkey_server.rpc.admin.services import Room
from ownkey_server.rpc.calls import Call


class TrailRoom(Room):
    """The audit trail, and for how long it is kept."""

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, _call: Call) -> Message:
        """List audit records."""
        size = page_tokens.page_size(request)
        start, end = admin_convert.time(request, "start_time"), admin_convert.time(request, "end_time")
        after = page_tokens.decode_cursor(request)
        rows = await self._services.audit_trail.list(request.tenant, start, end, after, size + 1)
        page = pages.cut(map(admin_convert.audit_record, rows), size)
        more = page_tokens.encode(request, list(rows[len(page) - 1].cursor)) if len(page) < len(rows) else ""
        return pb.ListAuditRecordsResponse(records=page, next_page_token=more)

    async def GetAuditRetention(self, _request: pb.GetAuditRetentionRequest, _call: Call) -> Message:
        """Tell how long audit records are kept."""
        found = await self._services.retention.get()
        return pb.GetAuditRetentionResponse(audit_retention=admin_convert.audit_retention(found))

    async def UpdateAuditRetention(self, request: pb.UpdateAuditRetentionRequest, call: Call) -> Message:
        """Agree to how long audit records are kept."""
        age = request.agreed.ToTimedelta() if request.HasField("agreed") else None
        changed = await self._services.retention.update(call.act(request), request.etag, age)
        return pb.UpdateAuditRetentionResponse(audit_retention=admin_convert.audit_retention(changed))
