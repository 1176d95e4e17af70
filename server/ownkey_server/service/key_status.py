"""The state of keys, told from memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import KeyNotFound
from ownkey_server.domain.key_history import EvidenceKind
from ownkey_server.domain.key_state import KeyEvidence, KeyState
from ownkey_server.domain.revocations import of_whole_key
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.directory import Directory
from ownkey_server.service.probes import Probes
from ownkey_server.service.status_board import StatusBoard


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a key or of a replica; no evidence means that it was not asked yet.

    Attributes:
        evidence_age: None exactly when there is no evidence.
        note: What its holder should know of a replica although it works; may be empty.
        since: Since when the state is told; None without evidence.
        kind: How it is known; None without evidence.
        recovering: Whether it works again after an outage, though that is not told before it has lasted.
    """

    evidence: KeyEvidence | None
    evidence_age: timedelta | None
    note: str = ""
    since: datetime | None = None
    kind: EvidenceKind | None = None
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class KeyReport:
    """A key, what is known of it as a whole, and of each replica by its name, in order of preference."""

    key: CustomerKey
    whole: Finding
    replicas: tuple[tuple[str, Finding], ...]


class KeyStatus:
    """Tells the state of a tenant's keys."""

    def __init__(self, directory: Directory, board: StatusBoard, probes: Probes, clock: Clock) -> None:
        self._directory = directory
        self._board = board
        self._probes = probes
        self._clock = clock

    async def report(self, tenant_id: str, key_id: str) -> list[KeyReport]:
        """The state of one key, or of all keys of the tenant when ``key_id`` is empty, by id.

        Raises:
            TenantNotFound: There is no such tenant.
            KeyNotFound: The tenant has no such key.
            ServiceImpaired: The tenant is not known for certain.
        """
        tenant = await self._directory.tenant(tenant_id)
        if key_id and key_id not in tenant.keys:
            raise KeyNotFound(tenant_id, f"has no key {key_id!r}")
        keys = [tenant.keys[one] for one in ([key_id] if key_id else sorted(tenant.keys))]
        await self._probes.first_evidence(keys)
        now = self._clock()
        return [self.of_key(tenant, key, now) for key in keys]

    def of_key(self, tenant: Tenant, key: CustomerKey, now: datetime) -> KeyReport:
        """What is known of one of the tenant's keys."""
        alone = len(key.replicas) == 1
        replicas = tuple((one.name, self._of_replica(key.name, one.name, now, alone=alone)) for one in key.replicas)
        taken_back = of_whole_key(tenant.revocations, key.id)
        if taken_back is not None:
            evidence = KeyEvidence(KeyState.REVOKED, taken_back.told, now, taken_back.create_time)
            return KeyReport(key, Finding(evidence, timedelta(0), since=taken_back.create_time), replicas)
        whole = self._board.of(key, now, told=True)
        if whole is None:
            return KeyReport(key, Finding(None, None), replicas)
        known = [one for _, one in replicas if one.evidence is not None]
        so_now = self._board.of(key, now)
        return KeyReport(
            key,
            Finding(
                whole,
                now - whole.observed_at,
                since=max((one.since for one in known if one.since is not None), default=None),
                kind=next((one.kind for one in known if one.evidence and one.evidence.state is whole.state), None)
                or next((one.kind for one in known), None),
                recovering=so_now is not None and so_now.state.usable and not whole.state.usable,
            ),
            replicas,
        )

    def _of_replica(self, key_name: str, replica: str, now: datetime, *, alone: bool) -> Finding:
        evidence = self._board.of_replica(key_name, replica, now, alone=alone, told=True)
        note = self._board.note_of(key_name, replica)
        judged = self._board.judged(key_name, replica)
        if evidence is None or judged is None:
            return Finding(evidence, now - evidence.observed_at if evidence else None, note)
        return Finding(
            evidence, now - evidence.observed_at, note, judged.since, judged.kind, recovering=judged.recovering
        )
