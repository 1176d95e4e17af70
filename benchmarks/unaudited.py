"""`ownkey` with an audit trail that keeps nothing: what auditing costs is the difference. For measurements alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from ownkey.cli.main import main
from ownkey_server.domain.audit import AuditRecord
from ownkey_server.service.audit_log import AuditLog


def nothing(_log: AuditLog, _record: AuditRecord) -> Awaitable[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


AuditLog.record = nothing  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
