"""A process to be killed: changes one group as the service does, again and again, and says so each time.

Usage: change_groups.py DATABASE_URL SIGNING_KEY TENANT GROUP USERS
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ownkey_server.domain.audit import Caller
from ownkey_server.domain.clock import system_clock
from ownkey_server.service.administration.desk import Act, Desk
from ownkey_server.service.administration.groups import Groups
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.directory import Directory
from ownkey_server.storage.audit.signing import load_or_make_signer
from ownkey_server.storage.audit.writer import AuditWriter
from ownkey_server.storage.database import Database
from ownkey_server.storage.views import TenantViews

ACT = Act(Caller("a test"), "ann")


async def main(url: str, signing_key: str, tenant: str, group: str, users: int) -> None:
    """Give the group users of one generation after the other."""
    database, executor = Database(url), ThreadPoolExecutor(2)
    signer, _ = load_or_make_signer(Path(signing_key))
    audit = AuditLog(*(AuditWriter(database, signer, system_clock, role) for role in ("uses", "changes")), system_clock)
    await audit.start()
    directory = Directory(TenantViews(database), executor, capacity=10, max_age=60)
    groups = Groups(Desk(database, audit, directory, system_clock, executor))
    before = await groups.get(tenant, group)
    generation = int(before.users[0].partition("-")[0])
    while True:
        generation += 1
        members = [f"{generation:06}-{number}" for number in range(users)]
        before = await groups.update(ACT, tenant, group, before.stamp.etag, members)
        print(generation, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5])))
