"""What a revocation would do: what it would end now, and what was lately used within its scope."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ownkey_server.domain import encryption_context
from ownkey_server.domain.audit import Action, from_microseconds, microseconds
from ownkey_server.domain.receipts import is_served, key_id
from ownkey_server.domain.revocations import Ending, Revocation, Scope
from ownkey_server.domain.tenants import Tenant
from ownkey_server.service.administration.desk import Desk
from ownkey_server.service.administration.revocations import require_known, require_meant
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.open_streams import OpenStreams
from ownkey_server.storage import receipts as trail
from ownkey_server.storage.registry import Reader

# Of a tenant's newest records, so many are counted: it bounds what a preview costs.
MOST_RECORDS = 50_000
MOST_SHOWN = 100
# Processes that serve say so again and again; those that were not heard of for so long are not counted.
ALIVE = timedelta(minutes=1)
_STREAMS = (Action.ENCRYPT_MEDIA, Action.DECRYPT_MEDIA, Action.RENEW_LEASE)


@dataclass(frozen=True, slots=True)
class RevocationPreview:
    """What a revocation would do. Names as in the contract, where each is explained."""

    streams_ended: int
    streams_draining: int
    leases_ended: int
    process: str
    other_processes: int
    streams_elsewhere: int
    counted_from: datetime
    uses: int
    keys: Mapping[str, int]
    asset_classes: Mapping[str, int]
    groups: Mapping[str, int]
    users: Mapping[str, int]
    calls: bool
    call_gate: str


@dataclass(slots=True)
class _Counted:
    """What the trail has."""

    since: datetime
    uses: int = 0
    keys: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    users: Counter[str] = field(default_factory=Counter)
    elsewhere: set[tuple[int, str, str, str]] = field(default_factory=set)
    processes: int = 0


class RevocationPreviews:
    """Tells what revocations would do.

    Args:
        lease: What has not asked for its lease again within this is no stream that is under way.
        own_writer: Number of this process's chain of uses.
    """

    def __init__(
        self,
        desk: Desk,
        streams: OpenStreams,
        branches: BranchKeys,
        lease: timedelta,
        own_writer: Callable[[], int],
    ) -> None:
        self._desk = desk
        self._streams = streams
        self._branches = branches
        self._lease = lease
        self._own_writer = own_writer

    async def preview(
        self, tenant: str, scope: Scope, ending: Ending, within: timedelta, *, everything: bool
    ) -> RevocationPreview:
        """What a revocation would do; arguments as for :meth:`~.revocations.Revocations.revoke`.

        ``within`` is how far back the trail is looked at.

        Raises:
            TenantNotFound: There is no such tenant.
            InvalidRequest: As for the revocation itself.
            ServiceImpaired: The database does not answer.
        """
        require_meant(scope, everything=everything)
        owner = await self._desk.directory.tenant(tenant)
        now = self._desk.clock()
        counted = await self._desk.read(lambda reader: self._count(reader, owner, scope, now, within))
        meant = Revocation("", tenant, scope, ending, "", "", now)
        ended, draining = self._streams.would_end(meant)
        return RevocationPreview(
            streams_ended=ended,
            streams_draining=draining,
            leases_ended=self._branches.would_end(meant),
            process=f"{platform.node()}:{os.getpid()}",
            other_processes=counted.processes,
            streams_elsewhere=len(counted.elsewhere),
            counted_from=counted.since,
            uses=counted.uses,
            keys=_most(counted.keys),
            asset_classes=_most(counted.classes),
            groups=_most(counted.groups),
            users=_most(counted.users),
            # A call is told by its queue, group and user, and by what it will store; not by a single asset.
            calls=not scope.asset_ids,
            call_gate=owner.call_gate.mode.value,
        )

    def _count(self, reader: Reader, owner: Tenant, scope: Scope, now: datetime, within: timedelta) -> _Counted:
        require_known(reader, owner.id, scope)
        own, start = self._own_writer(), now - within
        counted = _Counted(start)
        for chain in trail.chains_of_uses(reader.connection, microseconds(now - ALIVE)):
            counted.processes += chain.writer != own and chain.last_action != Action.WRITER_STOPPED
        rows = trail.newest(reader.connection, owner.id, microseconds(start), MOST_RECORDS)
        for number, (row, fields) in enumerate(rows, start=1):
            if number == MOST_RECORDS:
                counted.since = from_microseconds(row.time)
            if is_served(scope, fields, owner.groups_of):
                _add(counted, owner, fields)
                if row.writer != own and fields["action"] in _STREAMS and row.time >= microseconds(now - self._lease):
                    asset = fields["asset"]
                    counted.elsewhere.add((row.writer, asset["class"], asset["id"], str(fields.get("peer", ""))))
        return counted


def _most(counted: Counter[str]) -> Mapping[str, int]:
    return dict(counted.most_common(MOST_SHOWN))


def _add(counted: _Counted, owner: Tenant, fields: Mapping[str, Any]) -> None:
    asset = fields["asset"]
    user = asset.get("user", "")
    counted.uses += 1
    counted.keys[key_id(str(fields.get("key", "")))] += 1
    counted.classes[asset["class"]] += 1
    bound = fields.get("context", {}).get(encryption_context.GROUP) or asset.get("group")
    counted.groups.update(owner.groups_of.get(user, frozenset()) | ({bound} if bound else set()))
    if user:
        counted.users[user] += 1
