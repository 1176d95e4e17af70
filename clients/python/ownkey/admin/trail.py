"""Documents of tenants, and the audit trail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from ownkey._requests import listed, made, set_time
from ownkey.admin._calls import AdminCalls
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import audit_record_pb2


class TrailCalls(AdminCalls):
    """Documents of tenants, and the audit trail."""

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

    def get_audit_retention(self) -> pb.AuditRetention:
        """How long audit records are kept: as was agreed, and as the settings say."""
        return self._call(self._stub.GetAuditRetention, pb.GetAuditRetentionRequest()).audit_retention

    def update_audit_retention(self, agreed: timedelta | None, etag: str, *, reason: str = "") -> pb.AuditRetention:
        """Agree to how long audit records are kept at least; None for ever."""
        request = made(pb.UpdateAuditRetentionRequest, etag=etag, note=self._note(reason))
        if agreed is not None:
            request.agreed.FromTimedelta(agreed)
        return self._call(self._stub.UpdateAuditRetention, request).audit_retention
