"""Receipts of revocations: put together from the audit trail, and signed with its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from ownkey_server.domain.audit import Action, from_microseconds, microseconds, receipt_statement, timestamp
from ownkey_server.domain.audit_chain import ChainRow
from ownkey_server.domain.receipts import (
    InstanceReceipt,
    Place,
    Receipt,
    Served,
    Standing,
    is_served,
    latest_of_each,
    scope_told,
    standing_of,
)
from ownkey_server.domain.revocations import Revocation, Scope
from ownkey_server.domain.tenants import Tenant
from ownkey_server.service.administration.desk import Desk
from ownkey_server.service.administration.revocations import name
from ownkey_server.storage import receipts as trail
from ownkey_server.storage import revocations as kept
from ownkey_server.storage.audit.signing import Signer
from ownkey_server.storage.registry import Reader, required

# Clocks of instances may differ by so much.
SKEW = timedelta(minutes=1)
# An effect that is later than this is not looked for: the process was frozen, and is told as not heard of.
LATE = timedelta(minutes=15)
# Processes that were not heard of for so long before it could serve nobody: what they decide by was too old.
HORIZON = timedelta(hours=1)
# How far back it is looked for when a key was found to be taken away, when the request does not say.
RECENT = timedelta(hours=1)
# A process that has not been heard of for so long is taken for dead, as for its chain (storage/audit).
GONE_SECONDS = 600.0

Fields = Mapping[str, Any]
Effects = Mapping[int, tuple[ChainRow, Fields]]


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt, as it is signed, and the signature."""

    receipt: Receipt
    description: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Matter:
    """What a receipt is about, for its chains.

    Attributes:
        scope: What was taken back.
        effects: The record of the effect, of each chain that has one.
        revocation: Its id; empty for a key that was taken away in its key store. Of a revocation no use may stand after
            the effect; of a key, one may that its key store had let through before.
        revision: Chains that begin with this change, or a later one, knew of it.
        restored: Chains that begin with this change, or a later one, never had it in force; None while it is.
        restore_time: When it was restored; None while it is in force.
    """

    tenant: Tenant
    scope: Scope
    effects: Effects
    revocation: str = ""
    revision: int = 0
    restored: int | None = None
    restore_time: datetime | None = None


class Receipts:
    """Makes receipts.

    Args:
        signer: Has the key of the audit trail.
        bounds: The settings by which an instance that is not heard of serves nothing any more, in seconds.
    """

    def __init__(self, desk: Desk, signer: Signer, bounds: Mapping[str, float]) -> None:
        self._desk = desk
        self._signer = signer
        self._bounds = bounds

    @property
    def signing_key(self) -> str:
        """Which key signs: SHA-256 of its public half, in hexadecimal."""
        return self._signer.fingerprint

    async def of_revocation(self, tenant: str, revocation: str) -> SignedReceipt:
        """What became of a revocation, as the trail has it at this moment.

        Raises:
            ResourceNotFound: The tenant has none of that id.
            ServiceImpaired: The database does not answer.
        """
        owner = await self._desk.directory.tenant(tenant)

        def question(reader: Reader) -> Receipt:
            connection = reader.connection
            found: Revocation = required(kept.find(connection, tenant, revocation), name(tenant, revocation))
            start, end = found.create_time - SKEW, found.create_time + LATE
            effects = _latest_of(
                connection, tenant, Action.REVOCATION_IN_FORCE, start, end, lambda f: _about(f) == revocation
            )
            revision, restored = kept.revisions_of(connection, revocation)
            matter = Matter(owner, found.scope, effects, revocation, revision, restored, found.restore_time)
            about: dict[str, Any] = {
                "revocation": {
                    "id": found.id,
                    "scope": scope_told(found.scope),
                    "ending": found.ending.value,
                    "author": found.author,
                    "reason": found.reason,
                    "create_time": timestamp(found.create_time),
                }
            }
            if found.restore_time is not None:
                about["revocation"]["restore_time"] = timestamp(found.restore_time)
            return self._receipt(connection, matter, about, found.create_time)

        return self._signed(await self._desk.read(question))

    async def of_key(self, tenant: str, key: str, since: datetime | None) -> SignedReceipt:
        """What became of a key that its holder took away in its key store, when that was found last.

        Args:
            tenant: Whose key it is.
            key: Its id.
            since: It was found then or later; None for an hour ago.

        Raises:
            ResourceNotFound: The tenant has no such key.
            ServiceImpaired: The database does not answer.
        """
        owner = await self._desk.directory.tenant(tenant)
        resource = f"tenants/{tenant}/keys/{key}"
        found_since = since or self._desk.clock() - RECENT

        def question(reader: Reader) -> Receipt:
            required(reader.key(resource), resource)
            now = self._desk.clock() + SKEW
            effects = _latest_of(
                reader.connection, tenant, Action.KEY_TAKEN_AWAY, found_since, now, lambda f: f.get("key") == resource
            )
            matter = Matter(owner, Scope(keys=frozenset({key})), effects)
            first = min((from_microseconds(row.time) for row, _ in effects.values()), default=found_since)
            return self._receipt(reader.connection, matter, {"key": resource}, first)

        return self._signed(await self._desk.read(question))

    def _signed(self, receipt: Receipt) -> SignedReceipt:
        description = receipt.to_bytes()
        return SignedReceipt(receipt, description, self._signer.sign(receipt_statement(description)))

    def _receipt(self, connection: Connection, matter: Matter, about: Fields, since: datetime) -> Receipt:
        now = self._desk.clock()
        chains = trail.chains_of_uses(connection, microseconds(since - HORIZON))
        instances = tuple(
            _instance(connection, chain, matter, now)
            for chain in chains
            # What had ended before could serve nobody any more; what began after it was restored is not concerned.
            if (matter.restored is None or chain.revision < matter.restored)
            and (chain.last_action != Action.WRITER_STOPPED or chain.head_time >= microseconds(since - SKEW))
        )
        return Receipt(now, matter.tenant.id, about, since, self._bounds, instances)


