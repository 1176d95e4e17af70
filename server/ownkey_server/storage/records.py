"""What an administrator reads: tenants, keys, groups, policy versions and principals as they stand in the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ownkey_server.domain.roles import Grant
from ownkey_server.domain.tenants import KeyLifecycle, Replica
from ownkey_server.storage.documents import PolicyTable
from ownkey_server.storage.gate_documents import CallGateTable

ANY_ETAG = "*"
"""The etag of whoever wants to write over whatever there is."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What every resource has.

    Attributes:
        etag: Changes with every change; to be given back with the next one.
    """

    etag: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant, without its keys, groups and policies.

    Attributes:
        policy_version: Number of the policy in force; 0 for none.
    """

    id: str
    display_name: str
    enrolled_at: datetime
    call_gate: CallGateTable
    policy_version: int
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """A place of a key, and when it last proved that it works there."""

    place: Replica
    verify_time: datetime | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A customer key, or the provider's.

    Attributes:
        tenant: Empty for the provider's.
        replicas: In order of preference; empty once the key is removed.
    """

    name: str
    tenant: str
    lifecycle: KeyLifecycle
    replicas: tuple[ReplicaRecord, ...]
    stamp: Stamp

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group and its users."""

    tenant: str
    id: str
    users: tuple[str, ...]
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of a tenant's policy. It never changes; another may be put in force."""

    tenant: str
    number: int
    policy: PolicyTable
    author: str
    reason: str
    create_time: datetime
    in_force: bool


@dataclass(frozen=True, slots=True)
class PrincipalRecord:
    """A service or a person that is known to us by name, and what it may do."""

    id: str
    display_name: str
    grants: tuple[Grant, ...]
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """A change that waits for a second person, or was approved and waits to be made.

    Attributes:
        author: Who stands behind it, as the requester says.
        change: All that is dangerous in it, before and after, as JSON in its one spelling.
        digest: SHA-256 of the request.
        approved_by: Empty as long as nobody has approved it.
    """

    id: str
    requested_by: str
    method: str
    tenant: str
    resource: str
    summary: str
    author: str
    reason: str
    change: str
    digest: bytes
    approved_by: str
    create_time: datetime
    expire_time: datetime
