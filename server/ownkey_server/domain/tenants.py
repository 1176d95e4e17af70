"""A tenant: its keys, its groups, its policy, and how its calls are gated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ownkey_server.domain.call_gates import NOT_GATED, CallGate
from ownkey_server.domain.policy import Policy
from ownkey_server.domain.revocations import PROVIDER_KEY_ID, Revocation

TENANTS = "tenants/"
PROVIDER_KEY_NAME = "provider/keys/main"


class KeyLifecycle(StrEnum):
    """How far a customer key has come with us; what its holder does to it is its state (``domain/key_state.py``)."""

    ENROLLED = "enrolled"
    ACTIVE = "active"
    RETIRED = "retired"
    REMOVED = "removed"

    @property
    def wraps(self) -> bool:
        """Whether new data keys may be wrapped under the key."""
        return self is KeyLifecycle.ACTIVE

    @property
    def unwraps(self) -> bool:
        """Whether what the key wrapped may be opened."""
        return self in (KeyLifecycle.ACTIVE, KeyLifecycle.RETIRED)


@dataclass(frozen=True, slots=True)
class Replica:
    """One place where a customer key can be used.

    Attributes:
        store: Name of the key store in the settings.
        reference: What the key is called in that store: a file's name, a token object's label, an ARN.
    """

    store: str
    reference: str

    @property
    def name(self) -> str:
        """What status, errors and the audit trail call it: the store, and the region where there are several."""
        return place_name(self.store, self.reference)


@dataclass(frozen=True, slots=True)
class CustomerKey:
    """A key encryption key, and where it can be used.

    Attributes:
        name: ``tenants/{tenant}/keys/{key}``, or ``provider/keys/main`` for the provider's own.
        replicas: In order of preference, the primary first; at least one.
    """

    name: str
    replicas: tuple[Replica, ...]
    lifecycle: KeyLifecycle = KeyLifecycle.ACTIVE

    @property
    def tenant(self) -> str:
        """Id of the tenant whose key it is; empty for the provider's."""
        return tenant_of(self.name)

    @property
    def id(self) -> str:
        """Its id within the tenant; ``provider_key`` for the provider's."""
        return self.name.rpartition("/")[2] if self.tenant else PROVIDER_KEY_ID

    @property
    def primary(self) -> Replica:
        """The place that is tried first."""
        return self.replicas[0]


def another_than(tenant: str) -> str:
    """Id of a tenant who is not this."""
    return "another" if tenant != "another" else "other"


def key_name(tenant: str, key_id: str) -> str:
    """The name of a tenant's key."""
    return f"{TENANTS}{tenant}/keys/{key_id}"


def tenant_of(key: str) -> str:
    """Id of the tenant that a key is of, by the key's name; empty for the provider's."""
    return key.split("/", 2)[1] if key.startswith(TENANTS) else ""


def place_name(store: str, reference: str) -> str:
    """The name of a place of a key: ``aws/eu-west-1`` for an ARN, whose store serves every region; else the store's."""
    parts = reference.split(":", 4)
    return f"{store}/{parts[3]}" if parts[0] == "arn" and len(parts) == 5 else store


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer organization.

    Attributes:
        keys: By id; those that were removed are not among them.
        groups: Ids of all groups.
        groups_of: For each user, the groups that hold the user.
        policy_version: Number of the policy in force; 0 before there is one.
        revision: Number of the last change of anything that is the tenant's: it tells two views of it apart.
        revocations: What it has taken back here, and not given back.
    """

    id: str
    enrolled_at: datetime
    keys: Mapping[str, CustomerKey]
    policy: Policy
    groups: frozenset[str] = frozenset()
    groups_of: Mapping[str, frozenset[str]] = field(default_factory=dict)
    call_gate: CallGate = NOT_GATED
    policy_version: int = 0
    revision: int = 0
    revocations: tuple[Revocation, ...] = ()