def _instance(connection: Connection, chain: trail.UsesChain, matter: Matter, now: datetime) -> InstanceReceipt:
    row, fields = matter.effects.get(chain.writer, (None, {}))
    detail = fields.get("detail", {})
    standing = standing_of(
        effect=row is not None,
        knew=bool(matter.revocation) and chain.revision >= matter.revision,
        stopped=chain.last_action == Action.WRITER_STOPPED,
        silent_seconds=(now - from_microseconds(chain.heard)).total_seconds(),
        gone_seconds=GONE_SECONDS,
    )
    since_start = standing is Standing.SINCE_START
    at = 0 if since_start else row.sequence if row else chain.head_sequence + 1
    served = [] if since_start else list(_served_before(connection, chain.writer, matter, at))
    ordered = bool(matter.revocation) and (row is not None or since_start)
    following = _Following(connection, chain, matter, at) if ordered else None
    return InstanceReceipt(
        writer=chain.writer,
        host=chain.host,
        process=chain.process,
        start_time=chain.start_time,
        standing=standing,
        effect=_place(row) if row else None,
        streams_ended=int(detail.get("streams_ended", 0)),
        streams_draining=int(detail.get("streams_draining", 0)),
        leases_ended=int(detail.get("leases_ended", 0)),
        replica=str(fields.get("replica", "")),
        cause=str(detail.get("cause", "")),
        drained=following.drained if following else None,
        restored=following.restored if following else None,
        last_served=latest_of_each(served),
        looked_from=max(1, at - trail.SPAN),
        served_after=following.served if following else None,
        looked_to=following.looked_to if following else 0,
        head=Place(chain.head_sequence, chain.head_hash, from_microseconds(chain.head_time)),
        heard=from_microseconds(chain.heard),
    )


class _Following:
    """What stands in a chain after the effect, up to where it was restored."""

    def __init__(self, connection: Connection, chain: trail.UsesChain, matter: Matter, at: int) -> None:
        self.drained: Place | None = None
        self.restored: Place | None = None
        self.served = 0
        self.looked_to = min(chain.head_sequence, at + trail.SPAN)
        revocation = matter.revocation
        following = trail.after(connection, chain.writer, matter.tenant.id, at)
        for count, (row, fields) in enumerate(following, start=1):
            if count == trail.MOST:
                self.looked_to = row.sequence
            action = fields.get("action")
            if action == Action.REVOCATION_DRAINED and _about(fields) == revocation:
                self.drained = _place(row)
            elif action == Action.REVOCATION_RESTORED and _about(fields) == revocation:
                self.restored = _place(row)
                self.looked_to = row.sequence
                break
            elif matter.restore_time is not None and from_microseconds(row.time) >= matter.restore_time:
                continue  # where it was restored, it serves before the record of that stands there
            elif is_served(matter.scope, fields, matter.tenant.groups_of):
                self.served += 1


def _served_before(connection: Connection, writer: int, matter: Matter, at: int) -> list[Served]:
    return [
        Served(_place(row), str(fields["action"]), str(fields.get("key", "")), str(fields.get("replica", "")))
        for row, fields in trail.before(connection, writer, matter.tenant.id, at)
        if is_served(matter.scope, fields, matter.tenant.groups_of)
    ]


def _latest_of(
    connection: Connection, tenant: str, action: Action, start: datetime, end: datetime, fits: Callable[[Fields], bool]
) -> dict[int, tuple[ChainRow, Fields]]:
    found: dict[int, tuple[ChainRow, Fields]] = {}
    for row, fields in trail.records_of(connection, tenant, {action}, microseconds(start), microseconds(end)):
        before = found.get(row.writer)
        if fits(fields) and (before is None or row.sequence > before[0].sequence):
            found[row.writer] = row, fields
    return found


def _about(fields: Fields) -> str:
    return str(fields.get("detail", {}).get("revocation", ""))


def _place(row: ChainRow) -> Place:
    return Place(row.sequence, row.hash, from_microseconds(row.time))
